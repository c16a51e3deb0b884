package balancer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func gatedPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "uid-1"},
		Spec:       corev1.PodSpec{NodeName: "well", ReadinessGates: []corev1.PodReadinessGate{{ConditionType: webGate}}},
		Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.ContainersReady, Status: corev1.ConditionTrue}}},
	}
}

// to dials a server whatever the address.
func to(server *httptest.Server) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
	}
}

func testOptions(client *fake.Clientset) Options {
	opts := Defaults()
	opts.Client, opts.Namespace, opts.Service = client, "shop", "web"
	opts.Health.Interval, opts.Health.Timeout = 100*time.Millisecond, 90*time.Millisecond
	opts.Requeue = 50 * time.Millisecond
	return opts
}

func TestBalancer(t *testing.T) {
	slow := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(slow)
			<-time.After(300 * time.Millisecond)
		}
		fmt.Fprint(w, "hello")
	}))
	defer server.Close()
	slice := sliceOf(8080, "", endpointOfPod("10.0.0.1", "p", false, false))
	client := fake.NewClientset(webService(), slice, gatedPod("p"), nodeOf("well", "", corev1.ConditionTrue, nil))
	opts := testOptions(client)
	opts.Dial, opts.DeregistrationDelay = to(server), 0
	b, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	await(t, "the gate is open", func() bool {
		p, err := client.CoreV1().Pods("shop").Get(t.Context(), "p", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c := newPod(p).condition(webGate)
		return c != nil && c.Status == corev1.ConditionTrue && newPod(p).containersReady()
	})
	if code, body := fetch(t, b.URL()); code != http.StatusOK || body != "hello" {
		t.Errorf("answer is %d %s", code, body)
	}
	testExposed(t, b)

	slice.Endpoints = nil
	if _, err := client.DiscoveryV1().EndpointSlices("shop").Update(t.Context(), slice, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, "the target is gone", func() bool { return len(b.Snapshot().Targets) == 0 })
	if code, _ := fetch(t, b.URL()); code != http.StatusServiceUnavailable {
		t.Errorf("answer is %d, want 503", code)
	}

	slice.Endpoints = []discoveryv1.Endpoint{endpointOfPod("10.0.0.2", "p", true, false)}
	if _, err := client.DiscoveryV1().EndpointSlices("shop").Update(t.Context(), slice, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, "the new target is healthy", func() bool { return b.Snapshot().Hosts(Healthy) == 1 })
	answered := make(chan int)
	go func() {
		code, _ := fetch(t, b.URL()+"/slow")
		answered <- code
	}()
	<-slow
	b.Close()
	if code := <-answered; code != http.StatusOK {
		t.Errorf("a request that was under way when the balancer was closed is answered by %d, want 200", code)
	}
	if c, err := dial(t, b.URL()); err == nil {
		_ = c.Close()
		t.Error("it still listens")
	}
}

func testExposed(t *testing.T, b *Balancer) {
	t.Helper()
	_, text := fetch(t, b.MetricsURL()+"/metrics")
	for _, line := range []string{
		"balancer_requests_total 1", `balancer_target_responses_total{code="200"} 1`, `balancer_targets{state="healthy"} 1`,
		`balancer_calls_total{call="register"} 1`, `balancer_target_response_seconds_bucket{le="+Inf"} 1`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("/metrics lacks %s:\n%s", line, text)
		}
	}
	_, text = fetch(t, b.MetricsURL()+"/targets")
	var targets []Target
	if err := json.Unmarshal([]byte(text), &targets); err != nil {
		t.Fatal(err)
	}
	if len(targets) != 1 || targets[0] != (Target{Address: "10.0.0.1:8080", Condition: healthy, Requests: 1}) {
		t.Errorf("/targets is %s", text)
	}
}

// fetch asks on a connection of its own.
func fetch(t *testing.T, url string) (code int, body string) {
	t.Helper()
	resp, err := ask(t, http.MethodGet, url, nil)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return resp.StatusCode, string(text)
}

func ask(t *testing.T, method, url string, body io.Reader) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
}

func dial(t *testing.T, url string) (net.Conn, error) {
	t.Helper()
	return (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(url, "http://"))
}

func TestSnapshotInWordsOfCloudWatch(t *testing.T) {
	s := newStats()
	s.own(502)
	s.own(502)
	s.own(503)
	s.own(460)
	s.request()
	s.answered(200, time.Second)
	s.answered(503, 3*time.Second)
	snapshot := s.snapshot()
	snapshot.Targets = []Target{{Condition: healthy}, {Condition: *failed}, {Condition: checking}}
	got := snapshot.CloudWatch()
	for name, want := range map[string]float64{
		"RequestCount": 1, "HTTPCode_ELB_4XX_Count": 1, "HTTPCode_ELB_5XX_Count": 3, "HTTPCode_ELB_502_Count": 2, "HTTPCode_ELB_503_Count": 1,
		"HTTPCode_Target_2XX_Count": 1, "HTTPCode_Target_5XX_Count": 1, "TargetResponseTime": 2, "HealthyHostCount": 1, "UnHealthyHostCount": 1,
		"TargetConnectionErrorCount": 0,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("and also %v", got)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	opts := testOptions(fake.NewClientset())
	opts.MaxConnections = 1
	b, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	first, err := dial(t, b.URL())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(first, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if n, err := first.Read(make([]byte, 1)); n != 1 {
		t.Fatal(err)
	}
	answered := make(chan int)
	go func() {
		code, _ := fetch(t, b.URL())
		answered <- code
	}()
	select {
	case <-answered:
		t.Error("the second is answered while the first is connected")
	case <-time.After(100 * time.Millisecond):
	}
	_ = first.Close()
	if code := <-answered; code != http.StatusServiceUnavailable {
		t.Errorf("then it is answered by %d, want 503", code)
	}
}

func TestOptionsThatCannotBe(t *testing.T) {
	for words, change := range map[string]func(*Options){
		"client is missing":                func(o *Options) { o.Client = nil },
		"Service are missing":              func(o *Options) { o.Service = "" },
		`target type "lambda"`:             func(o *Options) { o.TargetType = "lambda" },
		`algorithm "random"`:               func(o *Options) { o.Algorithm = "random" },
		"deregistration delay 2h0m0s":      func(o *Options) { o.DeregistrationDelay = 2 * time.Hour },
		"a lag is negative":                func(o *Options) { o.RegistrationLag = -1 },
		"a throttle needs":                 func(o *Options) { o.Throttle.PerSecond = 1 },
		"targets of a call":                func(o *Options) { o.CallTargets = 201 },
		"requeue is not positive":          func(o *Options) { o.Requeue = 0 },
		"a timeout is not positive":        func(o *Options) { o.IdleTimeout = 0 },
		"a limit of requests":              func(o *Options) { o.MaxRequests = 0 },
		"grace is negative":                func(o *Options) { o.Grace = -1 },
		"Dial is missing":                  func(o *Options) { o.Dial = nil },
		`health path "healthz"`:            func(o *Options) { o.Health.Path = "healthz" },
		"health timeout 3s is not between": func(o *Options) { o.Health.Interval, o.Health.Timeout = 3*time.Second, 3*time.Second },
		"a health threshold":               func(o *Options) { o.Health.HealthyThreshold = 0 },
		"health port -1 cannot be":         func(o *Options) { o.Health.Port = NodeHealthPort },
		`matcher "ok"`:                     func(o *Options) { o.Health.Matcher = "ok" },
		"listening on 127.0.0.1:x":         func(o *Options) { o.Addr = "127.0.0.1:x" },
	} {
		opts := testOptions(fake.NewClientset())
		change(&opts)
		b, err := Start(t.Context(), opts)
		if err == nil {
			b.Close()
		}
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("error is %v, want %q", err, words)
		}
	}
}

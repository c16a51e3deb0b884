package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/informers"
	fakekube "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/apiserver"
	fakeprovider "sigs.k8s.io/custom-metrics-apiserver/pkg/provider/fake"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/objects"
	"github.com/tidegauge/tidegauge/pkg/plan"
	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

var theRules = &rules.CompiledResource{Server: "default", CPU: &rules.CompiledUsage{}, Memory: &rules.CompiledUsage{}}

// fakeResources are the catalog, the planner and the objects of a test.
type fakeResources struct {
	rules *rules.CompiledResource
	ready error

	objects map[schema.GroupResource][]objects.Object
	// objectsErr is why the objects cannot be read.
	objectsErr error

	// samples are lines such as "shop/web-1 app 0.25 12:00:00": object, container, value, time.
	cpu, memory            []string
	cpuErr, memoryErr      error
	cpuWindow, otherWindow time.Duration
	containerLabel         string
	// version is that of the objects, cpuID and memoryID are those of what is read: with 0,
	// nothing is kept.
	version, cpuID, memoryID uint64

	mu sync.Mutex
	// reads are what the planner was asked, and lists how often objects were.
	reads []string
	lists int
}

func (f *fakeResources) ResourceRules() *rules.CompiledResource { return f.rules }

func (f *fakeResources) Ready() error { return f.ready }

func (f *fakeResources) List(_ context.Context, r schema.GroupResource, namespace string, selector labels.Selector) ([]objects.Object, error) {
	f.lists++
	var found []objects.Object
	for _, o := range slices.Backward(f.objects[r]) {
		if (namespace == "" || o.Namespace == namespace) && selector.Matches(o.Labels) {
			found = append(found, o)
		}
	}
	return found, f.objectsErr
}

func (f *fakeResources) Version(context.Context, schema.GroupResource, string) (uint64, error) {
	return f.version, f.objectsErr
}

func (f *fakeResources) Get(_ context.Context, r schema.GroupResource, namespace, name string) (objects.Object, bool, error) {
	for _, o := range f.objects[r] {
		if o.Namespace == namespace && o.Name == name {
			return o, true, f.objectsErr
		}
	}
	return objects.Object{}, false, f.objectsErr
}

func (f *fakeResources) Read(_ context.Context, s plan.Subject, names *plan.Names) (plan.Reading, error) {
	return f.read(s, func(n types.NamespacedName) bool {
		return n.Namespace == s.Namespace && slices.Contains(names.List(), n.Name)
	},
		fmt.Sprintf("%s of %q %v", s.Resource, s.Namespace, names.List()))
}

func (f *fakeResources) ReadAll(_ context.Context, s plan.Subject, all []types.NamespacedName) (plan.Reading, error) {
	return f.read(s, func(n types.NamespacedName) bool { return slices.Contains(all, n) }, fmt.Sprintf("%s everywhere %v", s.Resource, all))
}

func (f *fakeResources) read(s plan.Subject, asked func(types.NamespacedName) bool, words string) (plan.Reading, error) {
	var reading plan.Reading
	lines, window, err := f.memory, f.otherWindow, f.memoryErr
	side := "memory"
	reading.ID = f.memoryID
	if s.Asker == plan.PodUsage(f.rules, f.rules.CPU, "").Asker || s.Asker == plan.NodeUsage(f.rules, f.rules.CPU).Asker {
		lines, window, err, side = f.cpu, f.cpuWindow, f.cpuErr, "cpu"
		reading.ID = f.cpuID
	}
	f.mu.Lock()
	f.reads = append(f.reads, side+" "+words)
	f.mu.Unlock()
	if err != nil {
		return reading, err
	}
	reading.Question.Window, reading.Samples = window, map[types.NamespacedName][]sources.Sample{}
	if s.Resource == podResource {
		reading.Question.ContainerLabel = f.containerLabel
	}
	for _, line := range lines {
		name, sample := usageSample(line)
		if asked(name) {
			reading.Samples[name] = append(reading.Samples[name], sample)
		}
	}
	return reading, nil
}

// usageSample reads a line of a test.
func usageSample(line string) (types.NamespacedName, sources.Sample) {
	fields := strings.Fields(line)
	namespace, object, ok := strings.Cut(fields[0], "/")
	if !ok {
		namespace, object = "", fields[0]
	}
	clock, err := time.Parse(time.TimeOnly, fields[3])
	if err != nil {
		panic(err)
	}
	var value float64
	if _, err := fmt.Sscan(fields[2], &value); err != nil {
		panic(err)
	}
	s := sources.Sample{Value: value, Time: at.Truncate(24 * time.Hour).Add(clock.Sub(clock.Truncate(24 * time.Hour)))}
	if fields[1] != "-" {
		s.Labels = sources.NewLabels("container", strings.Trim(fields[1], `"`))
	}
	return types.NamespacedName{Namespace: namespace, Name: object}, s
}

// newFakeResources has three pods and two nodes, which are all well.
func newFakeResources() *fakeResources {
	return &fakeResources{
		rules: theRules,
		objects: map[schema.GroupResource][]objects.Object{
			podResource: {
				{Namespace: "bank", Name: "web-1", Labels: labels.Set{"app": "web"}},
				{Namespace: "shop", Name: "db-0", Labels: labels.Set{"app": "db"}},
				{Namespace: "shop", Name: "web-1", Labels: labels.Set{"app": "web"}},
			},
			nodeResource: {{Name: "node-1", Labels: labels.Set{"zone": "a"}}, {Name: "node-2", Labels: labels.Set{"zone": "b"}}},
		},
		cpu: []string{
			"bank/web-1 app 1 12:00:00",
			"shop/db-0 app 0.5 12:00:00",
			"shop/web-1 proxy 0.0000015 12:00:05",
			"shop/web-1 app 0.25 12:00:02",
			"node-1 - 1.5 12:00:00",
			"node-2 - 2 12:00:00",
		},
		memory: []string{
			"bank/web-1 app 1 12:00:00",
			"shop/db-0 app 0 12:00:00",
			"shop/web-1 app 1048576 12:00:03",
			"shop/web-1 proxy 1048575.6 12:00:03",
			"node-1 - 1073741824 12:00:01",
			"node-2 - 3 11:59:59",
		},
		cpuWindow: 3 * time.Minute, otherWindow: 3 * time.Minute, containerLabel: "container",
	}
}

// usageServer is a whole API server with metrics.k8s.io.
func usageServer(t *testing.T, f *fakeResources) *genericapiserver.GenericAPIServer {
	t.Helper()
	return installed(t, NewResource(f, f, f, nil))
}

func installed(t *testing.T, r *Resource) *genericapiserver.GenericAPIServer {
	t.Helper()
	config := genericapiserver.NewRecommendedConfig(apiserver.Codecs)
	config.LoopbackClientConfig = &rest.Config{}
	config.ExternalAddress = "127.0.0.1:443"
	config.OpenAPIConfig, config.OpenAPIV3Config = OpenAPI("tidegauge")
	server, err := (&apiserver.Config{GenericConfig: &config.Config}).
		Complete(informers.NewSharedInformerFactory(fakekube.NewClientset(), 0)).
		New("tidegauge", fakeprovider.NewProvider(), fakeprovider.NewProvider())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Install(server.GenericAPIServer); err != nil {
		t.Fatal(err)
	}
	server.GenericAPIServer.PrepareRun()
	return server.GenericAPIServer
}

// fetchUsage asks the server over HTTP, but for the wire.
func fetchUsage(t *testing.T, s *genericapiserver.GenericAPIServer, path, accept string) (int, []byte) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	w := httptest.NewRecorder()
	s.Handler.ServeHTTP(w, r)
	return w.Code, w.Body.Bytes()
}

const usageAPI = "/apis/metrics.k8s.io/v1beta1"

// askUsage gives the answer as a line: the usages, or the error's code and message.
func askUsage(t *testing.T, s *genericapiserver.GenericAPIServer, path string) string {
	t.Helper()
	code, body := fetchUsage(t, s, usageAPI+path, "")
	var answer struct {
		metav1.TypeMeta
		Message string
		Reason  metav1.StatusReason
		Items   []json.RawMessage
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatalf("%d %s: %v", code, body, err)
	}
	items := answer.Items
	switch answer.Kind {
	case "Status":
		return fmt.Sprint(code, " ", answer.Reason, " ", answer.Message)
	case "PodMetrics", "NodeMetrics":
		items = []json.RawMessage{body}
	}
	lines := make([]string, len(items))
	for i, item := range items {
		lines[i] = describeUsage(t, item)
	}
	return fmt.Sprint(code, " ", answer.Kind, " [", strings.Join(lines, " | "), "]")
}

func describeUsage(t *testing.T, item []byte) string {
	t.Helper()
	var pod v1beta1.PodMetrics
	var node v1beta1.NodeMetrics
	if err := errors.Join(json.Unmarshal(item, &pod), json.Unmarshal(item, &node)); err != nil {
		t.Fatal(err)
	}
	parts := []string{pod.Name}
	if pod.Namespace != "" {
		parts[0] = pod.Namespace + "/" + pod.Name
	}
	for _, c := range pod.Containers {
		parts = append(parts, fmt.Sprintf("%s:%s,%s", c.Name, c.Usage.Cpu(), c.Usage.Memory()))
	}
	if node.Usage != nil {
		parts = append(parts, fmt.Sprintf("%s,%s", node.Usage.Cpu(), node.Usage.Memory()))
	}
	return strings.Join(append(parts, pod.Timestamp.UTC().Format(time.TimeOnly), pod.Window.Duration.String()), " ")
}

func TestUsage(t *testing.T) {
	f := newFakeResources()
	s := usageServer(t, f)
	const (
		bankWeb = "bank/web-1 app:1,1 12:00:00 3m0s"
		shopDB  = "shop/db-0 app:500m,0 12:00:00 3m0s"
		shopWeb = "shop/web-1 app:250m,1Mi proxy:1500n,1Mi 12:00:02 3m0s"
		node1   = "node-1 1500m,1Gi 12:00:00 3m0s"
		node2   = "node-2 2,3 11:59:59 3m0s"
	)
	for path, want := range map[string]string{
		"/pods":                         "200 PodMetricsList [" + bankWeb + " | " + shopDB + " | " + shopWeb + "]",
		"/pods?labelSelector=app%3Dweb": "200 PodMetricsList [" + bankWeb + " | " + shopWeb + "]",
		"/pods?fieldSelector=metadata.namespace%3Dshop":              "200 PodMetricsList [" + shopDB + " | " + shopWeb + "]",
		"/namespaces/shop/pods":                                      "200 PodMetricsList [" + shopDB + " | " + shopWeb + "]",
		"/namespaces/shop/pods?labelSelector=app%3Dweb":              "200 PodMetricsList [" + shopWeb + "]",
		"/namespaces/shop/pods?fieldSelector=metadata.name!%3Dweb-1": "200 PodMetricsList [" + shopDB + "]",
		"/namespaces/shop/pods?labelSelector=app%3Dnothing":          "200 PodMetricsList []",
		"/namespaces/nowhere/pods":                                   "200 PodMetricsList []",
		"/namespaces/shop/pods/web-1":                                "200 PodMetrics [" + shopWeb + "]",
		"/namespaces/shop/pods/web-9":                                "404 NotFound usage of pod shop/web-9 (resourceRules, server default): there is none of that name, or it has ended",
		"/namespaces/shop/pods?labelSelector=%3D%3D":                 "400 BadRequest found '=='",
		"/nodes":                             "200 NodeMetricsList [" + node1 + " | " + node2 + "]",
		"/nodes?labelSelector=zone+in+(b,c)": "200 NodeMetricsList [" + node2 + "]",
		"/nodes/node-1":                      "200 NodeMetrics [" + node1 + "]",
		"/nodes/node-9":                      "404 NotFound usage of node node-9 (resourceRules, server default): there is none of that name, or it has ended",
	} {
		if got := askUsage(t, s, path); !strings.HasPrefix(got, want) {
			t.Errorf("%s:\ngot  %s\nwant %s", path, got, want)
		}
	}
}

// TestUsageIsReadOnceForAll says what is read for one request.
func TestUsageIsReadOnceForAll(t *testing.T) {
	for path, want := range map[string]string{
		"/pods":                       "pods everywhere [bank/web-1 shop/db-0 shop/web-1]",
		"/namespaces/shop/pods":       `pods of "shop" [db-0 web-1]`,
		"/namespaces/shop/pods/web-1": `pods of "shop" [web-1]`,
		"/nodes":                      `nodes of "" [node-1 node-2]`,
		"/nodes/node-1":               `nodes of "" [node-1]`,
		"/namespaces/nowhere/pods":    "",
		"/namespaces/nowhere/pods/a":  "",
	} {
		f := newFakeResources()
		askUsage(t, usageServer(t, f), path)
		slices.Sort(f.reads)
		got := strings.Join(f.reads, "; ")
		if want != "" {
			want = "cpu " + want + "; memory " + want
		}
		if got != want {
			t.Errorf("%s read %s, want %s", path, got, want)
		}
	}
}

// TestKeptUsagesAreThoseOfNow shows that what is kept for the next reader is what would be
// made for him: after each change of what it is made of it is another.
func TestKeptUsagesAreThoseOfNow(t *testing.T) {
	f := newFakeResources()
	f.version, f.cpuID, f.memoryID = 1, 1, 1
	s := usageServer(t, f)
	const path = "/namespaces/shop/pods?labelSelector=app%3Dweb"
	pods := func(usages ...string) string { return "200 PodMetricsList [" + strings.Join(usages, " | ") + "]" }
	const (
		bank   = "bank/web-1 app:1,1 12:00:00 3m0s"
		db     = "shop/db-0 app:500m,0 12:00:00 3m0s"
		whole  = "shop/db-0 :500m,0 12:00:00 3m0s"
		first  = "shop/web-1 app:250m,1Mi proxy:1500n,1Mi 12:00:02 3m0s"
		second = "shop/web-1 app:500m,1Mi proxy:1500n,1Mi 12:00:02 3m0s"
		third  = "shop/web-1 app:500m,2Mi proxy:1500n,1Mi 12:00:02 3m0s"
		nodes  = "200 NodeMetricsList [node-1 1500m,1Gi 12:00:00 3m0s | node-2 2,3 11:59:59 3m0s]"
	)
	for _, step := range []struct {
		name   string
		change func()
		path   string
		want   string
		// lists is how often objects are listed for it.
		lists int
	}{
		{"the first read", func() {}, path, pods(first), 1},
		{"the same again", func() {}, path, pods(first), 0},
		{"another selector", func() {}, "/namespaces/shop/pods?labelSelector=app%3Ddb", pods(db), 1},
		{"another namespace", func() {}, "/namespaces/bank/pods?labelSelector=app%3Dweb", pods(bank), 1},
		{"another CPU", func() { f.cpu[3], f.cpuID = "shop/web-1 app 0.5 12:00:02", 2 }, path, pods(second), 0},
		{"another memory", func() { f.memory[2], f.memoryID = "shop/web-1 app 2097152 12:00:03", 2 }, path, pods(third), 0},
		{"another object", func() {
			f.objects[podResource][1].Labels = labels.Set{"app": "web"}
			f.version = 2
		}, path, pods(db, third), 1},
		{"other rules", func() {
			f.rules = &rules.CompiledResource{Server: "other", CPU: &rules.CompiledUsage{}, Memory: &rules.CompiledUsage{}}
			f.containerLabel = "none"
		}, path, pods(whole), 0},
		{"a field selector", func() { f.containerLabel = "container" }, path + "&fieldSelector=metadata.name%3Dweb-1", pods(third), 1},
		{"a field selector again", func() {}, path + "&fieldSelector=metadata.name%3Ddb-0", pods(db), 1},
		{"an outage", func() { f.cpuErr = errors.New("away") }, path, "500 InternalError usage of pods in namespace shop (resourceRules, server other): away", 0},
		{"its end", func() { f.cpuErr, f.cpuID = nil, 3 }, path, pods(db, third), 0},
		{"nodes", func() {}, "/nodes", nodes, 1},
		{"nodes again", func() {}, "/nodes", nodes, 0},
		{"all namespaces", func() {}, "/pods?labelSelector=app%3Dweb", pods(bank, db, third), 1},
		{"all namespaces again", func() {}, "/pods?labelSelector=app%3Dweb", pods(bank, db, third), 1},
	} {
		step.change()
		lists, reads := f.lists, len(f.reads)
		got := askUsage(t, s, step.path)
		if got != step.want {
			t.Errorf("%s: got\n%s, want\n%s", step.name, got, step.want)
		}
		if n := f.lists - lists; n != step.lists {
			t.Errorf("%s: objects were listed %d times, want %d", step.name, n, step.lists)
		}
		if n := len(f.reads) - reads; n != 2 {
			t.Errorf("%s: the planner was asked %d times, want each time for CPU and memory", step.name, n)
		}
	}
}

func TestUsageHasTheObjectsLabels(t *testing.T) {
	f := newFakeResources()
	_, body := fetchUsage(t, usageServer(t, f), usageAPI+"/namespaces/shop/pods/web-1", "")
	var pod v1beta1.PodMetrics
	if err := json.Unmarshal(body, &pod); err != nil {
		t.Fatal(err)
	}
	if pod.Labels["app"] != "web" || len(pod.Labels) != 1 {
		t.Errorf("labels %v", pod.Labels)
	}
	if since := time.Since(pod.CreationTimestamp.Time); since < -time.Second || since > time.Minute {
		t.Errorf("created %v ago; a usage is created when it is asked for", since)
	}
}

// TestPodIsWholeOrAbsent has the samples of one pod beside another that is well, in
// the shapes that cAdvisor and rules give them.
func TestPodIsWholeOrAbsent(t *testing.T) {
	for _, tc := range []struct {
		name        string
		cpu, memory []string
		noLabel     bool
		want        string
	}{
		{name: "no sample", want: "404 there is no sample"},
		{name: "no CPU yet", memory: []string{"app 1"}, want: "404 CPU of container app: there is no sample"},
		{name: "no memory", cpu: []string{"app 1"}, want: "404 memory of container app: there is no sample"},
		{
			name: "one container without CPU", cpu: []string{"app 1"}, memory: []string{"app 1", "proxy 1"},
			want: "404 CPU of container proxy: there is no sample",
		},
		{
			name: "one container without memory", cpu: []string{"app 1", "proxy 1"}, memory: []string{"app 1"},
			want: "404 memory of container proxy: there is no sample",
		},
		{name: "NaN", cpu: []string{"app NaN"}, memory: []string{"app 1"}, want: "500 CPU of container app: not a usage: NaN"},
		{name: "infinite", cpu: []string{"app +Inf"}, memory: []string{"app 1"}, want: "500 CPU of container app: not a usage: +Inf"},
		{name: "negative", cpu: []string{"app 1"}, memory: []string{"app -1"}, want: "500 memory of container app: not a usage: -1"},
		{name: "beyond int64", cpu: []string{"app 1"}, memory: []string{"app 1e19"}, want: "500 memory of container app: not a usage: 1e+19"},
		{name: "beyond all machines", cpu: []string{"app 1"}, memory: []string{"app 1.1e15"}, want: "500 memory of container app: not a usage: 1.1e+15"},
		{
			name: "one container of two is NaN", cpu: []string{"app 1", "proxy NaN"}, memory: []string{"app 1", "proxy 1"},
			want: "500 CPU of container proxy: not a usage: NaN",
		},
		{
			name: "two samples of a container", cpu: []string{"app 1", "app 2"}, memory: []string{"app 1"},
			want: "500 CPU of container app: not a usage: it has 2 samples, of which the query must make one, as sum(…) by (<<.GroupBy>>) does",
		},
		{name: "zero is a value", cpu: []string{"app 0"}, memory: []string{"app 0"}, want: "app:0,0"},
		{name: "fractions", cpu: []string{"app 0.1234567891"}, memory: []string{"app 0.5"}, want: "app:123456790n,1"},
		{
			name: "the pod and its pause container beside the container",
			cpu:  []string{`"" 3`, "POD 1", "app 2"}, memory: []string{`"" 30`, "POD 10", "app 20"}, want: "app:2,20",
		},
		{
			name: "the pod on one side only", cpu: []string{`"" 3`, "app 2"}, memory: []string{"app 20"}, want: "app:2,20",
		},
		{
			name: "only the pod on one side", cpu: []string{`"" 3`}, memory: []string{"app 20"},
			want: "404 CPU of container app: there is no sample",
		},
		{name: "the pod as a whole", cpu: []string{`"" 3`, "POD 1"}, memory: []string{`"" 30`}, want: ":3,30"},
		{name: "only the pause container", cpu: []string{"POD 1"}, memory: []string{"POD 1"}, want: "404 there is no sample"},
		{name: "a rule without containerLabel", noLabel: true, cpu: []string{"app 3"}, memory: []string{"app 30"}, want: ":3,30"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFakeResources()
			if tc.noLabel {
				f.containerLabel = ""
			}
			inPod := func(lines []string) []string {
				all := []string{"shop/db-0 app 1 12:00:00"}
				for _, line := range lines {
					all = append(all, "shop/web-1 "+line+" 12:00:00")
				}
				return all
			}
			f.cpu, f.memory = inPod(tc.cpu), inPod(tc.memory)
			s := usageServer(t, f)
			rest, absent := strings.CutPrefix(tc.want, "404 ")
			if faulty, ok := strings.CutPrefix(tc.want, "500 "); ok {
				rest, absent = faulty, true
			}
			well := "shop/db-0 app:1,1 12:00:00 3m0s"
			if tc.noLabel {
				well = "shop/db-0 :1,1 12:00:00 3m0s"
			}
			wantOne := "200 PodMetrics [shop/web-1 " + tc.want + " 12:00:00 3m0s]"
			wantList := "200 PodMetricsList [" + well + " | shop/web-1 " + tc.want + " 12:00:00 3m0s]"
			if absent {
				reason := map[string]string{"404": "NotFound", "500": "InternalError"}[tc.want[:3]]
				wantOne = tc.want[:4] + reason + " usage of pod shop/web-1 (resourceRules, server default): " + rest
				wantList = "200 PodMetricsList [" + well + "]"
			}
			if got := askUsage(t, s, "/namespaces/shop/pods/web-1"); got != wantOne {
				t.Errorf("by name:\ngot  %s\nwant %s", got, wantOne)
			}
			for _, path := range []string{"/namespaces/shop/pods", "/pods"} {
				if got := askUsage(t, s, path); got != wantList {
					t.Errorf("%s:\ngot  %s\nwant %s", path, got, wantList)
				}
			}
		})
	}
}

// TestNothingButFaultsIsAnError tells what is not there from what is wrong.
func TestNothingButFaultsIsAnError(t *testing.T) {
	for name, tc := range map[string]struct {
		cpu  string
		want string
	}{
		"no sample of any":           {"", "200 PodMetricsList []"},
		"one without, one with NaN":  {"shop/db-0 app NaN 12:00:00", "500 InternalError usage of pods in namespace shop (resourceRules, server default): shop/db-0: CPU of container app: not a usage: NaN"},
		"one that is well, none bad": {"shop/db-0 app 1 12:00:00", "200 PodMetricsList [shop/db-0 app:1,0 12:00:00 3m0s]"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeResources()
			f.cpu = slices.DeleteFunc([]string{tc.cpu}, func(line string) bool { return line == "" })
			if got := askUsage(t, usageServer(t, f), "/namespaces/shop/pods"); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestNodeLacksNothing(t *testing.T) {
	for name, line := range map[string]string{"NaN": "node-1 - NaN 12:00:00", "negative": "node-1 - -3 12:00:00", "twice": "node-1 - 1 12:00:00", "absent": "node-3 - 1 12:00:00"} {
		t.Run(name, func(t *testing.T) {
			f := newFakeResources()
			if name != "twice" {
				f.memory = slices.DeleteFunc(f.memory, func(line string) bool { return strings.HasPrefix(line, "node-1") })
			}
			f.memory = append(f.memory, line)
			want := "200 NodeMetricsList [node-2 2,3 11:59:59 3m0s]"
			if got := askUsage(t, usageServer(t, f), "/nodes"); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func TestWindowIsTheLonger(t *testing.T) {
	f := newFakeResources()
	f.cpuWindow, f.otherWindow = 2*time.Minute, 0
	if got := askUsage(t, usageServer(t, f), "/nodes/node-1"); !strings.Contains(got, " 2m0s]") {
		t.Errorf("got %s", got)
	}
}

// TestOutageIsNeverAnEmptyList has each way in which usage cannot be read.
func TestOutageIsNeverAnEmptyList(t *testing.T) {
	away := &engine.UnavailableError{Source: "prometheus", Since: at, Err: errors.New("dial tcp: connection refused")}
	forbidden := &objects.UnavailableError{Resource: podResource, Err: errors.New("forbidden")}
	late := &objects.UnavailableError{Resource: podResource, Err: fmt.Errorf("the first reading is under way: %w", context.DeadlineExceeded)}
	for name, tc := range map[string]struct {
		set  func(f *fakeResources)
		want string
	}{
		"CPU away":         {func(f *fakeResources) { f.cpuErr = away }, "503 ServiceUnavailable %s (resourceRules, server default): source prometheus has failed since 2026-01-02T03:04:00Z"},
		"memory away":      {func(f *fakeResources) { f.memoryErr = away }, "503 ServiceUnavailable %s (resourceRules, server default): source prometheus has failed"},
		"query refused":    {func(f *fakeResources) { f.cpuErr = fmt.Errorf("%w: bad_data", sources.ErrRejected) }, "500 InternalError %s (resourceRules, server default): rejected: bad_data"},
		"slow":             {func(f *fakeResources) { f.cpuErr = context.DeadlineExceeded }, "504 Timeout %s (resourceRules, server default): context deadline"},
		"objects unknown":  {func(f *fakeResources) { f.objectsErr = forbidden }, "503 ServiceUnavailable %s (resourceRules, server default): cannot read pods from the API server: forbidden"},
		"objects late":     {func(f *fakeResources) { f.objectsErr = late }, "504 Timeout %s (resourceRules, server default): cannot read pods"},
		"no resourceRules": {func(f *fakeResources) { f.rules = nil }, "404 NotFound %s: the adapter's configuration has no resourceRules; add them, or have the APIService v1beta1.metrics.k8s.io name another server"},
		"not ready":        {func(f *fakeResources) { f.rules, f.ready = nil, errors.New("starting") }, "503 ServiceUnavailable %s: the adapter is not ready: starting"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeResources()
			tc.set(f)
			s := usageServer(t, f)
			for path, what := range map[string]string{
				"/pods":                       "usage of pods",
				"/namespaces/shop/pods":       "usage of pods in namespace shop",
				"/namespaces/shop/pods/web-1": "usage of pod shop/web-1",
				"/nodes":                      "usage of nodes",
				"/nodes/node-1":               "usage of node node-1",
			} {
				want := fmt.Sprintf(tc.want, what)
				if got := askUsage(t, s, path); !strings.HasPrefix(got, want) {
					t.Errorf("%s:\ngot  %s\nwant %s", path, got, want)
				}
			}
		})
	}
}

// TestUsageTable is what `kubectl get podmetrics` shows.
func TestUsageTable(t *testing.T) {
	s := usageServer(t, newFakeResources())
	const accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
	for path, want := range map[string]string{
		"/namespaces/shop/pods":       "[db-0 500m 0 3m0s] [web-1 250001500n 2Mi 3m0s]",
		"/namespaces/shop/pods/web-1": "[web-1 250001500n 2Mi 3m0s]",
		"/nodes":                      "[node-1 1500m 1Gi 3m0s] [node-2 2 3 3m0s]",
		"/nodes/node-2":               "[node-2 2 3 3m0s]",
	} {
		code, body := fetchUsage(t, s, usageAPI+path, accept)
		var table metav1.Table
		if err := json.Unmarshal(body, &table); err != nil || code != http.StatusOK {
			t.Fatalf("%d %s: %v", code, body, err)
		}
		var rows, columns []string
		for _, r := range table.Rows {
			rows = append(rows, fmt.Sprint(r.Cells))
		}
		for _, c := range table.ColumnDefinitions {
			columns = append(columns, c.Name)
		}
		if got := strings.Join(rows, " "); got != want {
			t.Errorf("%s shows %s, want %s", path, got, want)
		}
		if got := strings.Join(columns, " "); got != "Name cpu memory Window" {
			t.Errorf("%s has columns %s", path, got)
		}
	}
}

func TestUsageIsDiscovered(t *testing.T) {
	s := usageServer(t, newFakeResources())
	_, body := fetchUsage(t, s, usageAPI, "")
	var list metav1.APIResourceList
	if err := json.Unmarshal(body, &list); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range list.APIResources {
		got = append(got, fmt.Sprint(r.Name, " ", r.SingularName, " ", r.Kind, " ", r.Namespaced, " ", r.Verbs))
	}
	if want := "nodes  NodeMetrics false [get list]; pods  PodMetrics true [get list]"; strings.Join(got, "; ") != want {
		t.Errorf("got %s, want %s", strings.Join(got, "; "), want)
	}
}

// TestOpenAPIHasAllTypes is what kubectl explain reads.
func TestOpenAPIHasAllTypes(t *testing.T) {
	s := usageServer(t, newFakeResources())
	for path, wants := range map[string][]string{
		"/openapi/v2": {"PodMetrics", "NodeMetrics", "ExternalMetricValueList", "/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods/{name}"},
		"/openapi/v3/apis/metrics.k8s.io/v1beta1": {"PodMetrics", "NodeMetrics", `"kind":"PodMetrics"`},
	} {
		code, body := fetchUsage(t, s, path, "application/json")
		for _, want := range wants {
			if code != http.StatusOK || !strings.Contains(string(body), want) {
				t.Errorf("%s: %d, without %s, in %d bytes", path, code, want, len(body))
			}
		}
	}
}

// stockResourceRules are those that prometheus-adapter documents for cAdvisor and the node
// exporter.
var stockResourceRules = rules.File{ResourceRules: &rules.ResourceRules{
	CPU: rules.ResourceRule{
		ContainerQuery: `sum by (<<.GroupBy>>) (rate(container_cpu_usage_seconds_total{container!="",<<.LabelMatchers>>}[3m]))`,
		NodeQuery:      `sum by (<<.GroupBy>>) (rate(node_cpu_seconds_total{mode!="idle",mode!="iowait",mode!="steal",<<.LabelMatchers>>}[3m]))`,
		Resources:      stockResources,
		ContainerLabel: "container",
	},
	Memory: rules.ResourceRule{
		ContainerQuery: `sum by (<<.GroupBy>>) (avg_over_time(container_memory_working_set_bytes{container!="",<<.LabelMatchers>>}[3m]))`,
		NodeQuery:      `sum by (<<.GroupBy>>) (avg_over_time(node_memory_MemTotal_bytes{<<.LabelMatchers>>}[3m]) - avg_over_time(node_memory_MemAvailable_bytes{<<.LabelMatchers>>}[3m]))`,
		Resources:      stockResources,
		ContainerLabel: "container",
	},
	Window: "3m",
}}

var stockResources = rules.Resources{Overrides: map[string]rules.GroupResource{
	"instance": {Resource: "node"}, "namespace": {Resource: "namespace"}, "pod": {Resource: "pod"},
}}

// coreMapper knows pods, nodes and namespaces.
type coreMapper struct{}

func (coreMapper) Normalize(r schema.GroupResource) (resource schema.GroupResource, namespaced, ok bool) {
	name := strings.TrimSuffix(r.Resource, "s") + "s"
	return schema.GroupResource{Resource: name}, name == "pods", slices.Contains([]string{"pods", "nodes", "namespaces"}, name)
}

func (m coreMapper) Singular(r schema.GroupResource) string {
	if _, _, known := m.Normalize(r); known {
		return strings.TrimSuffix(r.Resource, "s")
	}
	return r.Resource
}

func (coreMapper) Known() bool        { return true }
func (coreMapper) Generation() uint64 { return 1 }

// usageEngine answers each query with what Prometheus has of that metric.
type usageEngine map[string][]sources.Sample

func (e usageEngine) Read(_ context.Context, r engine.Request) (engine.Answer, error) {
	query := fmt.Sprint(r.Query)
	for metric, samples := range e {
		if strings.Contains(query, metric) {
			samples = slices.DeleteFunc(slices.Clone(samples), func(s sources.Sample) bool {
				namespace, ok := s.Labels.Lookup("namespace")
				return ok && strings.Contains(query, "namespace=") && !strings.Contains(query, fmt.Sprintf("namespace=%q", namespace))
			})
			return engine.Answer{Samples: samples, Fetched: at}, nil
		}
	}
	return engine.Answer{}, fmt.Errorf("%w: %v", sources.ErrRejected, r.Query)
}

// noCount counts nothing.
type noCount struct{}

func (noCount) Count(schema.GroupResource, string) (int, bool) { return 0, false }

// TestStockResourceRules goes from the configuration to the API, past Prometheus only.
func TestStockResourceRules(t *testing.T) {
	set, err := stockResourceRules.Compile(func(string) int { return 0 })
	if err != nil {
		t.Fatal(err)
	}
	f := newFakeResources()
	f.rules = set.Resource
	container := func(namespace, pod, name string, v float64) sources.Sample {
		return sources.Sample{Labels: sources.NewLabels("namespace", namespace, "pod", pod, "container", name), Value: v, Time: at, Window: 3 * time.Minute}
	}
	node := func(name string, v float64) sources.Sample {
		return sources.Sample{Labels: sources.NewLabels("instance", name), Value: v, Time: at, Window: 3 * time.Minute}
	}
	planner := plan.New(plan.Options{
		Source: "prometheus", Mapper: coreMapper{}, Counter: noCount{}, MaxAge: func() time.Duration { return time.Minute },
		Engine: usageEngine{
			"container_cpu_usage_seconds_total":  {container("shop", "web-1", "app", 0.2), container("shop", "web-1", "proxy", 0.05), container("shop", "db-0", "app", 1)},
			"container_memory_working_set_bytes": {container("shop", "web-1", "app", 1024), container("shop", "web-1", "proxy", 2048)},
			"node_cpu_seconds_total":             {node("node-1", 1.5), node("node-2", 0.1)},
			"node_memory_MemTotal_bytes":         {node("node-1", 4096), node("node-2", math.NaN())},
		},
	})
	s := installed(t, NewResource(f, planner, f, nil))
	const web, node1 = "shop/web-1 app:200m,1Ki proxy:50m,2Ki 03:04:00 3m0s", "node-1 1500m,4Ki 03:04:00 3m0s"
	for path, want := range map[string]string{
		"/pods":                       "200 PodMetricsList [" + web + "]",
		"/namespaces/shop/pods":       "200 PodMetricsList [" + web + "]",
		"/namespaces/shop/pods/web-1": "200 PodMetrics [" + web + "]",
		"/namespaces/shop/pods/db-0":  "404 NotFound usage of pod shop/db-0 (resourceRules, server default): memory of container app: there is no sample",
		"/nodes":                      "200 NodeMetricsList [" + node1 + "]",
		"/nodes/node-2":               "500 InternalError usage of node node-2 (resourceRules, server default): memory: not a usage: NaN",
	} {
		if got := askUsage(t, s, path); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", path, got, want)
		}
	}
}

// FuzzUsage has whatever numbers and container names: a pod is there with what was
// measured, or not at all.
func FuzzUsage(f *testing.F) {
	f.Add("app", "proxy", 1.0, 2.0, 3.0, 4.0)
	f.Add("", "POD", math.NaN(), -1.0, math.Inf(1), 1e300)
	f.Fuzz(func(t *testing.T, one, other string, a, b, c, d float64) {
		sample := func(name string, v float64) sources.Sample {
			return sources.Sample{Labels: sources.NewLabels("container", name), Value: v, Time: at}
		}
		key := types.NamespacedName{Namespace: "shop", Name: "web-1"}
		var r readings
		r.cpu.Question.ContainerLabel, r.memory.Question.ContainerLabel = "container", "container"
		r.cpu.Samples = map[types.NamespacedName][]sources.Sample{key: {sample(one, a), sample(other, b)}}
		r.memory.Samples = map[types.NamespacedName][]sources.Sample{key: {sample(one, c), sample(other, d)}}
		u, err := r.usage(objects.Object{Namespace: "shop", Name: "web-1"})
		if err != nil {
			return
		}
		measured := map[string][2]float64{one: {a, c}, other: {b, d}}
		for _, c := range u.containers {
			want := measured[c.name]
			cpu, memory := c.usage.Cpu().AsApproximateFloat64(), c.usage.Memory().AsApproximateFloat64()
			if math.Abs(cpu-want[0]) > 1e-9*max(1, want[0]) || math.Abs(memory-want[1]) > 0.5+1e-9*want[1] {
				t.Errorf("container %q has %v and %v, measured %v", c.name, cpu, memory, want)
			}
		}
	})
}

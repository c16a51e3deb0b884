package waysin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/test/balancer"
	"github.com/tidegauge/tidegauge/test/runner"
)

// way is a way in with all that matters to requests while something happens.
type way struct {
	name string
	pods int
	// drain is how long a pod serves after SIGTERM, with bad health.
	drain time.Duration
	// gate is the readiness gate of the AWS Load Balancer Controller.
	gate bool
	// budget is a PodDisruptionBudget of one pod.
	budget bool
	// policy makes the nodes the targets, with this externalTrafficPolicy.
	policy corev1.ServiceExternalTrafficPolicy
	path   string
	set    func(*balancer.Options)
	// event is what happens while it is measured, and ends when it is over.
	event step

	// steps are what happens in order, where nothing depends on how long something takes. A
	// drain, however long, is then one until the load balancer has nothing for the pod any more.
	steps []step
	// paced is a rollout whose new pods become ready one by one, each when the one before is a
	// target. It is in order only.
	paced bool
}

type step func(*testing.T, *scene)

// figures are what clients saw, and what the balancer counted.
type figures struct {
	sent, lost int
	codes      string
	calls      balancer.Calls
}

// scene is a way in that is set up.
type scene struct {
	way

	ns       string
	balancer *balancer.Balancer
	load     *load
	// director is what the pods ask that are part of an order; nil while it is measured.
	director *director
	toEvict  []string // pods

	mu    sync.Mutex
	gone  map[string]bool       // addresses of nodes
	conns map[string][]net.Conn // by address of the node
}

const perSecond = 40

// measure sets a way in up, has it answer requests, lets the event happen, and counts.
func (w way) measure(t *testing.T) figures {
	t.Helper()
	s := &scene{way: w, ns: strings.ReplaceAll(w.name, " ", "-"), gone: map[string]bool{}, conns: map[string][]net.Conn{}}
	s.apply(t)
	s.startBalancer(t)
	l := startLoad(t, s.balancer.URL()+w.path, perSecond)
	<-time.After(300 * time.Millisecond)
	w.event(t, s)
	// What is late shows within this time: the lags and the checks of health.
	<-time.After(1500 * time.Millisecond)
	f := l.end()
	snapshot := s.balancer.Snapshot()
	f.codes, f.calls = codes(snapshot), snapshot.Calls
	return f
}

// codes are the answers that the balancer made itself.
func codes(s balancer.Snapshot) string {
	var parts []string
	for _, code := range []int{http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout} {
		if n := s.Balancer[code]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d × %d", n, code))
		}
	}
	return strings.Join(parts, ", ")
}

func (s *scene) apply(t *testing.T) {
	t.Helper()
	gates, service, budget, args, grace, patience := "", "ClusterIP", "", `"--drain=`+s.drain.String()+`"`, 15, 1
	if s.director != nil {
		args, grace, patience = s.director.args(s.way), int(2*deadline/time.Second), 10
	}
	if s.gate {
		gates = "readinessGates: [{conditionType: target-health.elbv2.k8s.aws/web}]"
	}
	address := "podIP" // of the target
	if s.policy != "" {
		service, address = "NodePort\n  externalTrafficPolicy: "+string(s.policy), "hostIP"
	}
	if s.budget {
		budget = `
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: NS}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: web}}}
`
	}
	text := strings.NewReplacer("NS", s.ns, "PODS", strconv.Itoa(s.pods), "ARGS", args, "GRACE", strconv.Itoa(grace),
		"PATIENCE", strconv.Itoa(patience), "ADDRESS", address, "GATES", gates, "TYPE", service, "LABEL", runner.NodeLabel).Replace(`
apiVersion: v1
kind: Namespace
metadata: {name: NS}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: NS}
spec:
  type: TYPE
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NS}
spec:
  replicas: PODS
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 100%}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: GRACE
      nodeSelector: {LABEL: "true"}
      tolerations: [{key: LABEL, operator: Exists}]
      topologySpreadConstraints:
      - {topologyKey: kubernetes.io/hostname, maxSkew: 1, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      GATES
      containers:
      - name: web
        image: web
        args: ["--listen=:8080", ARGS]
        env: [{name: TARGET, valueFrom: {fieldRef: {fieldPath: status.ADDRESS}}}]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1, timeoutSeconds: PATIENCE}
` + budget)
	if err := bed.cluster.Apply(t.Context(), []byte(text)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		err := errors.Join(
			bed.cluster.Client().CoreV1().Namespaces().Delete(ctx, s.ns, metav1.DeleteOptions{}),
			bed.cluster.Client().CoreV1().Pods(s.ns).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}, metav1.ListOptions{}))
		if err != nil {
			t.Error(err)
		}
	})
}

// startBalancer returns when every target that is to be is healthy. What is measured has the
// times of a real one divided by about ten.
func (s *scene) startBalancer(t *testing.T) {
	t.Helper()
	opts := balancer.Defaults()
	opts.Client, opts.Namespace, opts.Service, opts.Dial = bed.cluster.Client(), s.ns, "web", bed.runner.Dial
	opts.Health.Interval, opts.Health.Timeout = 500*time.Millisecond, 450*time.Millisecond
	opts.DeregistrationDelay, opts.Requeue = 3*time.Second, 300*time.Millisecond
	opts.ConnectTimeout, opts.IdleTimeout = time.Second, 10*time.Second
	if s.director != nil {
		s.director.prepare(&opts)
	}
	if s.policy != "" {
		opts.TargetType, opts.Dial = balancer.Instance, s.dialNode
	}
	if s.set != nil {
		s.set(&opts)
	}
	var err error
	if s.balancer, err = balancer.Start(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.balancer.Close)
	if s.director != nil {
		s.director.watch(s.balancer)
	}
	eventually(t, s.name+": targets", func() error {
		want := s.pods
		if s.policy == corev1.ServiceExternalTrafficPolicyCluster {
			want = len(s.nodes(t)) // Another scene takes one away.
		}
		if snapshot := s.balancer.Snapshot(); snapshot.Hosts(balancer.Healthy) != want {
			return fmt.Errorf("%d targets are healthy, want %d: %+v", snapshot.Hosts(balancer.Healthy), want, snapshot)
		}
		return nil
	})
	settled(t, s)
}

// leaving is Karpenter's taint of a node that it is about to remove.
const leaving = "karpenter.sh/disrupted"

// nodes are the addresses of those that a load balancer may send to.
func (s *scene) nodes(t *testing.T) map[string]string {
	t.Helper()
	list, err := bed.cluster.Client().CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, n := range list.Items {
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP && !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == leaving }) {
				all[n.Name] = a.Address
			}
		}
	}
	return all
}

// dialNode is kube-proxy: what comes to a node's port goes to a pod of the Service, on any
// node, or with externalTrafficPolicy Local on this one. A pod that ends has it only if no
// other could.
//
// https://kubernetes.io/docs/reference/networking/virtual-ips/#external-traffic-policy
func (s *scene) dialNode(ctx context.Context, network, address string) (net.Conn, error) {
	node, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	gone := s.gone[node]
	s.mu.Unlock()
	if gone {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	pod, err := s.endpoint(ctx, node)
	if err != nil {
		return nil, err
	}
	conn, err := bed.runner.Dial(ctx, network, pod)
	if err == nil {
		s.mu.Lock()
		s.conns[node] = append(s.conns[node], conn)
		s.mu.Unlock()
	}
	return conn, err
}

var turn atomic.Uint64

// endpoint is the address of the pod that a request to a node goes to.
func (s *scene) endpoint(ctx context.Context, node string) (string, error) {
	name, err := nameOf(ctx, node)
	if err != nil {
		return "", err
	}
	list, err := bed.cluster.Client().DiscoveryV1().EndpointSlices(s.ns).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=web"})
	if err != nil {
		return "", err
	}
	var ready, ending []string
	for _, slice := range list.Items {
		for _, e := range slice.Endpoints {
			if s.policy == corev1.ServiceExternalTrafficPolicyLocal && *e.NodeName != name || !*e.Conditions.Serving {
				continue
			}
			address := net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*slice.Ports[0].Port)))
			if *e.Conditions.Terminating {
				ending = append(ending, address)
			} else {
				ready = append(ready, address)
			}
		}
	}
	if len(ready) == 0 {
		ready = ending
	}
	if len(ready) == 0 {
		return "", syscall.ECONNREFUSED
	}
	return ready[turn.Add(1)%uint64(len(ready))], nil
}

// nameOf is the node that has an address.
func nameOf(ctx context.Context, address string) (string, error) {
	list, err := bed.cluster.Client().CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return "", err
	}
	for _, n := range list.Items {
		if slices.ContainsFunc(n.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Address == address }) {
			return n.Name, nil
		}
	}
	return "", fmt.Errorf("no node has the address %s", address)
}

// takeAway ends a node: nothing answers at its address, and its connections are cut.
func (s *scene) takeAway(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone[address] = true
	for _, c := range s.conns[address] {
		_ = c.Close() // It may be closed.
	}
}

// scaleIn leaves the Deployment one pod, and waits until the others have ended.
func scaleIn(t *testing.T, s *scene) {
	t.Helper()
	startScaleIn(t, s)
	settled(t, s)
}

func startScaleIn(t *testing.T, s *scene) {
	t.Helper()
	s.patch(t, `{"spec":{"replicas":1}}`)
	s.pods = 1
}

// rollOut replaces every pod.
func rollOut(t *testing.T, s *scene) {
	t.Helper()
	startRollOut(t, s)
	settled(t, s)
}

func startRollOut(t *testing.T, s *scene) {
	t.Helper()
	s.patch(t, `{"spec":{"template":{"metadata":{"annotations":{"rolled":"out"}}}}}`)
}

func (s *scene) patch(t *testing.T, patch string) {
	t.Helper()
	_, err := bed.cluster.Client().AppsV1().Deployments(s.ns).Patch(t.Context(), "web", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// settled waits until the Deployment's pods are as they are to be, and there are no others.
func settled(t *testing.T, s *scene) {
	t.Helper()
	eventually(t, s.name+": pods", func() error {
		d, err := bed.cluster.Client().AppsV1().Deployments(s.ns).Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		pods, err := bed.cluster.Client().CoreV1().Pods(s.ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		want := int32(s.pods)
		if st := d.Status; st.ObservedGeneration < d.Generation || st.UpdatedReplicas != want || st.AvailableReplicas != want || len(pods.Items) != s.pods {
			return fmt.Errorf("%d pods of %d, %+v", len(pods.Items), want, st)
		}
		return nil
	})
}

// drainNode evicts the pods of a node, and tries again what a budget refuses, as kubectl
// drain does.
func drainNode(t *testing.T, s *scene) {
	t.Helper()
	list, err := bed.cluster.Client().CoreV1().Pods(s.ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		eventually(t, s.name+": eviction", func() error { return s.evict(t, p.Name) })
	}
	settled(t, s)
}

func (s *scene) evict(t *testing.T, pod string) error {
	t.Helper()
	return bed.cluster.Client().PolicyV1().Evictions(s.ns).Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod, Namespace: s.ns}})
}

// load is requests at a steady rate, each on a connection of its own.
type load struct {
	stop       context.CancelFunc
	running    sync.WaitGroup
	sent, lost atomic.Int64
	// inRow were answered since the last that was lost, or since somebody set it to 0.
	inRow atomic.Int64
}

func startLoad(t *testing.T, url string, perSecond int) *load {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	l := &load{stop: stop}
	client := &http.Client{Timeout: deadline, Transport: &http.Transport{DisableKeepAlives: true}}
	l.running.Go(func() {
		ticker := time.NewTicker(time.Second / time.Duration(perSecond))
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				l.running.Go(func() { l.ask(client, url) })
			}
		}
	})
	return l
}

func (l *load) ask(client *http.Client, url string) {
	l.sent.Add(1)
	resp, err := client.Get(url) //nolint:noctx // The client has a time-out, and a request is not given up.
	if err != nil || resp.Body.Close() != nil || resp.StatusCode != http.StatusOK {
		l.lost.Add(1)
		l.inRow.Store(0)
		return
	}
	l.inRow.Add(1)
}

// end waits for the requests that are under way.
func (l *load) end() figures {
	l.stop()
	l.running.Wait()
	return figures{sent: int(l.sent.Load()), lost: int(l.lost.Load())}
}

package waysin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	discoveryclient "k8s.io/client-go/kubernetes/typed/discovery/v1"

	"github.com/tidegauge/tidegauge/test/balancer"
)

const (
	// ordersPerSecond is the rate of the requests while things happen in order.
	ordersPerSecond = 20
	// row is how many requests in a row have to be answered.
	row = 10
	// never is longer than any test.
	never = time.Hour
)

// director has the things of a scene happen in order. Pods ask it when they may be ready and
// when they may end, slow requests when they are over, and the load balancer hears of
// EndpointSlices through it.
type director struct {
	url string
	// news is shut while the load balancer hears of no change of an EndpointSlice: its
	// controller's queue is long.
	news *gate
	// slow is shut while slow requests go on.
	slow *gate

	mu       sync.Mutex
	balancer *balancer.Balancer
	ready    map[string]bool // addresses of pods that may be
	places   int             // of pods that may be ready
}

func newDirector(t *testing.T, pods int) *director {
	t.Helper()
	d := &director{news: &gate{}, slow: &gate{}, ready: map[string]bool{}, places: pods}
	d.slow.shut()
	mux := http.NewServeMux()
	mux.HandleFunc("/until/{target}", func(_ http.ResponseWriter, r *http.Request) {
		for d.busy(r.PathValue("target")) != nil {
			select {
			case <-r.Context().Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	mux.HandleFunc("/ready/{target}", func(w http.ResponseWriter, r *http.Request) {
		if !d.mayBeReady(r.PathValue("target")) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { d.slow.wait(r.Context()) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	d.url = server.URL
	return d
}

// args are a pod's that asks the director.
func (d *director) args(w way) string {
	args := []string{"--slow=" + d.url + "/slow"}
	if w.drain > 0 {
		args = append(args, "--until="+d.url+"/until/$(TARGET)")
	}
	if w.paced {
		args = append(args, "--ready="+d.url+"/ready/$(TARGET)")
	}
	return `"` + strings.Join(args, `", "`) + `"`
}

// prepare has nothing end because it took long, but for the checks of health, which find it
// out whatever the order.
func (d *director) prepare(opts *balancer.Options) {
	opts.Client = lateClient{opts.Client, d.news}
	opts.Health.Interval, opts.Health.Timeout = 3*time.Second, 2900*time.Millisecond
	opts.DeregistrationDelay = never
	opts.ConnectTimeout, opts.IdleTimeout = 5*time.Second, deadline
}

func (d *director) watch(b *balancer.Balancer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.balancer = b
}

func (d *director) busy(host string) error {
	d.mu.Lock()
	b := d.balancer
	d.mu.Unlock()
	if b == nil {
		return nil
	}
	return busy(b, host)
}

func (d *director) mayBeReady(pod string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ready[pod] && len(d.ready) < d.places {
		d.ready[pod] = true
	}
	return d.ready[pod]
}

// onePlaceMore lets another pod be ready.
func (d *director) onePlaceMore() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.places++
}

// busy is nil when a load balancer sends nothing to a host and waits for nothing from it.
func busy(b *balancer.Balancer, host string) error {
	for _, target := range b.Snapshot().Targets {
		if hostOf(target) != host {
			continue
		}
		if target.State == balancer.Initial || target.State == balancer.Healthy || target.InFlight > 0 {
			return fmt.Errorf("%s is %s and has %d requests", target.Address, target.State, target.InFlight)
		}
	}
	return nil
}

func hostOf(target balancer.Target) string {
	host, _, _ := net.SplitHostPort(target.Address) // It is the balancer's own.
	return host
}

// gate is open at first.
type gate struct {
	mu     sync.Mutex
	opened chan struct{} // nil while it is open
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened == nil {
		g.opened = make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened != nil {
		close(g.opened)
		g.opened = nil
	}
}

func (g *gate) wait(ctx context.Context) {
	g.mu.Lock()
	opened := g.opened
	g.mu.Unlock()
	if opened == nil {
		return
	}
	select {
	case <-opened:
	case <-ctx.Done():
	}
}

// lateClient has the changes of EndpointSlices wait at a gate.
type lateClient struct {
	kubernetes.Interface

	news *gate
}

func (c lateClient) DiscoveryV1() discoveryclient.DiscoveryV1Interface {
	return lateDiscovery{c.Interface.DiscoveryV1(), c.news}
}

type lateDiscovery struct {
	discoveryclient.DiscoveryV1Interface

	news *gate
}

func (d lateDiscovery) EndpointSlices(namespace string) discoveryclient.EndpointSliceInterface {
	return lateSlices{d.DiscoveryV1Interface.EndpointSlices(namespace), d.news}
}

type lateSlices struct {
	discoveryclient.EndpointSliceInterface

	news *gate
}

func (s lateSlices) Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	w, err := s.EndpointSliceInterface.Watch(ctx, opts)
	if err != nil {
		return nil, err
	}
	return watch.Filter(w, func(e watch.Event) (watch.Event, bool) {
		s.news.wait(ctx)
		return e, true
	}), nil
}

// run sets a way in up, has it answer requests, does the steps, and counts.
func (w way) run(t *testing.T) figures {
	t.Helper()
	s := &scene{
		way: w, ns: "order-" + strings.ReplaceAll(w.name, " ", "-"), director: newDirector(t, w.pods),
		gone: map[string]bool{}, conns: map[string][]net.Conn{},
	}
	s.apply(t)
	s.startBalancer(t)
	s.load = startLoad(t, s.balancer.URL()+w.path, ordersPerSecond)
	if w.path == "" {
		answers(t, s)
	}
	for _, step := range w.steps {
		step(t, s)
	}
	f := s.load.end()
	snapshot := s.balancer.Snapshot()
	f.codes, f.calls = codes(snapshot), snapshot.Calls
	return f
}

// answers waits for some requests in a row that are answered.
func answers(t *testing.T, s *scene) {
	t.Helper()
	s.load.inRow.Store(0)
	eventually(t, s.name+": requests are answered", func() error {
		if n := s.load.inRow.Load(); n < row {
			return fmt.Errorf("%d in a row are answered, want %d; the load balancer: %+v", n, row, s.balancer.Snapshot())
		}
		return nil
	})
}

// loses waits until a request is answered by a code that says that the way loses some.
func loses(code int) step {
	return func(t *testing.T, s *scene) {
		t.Helper()
		eventually(t, fmt.Sprintf("%s: requests are answered by %d", s.name, code), func() error {
			if snapshot := s.balancer.Snapshot(); snapshot.Balancer[code] == 0 || s.load.lost.Load() == 0 {
				return fmt.Errorf("%d are lost, the load balancer: %+v", s.load.lost.Load(), snapshot)
			}
			return nil
		})
	}
}

func shutNews(_ *testing.T, s *scene) { s.director.news.shut() }
func openNews(_ *testing.T, s *scene) { s.director.news.open() }
func endSlow(_ *testing.T, s *scene)  { s.director.slow.open() }

// waits shows that a rollout does not go on: the new pods run, no old one ends, and requests
// are answered.
func waits(t *testing.T, s *scene) {
	t.Helper()
	eventually(t, s.name+": the new pods run", func() error { return s.waiting(t) })
	answers(t, s)
	if err := s.waiting(t); err != nil {
		t.Errorf("%s: the rollout does not wait: %v", s.name, err)
	}
}

func (s *scene) waiting(t *testing.T) error {
	t.Helper()
	list, err := bed.cluster.Client().CoreV1().Pods(s.ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	running := 0
	for _, p := range list.Items {
		if p.DeletionTimestamp != nil {
			return fmt.Errorf("%s ends", p.Name)
		}
		if isTrue(p, corev1.ContainersReady) {
			running++
		}
	}
	if running != 2*s.pods {
		return fmt.Errorf("%d of %d pods run, want %d old ones and as many new ones", running, len(list.Items), s.pods)
	}
	return nil
}

func isTrue(p corev1.Pod, kind corev1.PodConditionType) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == kind {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// oneByOne lets a new pod be ready when the one before is a target.
func oneByOne(t *testing.T, s *scene) {
	t.Helper()
	before := map[string]bool{}
	for _, target := range s.balancer.Snapshot().Targets {
		before[target.Address] = true
	}
	startRollOut(t, s)
	for n := range s.pods {
		s.director.onePlaceMore()
		eventually(t, s.name+": a new pod is a target", func() error {
			found := 0
			snapshot := s.balancer.Snapshot()
			for _, target := range snapshot.Targets {
				if !before[target.Address] && target.State == balancer.Healthy {
					found++
				}
			}
			if found != n+1 {
				return fmt.Errorf("%d are, want %d: %+v", found, n+1, snapshot)
			}
			return nil
		})
	}
	settled(t, s)
}

func throttles(t *testing.T, s *scene) {
	t.Helper()
	eventually(t, s.name+": a call is throttled", func() error {
		if s.balancer.Snapshot().Calls.Throttled == 0 {
			return errors.New("none is")
		}
		return nil
	})
}

// underWay waits until each target has a request that it has not answered.
func underWay(t *testing.T, s *scene) {
	t.Helper()
	eventually(t, s.name+": requests are under way", func() error {
		for _, target := range s.balancer.Snapshot().Targets {
			if target.InFlight == 0 {
				return fmt.Errorf("%s has none", target.Address)
			}
		}
		return nil
	})
}

// drains waits until all but one target drain, with requests that are under way.
func drains(t *testing.T, s *scene) {
	t.Helper()
	eventually(t, s.name+": targets drain", func() error {
		if snapshot := s.balancer.Snapshot(); snapshot.Hosts(balancer.Draining) != len(snapshot.Targets)-1 {
			return fmt.Errorf("not all do: %+v", snapshot)
		}
		return nil
	})
}

// evictOne evicts a pod, which has ended then, and whose successor runs.
func evictOne(t *testing.T, s *scene) {
	t.Helper()
	list, err := bed.cluster.Client().CoreV1().Pods(s.ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		s.toEvict = append(s.toEvict, p.Name)
	}
	if err := s.evict(t, s.toEvict[0]); err != nil {
		t.Fatal(err)
	}
	eventually(t, s.name+": the successor runs", func() error {
		list, err := bed.cluster.Client().CoreV1().Pods(s.ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, p := range list.Items {
			if p.Name == s.toEvict[0] || !isTrue(p, corev1.ContainersReady) {
				return fmt.Errorf("%s is %+v", p.Name, p.Status)
			}
		}
		if len(list.Items) != s.pods {
			return fmt.Errorf("%d pods, want %d", len(list.Items), s.pods)
		}
		return nil
	})
}

// refuses shows that the next pod may not be evicted, and that requests are answered.
func refuses(t *testing.T, s *scene) {
	t.Helper()
	for range 2 {
		if err := s.evict(t, s.toEvict[1]); !apierrors.IsTooManyRequests(err) {
			t.Errorf("%s: evicting the next pod: %v, want that the budget refuses it", s.name, err)
		}
		answers(t, s)
	}
}

func evictRest(t *testing.T, s *scene) {
	t.Helper()
	for _, pod := range s.toEvict[1:] {
		eventually(t, s.name+": eviction", func() error { return s.evict(t, pod) })
	}
	settled(t, s)
}

// inOrder are the rows of docs/ways-in.md, each with the ways that lose requests and the ways
// that lose none. A step ends by what was seen, so the order is the same on every machine.
var inOrder = []struct {
	row           string
	worse, better []way
}{
	{
		row: "registration lag",
		worse: []way{{
			name: "lag without gate", pods: 2, drain: never,
			steps: []step{shutNews, rollOut, loses(http.StatusServiceUnavailable), openNews, answers},
		}},
		better: []way{{
			name: "lag with gate", pods: 2, drain: never, gate: true,
			steps: []step{shutNews, startRollOut, waits, openNews, settled, answers},
		}},
	},
	{
		row: "throttled registration",
		worse: []way{{
			name: "throttled without gate", pods: 3, drain: never, set: throttledTo(nothing),
			steps: []step{rollOut, throttles, loses(http.StatusBadGateway)},
		}},
		better: []way{
			{
				name: "throttled with gate", pods: 3, drain: never, gate: true, set: throttledTo(nothing),
				steps: []step{startRollOut, throttles, waits},
			},
			{
				name: "slow with gate", pods: 3, drain: never, gate: true, set: throttledTo(1),
				steps: []step{rollOut, throttles, answers},
			},
			{
				name: "unthrottled without gate", pods: 3, drain: never, paced: true,
				steps: []step{oneByOne, answers},
			},
		},
	},
	{
		// The load balancer finds out by its checks only that a pod ends.
		row: "pods that end at once",
		worse: []way{{
			name: "scale in at once", pods: 4, set: hearingNever,
			steps: []step{scaleIn, loses(http.StatusBadGateway), answers},
		}},
		better: []way{{
			name: "scale in drained", pods: 4, drain: never, set: hearingNever,
			steps: []step{scaleIn, answers},
		}},
	},
	{
		row: "deregistration delay",
		worse: []way{{
			name: "short delay", pods: 4, drain: never, path: "/slow", set: delay(0),
			steps: []step{underWay, startScaleIn, loses(http.StatusBadGateway), endSlow, settled, answers},
		}},
		better: []way{{
			name: "long delay", pods: 4, drain: never, path: "/slow",
			steps: []step{underWay, startScaleIn, drains, endSlow, settled, answers},
		}},
	},
	{
		row: "externalTrafficPolicy Local",
		worse: []way{{
			name: "local at once", pods: 2, policy: local,
			steps: []step{scaleIn, loses(http.StatusBadGateway), answers},
		}},
		better: []way{{
			name: "local drained", pods: 2, drain: never, policy: local,
			steps: []step{scaleIn, answers},
		}},
	},
	{
		row: "node drain, pods as targets",
		worse: []way{
			{
				name: "drain at once", pods: 2, set: hearingNever,
				steps: []step{drainNode, loses(http.StatusBadGateway), answers},
			},
			{
				// Successors that nobody knows of do not help, however long the drain.
				name: "drain without budget", pods: 2, drain: never,
				steps: []step{shutNews, drainNode, loses(http.StatusServiceUnavailable), openNews, answers},
			},
		},
		better: []way{{
			name: "drain with budget", pods: 2, drain: never, gate: true, budget: true,
			steps: []step{shutNews, evictOne, refuses, openNews, evictRest, answers},
		}},
	},
	{
		row: "node ends, nodes as targets",
		worse: []way{{
			name: "node gone", pods: 2, policy: cluster,
			steps: []step{nodeEnds, loses(http.StatusGatewayTimeout), answers},
		}},
		better: []way{{
			name: "node announced", pods: 2, policy: cluster,
			steps: []step{nodeEndsAnnounced, answers},
		}},
	},
}

// nothing is a rate at which no call is taken after the first targets'.
const nothing = 1e-9

func throttledTo(perSecond float64) func(*balancer.Options) {
	return func(o *balancer.Options) {
		o.CallTargets, o.Throttle = 1, balancer.Throttle{PerSecond: perSecond, Burst: 3}
	}
}

func hearingNever(o *balancer.Options) { o.DeregistrationLag = never }

// TestWaysIn shows for each row which ways lose requests and which lose none.
func TestWaysIn(t *testing.T) {
	t.Parallel()
	running(t)
	for _, row := range inOrder {
		for _, w := range row.worse {
			t.Run(w.name, func(t *testing.T) {
				t.Parallel()
				if f := w.run(t); f.lost == 0 {
					t.Errorf("%s: none of %d requests is lost the worse way", row.row, f.sent)
				}
			})
		}
		for _, w := range row.better {
			t.Run(w.name, func(t *testing.T) {
				t.Parallel()
				if f := w.run(t); f.lost > 0 {
					t.Errorf("%s: %d of %d requests are lost the better way (%s)", row.row, f.lost, f.sent, f.codes)
				}
			})
		}
	}
}

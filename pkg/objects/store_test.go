package objects

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	fakemetadata "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"
)

const patience = 30 * time.Second

var (
	nodes            = schema.GroupResource{Resource: "nodes"}
	deployments      = schema.GroupResource{Group: "apps", Resource: "deployments"}
	errPodsForbidden = apierrors.NewForbidden(pods, "", errors.New(
		`User "system:serviceaccount:metrics:tidegauge" cannot list resource "pods" in API group "" at the cluster scope`))
)

// object makes one of "shop/web-1 app=web,tier=front"; a node has no namespace.
func object(apiVersion, kind, line string) *metav1.PartialObjectMetadata {
	name, labelled, _ := strings.Cut(line, " ")
	namespace, name, ok := strings.Cut(name, "/")
	if !ok {
		namespace, name = "", namespace
	}
	set, err := labels.ConvertSelectorToLabelsMap(labelled)
	if err != nil {
		panic(err)
	}
	return &metav1.PartialObjectMetadata{
		TypeMeta: metav1.TypeMeta{APIVersion: apiVersion, Kind: kind},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, Labels: set, ResourceVersion: "5",
			Annotations: map[string]string{"kubectl.kubernetes.io/last-applied-configuration": strings.Repeat("x", 1000)},
		},
	}
}

func pod(line string) *metav1.PartialObjectMetadata { return object("v1", "Pod", line) }

// fakeClient has the pods of a shop and a node.
func fakeClient() *fakemetadata.FakeMetadataClient {
	scheme := runtime.NewScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		panic(err)
	}
	return fakemetadata.NewSimpleMetadataClient(scheme,
		pod("shop/web-1 app=web"), pod("shop/web-2 app=web"), pod("shop/db-0 app=db"), pod("bank/web-1 app=web"),
		object("v1", "Node", "node-1 zone=a"), object("v1", "Node", "node-2 zone=b"))
}

// running starts a store over the client, which ends with the test.
func started(t *testing.T, client metadata.Interface) *Store {
	t.Helper()
	s := NewStore(client, refreshed(t, api(cluster...)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func selected(t *testing.T, s *Store, r schema.GroupResource, namespace, selector string) string {
	t.Helper()
	parsed, err := labels.Parse(selector)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	names, err := s.Select(ctx, r, namespace, parsed)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(names)
}

func TestSelect(t *testing.T) {
	s := started(t, fakeClient())
	for _, tc := range []struct {
		resource            schema.GroupResource
		namespace, selector string
		want                string
	}{
		{pods, "shop", "", "[db-0 web-1 web-2]"},
		{pods, "shop", "app=web", "[web-1 web-2]"},
		{pods, "shop", "app in (db,cache)", "[db-0]"},
		{pods, "shop", "app!=web", "[db-0]"},
		{pods, "shop", "!app", "[]"},
		{pods, "bank", "app", "[web-1]"},
		{pods, "nowhere", "", "[]"},
		{nodes, "", "", "[node-1 node-2]"},
		{nodes, "", "zone=b", "[node-2]"},
		{nodes, "shop", "", "[node-1 node-2]"},
		{deployments, "shop", "", "[]"},
		{schema.GroupResource{Group: "example.com", Resource: "whales"}, "shop", "", "cannot read whales.example.com from the API server: it has no such resource"},
		{schema.GroupResource{Resource: "pod"}, "shop", "", "cannot read pod from the API server: it has no such resource"},
	} {
		if got := selected(t, s, tc.resource, tc.namespace, tc.selector); got != tc.want {
			t.Errorf("%s in %q with %q: got %s, want %s", tc.resource, tc.namespace, tc.selector, got, tc.want)
		}
	}
}

func TestListAndGet(t *testing.T) {
	s := started(t, fakeClient())
	found, err := s.List(t.Context(), pods, "", labels.SelectorFromSet(labels.Set{"app": "web"}))
	if err != nil {
		t.Fatal(err)
	}
	lines := make([]string, len(found))
	for i, o := range found {
		lines[i] = fmt.Sprint(o.Namespace, "/", o.Name, " ", o.Labels)
	}
	slices.Sort(lines)
	if got, want := strings.Join(lines, " "), "bank/web-1 app=web shop/web-1 app=web shop/web-2 app=web"; got != want {
		t.Errorf("listed %s, want %s", got, want)
	}

	for _, tc := range []struct {
		resource        schema.GroupResource
		namespace, name string
		want            string
	}{
		{pods, "shop", "db-0", "{shop db-0 app=db} true <nil>"},
		{pods, "shop", "db-1", "{  } false <nil>"},
		{pods, "nowhere", "db-0", "{  } false <nil>"},
		{nodes, "", "node-1", "{ node-1 zone=a} true <nil>"},
		{nodes, "shop", "node-1", "{ node-1 zone=a} true <nil>"},
	} {
		o, ok, err := s.Get(t.Context(), tc.resource, tc.namespace, tc.name)
		if got := fmt.Sprint(o, ok, err); got != tc.want {
			t.Errorf("%s %s/%s is %s, want %s", tc.resource, tc.namespace, tc.name, got, tc.want)
		}
	}
}

func TestCountStartsNothing(t *testing.T) {
	client := fakeClient()
	s := started(t, client)
	if n, ok := s.Count(pods, "shop"); ok {
		t.Errorf("counted %d pods that nobody reads", n)
	}
	if asked := client.Actions(); len(asked) > 0 {
		t.Errorf("Count asked %v", asked)
	}
	selected(t, s, pods, "shop", "")
	selected(t, s, nodes, "", "")
	for _, tc := range []struct {
		resource  schema.GroupResource
		namespace string
		want      int
	}{{pods, "shop", 3}, {pods, "", 4}, {pods, "nowhere", 0}, {nodes, "", 2}, {nodes, "shop", 2}} {
		if n, ok := s.Count(tc.resource, tc.namespace); n != tc.want || !ok {
			t.Errorf("%s in %q: %d %t, want %d", tc.resource, tc.namespace, n, ok, tc.want)
		}
	}
}

// Prepare waits for nothing, and keeps what it began.
func TestPrepareReadsAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := started(t, fakeClient())
		if s.Prepare(pods) {
			t.Error("read before anybody could")
		}
		synctest.Wait()
		if !s.Prepare(pods) {
			t.Error("not read")
		}
		if _, known := s.Count(pods, ""); !known {
			t.Error("not counted")
		}
		for range 4 {
			pause(idleAfter - time.Minute)
			if !s.Prepare(pods) {
				t.Error("read no more, although it is asked for")
			}
		}
		if !s.Prepare(schema.GroupResource{Resource: "widgets"}) {
			t.Error("there is nothing to wait for where there is no such resource")
		}
	})
}

func TestChangesAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fakeClient()
		s := started(t, client)
		shop := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace("shop").(fakemetadata.MetadataClient)
		selected(t, s, pods, "shop", "")
		for _, step := range []struct {
			name string
			do   func() error
			want string
		}{
			{"a new pod", func() error {
				_, err := shop.CreateFake(pod("shop/web-3 app=web"), metav1.CreateOptions{})
				return err
			}, "[web-1 web-2 web-3]"},
			{"other labels", func() error {
				_, err := shop.UpdateFake(pod("shop/web-3 app=cache"), metav1.UpdateOptions{})
				return err
			}, "[web-1 web-2]"},
			{"and back", func() error {
				_, err := shop.UpdateFake(pod("shop/web-3 app=web"), metav1.UpdateOptions{})
				return err
			}, "[web-1 web-2 web-3]"},
			{"a pod that ends", func() error { return shop.Delete(t.Context(), "web-1", metav1.DeleteOptions{}) }, "[web-2 web-3]"},
		} {
			synctest.Wait()
			if err := step.do(); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := selected(t, s, pods, "shop", "app=web"); got != step.want {
				t.Errorf("%s: %s, want %s", step.name, got, step.want)
			}
		}
		if n, _ := s.Count(pods, "shop"); n != 3 {
			t.Errorf("%d pods, want 3", n)
		}
	})
}

// gate makes LISTs fail with what a test sets.
type gate struct {
	mu    sync.Mutex
	err   error
	lists int
}

func (g *gate) set(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
}

func (g *gate) asked() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lists
}

func (g *gate) react(clienttesting.Action) (bool, runtime.Object, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lists++
	return g.err != nil, nil, g.err
}

func gated(err error) (*fakemetadata.FakeMetadataClient, *gate) {
	client, g := fakeClient(), &gate{err: err}
	client.PrependReactor("list", "*", g.react)
	return client, g
}

func TestRefusalIsSaidAtOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"forbidden": {errPodsForbidden, `cannot read pods from the API server: pods is forbidden: ` +
			`User "system:serviceaccount:metrics:tidegauge" cannot list resource "pods" in API group "" at the cluster scope; ` +
			`the adapter's ClusterRole needs the rule {apiGroups: [""], resources: ["pods"], verbs: [list, watch]}`},
		"not there": {apierrors.NewNotFound(pods, ""), `cannot read pods from the API server: pods "" not found`},
		"no list": {
			apierrors.NewMethodNotSupported(pods, "list"),
			`cannot read pods from the API server: list is not supported on resources of kind "pods"`,
		},
		"unreachable": {errors.New("dial tcp: i/o timeout"), "cannot read pods from the API server: failed to list pods: dial tcp: i/o timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, _ := gated(tc.err)
				s := started(t, client)
				for range 2 {
					began := time.Now()
					if got := selected(t, s, pods, "shop", ""); got != tc.want {
						t.Errorf("got  %s\nwant %s", got, tc.want)
					}
					if waited := time.Since(began); waited != 0 {
						t.Errorf("that took %v", waited)
					}
				}
			})
		})
	}
}

func TestRightThatIsGrantedCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, g := gated(errPodsForbidden)
		s := started(t, client)
		selected(t, s, pods, "shop", "")
		pause(10 * time.Minute)
		if asked := g.asked(); asked > 80 {
			t.Errorf("%d attempts in ten minutes", asked)
		}
		g.set(nil)
		pause(12 * time.Second)
		if got := selected(t, s, pods, "shop", ""); got != "[db-0 web-1 web-2]" {
			t.Errorf("after the right was granted: %s", got)
		}
	})
}

func pause(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // The time of a bubble.
	synctest.Wait()
}

func TestWaitIsNoLongerThanTheCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fakeClient()
		release := make(chan struct{})
		client.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			<-release
			return false, nil, nil
		})
		s := started(t, client)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := s.Select(ctx, pods, "shop", labels.Everything())
		var unavailable *UnavailableError
		if !errors.As(err, &unavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if want := "cannot read pods from the API server: the first reading is under way: context deadline exceeded"; fmt.Sprint(err) != want {
			t.Errorf("got %v, want %s", err, want)
		}
		if _, ok := s.Count(pods, "shop"); ok {
			t.Error("pods are counted before they are read")
		}
		close(release)
		if got := selected(t, s, pods, "shop", ""); got != "[db-0 web-1 web-2]" {
			t.Errorf("got %s", got)
		}
	})
}

// watches are those that a client has. They see no change, until they end.
type watches struct {
	mu  sync.Mutex
	all []*apiwatch.FakeWatcher
}

func (w *watches) react(clienttesting.Action) (bool, apiwatch.Interface, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := apiwatch.NewFakeWithChanSize(1, false)
	w.all = append(w.all, f)
	return true, f, nil
}

// expire ends the watches as an API server does that has forgotten where they were, after
// which objects are listed anew.
func (w *watches) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.all {
		f.Error(&metav1.Status{Status: metav1.StatusFailure, Code: http.StatusGone, Reason: metav1.StatusReasonExpired})
	}
	w.all = nil
}

func TestWhatWasReadServesWhileTheAPIServerIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, g := gated(nil)
		w := &watches{}
		client.PrependWatchReactor("pods", w.react)
		s := started(t, client)
		selected(t, s, pods, "shop", "")
		synctest.Wait()

		g.set(errors.New("dial tcp 10.0.0.1:443: i/o timeout"))
		w.expire()
		for range 24 {
			pause(20 * time.Minute)
			if got := selected(t, s, pods, "shop", ""); got != "[db-0 web-1 web-2]" {
				t.Fatalf("while the API server is away: %s", got)
			}
		}
		if g.asked() < 2 {
			t.Error("nobody tried to read again")
		}
	})
}

// TestRefusalAfterReading has the right, or the resource, go after the objects were read.
func TestRefusalAfterReading(t *testing.T) {
	for name, refusal := range map[string]error{
		"right withdrawn":  errPodsForbidden,
		"resource removed": apierrors.NewNotFound(pods, ""),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, g := gated(nil)
				w := &watches{}
				client.PrependWatchReactor("pods", w.react)
				s := started(t, client)
				selected(t, s, pods, "shop", "")
				synctest.Wait()

				g.set(refusal)
				w.expire()
				pause(refusalGrace / 2)
				if got := selected(t, s, pods, "shop", ""); got != "[db-0 web-1 web-2]" {
					t.Errorf("an API server that starts may refuse for a moment, but already: %s", got)
				}
				pause(refusalGrace)
				if got := selected(t, s, pods, "shop", ""); !strings.HasPrefix(got, "cannot read pods from the API server: pods") {
					t.Errorf("after %v: %s", refusalGrace, got)
				}
				if n, ok := s.Count(pods, "shop"); ok {
					t.Errorf("%d pods are counted", n)
				}

				g.set(nil)
				pause(12 * time.Second)
				if got := selected(t, s, pods, "shop", ""); got != "[db-0 web-1 web-2]" {
					t.Errorf("after the refusal: %s", got)
				}
			})
		})
	}
}

func TestWatchThatNobodyUsesEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, g := gated(nil)
		s := started(t, client)
		selected(t, s, nodes, "", "")
		for range 9 {
			selected(t, s, pods, "shop", "")
			pause(idleAfter / 8)
			s.Count(nodes, "") // Who counts needs no watch.
		}
		if n, ok := s.Count(nodes, ""); ok {
			t.Errorf("%d nodes are still watched", n)
		}
		if _, ok := s.Count(pods, ""); !ok {
			t.Error("pods are watched no more, although they are in use")
		}
		if got := selected(t, s, nodes, "", ""); got != "[node-1 node-2]" {
			t.Errorf("asked again, nodes are %s", got)
		}
		if got := g.asked(); got != 3 {
			t.Errorf("%d LISTs, want one of pods and two of nodes", got)
		}
	})
}

func TestWatchesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := api(cluster...)
		kind := func(i int) schema.GroupResource {
			return schema.GroupResource{Group: "example.com", Resource: fmt.Sprintf("kind%ds", i)}
		}
		for i := range maxWatches + 1 {
			f.add(fmt.Sprintf("example.com/v2 kind%ds kind%d Kind%d namespaced", i, i, i))
		}
		client := fakeClient()
		client.PrependReactor("list", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, &metav1.List{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}, nil
		})
		s := NewStore(client, refreshed(t, f))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go s.Run(ctx)
		for i := range maxWatches {
			if got := selected(t, s, kind(i), "shop", ""); got != "[]" {
				t.Fatal(got)
			}
			pause(time.Second / 10)
		}
		want := "cannot read kind50s.example.com from the API server: 50 resources are watched already, and all of them were in use in the last 1m0s"
		if got := selected(t, s, kind(maxWatches), "shop", ""); got != want {
			t.Errorf("got %s, want %s", got, want)
		}

		pause(busyFor)
		selected(t, s, kind(0), "shop", "")
		if got := selected(t, s, kind(maxWatches), "shop", ""); got != "[]" {
			t.Errorf("a place is free, but: %s", got)
		}
		if _, ok := s.Count(kind(1), ""); ok {
			t.Error("the one that was used the longest ago is still watched")
		}
		if _, ok := s.Count(kind(0), ""); !ok {
			t.Error("one that was used just now is watched no more")
		}
	})
}

func TestStoreThatEndsKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fakeClient()
		release := make(chan struct{})
		client.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			<-release
			return false, nil, nil
		})
		s := NewStore(client, refreshed(t, api(cluster...)))
		ctx, cancel := context.WithCancel(t.Context())
		go s.Run(ctx)
		got := make(chan error)
		go func() {
			_, err := s.Select(t.Context(), pods, "shop", labels.Everything())
			got <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-got; !errors.Is(err, errEnded) {
			t.Errorf("got %v", err)
		}
		close(release)
	})
}

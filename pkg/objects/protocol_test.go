package objects

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
)

// fakeServer is the part of an API server that a metadata client talks to: one resource,
// listed or streamed, and events that a test sends.
type fakeServer struct {
	t *testing.T
	// streams says that it knows sendInitialEvents.
	streams bool
	events  chan metav1.WatchEvent

	mu       sync.Mutex
	objects  []*metav1.PartialObjectMetadata
	refusal  *metav1.Status
	requests []request
}

type request struct {
	path   string
	query  url.Values
	accept string
}

func (f *fakeServer) set(refusal *metav1.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refusal = refusal
}

func (f *fakeServer) seen() []request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]request(nil), f.requests...)
}

func (f *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	f.mu.Lock()
	f.requests = append(f.requests, request{r.URL.Path, query, r.Header.Get("Accept")})
	objects, refusal := f.objects, f.refusal
	f.mu.Unlock()

	w.Header().Set("Content-Type", "application/json")
	watching, initial := query.Get("watch") == "true", query.Get("sendInitialEvents") == "true"
	if initial && !f.streams {
		refusal = &metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid, Message: "sendInitialEvents: forbidden"}
	}
	switch {
	case refusal != nil:
		w.WriteHeader(int(refusal.Code))
		f.encode(w, refusal)
	case watching:
		if initial {
			f.stream(w, objects)
		}
		f.follow(w, r)
	default:
		list := &metav1.PartialObjectMetadataList{
			TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadataList"},
			ListMeta: metav1.ListMeta{ResourceVersion: "5"},
		}
		for _, o := range objects {
			list.Items = append(list.Items, *o)
		}
		f.encode(w, list)
	}
}

// stream writes all objects, and that these are all.
func (f *fakeServer) stream(w http.ResponseWriter, objects []*metav1.PartialObjectMetadata) {
	for _, o := range objects {
		f.encode(w, event("ADDED", o))
	}
	f.encode(w, event("BOOKMARK", &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		ResourceVersion: "5",
		Annotations:     map[string]string{metav1.InitialEventsAnnotationKey: "true"},
	}}))
}

// follow writes the events that the test sends.
func (f *fakeServer) follow(w http.ResponseWriter, r *http.Request) {
	flusher := w.(http.Flusher)
	for {
		flusher.Flush()
		select {
		case <-r.Context().Done():
			return
		case e := <-f.events:
			f.encode(w, e)
		}
	}
}

func (f *fakeServer) encode(w http.ResponseWriter, o any) {
	if err := json.NewEncoder(w).Encode(o); err != nil {
		f.t.Log(err) // The client left.
	}
}

func event(kind string, o *metav1.PartialObjectMetadata) metav1.WatchEvent {
	o = o.DeepCopy()
	o.TypeMeta = metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadata"}
	raw, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	e := metav1.WatchEvent{Type: kind}
	e.Object.Raw = raw
	return e
}

func (f *fakeServer) start(t *testing.T) *Store {
	t.Helper()
	f.t, f.events = t, make(chan metav1.WatchEvent)
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	client, err := metadata.NewForConfig(&rest.Config{Host: server.URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	return started(t, client)
}

// eventually waits until the pods of the shop are as wanted.
func eventually(t *testing.T, s *Store, want string) {
	t.Helper()
	var got string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(10 * time.Millisecond) {
		if got = selected(t, s, pods, "shop", ""); got == want {
			return
		}
	}
	t.Errorf("got %s, want %s", got, want)
}

// TestOverHTTP speaks to an API server of today, which streams what there is, and to one
// of before 1.34, which lists it.
func TestOverHTTP(t *testing.T) {
	for name, streams := range map[string]bool{"streamed": true, "listed": false} {
		t.Run(name, func(t *testing.T) {
			f := &fakeServer{streams: streams, objects: []*metav1.PartialObjectMetadata{pod("shop/web-1 app=web"), pod("bank/web-1 app=web")}}
			s := f.start(t)
			eventually(t, s, "[web-1]")

			f.events <- event("ADDED", pod("shop/web-2 app=web"))
			eventually(t, s, "[web-1 web-2]")
			// What the API server says when a pod comes to match its field selector no more.
			f.events <- event("DELETED", pod("shop/web-1 app=web"))
			eventually(t, s, "[web-2]")

			for _, r := range f.seen() {
				if r.path != "/api/v1/pods" {
					t.Errorf("asked for %s", r.path)
				}
				if got := r.query.Get("fieldSelector"); got != "status.phase!=Succeeded,status.phase!=Failed" {
					t.Errorf("%v asks for pods that have ended: %q", r.query, got)
				}
				if !strings.Contains(r.accept, "as=PartialObjectMetadata") {
					t.Errorf("asked for more than metadata: %s", r.accept)
				}
			}
		})
	}
}

func TestOtherResourcesHaveNoFieldSelector(t *testing.T) {
	f := &fakeServer{streams: true, objects: []*metav1.PartialObjectMetadata{object("apps/v1", "Deployment", "shop/web app=web")}}
	s := f.start(t)
	if got := selected(t, s, deployments, "shop", ""); got != "[web]" {
		t.Errorf("got %s", got)
	}
	for _, r := range f.seen() {
		if r.path != "/apis/apps/v1/deployments" || r.query.Has("fieldSelector") {
			t.Errorf("asked %s with %v", r.path, r.query)
		}
	}
}

// TestForbiddenOverHTTP has the API server's own words, and the right granted later.
func TestForbiddenOverHTTP(t *testing.T) {
	status := errPodsForbidden.Status()
	status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	f := &fakeServer{streams: true, objects: []*metav1.PartialObjectMetadata{pod("shop/web-1 app=web")}, refusal: &status}
	s := f.start(t)
	want := `cannot read pods from the API server: pods is forbidden: User "system:serviceaccount:metrics:tidegauge" ` +
		`cannot list resource "pods" in API group "" at the cluster scope; ` +
		`the adapter's ClusterRole needs the rule {apiGroups: [""], resources: ["pods"], verbs: [list, watch]}`
	if got := selected(t, s, pods, "shop", ""); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	f.set(nil)
	eventually(t, s, "[web-1]")
}

func TestUnreachableAPIServerIsSaidAtOnce(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	client, err := metadata.NewForConfig(&rest.Config{Host: server.URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	s := started(t, client)
	_, err = s.Select(t.Context(), pods, "shop", labels.Everything())
	if got := fmt.Sprint(err); !strings.HasPrefix(got, "cannot read pods from the API server: dial tcp") || !strings.Contains(got, "connection refused") {
		t.Errorf("got %s", got)
	}
}

package web

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/store"
)

// fakeQueue takes orders, unless it is away.
type fakeQueue struct {
	mu    sync.Mutex
	away  error
	most  int // it takes no more of a batch; 0 is all
	taken []string
}

func (q *fakeQueue) Send(_ context.Context, orders []string) ([]string, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.away != nil {
		return nil, q.away
	}
	if q.most > 0 && len(orders) > q.most {
		q.taken = append(q.taken, orders[:q.most]...)
		return orders[:q.most], errors.New("too many")
	}
	q.taken = append(q.taken, orders...)
	return orders, nil
}

func newTestServer(t *testing.T) (*server, *store.Store) {
	t.Helper()
	st, err := store.Open(store.Options{File: filepath.Join(t.TempDir(), "orders.db"), Connections: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return newServer(Options{MaxInFlight: 10}, st, &fakeQueue{}), st
}

// ask sends a request with a body of JSON, if there is one.
func ask(s *server, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(context.Background(), method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.handler().ServeHTTP(w, r)
	return w
}

func decode[T any](t *testing.T, w *httptest.ResponseRecorder) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	return v
}

func TestOrderFromPlacedToProcessed(t *testing.T) {
	s, st := newTestServer(t)
	w := ask(s, http.MethodPost, "/api/orders", `{"item":" green tea ","quantity":2}`)
	placed := decode[store.Order](t, w)
	if w.Code != http.StatusCreated || w.Header().Get("Location") != "/api/orders/"+placed.ID || placed.Item != "green tea" || placed.Quantity != 2 {
		t.Errorf("%d %v %+v", w.Code, w.Header(), placed)
	}
	path := "/api/orders/" + placed.ID
	if w = ask(s, http.MethodPatch, path, `{"quantity":1000}`); w.Code != http.StatusOK || decode[store.Order](t, w).Quantity != 1000 {
		t.Errorf("changing: %d %s", w.Code, w.Body)
	}
	if err := st.MarkProcessed(t.Context(), decode[store.Order](t, w)); err != nil {
		t.Fatal(err)
	}
	if w := ask(s, http.MethodPatch, path, `{"quantity":3}`); w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), "processed") {
		t.Errorf("changing too late: %d %s", w.Code, w.Body)
	}
	if w := ask(s, http.MethodGet, path, ""); w.Code != http.StatusOK || decode[store.Order](t, w).Processed == nil || decode[store.Order](t, w).Quantity != 1000 {
		t.Errorf("the order: %d %s", w.Code, w.Body)
	}
}

func TestList(t *testing.T) {
	s, _ := newTestServer(t)
	type page struct {
		Orders []store.Order
		After  string
	}
	if w := ask(s, http.MethodGet, "/api/orders", ""); strings.TrimSpace(w.Body.String()) != `{"orders":[]}` {
		t.Errorf("no orders are %s", w.Body)
	}
	for i := range 25 {
		ask(s, http.MethodPost, "/api/orders", fmt.Sprintf(`{"item":"tea %d","quantity":1}`, i))
	}
	for query, want := range map[string]int{"": 20, "?limit=3": 3, "?limit=100": 25} {
		got := decode[page](t, ask(s, http.MethodGet, "/api/orders"+query, ""))
		if len(got.Orders) != want || (got.After == "") != (want == 25) {
			t.Errorf("%q: %d orders and after %q, want %d", query, len(got.Orders), got.After, want)
		}
	}
	first := decode[page](t, ask(s, http.MethodGet, "/api/orders?limit=20", ""))
	if rest := decode[page](t, ask(s, http.MethodGet, "/api/orders?limit=20&after="+first.After, "")); len(rest.Orders) != 5 {
		t.Errorf("there are %d more, want 5", len(rest.Orders))
	}
}

func TestBadInputStoresNothing(t *testing.T) {
	s, st := newTestServer(t)
	order := decode[store.Order](t, ask(s, http.MethodPost, "/api/orders", `{"item":"tea","quantity":1}`, "Idempotency-Key", "used"))
	one, good := "/api/orders/"+order.ID, `{"item":"tea","quantity":1}`
	long := `{"item":"` + strings.Repeat("x", 17<<10) + `","quantity":1}`
	tests := []struct {
		name, method, path, body string
		headers                  []string
		code                     int
		field                    string
	}{
		{"no item", "POST", "/api/orders", `{"quantity":1}`, nil, 400, "item:"},
		{"null item", "POST", "/api/orders", `{"item":null,"quantity":1}`, nil, 400, "item:"},
		{"empty item", "POST", "/api/orders", `{"item":"","quantity":1}`, nil, 400, "item:"},
		{"spaces", "POST", "/api/orders", `{"item":" \t ","quantity":1}`, nil, 400, "item:"},
		{"long item", "POST", "/api/orders", `{"item":"` + strings.Repeat("é", 201) + `","quantity":1}`, nil, 400, "item: has 201"},
		{"NUL", "POST", "/api/orders", `{"item":"a\u0000b","quantity":1}`, nil, 400, "item:"},
		{"nothing that is seen", "POST", "/api/orders", `{"item":"\u200b\u2060 \ufe0f\u2800\u3164\ufeff","quantity":1}`, nil, 400, "item: has no character that can be seen"},
		{"line", "POST", "/api/orders", `{"item":"a\nb","quantity":1}`, nil, 400, "item:"},
		{"direction", "POST", "/api/orders", `{"item":"a\u202eb","quantity":1}`, nil, 400, "item:"},
		{"half a pair", "POST", "/api/orders", `{"item":"a\ud800b","quantity":1}`, nil, 400, "item:"},
		{"no UTF-8", "POST", "/api/orders", "{\"item\":\"a\xffb\",\"quantity\":1}", nil, 400, "item:"},
		{"item of another type", "POST", "/api/orders", `{"item":7,"quantity":1}`, nil, 400, "item: has to be a text"},
		{"no quantity", "POST", "/api/orders", `{"item":"tea"}`, nil, 400, "quantity:"},
		{"none", "POST", "/api/orders", `{"item":"tea","quantity":0}`, nil, 400, "quantity: is 0"},
		{"less than none", "POST", "/api/orders", `{"item":"tea","quantity":-1}`, nil, 400, "quantity:"},
		{"too many", "POST", "/api/orders", `{"item":"tea","quantity":1001}`, nil, 400, "quantity: is 1001"},
		{"fraction", "POST", "/api/orders", `{"item":"tea","quantity":1.5}`, nil, 400, "quantity: has to be a whole number"},
		{"huge", "POST", "/api/orders", `{"item":"tea","quantity":1e99}`, nil, 400, "quantity:"},
		{"long number", "POST", "/api/orders", `{"item":"tea","quantity":` + strings.Repeat("1", 16_000) + `}`, nil, 400, "quantity: has to be a whole number"},
		{"text", "POST", "/api/orders", `{"item":"tea","quantity":"1"}`, nil, 400, "quantity:"},
		{"long field", "POST", "/api/orders", `{"` + strings.Repeat("x", 16_000) + `":1}`, nil, 400, "xxx"},
		{"unknown field", "POST", "/api/orders", `{"item":"tea","quantity":1,"price":0}`, nil, 400, "price:"},
		{"item of another case", "POST", "/api/orders", `{"item":"tea","ITEM":"coffee","quantity":1}`, nil, 400, "ITEM: there is no such field"},
		{"two items", "POST", "/api/orders", `{"item":"tea","quantity":1,"item":"coffee"}`, nil, 400, "item: is there twice"},
		{"two quantities", "PATCH", one, `{"quantity":1,"quantity":2}`, nil, 400, "quantity: is there twice"},
		{"list", "POST", "/api/orders", `[]`, nil, 400, "body:"},
		{"broken", "POST", "/api/orders", `{"item":"tea"`, nil, 400, "body:"},
		{"nothing", "POST", "/api/orders", ``, []string{"Content-Type", "application/json"}, 400, "body:"},
		{"two", "POST", "/api/orders", good + good, nil, 400, "body:"},
		{"form", "POST", "/api/orders", `item=tea`, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "Content-Type:"},
		{"UTF-16", "POST", "/api/orders", good, []string{"Content-Type", "application/json; charset=utf-16"}, 415, "Content-Type:"},
		{"Latin-1", "PATCH", one, `{"quantity":2}`, []string{"Content-Type", "application/json;charset=iso-8859-1"}, 415, "Content-Type:"},
		{"no charset", "POST", "/api/orders", good, []string{"Content-Type", "application/json; charset="}, 415, "Content-Type:"},
		{"no type", "POST", "/api/orders", good, []string{"Content-Type", ""}, 415, "Content-Type:"},
		{"long body", "POST", "/api/orders", long, nil, 413, "body:"},
		{"long after the order", "POST", "/api/orders", good + strings.Repeat(" ", 17<<10), nil, 413, "body:"},
		{"key of spaces", "POST", "/api/orders", good, []string{"Idempotency-Key", " "}, 400, "Idempotency-Key:"},
		{"long key", "POST", "/api/orders", good, []string{"Idempotency-Key", strings.Repeat("k", 129)}, 400, "Idempotency-Key:"},
		{"key of another order", "POST", "/api/orders", `{"item":"tea","quantity":2}`, []string{"Idempotency-Key", "used"}, 422, "Idempotency-Key:"},
		{"change nothing", "PATCH", one, `{}`, nil, 400, "quantity:"},
		{"change to none", "PATCH", one, `{"quantity":0}`, nil, 400, "quantity:"},
		{"change item", "PATCH", one, `{"item":"coffee","quantity":1}`, nil, 400, "item:"},
		{"change no order", "PATCH", "/api/orders/" + strings.Repeat("0", 26), `{"quantity":1}`, nil, 404, "id:"},
		{"no ID", "GET", "/api/orders/17", "", nil, 404, "id:"},
		{"no order", "GET", "/api/orders/" + strings.Repeat("0", 26), "", nil, 404, "id:"},
		{"limit 0", "GET", "/api/orders?limit=0", "", nil, 400, "limit:"},
		{"limit 101", "GET", "/api/orders?limit=101", "", nil, 400, "limit:"},
		{"limit", "GET", "/api/orders?limit=many", "", nil, 400, "limit:"},
		{"after", "GET", "/api/orders?after='", "", nil, 400, "after:"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := ask(s, test.method, test.path, test.body, test.headers...)
			got := decode[struct{ Error string }](t, w)
			if w.Code != test.code || !strings.HasPrefix(got.Error, test.field) || len(got.Error) > 200 {
				t.Errorf("%d %.300q, want %d and what is wrong with %s, in short", w.Code, got.Error, test.code, test.field)
			}
		})
	}
	all, err := st.List(t.Context(), "", 10)
	if err != nil || len(all) != 1 || all[0] != order {
		t.Errorf("orders are %v, %v, want the one from before as it was", all, err)
	}
	if n, err := st.Unsent(t.Context()); err != nil || n != 1 {
		t.Errorf("%d events, %v, want 1", n, err)
	}
	for path, code := range map[string]int{"/api": 404, "/api/orders/": 404, "/.env": 404} {
		if w := ask(s, http.MethodGet, path, ""); w.Code != code {
			t.Errorf("%s: %d, want %d", path, w.Code, code)
		}
	}
	if w := ask(s, http.MethodDelete, one, ""); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("DELETE: %d", w.Code)
	}
}

func TestItemsThatAreTaken(t *testing.T) {
	s, _ := newTestServer(t)
	for _, item := range []string{
		"7", "é", "茶", "☕", "\u2764\ufe0f", // A heart in colour.
		"\u0686\u0627\u06cc\u200c\u0633\u0628\u0632",         // Green tea in Persian.
		"\U0001F468\u200d\U0001F469\u200d\U0001F467",         // A family.
		"\U0001F3F4\U000E0067\U000E0062\U000E0065\U000E007F", // A flag.
	} {
		text, err := json.Marshal(map[string]any{"item": item, "quantity": 1})
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range []string{"application/json", "application/json; charset=utf-8", "Application/JSON;Charset=\"UTF-8\""} {
			w := ask(s, http.MethodPost, "/api/orders", string(text), "Content-Type", kind)
			if got := decode[store.Order](t, w).Item; w.Code != http.StatusCreated || got != item {
				t.Errorf("%q as %s: %d %s", item, kind, w.Code, w.Body)
			}
		}
	}
}

func TestIdempotencyKey(t *testing.T) {
	s, st := newTestServer(t)
	first := ask(s, http.MethodPost, "/api/orders", `{"item":"tea","quantity":1}`, "Idempotency-Key", "7f-1")
	again := ask(s, http.MethodPost, "/api/orders", `{"item":"tea","quantity":1}`, "Idempotency-Key", "7f-1")
	if again.Code != http.StatusCreated || again.Body.String() != first.Body.String() || again.Header().Get("Location") != first.Header().Get("Location") {
		t.Errorf("again: %d %s, want %s", again.Code, again.Body, first.Body)
	}
	if all, err := st.List(t.Context(), "", 10); err != nil || len(all) != 1 {
		t.Errorf("orders are %v, %v, want one", all, err)
	}
	if len(s.outbox.fresh) != 1 {
		t.Errorf("%d events are sent, want 1", len(s.outbox.fresh))
	}
}

func TestPage(t *testing.T) {
	s, _ := newTestServer(t)
	w := ask(s, http.MethodGet, "/", "")
	csp, text := w.Header().Get("Content-Security-Policy"), w.Body.String()
	if w.Code != http.StatusOK || !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || strings.Count(csp, "sha256-") != 2 {
		t.Errorf("%d, policy %q", w.Code, csp)
	}
	for _, has := range []string{`name="viewport"`, "prefers-color-scheme: dark", "textContent", "Idempotency-Key", `"PATCH"`} {
		if !strings.Contains(text, has) {
			t.Errorf("the page has no %s", has)
		}
	}
	// HTML from data, handlers that the policy forbids, and anything from elsewhere.
	for _, has := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "onclick=", "style=", "http://", "https://", "src=", "<link"} {
		if strings.Contains(text, has) {
			t.Errorf("the page has %s", has)
		}
	}
}

func metricsOf(t *testing.T, s *server) string {
	t.Helper()
	w := httptest.NewRecorder()
	s.adminHandler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
	return w.Body.String()
}

func TestMetrics(t *testing.T) {
	s, _ := newTestServer(t)
	s.handler()
	if got, want := metricsOf(t, s), `http_requests_total{code="201",method="POST",path="/api/orders"} 0`; !strings.Contains(got, want) {
		t.Errorf("before any request there is no %s", want)
	}
	order := decode[store.Order](t, ask(s, http.MethodPost, "/api/orders", `{"item":"tea","quantity":1}`))
	ask(s, http.MethodPost, "/api/orders", `{}`)
	ask(s, http.MethodGet, "/api/orders/"+order.ID, "")
	ask(s, http.MethodGet, "/", "")
	for _, path := range []string{"/healthz", "/readyz", "/wp-login.php", "/api/orders/1/2"} {
		ask(s, http.MethodGet, path, "")
	}
	got := metricsOf(t, s)
	for _, want := range []string{
		`http_requests_total{code="201",method="POST",path="/api/orders"} 1`,
		`http_requests_total{code="400",method="POST",path="/api/orders"} 1`,
		`http_requests_total{code="200",method="GET",path="/api/orders/{id}"} 1`,
		`http_requests_total{code="200",method="GET",path="/"} 1`,
		`http_request_duration_seconds_count{method="POST",path="/api/orders"} 2`,
		"orders_placed_total 1", "orders_unsent 0", "go_goroutines", "process_cpu_seconds_total",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the metrics have no %s", want)
		}
	}
	for _, not := range []string{"healthz", "readyz", "wp-login", order.ID} {
		if strings.Contains(got, not) {
			t.Errorf("the metrics have %s", not)
		}
	}
}

// failingStore is a database that is away, or not any more.
type failingStore struct {
	Store

	back bool
}

var errAway = errors.New("connection refused to secret-host")

func (s *failingStore) Ready(context.Context) error {
	if s.back {
		return nil
	}
	return errAway
}

func (*failingStore) Place(context.Context, store.NewOrder) (store.Order, bool, error) {
	return store.Order{}, false, errAway
}

// TestDatabaseAway: requests fail, and the pod stays where they come to, as the other pods have
// the same database. Only one that has never reached it is not ready.
func TestDatabaseAway(t *testing.T) {
	st := &failingStore{}
	s := newServer(Options{MaxInFlight: 1}, st, &fakeQueue{})
	w := ask(s, http.MethodPost, "/api/orders", `{"item":"tea","quantity":1}`)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || strings.Contains(w.Body.String(), "secret-host") {
		t.Errorf("%d %v %s, want 503 with Retry-After, and nothing of the database", w.Code, w.Header(), w.Body)
	}
	for path, code := range map[string]int{"/readyz": 503, "/healthz": 200, "/": 200} {
		if w := ask(s, http.MethodGet, path, ""); w.Code != code {
			t.Errorf("%s: %d, want %d", path, w.Code, code)
		}
	}
	for _, back := range []bool{true, false} {
		st.back = back
		if w := ask(s, http.MethodGet, "/readyz", ""); w.Code != http.StatusOK {
			t.Errorf("once the database was there, and is %v now, /readyz is %d", back, w.Code)
		}
	}
	s.traffic.drain()
	if w := ask(s, http.MethodGet, "/readyz", ""); w.Code != http.StatusServiceUnavailable {
		t.Errorf("while draining /readyz is %d", w.Code)
	}
	if len(s.outbox.fresh) > 0 {
		t.Error("an order that is not stored is sent")
	}
}

func TestAnswersWhileDraining(t *testing.T) {
	s, _ := newTestServer(t)
	s.traffic.drain()
	for path, code := range map[string]int{"/": 200, "/api/orders": 200, "/healthz": 503, "/readyz": 503, "/nowhere": 404} {
		w := ask(s, http.MethodGet, path, "")
		if w.Code != code || w.Header().Get("Connection") != "close" {
			t.Errorf("%s: %d, Connection %q, want %d and close", path, w.Code, w.Header().Get("Connection"), code)
		}
	}
}

func TestAwaitQuiet(t *testing.T) {
	tests := []struct {
		name        string
		idle, limit time.Duration
		requests    []time.Duration // when each begins; it takes 2s
		quiet       bool
		after       time.Duration
	}{
		{"nothing comes", 15 * time.Second, 2 * time.Minute, nil, true, 15 * time.Second},
		{"not at all", 0, 2 * time.Minute, nil, true, 0},
		{"one comes", 15 * time.Second, 2 * time.Minute, []time.Duration{10 * time.Second}, true, 27 * time.Second},
		{"they come and come", 3 * time.Second, 20 * time.Second, []time.Duration{0, 4 * time.Second, 8 * time.Second, 12 * time.Second, 16 * time.Second}, false, 20 * time.Second},
		{"in flight", 0, 2 * time.Minute, []time.Duration{0}, true, 2 * time.Second},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var traffic traffic
				traffic.drain()
				began := time.Now()
				for _, at := range test.requests {
					time.AfterFunc(at, func() { traffic.add(1) })
					time.AfterFunc(at+2*time.Second, func() { traffic.add(-1) })
				}
				synctest.Wait()
				quiet := traffic.awaitQuiet(t.Context(), test.idle, test.limit)
				// A request's end is noticed a moment later.
				if took := time.Since(began); quiet != test.quiet || took < test.after || took > test.after+20*time.Millisecond {
					t.Errorf("quiet is %v after %v, want %v after %v", quiet, took, test.quiet, test.after)
				}
				<-time.After(time.Minute)
			})
		})
	}
}

// memory is the outbox of a store.
type memory struct {
	Store

	mu     sync.Mutex
	unsent map[string]time.Time
}

func (m *memory) Claim(_ context.Context, most int) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []string
	for id, due := range m.unsent {
		if len(ids) < most && !due.After(time.Now()) {
			m.unsent[id] = time.Now().Add(10 * time.Second)
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (m *memory) Sent(_ context.Context, ids []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		delete(m.unsent, id)
	}
	return nil
}

func (m *memory) Unsent(context.Context) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.unsent), nil
}

func TestOutbox(t *testing.T) {
	const orders = 2500
	tests := []struct {
		name  string
		queue *fakeQueue
		// within is how long it may take from when the queue is there.
		within time.Duration
	}{
		{"the queue is there", &fakeQueue{}, 45 * time.Second},
		{"the queue is away for a minute", &fakeQueue{away: errors.New("away")}, time.Minute},
		{"the queue takes a part", &fakeQueue{most: 7}, 10 * time.Hour},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &memory{unsent: map[string]time.Time{}}
				o := newOutbox(m, test.queue, newMetrics())
				ctx, cancel := context.WithCancel(t.Context())
				var running sync.WaitGroup
				// All come at once, more than are kept in memory.
				for i := range orders {
					id := strconv.Itoa(i)
					m.unsent[id] = time.Now().Add(10 * time.Second)
					o.add(id)
				}
				running.Go(func() { o.run(ctx) })
				if test.queue.away != nil {
					<-time.After(time.Minute)
					test.queue.mu.Lock()
					if len(test.queue.taken) > 0 {
						t.Error("a queue that is away took orders")
					}
					test.queue.away = nil
					test.queue.mu.Unlock()
				}
				<-time.After(test.within)
				cancel()
				running.Wait()
				seen := map[string]bool{}
				for _, id := range test.queue.taken {
					seen[id] = true
				}
				if len(seen) != orders || len(test.queue.taken) != orders || len(m.unsent) > 0 {
					t.Errorf("%d orders were sent %d times, and %d are left, want %d, once", len(seen), len(test.queue.taken), len(m.unsent), orders)
				}
			})
		})
	}
}

func TestOutboxSendsWhatIsFreshInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &fakeQueue{}
		m := &memory{unsent: map[string]time.Time{}}
		o := newOutbox(m, q, newMetrics())
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for i := range 35 {
			o.add(strconv.Itoa(i))
		}
		o.run(ctx)
		if len(q.taken) != 35 {
			t.Errorf("%d orders were sent, want 35", len(q.taken))
		}
	})
}

func TestRunEndsWhenAPortIsTaken(t *testing.T) {
	taken := httptest.NewServer(http.NotFoundHandler())
	defer taken.Close()
	address := strings.TrimPrefix(taken.URL, "http://")
	for name, o := range map[string]Options{
		"http port":  {Listen: address, AdminListen: "127.0.0.1:0", MaxInFlight: 1},
		"admin port": {Listen: "127.0.0.1:0", AdminListen: address, MaxInFlight: 1},
	} {
		_, st := newTestServer(t)
		if err := Run(t.Context(), o, st, &fakeQueue{}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error is %v, want one of the %s", err, name)
		}
	}
}

func TestTokenEndsWhenTheClientLeaves(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, ok := burn(ctx, time.Hour); ok {
		t.Error("it burned an hour of CPU")
	}
}

// TestTablesOfAnotherDatabase: one that was put in the place of the first gets them, though
// nobody asks for readiness.
func TestTablesOfAnotherDatabase(t *testing.T) {
	file := filepath.Join(t.TempDir(), "orders.db")
	st, err := store.Open(store.Options{File: file, Connections: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	s := newServer(Options{MaxInFlight: 1}, st, &fakeQueue{})
	if w := ask(s, http.MethodPost, "/api/orders", `{"item":"tea","quantity":1}`); w.Code != http.StatusCreated {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "DROP TABLE outbox; DROP TABLE orders"); err != nil {
		t.Fatal(err)
	}
	if w := ask(s, http.MethodPost, "/api/orders", `{"item":"tea","quantity":1}`); w.Code != http.StatusServiceUnavailable {
		t.Errorf("without tables: %d %s", w.Code, w.Body)
	}
	for range 2 {
		s.outbox.sweep(t.Context())
	}
	if w := ask(s, http.MethodPost, "/api/orders", `{"item":"tea","quantity":1}`); w.Code != http.StatusCreated {
		t.Errorf("after two sweeps: %d %s", w.Code, w.Body)
	}
}

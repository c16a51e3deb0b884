package orders

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/orders/program"
)

// TestStoreInPostgres runs the tests of the application's package store, which are for both
// databases, with PostgreSQL.
func TestStoreInPostgres(t *testing.T) {
	p := startPostgres(t, env.PostgresOptions{})
	cmd, err := program.Go("test", "-count=1", "./internal/store")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "ORDERS_TEST_DATABASE_URL="+p.DatabaseURL())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// onBoth runs a test with each database.
func onBoth(t *testing.T, test func(t *testing.T, b *bed)) {
	t.Helper()
	t.Run("SQLite", func(t *testing.T) { test(t, newBed(t)) })
	t.Run("PostgreSQL", func(t *testing.T) {
		b, _ := newPostgresBed(t, env.PostgresOptions{})
		test(t, b)
	})
}

func TestEveryOrderIsProcessedOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bed) {
		webs := []*process{b.web(t), b.web(t)}
		workers := []*process{b.worker(t), b.worker(t)}
		const orders = 200
		var placing sync.WaitGroup
		for i := range 8 {
			placing.Go(func() {
				for range orders / 8 {
					a, err := ask(http.MethodPost, webs[i%2].http+"/api/orders", `{"item":"tea","quantity":2}`)
					if err != nil || a.status != http.StatusCreated {
						t.Errorf("placing: %d %s %v", a.status, a.body, err)
					}
				}
			})
		}
		placing.Wait()
		webs[0].wantCounts(t, orders, orders)
		b.wantDepth(t, ordersQueue, 0)
		wantSum(t, orders, "orders_placed_total", webs...)
		wantSum(t, orders, "orders_processed_total", workers...)
		wantSum(t, 0, "orders_poison_total", workers...)
		wantSum(t, 0, "orders_in_work", workers...)
		for _, w := range webs {
			wantSum(t, 0, "orders_unsent", w)
		}
	})
}

func TestDuplicatesAndPoison(t *testing.T) {
	b := newBed(t)
	web := b.web(t)
	id := web.place(t)
	b.wantDepth(t, ordersQueue, 1)
	for range 3 {
		b.send(t, fmt.Sprintf(`{"order":%q}`, id))
	}
	missing := strings.Repeat("0", 26)
	poison := map[string]string{
		"not JSON":                         "the body is not",
		"{}":                               "names no order",
		`{"order":"17"}`:                   "is not the ID",
		`{"order":"` + missing + `"}`:      "order " + missing + ": no such order",
		`{"order":"` + "\U0001F375" + `"}`: "is not the ID",
	}
	for body := range poison {
		b.send(t, body)
	}
	worker := b.worker(t)
	web.wantCounts(t, 1, 1)
	wantSum(t, 3, "orders_duplicates_total", worker)
	wantSum(t, 1, "orders_processed_total", worker)
	wantSum(t, float64(len(poison)), "orders_poison_total", worker)
	b.wantDepth(t, ordersQueue, 0)
	b.wantDepth(t, deadQueue, len(poison))
	out, err := b.client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{
		QueueUrl: b.queueURL(deadQueue), MaxNumberOfMessages: 10, MessageAttributeNames: []string{"All"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range out.Messages {
		want, ok := poison[*m.Body]
		reason := m.MessageAttributes["reason"].StringValue
		if !ok || reason == nil || !strings.Contains(*reason, want) {
			t.Errorf("dead letter %q has the reason %v, want %q", *m.Body, reason, want)
		}
	}
}

func TestKilledWorkerLosesNoOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bed) {
		web := b.web(t)
		const orders = 20
		for range orders {
			web.place(t)
		}
		doomed := b.worker(t, "--work", "1h")
		wantSum(t, 10, "orders_in_work", doomed)
		doomed.Kill()
		heir := b.worker(t)
		web.wantCounts(t, orders, orders)
		wantSum(t, orders, "orders_processed_total", heir)
		wantSum(t, 0, "orders_duplicates_total", heir)
		b.wantDepth(t, ordersQueue, 0)
		b.wantDepth(t, deadQueue, 0)
	})
}

func TestKilledWebLosesNoEvent(t *testing.T) {
	b := newBed(t)
	doomed := b.web(t)
	b.aws.Pause()
	const orders = 15
	for range orders {
		doomed.place(t)
	}
	doomed.Kill()
	if err := b.aws.Resume(); err != nil {
		t.Fatal(err)
	}
	heir := b.web(t)
	b.wantDepth(t, ordersQueue, orders)
	wantSum(t, 0, "orders_unsent", heir)
}

func TestWorkIsHiddenWhileItLasts(t *testing.T) {
	b := newBed(t)
	web := b.web(t)
	web.place(t)
	// It takes three times as long as the message would be hidden.
	slow := b.worker(t, "--work", "9s")
	wantSum(t, 1, "orders_in_work", slow)
	other := b.worker(t)
	web.wantCounts(t, 1, 1)
	wantSum(t, 1, "orders_processed_total", slow)
	wantSum(t, 0, "orders_processed_total", other)
	wantSum(t, 0, "orders_duplicates_total", slow, other)
}

func TestWorkerFinishesWhatItHolds(t *testing.T) {
	b := newBed(t)
	web := b.web(t)
	const orders = 15
	for range orders {
		web.place(t)
	}
	worker := b.worker(t, "--work", "2s", "--concurrency", "5")
	wantSum(t, 5, "orders_in_work", worker)
	worker.Terminate()
	worker.wantEnd(t, 0)
	web.wantCounts(t, orders, 5)
	b.wantDepth(t, ordersQueue, orders-5)
}

func TestWorkerGivesBackWhatTakesTooLong(t *testing.T) {
	b := newBed(t)
	web := b.web(t)
	web.place(t)
	worker := b.worker(t, "--work", "1h", "--drain", "500ms", "--visibility", "1h")
	wantSum(t, 1, "orders_in_work", worker)
	worker.Terminate()
	worker.wantEnd(t, 1)
	web.wantCounts(t, 1, 0)
	heir := b.worker(t)
	web.wantCounts(t, 1, 1)
	wantSum(t, 1, "orders_processed_total", heir)
}

func TestQueueAway(t *testing.T) {
	b := newBed(t)
	web, worker := b.web(t), b.worker(t)
	web.place(t)
	web.wantCounts(t, 1, 1)
	b.aws.Pause()
	for range 5 {
		web.place(t)
	}
	wantSum(t, 5, "orders_unsent", web)
	if err := web.wantStatus("/readyz", http.StatusOK); err != nil {
		t.Errorf("a queue that is away is no reason not to take orders: %v", err)
	}
	if err := b.aws.Resume(); err != nil {
		t.Fatal(err)
	}
	web.wantCounts(t, 6, 6)
	wantSum(t, 6, "orders_processed_total", worker)
	wantSum(t, 0, "orders_unsent", web)
}

func TestDatabaseAway(t *testing.T) {
	b, p := newPostgresBed(t, env.PostgresOptions{})
	web := b.web(t)
	worker := b.worker(t)
	web.place(t)
	web.wantCounts(t, 1, 1)
	if err := p.Away(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		wantUnavailable(t, web, http.MethodPost, "/api/orders", `{"item":"tea","quantity":1}`)
		wantUnavailable(t, web, http.MethodGet, "/api/orders", "")
	}
	// All pods have this database, and would leave the load balancer all at once.
	for _, path := range []string{"/readyz", "/healthz"} {
		if err := web.wantStatus(path, http.StatusOK); err != nil {
			t.Error(err)
		}
	}
	// A message that comes meanwhile stays, and is not received again and again.
	b.send(t, `{"order":"`+strings.Repeat("0", 26)+`"}`)
	for range 20 {
		<-time.After(interval)
	}
	if err := p.Back(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the database", func() error { return web.wantStatus("/api/orders", http.StatusOK) })
	web.place(t)
	web.wantCounts(t, 2, 2)
	b.wantDepth(t, deadQueue, 1)
	wantSum(t, 2, "orders_processed_total", worker)
	for _, process := range []*process{web, worker} {
		if strings.Contains(process.Log(), p.Password()) {
			t.Error("the database's password is in the log")
		}
	}
	if got, err := p.SQL(t.Context(), "orders", "SELECT count(*) FROM outbox"); got != "0" || err != nil {
		t.Errorf("the outbox has %q, %v, want 0", got, err)
	}
}

// wantUnavailable wants 503 with when to come back.
func wantUnavailable(t *testing.T, p *process, method, path, body string) {
	t.Helper()
	a, err := ask(method, p.http+path, body)
	if err != nil || a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || !strings.Contains(a.body, `"error"`) {
		t.Errorf("%s %s: %d %v %s %v, want 503 with Retry-After and a reason", method, path, a.status, a.header, a.body, err)
	}
}

func TestDatabaseFull(t *testing.T) {
	b, p := newPostgresBed(t, env.PostgresOptions{Space: 24 << 20})
	web := b.web(t)
	worker := b.worker(t)
	if err := p.Fill(); err != nil {
		t.Fatal(err)
	}
	// There is room in the pages that the tables have. Then there is none.
	order := `{"item":"` + strings.Repeat("tea ", 49) + `","quantity":1}`
	stored, refused := 0, 0
	for refused < 20 {
		a, err := ask(http.MethodPost, web.http+"/api/orders", order)
		switch {
		case err == nil && a.status == http.StatusCreated:
			stored++
		case err == nil && a.status == http.StatusServiceUnavailable && a.header.Get("Retry-After") != "":
			refused++
		default:
			t.Fatalf("placing: %d %s %v", a.status, a.body, err)
		}
		if stored > 5000 {
			t.Fatal("the database does not get full")
		}
	}
	t.Logf("%d orders were stored before it was full", stored)
	if !strings.Contains(web.Log(), "53100") {
		t.Error("the log does not say disk_full, SQLSTATE 53100")
	}
	if all, _, err := web.counts(); err != nil || all != stored {
		t.Errorf("there are %d orders, %v, want the %d that were accepted", all, err, stored)
	}
	half, err := p.SQL(t.Context(), "orders", "SELECT count(*) FROM outbox LEFT JOIN orders ON id = order_id WHERE id IS NULL")
	if err != nil || half != "0" {
		t.Errorf("%s events are of no order, %v", half, err)
	}
	if err := p.Free(); err != nil {
		t.Fatal(err)
	}
	web.place(t)
	web.wantCounts(t, stored+1, stored+1)
	wantSum(t, float64(stored+1), "orders_processed_total", worker)
	b.wantDepth(t, ordersQueue, 0)
	b.wantDepth(t, deadQueue, 0)
}

// TestOrderThatCannotBeStored comes back the later the more often it was received, by whomever.
func TestOrderThatCannotBeStored(t *testing.T) {
	b, p := newPostgresBed(t, env.PostgresOptions{})
	web := b.web(t)
	id := web.place(t)
	b.wantDepth(t, ordersQueue, 1)
	for range 3 {
		out, err := b.client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: b.queueURL(ordersQueue), WaitTimeSeconds: 20})
		if err != nil || len(out.Messages) != 1 {
			t.Fatalf("messages are %v, %v", out, err)
		}
		if _, err := b.client.ChangeMessageVisibility(t.Context(), &sqs.ChangeMessageVisibilityInput{
			QueueUrl: b.queueURL(ordersQueue), ReceiptHandle: out.Messages[0].ReceiptHandle,
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.SQL(t.Context(), "orders", "ALTER TABLE orders ADD CHECK (processed_at IS NULL OR id <> '"+id+"')"); err != nil {
		t.Fatal(err)
	}
	worker := b.worker(t)
	eventually(t, "the log of the worker", func() error {
		if log := worker.Log(); !strings.Contains(log, "an order comes back later") || !strings.Contains(log, `"after":"40s"`) {
			return errors.New("does not say that the order comes back after 40s")
		}
		return nil
	})
	web.place(t)
	web.wantCounts(t, 2, 1)
	b.wantDepth(t, ordersQueue, 1)
	b.wantDepth(t, deadQueue, 0)
}

func TestDatabaseThatCannotBeOpened(t *testing.T) {
	b := newBed(t)
	b.sqlite = filepath.Join(t.TempDir(), "nowhere", "orders.db")
	web := b.start(t, "web", "--listen", "127.0.0.1:0")
	wantUnavailable(t, web, http.MethodPost, "/api/orders", `{"item":"tea","quantity":1}`)
	if err := web.wantStatus("/readyz", http.StatusServiceUnavailable); err != nil {
		t.Error(err)
	}
}

// TestOutageDoesNotMakePoison: a queue with a redrive policy takes a message for poison that
// was received too often.
func TestOutageDoesNotMakePoison(t *testing.T) {
	b, p := newPostgresBed(t, env.PostgresOptions{})
	web := b.web(t)
	id := web.place(t)
	b.wantDepth(t, ordersQueue, 1)
	if err := p.Away(t.Context()); err != nil {
		t.Fatal(err)
	}
	worker := b.worker(t)
	for range 60 {
		<-time.After(interval)
	}
	b.wantDepth(t, ordersQueue, 1)
	worker.Terminate()
	worker.wantEnd(t, 0)
	out, err := b.client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{
		QueueUrl: b.queueURL(ordersQueue), WaitTimeSeconds: 20,
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameApproximateReceiveCount},
	})
	if err != nil || len(out.Messages) != 1 || !strings.Contains(*out.Messages[0].Body, id) {
		t.Fatalf("messages are %v, %v", out, err)
	}
	if got := out.Messages[0].Attributes["ApproximateReceiveCount"]; got != "1" {
		t.Errorf("with this one the message was received %s times, want 1", got)
	}
}

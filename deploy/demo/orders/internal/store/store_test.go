package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// databaseVariable has the tests run with an empty PostgreSQL database in place of SQLite.
const databaseVariable = "ORDERS_TEST_DATABASE_URL"

// options are of a new SQLite database, or of the one PostgreSQL database.
func options(t *testing.T) Options {
	t.Helper()
	return Options{URL: os.Getenv(databaseVariable), File: filepath.Join(t.TempDir(), "a b?.db"), Connections: 5}
}

func open(t *testing.T, o Options) *Store {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// fresh is a store without orders.
func fresh(t *testing.T) *Store {
	t.Helper()
	s := open(t, options(t))
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"outbox", "orders"} {
		if _, err := s.db.ExecContext(t.Context(), "DELETE FROM "+table); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func place(t *testing.T, s *Store, n NewOrder) Order {
	t.Helper()
	o, _, err := s.Place(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func wantUnsent(t *testing.T, s *Store, want int) {
	t.Helper()
	if got, err := s.Unsent(t.Context()); err != nil || got != want {
		t.Errorf("%d orders are unsent, %v, want %d", got, err, want)
	}
}

func TestPlaceGetAndList(t *testing.T) {
	s := fresh(t)
	var placed []Order
	for i := range 7 {
		placed = append(placed, place(t, s, NewOrder{Item: fmt.Sprintf("tea %d ☕ '", i), Quantity: i + 1}))
	}
	for _, o := range placed {
		got, err := s.Get(t.Context(), o.ID)
		if err != nil || got != o || !ValidID(o.ID) || time.Since(o.Placed).Abs() > time.Minute {
			t.Errorf("order is %+v, %v, want %+v", got, err, o)
		}
	}
	// Those of one millisecond are in any order, which stays.
	slices.SortFunc(placed, func(a, b Order) int { return cmp.Compare(b.ID, a.ID) })
	var listed []Order
	after := ""
	for _, want := range []int{3, 3, 1, 0} {
		page, err := s.List(t.Context(), after, 3)
		if err != nil || len(page) != want {
			t.Fatalf("page is %v, %v, want %d orders", page, err, want)
		}
		listed = append(listed, page...)
		after = listed[len(listed)-1].ID
	}
	if !slices.Equal(listed, placed) {
		t.Errorf("listed are %v, want %v", listed, placed)
	}
	if _, err := s.Get(t.Context(), strings.Repeat("0", 26)); !errors.Is(err, ErrNotFound) {
		t.Errorf("error is %v, want ErrNotFound", err)
	}
	wantUnsent(t, s, 7)
}

func TestChangeUntilProcessed(t *testing.T) {
	s := fresh(t)
	o := place(t, s, NewOrder{Item: "tea", Quantity: 1})
	changed, err := s.Change(t.Context(), o.ID, 5)
	if err != nil || changed.Quantity != 5 || changed.Processed != nil {
		t.Errorf("changed to %+v, %v", changed, err)
	}
	if err := s.MarkProcessed(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	if err := s.MarkProcessed(t.Context(), changed); !errors.Is(err, ErrProcessed) {
		t.Errorf("error is %v, want ErrProcessed", err)
	}
	if _, err := s.Change(t.Context(), o.ID, 6); !errors.Is(err, ErrProcessed) {
		t.Errorf("error is %v, want ErrProcessed", err)
	}
	if got, err := s.Get(t.Context(), o.ID); err != nil || got.Quantity != 5 || got.Processed == nil {
		t.Errorf("order is %+v, %v, want 5 of it, processed", got, err)
	}
	nowhere := strings.Repeat("0", 26)
	if err := s.MarkProcessed(t.Context(), Order{ID: nowhere, Quantity: 1}); !errors.Is(err, ErrNotFound) {
		t.Errorf("error is %v, want ErrNotFound", err)
	}
	if _, err := s.Change(t.Context(), nowhere, 6); !errors.Is(err, ErrNotFound) {
		t.Errorf("error is %v, want ErrNotFound", err)
	}
}

// TestChangeWhileAtWork: what a worker processed is the order as it is.
func TestChangeWhileAtWork(t *testing.T) {
	s := fresh(t)
	read := place(t, s, NewOrder{Item: "tea", Quantity: 1})
	changed, err := s.Change(t.Context(), read.ID, 5)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.MarkProcessed(t.Context(), read); !errors.Is(err, ErrChanged) {
		t.Errorf("error is %v, want ErrChanged", err)
	}
	if got, err := s.Get(t.Context(), read.ID); err != nil || got != changed {
		t.Errorf("order is %+v, %v, want %+v, not processed", got, err, changed)
	}
	if err := s.MarkProcessed(t.Context(), changed); err != nil {
		t.Errorf("the order as it is: %v", err)
	}
	if err := s.MarkProcessed(t.Context(), read); !errors.Is(err, ErrProcessed) {
		t.Errorf("error is %v, want ErrProcessed", err)
	}
}

// TestChangeThatFailsIsNone: the order cannot be read after its change.
func TestChangeThatFailsIsNone(t *testing.T) {
	if os.Getenv(databaseVariable) != "" {
		t.Skip("only SQLite lets a number be a text")
	}
	s := fresh(t)
	o := place(t, s, NewOrder{Item: "tea", Quantity: 1})
	if _, err := s.db.ExecContext(t.Context(), "UPDATE orders SET placed_at = 'yesterday'"); err != nil {
		t.Fatal(err)
	}
	if changed, err := s.Change(t.Context(), o.ID, 5); err == nil {
		t.Errorf("changed to %+v, want an error", changed)
	}
	var quantity int
	if err := s.db.QueryRowContext(t.Context(), "SELECT quantity FROM orders").Scan(&quantity); err != nil || quantity != 1 {
		t.Errorf("the quantity is %d, %v, though the change failed", quantity, err)
	}
}

func TestOneOrderForAKey(t *testing.T) {
	s := fresh(t)
	n := NewOrder{Item: "tea", Quantity: 1, Key: "k"}
	first, isFresh, err := s.Place(t.Context(), n)
	if err != nil || !isFresh {
		t.Fatal(isFresh, err)
	}
	if _, err := s.Change(t.Context(), first.ID, 9); err != nil {
		t.Fatal(err)
	}
	again, isFresh, err := s.Place(t.Context(), n)
	if err != nil || isFresh || again.ID != first.ID || again.Quantity != 9 {
		t.Errorf("placed again it is %+v, %v, %v", again, isFresh, err)
	}
	n.Quantity = 2
	if _, _, err := s.Place(t.Context(), n); !errors.Is(err, ErrKeyReused) {
		t.Errorf("error is %v, want ErrKeyReused", err)
	}
	wantUnsent(t, s, 1)
	place(t, s, NewOrder{Item: "tea", Quantity: 1})
	place(t, s, NewOrder{Item: "tea", Quantity: 1})
	if all, err := s.List(t.Context(), "", 10); err != nil || len(all) != 3 {
		t.Errorf("orders are %v, %v, want 3", all, err)
	}
}

// TestManyAtOnce has several stores of one database, as several processes have it.
func TestManyAtOnce(t *testing.T) {
	o := options(t)
	first := open(t, o)
	stores := []*Store{first, open(t, o), open(t, o)}
	var placing sync.WaitGroup
	var mu sync.Mutex
	ids := map[string]int{}
	for i := range 12 {
		placing.Go(func() {
			for n := range 10 {
				// Four place the same order.
				got, _, err := stores[i%3].Place(t.Context(), NewOrder{Item: "tea", Quantity: 1, Key: fmt.Sprintf("%s-%d-%d", t.Name(), i/4, n)})
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				ids[got.ID]++
				mu.Unlock()
			}
		})
	}
	placing.Wait()
	if len(ids) != 30 {
		t.Errorf("there are %d orders, want 30", len(ids))
	}
	won := make(chan string, 1000)
	for _, s := range stores {
		for range 3 {
			placing.Go(func() {
				for id := range ids {
					err := s.MarkProcessed(t.Context(), Order{ID: id, Quantity: 1})
					if err == nil {
						won <- id
					} else if !errors.Is(err, ErrProcessed) {
						t.Error(err)
					}
				}
			})
		}
	}
	placing.Wait()
	if len(won) != len(ids) {
		t.Errorf("%d orders were processed, want %d, each once", len(won), len(ids))
	}
}

func TestEventsAreClaimedOnce(t *testing.T) {
	s := fresh(t)
	const orders = 25
	for range orders {
		place(t, s, NewOrder{Item: "tea", Quantity: 1})
	}
	if ids, err := s.Claim(t.Context(), 10); err != nil || len(ids) > 0 {
		t.Errorf("claimed are %v, %v, which are left to those who placed them", ids, err)
	}
	later := time.Now().Add(claim + time.Second)
	var claiming sync.WaitGroup
	claimed := make(chan string, 100)
	for range 5 {
		claiming.Go(func() {
			ids, err := s.claim(t.Context(), 10, later)
			if err != nil {
				t.Error(err)
			}
			for _, id := range ids {
				claimed <- id
			}
		})
	}
	claiming.Wait()
	// Two that look at once may see the same rows, of which the second then skips those that are locked.
	rest, err := s.claim(t.Context(), 100, later)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range rest {
		claimed <- id
	}
	close(claimed)
	var all []string
	for id := range claimed {
		all = append(all, id)
	}
	slices.Sort(all)
	if n := len(slices.Compact(slices.Clone(all))); len(all) != orders || n != orders {
		t.Errorf("%d were claimed, %d of them different, want %d", len(all), n, orders)
	}
	wantUnsent(t, s, orders)
	if err := s.Sent(t.Context(), all[:20]); err != nil {
		t.Fatal(err)
	}
	wantUnsent(t, s, 5)
	if ids, err := s.claim(t.Context(), 100, later.Add(claim+time.Second)); err != nil || len(ids) != 5 {
		t.Errorf("claimed are %v, %v, want the 5 that nobody has sent", ids, err)
	}
}

// TestClaimIsLimited: a batch of the queue takes so many, however few PostgreSQL believes to be there.
func TestClaimIsLimited(t *testing.T) {
	s := fresh(t)
	place(t, s, NewOrder{Item: "tea", Quantity: 1})
	count := "ANALYZE outbox"
	if os.Getenv(databaseVariable) != "" {
		count = "VACUUM ANALYZE outbox" // The table is as large as other tests made it until VACUUM.
	}
	if _, err := s.db.ExecContext(t.Context(), count); err != nil {
		t.Fatal(err)
	}
	// There are fewer new ones than make PostgreSQL count again by itself.
	for range 39 {
		place(t, s, NewOrder{Item: "tea", Quantity: 1})
	}
	later := time.Now().Add(claim + time.Second)
	claimed := map[string]bool{}
	for range 4 {
		ids, err := s.claim(t.Context(), 10, later)
		if err != nil || len(ids) != 10 {
			t.Errorf("claimed are %d, %v, want 10", len(ids), err)
		}
		for _, id := range ids {
			claimed[id] = true
		}
	}
	if len(claimed) != 40 {
		t.Errorf("%d different ones were claimed, want 40", len(claimed))
	}
}

func TestCancelledPlaceStoresNothing(t *testing.T) {
	s := fresh(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := s.Place(ctx, NewOrder{Item: "tea", Quantity: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	wantUnsent(t, s, 0)
	if all, err := s.List(t.Context(), "", 10); err != nil || len(all) > 0 {
		t.Errorf("orders are %v, %v, want none", all, err)
	}
}

func TestFullSQLiteStoresNoHalfOrder(t *testing.T) {
	if os.Getenv(databaseVariable) != "" {
		t.Skip("it is for SQLite")
	}
	o := options(t)
	o.Connections = 1 // The limit is that of a connection.
	s := open(t, o)
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.db.ExecContext(t.Context(), "PRAGMA max_page_count = 20"); err != nil {
		t.Fatal(err)
	}
	stored := 0
	var err error
	for err == nil {
		if _, _, err = s.Place(t.Context(), NewOrder{Item: strings.Repeat("tea ", 40), Quantity: 1}); err == nil {
			stored++
		}
	}
	if !strings.Contains(err.Error(), "full") || stored == 0 {
		t.Errorf("after %d orders the error is %v, want that it is full", stored, err)
	}
	wantUnsent(t, s, stored)
	if all, err := s.List(t.Context(), "", 10_000); err != nil || len(all) != stored {
		t.Errorf("there are %d orders, %v, want %d", len(all), err, stored)
	}
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("it cannot be read: %v", err)
	}
	if _, err := s.db.ExecContext(t.Context(), "PRAGMA max_page_count = 2000"); err != nil {
		t.Fatal(err)
	}
	place(t, s, NewOrder{Item: "tea", Quantity: 1})
}

// TestTablesAreMadeAgain: a database that was put in the place of another one has none.
func TestTablesAreMadeAgain(t *testing.T) {
	s := fresh(t)
	place(t, s, NewOrder{Item: "tea", Quantity: 1})
	for _, table := range []string{"outbox", "orders"} {
		if _, err := s.db.ExecContext(t.Context(), "DROP TABLE "+table); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Ready(t.Context()); err == nil {
		t.Error("it is ready without its tables")
	}
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("then it is not ready: %v", err)
	}
	place(t, s, NewOrder{Item: "tea", Quantity: 1})
	wantUnsent(t, s, 1)
}

// TestUserWhoMayMakeNoTables finds them there.
func TestUserWhoMayMakeNoTables(t *testing.T) {
	u, err := url.Parse(os.Getenv(databaseVariable))
	if err != nil || u.Host == "" {
		t.Skip("it is for PostgreSQL")
	}
	s := fresh(t)
	for _, statement := range []string{
		"CREATE ROLE clerk LOGIN PASSWORD 'secret'", "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
		"GRANT SELECT, INSERT, UPDATE, DELETE ON orders, outbox TO clerk",
	} {
		if _, err := s.db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	u.User = url.UserPassword("clerk", "secret")
	clerk := open(t, Options{URL: u.String(), Connections: 1})
	if err := clerk.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	place(t, clerk, NewOrder{Item: "tea", Quantity: 1})
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	if _, err := Open(Options{URL: "postgres://u:hunter2@[::1/db"}); err == nil || !strings.Contains(err.Error(), "DATABASE_URL") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error is %v, want one of DATABASE_URL, without its password", err)
	}
	// Nobody listens there.
	s := open(t, Options{URL: "postgres://u:hunter2@127.0.0.1:1/db", Connections: 1})
	if err := s.Ready(t.Context()); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error is %v, want one without the password", err)
	}
}

func TestIDsAreInTheOrderOfTime(t *testing.T) {
	now := time.Now()
	earlier, later := newID(now), newID(now.Add(time.Millisecond))
	if earlier >= later || !ValidID(earlier) || newID(now) == earlier {
		t.Errorf("IDs are %s and %s", earlier, later)
	}
	for _, text := range []string{"", "17", strings.Repeat("z", 26), strings.ToUpper(later), later + "0", later + "\n"} {
		if ValidID(text) {
			t.Errorf("%q is an ID", text)
		}
	}
}

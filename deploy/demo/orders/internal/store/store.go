// Package store keeps orders in PostgreSQL or in SQLite.
//
// Beside each order it keeps the event that has to go to the queue, in the table outbox. Both
// are written in one transaction, so there is never one without the other, however the
// program ends; whoever has sent the event takes it away.
package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite" // The driver "sqlite", in plain Go.
)

// Errors of the store that are about orders. Every other error is about the database: it is
// away or full, and nothing was stored or changed, unless the connection broke in the very moment
// of the commit.
var (
	ErrNotFound  = errors.New("no such order")
	ErrProcessed = errors.New("the order is processed")
	ErrChanged   = errors.New("the order was changed meanwhile")
	ErrKeyReused = errors.New("the key was used for another order")
)

const (
	// connectLimit bounds how long a connection to PostgreSQL may take to be made, unless
	// the URL says otherwise.
	connectLimit = 2 * time.Second
	// Connections do not live for ever, so that they come to follow the database's name to
	// another host.
	connectionLife = 30 * time.Minute
	connectionIdle = 5 * time.Minute
	// claim is how long an event is left to the one who took it to be sent. Then it is taken
	// again: a second delivery is harmless, and a lost one is not.
	claim = 10 * time.Second
)

// Order is what somebody ordered.
type Order struct {
	ID       string    `json:"id"`
	Item     string    `json:"item"`
	Quantity int       `json:"quantity"`
	Placed   time.Time `json:"placed"`
	// Processed is when a worker was done with it; nil before.
	Processed *time.Time `json:"processed,omitempty"`
}

// NewOrder is an order to be placed. Two with the same Key are one order; an empty Key is
// that of no other.
type NewOrder struct {
	Item     string
	Quantity int
	Key      string
}

// Options say where the orders are.
type Options struct {
	// URL is that of a PostgreSQL database. If it is empty, File is an SQLite database.
	URL  string
	File string
	// Connections is how many there are at most.
	Connections int
}

// Store keeps orders. Its methods may be called from any goroutine, and the database may be
// shared with other processes.
type Store struct {
	db      *sql.DB
	dialect dialect

	prepared atomic.Bool // the tables are there
}

// dialect is in what the databases differ.
type dialect struct {
	schema []string
	// skipLocked keeps those who look for something to send at once from waiting for each other.
	skipLocked string
}

// Times are milliseconds since 1970, a type that both databases have. The collation is that
// of bytes, which is the order in which IDs were made.
const schema = `
CREATE TABLE IF NOT EXISTS orders (
	id              TEXT COLLATE %[1]s PRIMARY KEY,
	item            TEXT NOT NULL,
	quantity        INTEGER NOT NULL,
	placed_at       BIGINT NOT NULL,
	processed_at    BIGINT,
	idempotency_key TEXT UNIQUE,
	asked           TEXT
);
CREATE TABLE IF NOT EXISTS outbox (
	order_id TEXT COLLATE %[1]s PRIMARY KEY REFERENCES orders,
	due_at   BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS outbox_due ON outbox (due_at)`

func statements(collation string) []string {
	return strings.Split(fmt.Sprintf(schema, collation), ";")
}

// postgres takes a lock first: CREATE TABLE IF NOT EXISTS fails when two do it at once.
func postgres() dialect {
	return dialect{
		schema:     append([]string{"SELECT pg_advisory_xact_lock(7264521)"}, statements(`"C"`)...),
		skipLocked: "FOR UPDATE SKIP LOCKED",
	}
}

// sqlite has one writer at a time, so nobody finds what another has locked.
func sqlite() dialect { return dialect{schema: statements("BINARY")} }

// Open returns a Store whose database may be away. Its tables are made as soon as it is not.
func Open(o Options) (*Store, error) {
	s := &Store{dialect: postgres()}
	if o.URL == "" {
		s.dialect = sqlite()
		db, err := sql.Open("sqlite", sqliteName(o.File))
		if err != nil {
			return nil, fmt.Errorf("SQLite database %s: %w", o.File, err)
		}
		s.db = db
	} else {
		config, err := pgx.ParseConfig(o.URL)
		if err != nil {
			return nil, fmt.Errorf("DATABASE_URL: %w", err) // pgx leaves the password out.
		}
		if config.ConnectTimeout == 0 {
			config.ConnectTimeout = connectLimit
		}
		s.db = stdlib.OpenDB(*config)
	}
	s.db.SetMaxOpenConns(o.Connections)
	s.db.SetMaxIdleConns(o.Connections)
	s.db.SetConnMaxLifetime(connectionLife)
	s.db.SetConnMaxIdleTime(connectionIdle)
	return s, nil
}

// sqliteName is the name of a file that several processes write: in WAL mode readers do not
// wait for the writer, and writers wait for each other. A transaction takes the lock of the
// writer when it begins, as one that only finds out later that it writes cannot wait. See
// https://www.sqlite.org/wal.html
func sqliteName(file string) string {
	options := url.Values{
		"_pragma": {"busy_timeout(3000)", "journal_mode(WAL)", "foreign_keys(ON)"},
		"_txlock": {"immediate"},
	}
	return "file:" + (&url.URL{Path: file}).EscapedPath() + "?" + options.Encode()
}

// Close ends the connections.
func (s *Store) Close() error { return s.db.Close() }

// Ready returns nil if the database answers and has the tables. A database that was put in
// the place of another one gets them.
func (s *Store) Ready(ctx context.Context) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if err := s.ask(ctx); err != nil {
		s.prepared.Store(false)
		return fmt.Errorf("asking the database: %w", err)
	}
	return nil
}

// ask returns nil if the tables are there.
func (s *Store) ask(ctx context.Context) error {
	var none int
	err := s.db.QueryRowContext(ctx, "SELECT 1 FROM orders, outbox LIMIT 0").Scan(&none)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	return err
}

// prepare makes the tables, which others may do at the same time. PostgreSQL wants the right
// to make them also of who would find them there, so that one looks first.
func (s *Store) prepare(ctx context.Context) error {
	if s.prepared.Load() {
		return nil
	}
	if s.ask(ctx) == nil {
		s.prepared.Store(true)
		return nil
	}
	err := s.transact(ctx, func(tx *sql.Tx) error {
		for _, statement := range s.dialect.schema {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("making the tables: %w", err)
	}
	s.prepared.Store(true)
	return nil
}

// transact calls f in a transaction, of which everything is stored, or nothing.
func (s *Store) transact(ctx context.Context, f func(tx *sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		_ = tx.Rollback() // The database does it in any case: f's error says more.
		return err
	}
	return tx.Commit()
}

// Place stores an order and the event for the queue. If there is an order of the same key
// it returns that one, and false.
func (s *Store) Place(ctx context.Context, n NewOrder) (Order, bool, error) {
	if err := s.prepare(ctx); err != nil {
		return Order{}, false, err
	}
	now := time.Now()
	o := Order{ID: newID(now), Item: n.Item, Quantity: n.Quantity, Placed: fromMillis(now.UnixMilli())}
	fresh := true
	err := s.transact(ctx, func(tx *sql.Tx) (err error) {
		fresh, err = insert(ctx, tx, o, n.Key)
		if err == nil && !fresh {
			o, err = earlier(ctx, tx, n)
		}
		return err
	})
	if err != nil {
		return Order{}, false, fmt.Errorf("placing an order: %w", err)
	}
	return o, fresh, nil
}

// insert returns false if there is an order of the key.
func insert(ctx context.Context, tx *sql.Tx, o Order, key string) (bool, error) {
	result, err := tx.ExecContext(ctx, `INSERT INTO orders (id, item, quantity, placed_at, idempotency_key, asked)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (idempotency_key) DO NOTHING`,
		o.ID, o.Item, o.Quantity, o.Placed.UnixMilli(), sql.NullString{String: key, Valid: key != ""}, asked(o.Item, o.Quantity))
	if err != nil {
		return false, err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return false, err
	}
	// Whoever placed the order sends the event. Others leave it to them for a while.
	_, err = tx.ExecContext(ctx, `INSERT INTO outbox (order_id, due_at) VALUES ($1, $2)`, o.ID, o.Placed.Add(claim).UnixMilli())
	return err == nil, err
}

// asked is what a request asked for. The order's quantity may have changed since.
func asked(item string, quantity int) string { return strconv.Itoa(quantity) + " " + item }

// earlier is the order that was placed with the same key.
func earlier(ctx context.Context, tx *sql.Tx, n NewOrder) (Order, error) {
	var before string
	o, err := scan(tx.QueryRowContext(ctx, `SELECT id, item, quantity, placed_at, processed_at, asked FROM orders
		WHERE idempotency_key = $1`, n.Key), &before)
	if err == nil && before != asked(n.Item, n.Quantity) {
		return Order{}, ErrKeyReused
	}
	return o, err
}

const columns = `id, item, quantity, placed_at, processed_at`

// scan reads the columns of an order, and further ones.
func scan(row interface{ Scan(into ...any) error }, further ...any) (Order, error) {
	var o Order
	var placed int64
	var processed sql.NullInt64
	err := row.Scan(append([]any{&o.ID, &o.Item, &o.Quantity, &placed, &processed}, further...)...)
	if errors.Is(err, sql.ErrNoRows) {
		return Order{}, ErrNotFound
	}
	if err != nil {
		return Order{}, err
	}
	o.Placed = fromMillis(placed)
	if processed.Valid {
		at := fromMillis(processed.Int64)
		o.Processed = &at
	}
	return o, nil
}

func fromMillis(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// Get returns an order, or ErrNotFound.
func (s *Store) Get(ctx context.Context, id string) (Order, error) {
	if err := s.prepare(ctx); err != nil {
		return Order{}, err
	}
	o, err := get(ctx, s.db, id)
	if err != nil {
		return Order{}, fmt.Errorf("order %s: %w", id, err)
	}
	return o, nil
}

// querier is the database, or a transaction of it.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func get(ctx context.Context, from querier, id string) (Order, error) {
	return scan(from.QueryRowContext(ctx, `SELECT `+columns+` FROM orders WHERE id = $1`, id))
}

// List returns orders, the newest first: those after the one whose ID is given, or from the
// first on if it is empty.
func (s *Store) List(ctx context.Context, after string, limit int) ([]Order, error) {
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	orders, err := s.list(ctx, after, limit)
	if err != nil {
		return nil, fmt.Errorf("listing orders: %w", err)
	}
	return orders, nil
}

func (s *Store) list(ctx context.Context, after string, limit int) ([]Order, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT `+columns+` FROM orders WHERE $1 = '' OR id < $1 ORDER BY id DESC LIMIT $2`, after, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	orders := []Order{}
	for rows.Next() {
		o, err := scan(rows)
		if err != nil {
			return nil, err
		}
		orders = append(orders, o)
	}
	return orders, rows.Err()
}

// Change sets the quantity of an order and returns the order. It returns ErrNotFound, or
// ErrProcessed if it comes too late.
func (s *Store) Change(ctx context.Context, id string, quantity int) (Order, error) {
	if err := s.prepare(ctx); err != nil {
		return Order{}, err
	}
	var o Order
	// The order is read before the change is stored, so that none is stored that returns an error.
	err := s.transact(ctx, func(tx *sql.Tx) (err error) {
		o, err = scan(tx.QueryRowContext(ctx, `UPDATE orders SET quantity = $2
			WHERE id = $1 AND processed_at IS NULL RETURNING `+columns, id, quantity))
		if !errors.Is(err, ErrNotFound) {
			return err
		}
		if _, err := get(ctx, tx, id); err != nil {
			return err
		}
		return ErrProcessed
	})
	if err != nil {
		return Order{}, fmt.Errorf("order %s: %w", id, err)
	}
	return o, nil
}

// MarkProcessed is for a worker that is done with an order, as Get returned it. Of all who say
// so of one order, one gets nil and the others ErrProcessed. It returns ErrChanged if the order
// is not the same any more, which has to be processed then, and ErrNotFound if there is none.
func (s *Store) MarkProcessed(ctx context.Context, o Order) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if err := s.markProcessed(ctx, o); err != nil {
		return fmt.Errorf("order %s: %w", o.ID, err)
	}
	return nil
}

func (s *Store) markProcessed(ctx context.Context, o Order) error {
	result, err := s.db.ExecContext(ctx, `UPDATE orders SET processed_at = $2 WHERE id = $1 AND processed_at IS NULL AND quantity = $3`,
		o.ID, time.Now().UnixMilli(), o.Quantity)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n > 0 {
		return err
	}
	now, err := get(ctx, s.db, o.ID)
	switch {
	case err != nil:
		return err
	case now.Processed != nil:
		return ErrProcessed
	}
	return ErrChanged
}

// Claim returns orders whose events nobody has sent in time, and leaves them to the caller
// for a while.
func (s *Store) Claim(ctx context.Context, most int) ([]string, error) {
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	ids, err := s.claim(ctx, most, time.Now())
	if err != nil {
		return nil, fmt.Errorf("events to be sent: %w", err)
	}
	return ids, nil
}

// claim finds what is due first, and once. In a subquery of UPDATE, PostgreSQL may do it again for
// each row of the table, with another result each time, as rows that are locked by then are
// skipped, too: LIMIT limits nothing then.
func (s *Store) claim(ctx context.Context, most int, now time.Time) ([]string, error) {
	//nolint:gosec // What is put together is the program's own.
	rows, err := s.db.QueryContext(ctx, `WITH due AS MATERIALIZED (
			SELECT order_id FROM outbox WHERE due_at <= $2 ORDER BY due_at LIMIT $3 `+s.dialect.skipLocked+`)
		UPDATE outbox SET due_at = $1 WHERE order_id IN (SELECT order_id FROM due) RETURNING order_id`,
		now.Add(claim).UnixMilli(), now.UnixMilli(), most)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

// Sent takes the events of orders away.
func (s *Store) Sent(ctx context.Context, ids []string) error {
	places, args := make([]string, len(ids)), make([]any, len(ids))
	for i, id := range ids {
		places[i], args[i] = "$"+strconv.Itoa(i+1), id
	}
	//nolint:gosec // They are $1, $2 and so on.
	_, err := s.db.ExecContext(ctx, `DELETE FROM outbox WHERE order_id IN (`+strings.Join(places, ", ")+`)`, args...)
	if err != nil {
		return fmt.Errorf("events that were sent: %w", err)
	}
	return nil
}

// MaxUnsent is the most that Unsent counts to, so that counting is cheap however long the
// queue has been away.
const MaxUnsent = 10_000

// Unsent is how many orders have events that are not known to be sent.
func (s *Store) Unsent(ctx context.Context) (int, error) {
	if err := s.prepare(ctx); err != nil {
		return 0, err
	}
	var n int
	err := s.db.QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 FROM outbox LIMIT $1) AS counted`, MaxUnsent).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("counting unsent events: %w", err)
	}
	return n, nil
}

var (
	encoding  = base32.HexEncoding.WithPadding(base32.NoPadding)
	idPattern = regexp.MustCompile(`^[0-9a-v]{26}$`)
)

// ValidID says whether text looks like the ID of an order.
func ValidID(text string) bool { return idPattern.MatchString(text) }

// newID is the time and 80 random bits, in letters that sort as the numbers do. New rows so
// come to the end of the index, and a list by ID is one by time.
func newID(now time.Time) string {
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], uint64(now.UnixMilli())<<16)
	_, _ = rand.Read(id[6:]) // It never fails.
	return strings.ToLower(encoding.EncodeToString(id[:]))
}

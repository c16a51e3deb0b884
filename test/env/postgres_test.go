package env

import (
	"os"
	"strings"
	"testing"
)

// canRunPostgres skips a test where there can be no PostgreSQL, or fails it.
func canRunPostgres(t *testing.T) {
	t.Helper()
	err := CanRunPostgres()
	if err == nil {
		return
	}
	if os.Getenv(RequirePostgresVariable) != "" {
		t.Fatal(err)
	}
	t.Skip(err)
}

func startPostgres(t *testing.T, opts PostgresOptions) *Postgres {
	t.Helper()
	p, err := StartPostgres(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(p.dir); err == nil {
			t.Errorf("%s is left", p.dir)
		}
	})
	return p
}

func TestPostgresGoesAwayAndComesBack(t *testing.T) {
	canRunPostgres(t)
	p := startPostgres(t, PostgresOptions{})
	ctx := t.Context()
	if _, err := p.SQL(ctx, "orders", "CREATE TABLE t (n int); INSERT INTO t VALUES (17)"); err != nil {
		t.Fatal(err)
	}
	if err := p.Away(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := p.SQL(ctx, "orders", "SELECT n FROM t"); err == nil {
		t.Error("it answers while it is away")
	}
	if err := p.Back(ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := p.SQL(ctx, "orders", "SELECT n FROM t"); got != "17" || err != nil {
		t.Errorf("it came back with %q, %v, want 17", got, err)
	}
	if err := p.Fill(); err == nil {
		t.Error("one without a limit was filled")
	}
}

func TestPostgresIsFull(t *testing.T) {
	canRunPostgres(t)
	if os.Geteuid() != 0 {
		t.Skip("a limited space needs root")
	}
	p := startPostgres(t, PostgresOptions{Space: 24 << 20})
	ctx := t.Context()
	if _, err := p.SQL(ctx, "orders", "CREATE TABLE t (n text)"); err != nil {
		t.Fatal(err)
	}
	if err := p.Fill(); err != nil {
		t.Fatal(err)
	}
	_, err := p.SQL(ctx, "orders", "INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
	if err == nil || !strings.Contains(err.Error(), "No space left on device") {
		t.Errorf("error is %v, want that there is no space", err)
	}
	if err := p.Free(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.SQL(ctx, "orders", "INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 1000)"); err != nil {
		t.Errorf("freed: %v", err)
	}
}

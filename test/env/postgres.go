package env

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tidegauge/tidegauge/test/until"
)

const (
	// RequirePostgresVariable is the environment variable that makes it a failure, if it is
	// not empty, that a machine cannot run PostgreSQL.
	RequirePostgresVariable = "TIDEGAUGE_REQUIRE_POSTGRES"

	postgresUser = "postgres"
	// postgresLimit is how long a start may take.
	postgresLimit = time.Minute
	// debianPostgres is where Debian puts the programs of each version.
	debianPostgres = "/usr/lib/postgresql/*/bin"
)

// NoPostgresError says why there can be no PostgreSQL.
type NoPostgresError struct{ Reason string }

func (e *NoPostgresError) Error() string { return "no PostgreSQL: " + e.Reason }

// CanRunPostgres returns nil if this machine can run a PostgreSQL of the test bed's own, or
// else a NoPostgresError.
func CanRunPostgres() error {
	if _, err := postgresPrograms(); err != nil {
		return &NoPostgresError{Reason: err.Error()}
	}
	if os.Geteuid() != 0 {
		return nil
	}
	// PostgreSQL refuses to run as root.
	if _, err := user.Lookup(postgresUser); err != nil {
		return &NoPostgresError{Reason: err.Error()}
	}
	if _, err := exec.LookPath("setpriv"); err != nil {
		return &NoPostgresError{Reason: err.Error()}
	}
	return nil
}

// postgresPrograms is the folder of the newest PostgreSQL that is installed.
func postgresPrograms() (string, error) {
	found, err := filepath.Glob(filepath.Join(debianPostgres, "initdb"))
	if err != nil {
		return "", err
	}
	if path, err := exec.LookPath("initdb"); err == nil && len(found) == 0 {
		// The other programs lie beside the real one.
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return "", err
		}
		found = append(found, path)
	}
	if len(found) == 0 {
		return "", errors.New("initdb is not installed: install the package postgresql")
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path)))) // Others are old.
		return n
	}
	dir := filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) }))
	for _, name := range []string{"postgres", "psql"} {
		if _, err := lookBinary(dir, name); err != nil {
			return "", fmt.Errorf("%s has initdb and no %s", dir, name)
		}
	}
	return dir, nil
}

// PostgresOptions say how a Postgres is to be. The zero value works.
type PostgresOptions struct {
	// Space is how many bytes the database's tables may take, for one that is to be full; 0 is
	// no limit. PostgreSQL itself takes some 8 MB. It needs root, and the database is lost when
	// it stops.
	Space int64
}

// Postgres is a PostgreSQL with an empty database.
type Postgres struct {
	*Process

	programs string
	dir      string
	port     int
	password string
	space    string // the folder of the tables, if their space is limited
}

// StartPostgres starts a PostgreSQL on 127.0.0.1, in a folder of its own, and returns when it
// answers. Call Remove in the end.
func StartPostgres(ctx context.Context, opts PostgresOptions) (*Postgres, error) {
	if err := CanRunPostgres(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, postgresLimit)
	defer cancel()
	dir, err := os.MkdirTemp("", "tidegauge-postgres-")
	if err != nil {
		return nil, err
	}
	p := &Postgres{dir: dir, password: rand.Text()}
	if err := p.prepare(ctx, opts); err != nil {
		return nil, errors.Join(fmt.Errorf("postgres: %w", err), os.RemoveAll(dir))
	}
	if err := p.begin(ctx); err != nil {
		return nil, errors.Join(err, p.Remove())
	}
	if err := p.createDatabase(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("postgres: %w", err), p.Remove())
	}
	return p, nil
}

// prepare makes the files of the database, and the command that runs it.
func (p *Postgres) prepare(ctx context.Context, opts PostgresOptions) (err error) {
	if p.programs, err = postgresPrograms(); err != nil {
		return err
	}
	if p.port, err = FreePort(); err != nil {
		return err
	}
	secret := filepath.Join(p.dir, "password")
	if err := os.WriteFile(secret, []byte(p.password), 0o600); err != nil {
		return err
	}
	if opts.Space > 0 {
		p.space = filepath.Join(p.dir, "space")
		if err := os.Mkdir(p.space, 0o700); err != nil {
			return err
		}
	}
	if err := p.giveAway(p.dir, secret); err != nil {
		return err
	}
	data := filepath.Join(p.dir, "data")
	initdb := p.asOwner(filepath.Join(p.programs, "initdb"), "--pgdata="+data, "--username="+postgresUser, "--pwfile="+secret,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync")
	cmd := exec.CommandContext(ctx, initdb[0], initdb[1:]...)
	cmd.Dir = p.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	// It need not survive the machine, so that it does not wait for its disk.
	run := p.asOwner(filepath.Join(p.programs, "postgres"), "-D", data, "-p", strconv.Itoa(p.port), "-c", "listen_addresses=127.0.0.1",
		"-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=60")
	if p.space != "" {
		run = p.limited(opts.Space, run)
	}
	p.Process = newProcess(command{name: "postgres", path: run[0], args: run[1:]}, p.dir, filepath.Join(p.dir, "log"))
	return nil
}

// giveAway gives files to who runs PostgreSQL.
func (p *Postgres) giveAway(paths ...string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	owner, err := user.Lookup(postgresUser)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return err
	}
	for _, path := range paths {
		if err := os.Chown(path, uid, -1); err != nil {
			return err
		}
	}
	return nil
}

// asOwner runs a program as who may run PostgreSQL. The kernel forgets who dies with whom when
// a process changes its user, so it is told again.
func (p *Postgres) asOwner(args ...string) []string {
	if os.Geteuid() != 0 {
		return args
	}
	return append([]string{"setpriv", "--reuid=" + postgresUser, "--regid=" + postgresUser, "--clear-groups", "--pdeathsig=KILL"}, args...)
}

// limited runs a program that sees a small file system in the folder of the tables. Nobody
// else sees it, and it is gone with the program.
func (p *Postgres) limited(space int64, args []string) []string {
	const script = `mount -t tmpfs -o "size=$1,mode=777" tmpfs "$2" && shift 2 && exec "$@"`
	return append([]string{"unshare", "--mount", "--propagation=private", "/bin/sh", "-c", script, "sh", strconv.FormatInt(space, 10), p.space}, args...)
}

// begin starts the process and waits until it answers. A PostgreSQL has no health to ask for by
// HTTP, as other processes have.
func (p *Postgres) begin(ctx context.Context) error {
	path, err := exec.LookPath(p.path)
	if err != nil {
		return err
	}
	p.path = path
	r, err := p.spawn()
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	p.mu.Lock()
	p.run = r
	p.mu.Unlock()
	err = until.Nil(ctx, func(ctx context.Context) error {
		_, err := p.SQL(ctx, postgresUser, "SELECT 1")
		return err
	})
	if err != nil {
		return errors.Join(fmt.Errorf("postgres: %w\n%s", err, p.tail()), p.Kill())
	}
	return nil
}

func (p *Postgres) createDatabase(ctx context.Context) error {
	create := "CREATE DATABASE orders"
	if p.space != "" {
		if err := p.giveAway(p.inSpace("")); err != nil {
			return err
		}
		if _, err := p.SQL(ctx, postgresUser, "CREATE TABLESPACE small LOCATION '"+p.space+"'"); err != nil {
			return err
		}
		create += " TABLESPACE small"
	}
	_, err := p.SQL(ctx, postgresUser, create)
	return err
}

// DatabaseURL is that of the empty database. It has the password.
func (p *Postgres) DatabaseURL() string { return p.databaseURL("orders") }

func (p *Postgres) databaseURL(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(postgresUser, p.password), Host: address(p.port), Path: database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Password is that of the URL, for a test that looks for it where it should not be.
func (p *Postgres) Password() string { return p.password }

// SQL runs a statement and returns what it prints: a line for each row, with | between columns.
func (p *Postgres) SQL(ctx context.Context, database, statement string) (string, error) {
	u, err := url.Parse(p.databaseURL(database))
	if err != nil {
		return "", err
	}
	u.User = url.User(postgresUser) // Everybody sees a program's arguments.
	cmd := exec.CommandContext(ctx, filepath.Join(p.programs, "psql"), "--no-psqlrc", "--no-align", "--tuples-only", "--quiet",
		"--set=ON_ERROR_STOP=1", "--dbname="+u.String(), "--command="+statement)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.dir, "PGPASSWORD=" + p.password, "PGCONNECT_TIMEOUT=5"}
	cmd.Dir = p.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("psql: %w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// Away stops PostgreSQL at once: connections are cut, and new ones refused, until Back.
func (p *Postgres) Away(ctx context.Context) error {
	r := p.current()
	// SIGINT is its fast shutdown; for SIGTERM it would wait until every client has left. See
	// https://www.postgresql.org/docs/current/server-shutdown.html
	if err := syscall.Kill(r.id.PID, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("postgres: %w", err)
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("postgres: did not stop: %w\n%s", ctx.Err(), p.tail())
	}
}

// Back starts PostgreSQL again with what it had stored.
func (p *Postgres) Back(ctx context.Context) error {
	if p.space != "" {
		return errors.New("postgres: the tables of one whose space is limited are gone")
	}
	ctx, cancel := context.WithTimeout(ctx, postgresLimit)
	defer cancel()
	return p.begin(ctx)
}

// Fill takes what is left of a limited space: from now on PostgreSQL says disk_full, SQLSTATE
// 53100, as soon as a table has to grow.
func (p *Postgres) Fill() error {
	if p.space == "" {
		return errors.New("postgres: its space is not limited")
	}
	file, err := os.Create(p.inSpace("filler"))
	if err != nil {
		return err
	}
	defer file.Close()
	for _, size := range []int{1 << 20, 1 << 12} {
		chunk := make([]byte, size)
		for err = nil; err == nil; {
			_, err = file.Write(chunk)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			return err
		}
	}
	return nil
}

// Free gives back what Fill took.
func (p *Postgres) Free() error { return os.Remove(p.inSpace("filler")) }

// inSpace is a path in the limited space, which only PostgreSQL itself sees under its name.
func (p *Postgres) inSpace(name string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", p.ID().PID), p.space, name)
}

// Remove ends PostgreSQL and takes its files away.
func (p *Postgres) Remove() error {
	return errors.Join(p.Kill(), os.RemoveAll(p.dir))
}

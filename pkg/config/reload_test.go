package config

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// volume is a directory with a configuration file in it, as somebody changes it.
type volume struct {
	t    *testing.T
	path string
}

func newVolume(t *testing.T) volume {
	t.Helper()
	v := volume{t, filepath.Join(t.TempDir(), "config.yaml")}
	v.write("maxAge: 10s")
	return v
}

func (v volume) write(text string) {
	v.t.Helper()
	if err := os.WriteFile(v.path, []byte(text), 0o600); err != nil {
		v.t.Fatal(err)
	}
}

// rename replaces the file as editors do.
func (v volume) rename(text string) {
	v.t.Helper()
	other := v.path + "~"
	if err := os.WriteFile(other, []byte(text), 0o600); err != nil {
		v.t.Fatal(err)
	}
	if err := os.Rename(other, v.path); err != nil {
		v.t.Fatal(err)
	}
}

// mounted is a volume as kubelet fills it with a ConfigMap: the file is a link through
// the link ..data, which is replaced.
func newMounted(t *testing.T) *mounted {
	t.Helper()
	m := &mounted{volume: volume{t, filepath.Join(t.TempDir(), "config.yaml")}}
	m.replace("maxAge: 10s")
	if err := os.Symlink(filepath.Join("..data", "config.yaml"), m.path); err != nil {
		t.Fatal(err)
	}
	return m
}

type mounted struct {
	volume

	generation int
}

func (m *mounted) replace(text string) {
	m.t.Helper()
	directory := filepath.Dir(m.path)
	old, _ := os.Readlink(filepath.Join(directory, "..data"))
	m.generation++
	data := fmt.Sprintf("..2026_11_22_%d", m.generation)
	for _, err := range []error{
		os.Mkdir(filepath.Join(directory, data), 0o700),
		os.WriteFile(filepath.Join(directory, data, "config.yaml"), []byte(text), 0o600),
		os.Symlink(data, filepath.Join(directory, "..data_tmp")),
		os.Rename(filepath.Join(directory, "..data_tmp"), filepath.Join(directory, "..data")),
	} {
		if err != nil {
			m.t.Fatal(err)
		}
	}
	if old != "" {
		os.RemoveAll(filepath.Join(directory, old))
	}
}

// keeper is told what the Reloader says.
type keeper struct {
	t    *testing.T
	mu   sync.Mutex
	told chan report
	// refuse is what Apply says; applied counts its calls.
	refuse  error
	applied int
	loaded  int
}

type report struct {
	maxAge time.Duration
	err    error
}

// start runs a Reloader of the file and gives what is told of it.
func start(t *testing.T, path string, change func(*Reloader)) (*keeper, *Reloader) {
	t.Helper()
	k := &keeper{t: t, told: make(chan report, 100)}
	load := func() (*Config, error) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.loaded++
		return Load(path)
	}
	current, err := load()
	if err != nil {
		t.Fatal(err)
	}
	r := NewReloader(ReloaderOptions{
		Path: path, Current: current, Load: load,
		Apply: func(context.Context, *Config) error {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.applied++
			return k.refuse
		},
		Report: func(c *Config, err error) { k.told <- report{c.MaxAge, err} },
	})
	if change != nil {
		change(r)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = r.Run(ctx) })
	t.Cleanup(running.Wait)
	t.Cleanup(stop)
	k.wants(current.MaxAge, "")
	return k, r
}

// wants waits for the next report: the maxAge in force, and a phrase of the error.
func (k *keeper) wants(maxAge time.Duration, phrase string) {
	k.t.Helper()
	select {
	case got := <-k.told:
		if got.maxAge != maxAge || (phrase == "") != (got.err == nil) || got.err != nil && !strings.Contains(got.err.Error(), phrase) {
			k.t.Fatalf("told of %v, %v, want %v, %q", got.maxAge, got.err, maxAge, phrase)
		}
	case <-time.After(patience):
		k.t.Fatalf("not told of %v, %q", maxAge, phrase)
	}
}

func (k *keeper) counts() (loaded, applied int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.loaded, k.applied
}

func (k *keeper) refuses(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refuse = err
}

func TestReload(t *testing.T) {
	for name, change := range map[string]func(t *testing.T) (path string, write func(string)){
		"a file written in place": func(t *testing.T) (string, func(string)) {
			v := newVolume(t)
			return v.path, v.write
		},
		"an editor's rename": func(t *testing.T) (string, func(string)) {
			v := newVolume(t)
			return v.path, v.rename
		},
		"a ConfigMap": func(t *testing.T) (string, func(string)) {
			m := newMounted(t)
			return m.path, m.replace
		},
	} {
		t.Run(name, func(t *testing.T) {
			path, write := change(t)
			k, r := start(t, path, nil)
			write("maxAge: 20s")
			k.wants(20*time.Second, "")
			write("maxage: 30s")
			k.wants(20*time.Second, "configuration file "+path+": line 1: field maxage is not known")
			wantState(t, r, 0, 1, 1)
			write("maxAge: 30s")
			k.wants(30*time.Second, "")
			wantState(t, r, 1, 2, 1)
			if loaded, applied := k.counts(); applied != 2 || loaded != 4 {
				t.Errorf("%d loaded and %d applied, want 4 and 2", loaded, applied)
			}
		})
	}
}

// TestReloadOfNothingNew touches the file, changes a neighbour, and breaks and mends the
// file: none of it is a new configuration.
func TestReloadOfNothingNew(t *testing.T) {
	v := newVolume(t)
	k, _ := start(t, v.path, nil)
	v.write("maxAge: 10s")
	v.rename("maxAge: 10s")
	if err := os.WriteFile(filepath.Join(filepath.Dir(v.path), "other.yaml"), []byte("maxAge: 1h"), 0o600); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if err := os.Chtimes(v.path, now, now); err != nil {
		t.Fatal(err)
	}
	v.write("maxAge: [")
	k.wants(10*time.Second, "not YAML")
	v.write("maxAge: 10s")
	k.wants(10*time.Second, "")
	v.write("maxAge: 40s")
	k.wants(40*time.Second, "")
	if loaded, applied := k.counts(); loaded != 3 || applied != 1 {
		t.Errorf("%d loaded and %d applied, want 3 and 1", loaded, applied)
	}
}

func TestReloadWithoutFile(t *testing.T) {
	v := newVolume(t)
	k, r := start(t, v.path, nil)
	wantState(t, r, 1, 0, 0)
	if err := os.Remove(v.path); err != nil {
		t.Fatal(err)
	}
	k.wants(10*time.Second, "no such file")
	v.write("maxAge: 20s")
	k.wants(20*time.Second, "")
	v.write(" \n")
	k.wants(20*time.Second, "the file has become empty")
	v.write("rules: []\n")
	k.wants(DefaultMaxAge, "")
}

// TestReloadOfHalfAFile writes a file in two steps, of which the first would do for a
// configuration.
func TestReloadOfHalfAFile(t *testing.T) {
	v := newVolume(t)
	k, _ := start(t, v.path, nil)
	f, err := os.Create(v.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, part := range []string{"fetchTimeout: 20s\n", "maxAge: 2", "0s\n"} {
		if _, err := f.WriteString(part); err != nil {
			t.Fatal(err)
		}
	}
	k.wants(20*time.Second, "")
	// And the rest after the first half was read and found wanting.
	v.write("maxAge: 3")
	k.wants(20*time.Second, "3 is not a duration")
	v.write("maxAge: 30s")
	k.wants(30*time.Second, "")
}

// TestReloadThatIsNotApplied tries again what another part of the adapter refused.
func TestReloadThatIsNotApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVolume(t)
		k, r := start(t, v.path, unwatched)
		k.refuses(errors.New("source prometheus: no such file"))
		v.write("maxAge: 20s")
		k.wants(10*time.Second, "configuration file "+v.path+": source prometheus: no such file")
		pass(10*pollEvery + time.Second)
		wantState(t, r, 0, 0, 1)
		k.refuses(nil)
		k.wants(20*time.Second, "")
		wantState(t, r, 1, 1, 1)
		if _, applied := k.counts(); applied != 12 {
			t.Errorf("applied %d times, want 12", applied)
		}
		v.write("maxAge: 30s")
		k.wants(30*time.Second, "")
	})
}

// TestReloadWithoutEvents is a file system that announces no changes.
func TestReloadWithoutEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVolume(t)
		k, r := start(t, v.path, unwatched)
		began := time.Now()
		v.write("maxAge: 20s")
		k.wants(20*time.Second, "")
		if took := time.Since(began); took > pollEvery+2*settleFor {
			t.Errorf("that took %v", took)
		}
		if at := testutil.ToFloat64(r.succeededAt); int64(at) != time.Now().Unix() {
			t.Errorf("the time of the success is %v, want now", at)
		}
	})
}

// TestReloadOfAChangeBeforeRun changes the file between the first load and Run.
func TestReloadOfAChangeBeforeRun(t *testing.T) {
	v := newVolume(t)
	k, _ := start(t, v.path, func(*Reloader) { v.write("maxAge: 20s") })
	k.wants(20*time.Second, "")
}

func TestReloadSurvivesAPanic(t *testing.T) {
	v := newVolume(t)
	k, _ := start(t, v.path, func(r *Reloader) {
		load := r.opts.Load
		r.opts.Load = func() (*Config, error) {
			c, err := load()
			if err == nil && c.MaxAge == 20*time.Second {
				panic("a fault of the program")
			}
			return c, err
		}
	})
	v.write("maxAge: 20s")
	k.wants(10*time.Second, "loading it panicked: a fault of the program")
	v.write("maxAge: 30s")
	k.wants(30*time.Second, "")
}

func TestReloadOfNoFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _ := start(t, "", unwatched)
		pass(time.Hour)
		if loaded, applied := k.counts(); loaded != 1 || applied != 0 {
			t.Errorf("%d loaded and %d applied, want the first only", loaded, applied)
		}
	})
}

func TestSettling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var s settling
		s.disturb(time.Now())
		<-s.over
		if took := time.Since(began); took != settleFor {
			t.Errorf("one event settles in %v", took)
		}
		began, s = time.Now(), settling{}
		for busy := true; busy; {
			s.disturb(time.Now())
			select {
			case <-s.over:
				busy = false
			case <-time.After(settleFor / 2):
			}
		}
		if took := time.Since(began); took != settleAtMost {
			t.Errorf("events without end settle in %v", took)
		}
	})
}

// pass lets time pass in a bubble.
func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // The time is the bubble's.
}

// unwatched is a system without inotify.
func unwatched(r *Reloader) {
	r.watch = func(string) (*fsnotify.Watcher, error) { return nil, errors.New("too many open files") }
}

// wantState compares the self-metrics: whether the last reload was successful, and how
// many were and were not.
func wantState(t *testing.T, r *Reloader, successful, ok, failed int) {
	t.Helper()
	err := testutil.CollectAndCompare(r, strings.NewReader(fmt.Sprintf(`
# HELP tidegauge_config_last_reload_successful 1 if the configuration in force is that of the file, 0 if the file is bad or away and the last good one stays in force.
# TYPE tidegauge_config_last_reload_successful gauge
tidegauge_config_last_reload_successful %d
# HELP tidegauge_config_reloads_total Changes of the configuration file since the start, by result: ok (in force) or failed (the last good one stays).
# TYPE tidegauge_config_reloads_total counter
tidegauge_config_reloads_total{result="failed"} %d
tidegauge_config_reloads_total{result="ok"} %d
`, successful, failed, ok)), "tidegauge_config_last_reload_successful", "tidegauge_config_reloads_total")
	if err != nil {
		t.Error(err)
	}
}

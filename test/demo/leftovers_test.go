package demo

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tidegauge/tidegauge/test/env"
)

// TestTidyRemovesWhatWasKilled: of a run that was killed nothing is left, and what belongs to
// anybody else stays.
func TestTidyRemovesWhatWasKilled(t *testing.T) {
	temporary, elsewhere := t.TempDir(), t.TempDir()
	folder := func(name string, files map[string]string) string {
		dir := filepath.Join(temporary, name)
		if err := os.MkdirAll(filepath.Join(dir, "deep"), 0o700); err != nil {
			t.Fatal(err)
		}
		for file, text := range files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	run := func(name, database string) (stop func()) {
		lock, err := occupy(folder(name, map[string]string{databaseName: filepath.Base(database)}))
		if err != nil {
			t.Fatal(err)
		}
		return func() { _ = lock.Close() }
	}
	t.Cleanup(run(ownPrefix+"lives", folder(databasePrefix+"lives", nil)))
	run(ownPrefix+"killed", folder(databasePrefix+"killed", nil))()
	run(ownPrefix+"killed-with-a-file", "")()
	if err := os.Remove(filepath.Join(temporary, ownPrefix+"killed-with-a-file", databaseName)); err != nil {
		t.Fatal(err)
	}
	run(ownPrefix+"names-another-folder", folder("other-folder", nil))()
	folder(ownPrefix+"failed", map[string]string{logFileName: "why"})
	folder("tidegauge-other", map[string]string{lockName: ""})
	folder(databasePrefix+"of-a-test", nil)
	if err := os.Symlink(elsewhere, filepath.Join(temporary, ownPrefix+"link")); err != nil {
		t.Fatal(err)
	}

	if err := tidy(temporary); err == nil {
		t.Error("a run whose database is no database is not told of")
	}
	entries, err := os.ReadDir(temporary)
	if err != nil {
		t.Fatal(err)
	}
	left := map[string]bool{}
	for _, e := range entries {
		left[e.Name()] = true
	}
	want := []string{
		ownPrefix + "failed", ownPrefix + "link", ownPrefix + "lives", ownPrefix + "names-another-folder", "other-folder", "tidegauge-other",
		databasePrefix + "lives", databasePrefix + "of-a-test",
	}
	if got := slices.Sorted(maps.Keys(left)); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("left are %v, want %v", got, want)
	}
	if _, err := os.Stat(elsewhere); err != nil {
		t.Error(err)
	}
}

// TestNoteNamesTheDatabase: what is noted is what tidy removes.
func TestNoteNamesTheDatabase(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a PostgreSQL")
	}
	if err := env.CanRunPostgres(); err != nil {
		t.Skip(err)
	}
	p, err := env.StartPostgres(t.Context(), env.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	})
	data, err := p.SQL(t.Context(), "postgres", "SHOW data_directory")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := (&database{postgres: p}).note(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	name, err := os.ReadFile(filepath.Join(dir, databaseName))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Dir(data)
	if err := removeDatabase(filepath.Dir(folder), string(name)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", folder, err)
	}
}

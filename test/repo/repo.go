// Package repo finds the files of the repository, for tests that hold them to something.
package repo

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tidegauge/tidegauge/test/env"
)

// Path is the absolute path of a file or folder, which is named from the repository's root, with
// slashes. "" is the root.
func Path(t testing.TB, name string) string {
	t.Helper()
	root, err := env.Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, filepath.FromSlash(name))
}

// Read is what a file has.
func Read(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(Path(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Text is what a file has.
func Text(t testing.TB, name string) string {
	t.Helper()
	return string(Read(t, name))
}

// Glob are the files that match a pattern, as Path takes them, in order. There has to be one.
func Glob(t testing.TB, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(Path(t, pattern))
	if err != nil || len(found) == 0 {
		t.Fatalf("there is no file %s: %v", pattern, err)
	}
	for i, file := range found {
		name, err := filepath.Rel(Path(t, ""), file)
		if err != nil {
			t.Fatal(err)
		}
		found[i] = filepath.ToSlash(name)
	}
	return found
}

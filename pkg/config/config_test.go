package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLoadGood(t *testing.T) {
	c, err := Load(filepath.Join("testdata", "good.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if c.MaxAge != 90*time.Second || c.FetchTimeout != DefaultFetchTimeout || c.CloudWatch.Region != "eu-west-1" || c.CloudWatch.MaxCalls != 4 {
		t.Errorf("got %+v", c)
	}
}

func TestLoadNothing(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.yaml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", empty} {
		c, err := Load(path)
		if err != nil {
			t.Fatalf("%q: %v", path, err)
		}
		if *c != *Default() {
			t.Errorf("%q: got %+v, want the defaults", path, c)
		}
	}
}

// TestLoadBad reads every file of testdata/bad, whose first line is a comment with
// the phrase that the error must have.
func TestLoadBad(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "bad", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(string(text), "\n")
			want := strings.TrimPrefix(first, "# ")
			_, err = Load(path)
			if err == nil {
				t.Fatal("loads")
			}
			if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q, want one line with the path and %q", err, want)
			}
		})
	}
}

func TestLoadRefusesHugeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "huge.yaml")
	if err := os.WriteFile(path, make([]byte, maxFileBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
}

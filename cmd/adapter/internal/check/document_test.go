package check

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestReadOfFolders(t *testing.T) {
	folder := t.TempDir()
	for _, name := range []string{"b.yml", "a.yaml", "c.json", "README.md"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(folder, "below.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	texts, err := Read(t.Context(), []string{"-", folder}, filepath.Join(folder, "README.md"), strings.NewReader("piped"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, text := range texts {
		got = append(got, string(text.Text))
		if text.Config != (string(text.Text) == "README.md") {
			t.Errorf("%s is the file of --config: %v", text.File, text.Config)
		}
	}
	if want := []string{"piped", "a.yaml", "b.yml", "c.json", "README.md"}; !slices.Equal(got, want) {
		t.Errorf("read %q, want %q", got, want)
	}
}

func TestReadSaysWhatCannotBeRead(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.yaml")
	if _, err := Read(t.Context(), []string{missing}, "", nil); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("got %v, want an error that names %s", err, missing)
	}
	empty := t.TempDir()
	if _, err := Read(t.Context(), []string{empty}, "", nil); err == nil || !strings.Contains(err.Error(), "has no file that ends in") {
		t.Errorf("got %v for a folder without files", err)
	}
}

// A pipe may have no end, or nobody who writes to it.
func TestReadEndsWithItsContext(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	in, writer := io.Pipe()
	t.Cleanup(func() {
		writer.Close()
		// Whoever opens the pipe to write lets the reader go.
		if f, err := os.OpenFile(fifo, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
			f.Close()
		}
	})
	for _, name := range []string{fifo, "-"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		signal := errors.New("interrupted")
		ended := make(chan error, 1)
		go func() {
			_, err := Read(ctx, []string{name}, "", in)
			ended <- err
		}()
		cancel(signal)
		select {
		case err := <-ended:
			if !errors.Is(err, signal) || !strings.HasPrefix(err.Error(), name+": not read to its end") {
				t.Errorf("%s: the error is %v", name, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s is still read", name)
		}
	}
}

func TestDocumentsKnowTheirLines(t *testing.T) {
	text := "%YAML 1.2\n---\r\na: 1\n--- # two\nb:\n  - c: |\n      ---\n    d: 1\n...\n---\n"
	docs := documentsOf(Text{File: "f", Text: []byte(text)})
	if len(docs) != 2 {
		t.Fatalf("got %d documents, want 2: %+v", len(docs), docs)
	}
	for i, want := range map[int]map[string]int{0: {"a": 3}, 1: {"b": 6, "b[0].d": 8, "b[0].missing.x": 6, "b[7]": 6}} {
		if _, err := docs[i].parse(); err != nil {
			t.Fatal(err)
		}
		for path, line := range want {
			if got := docs[i].line(path); got != line {
				t.Errorf("%s is on line %d, want %d", path, got, line)
			}
		}
	}
}

func TestAnnotationsAreFoundByTheirKey(t *testing.T) {
	d := document{file: "f", text: []byte("metadata:\n  annotations:\n    other: x\n    tidegauge.dev/no-data: y\n")}
	if _, err := d.parse(); err != nil {
		t.Fatal(err)
	}
	if got := d.line("metadata.annotations[tidegauge.dev/no-data]"); got != 4 {
		t.Errorf("the annotation is on line %d, want 4", got)
	}
}

// A text of a file must not rule the terminal.
func TestOneLineLeavesOutControls(t *testing.T) {
	if got := oneLine("a\n\tb \x1b[31mred\u009b"); got != "a b [31mred" {
		t.Errorf("got %q", got)
	}
}

func FuzzDocuments(f *testing.F) {
	for _, seed := range []string{goodRule, goodMetric, goodHPA, "a: &a [*a]", "--- |\n", "apiVersion: v1\nkind: List\nitems: [[]]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		report := run(t, text)
		for _, finding := range report.Findings {
			if lines := strings.Count(text, "\n") + 1; finding.Line < 0 || finding.Line > lines+1 {
				t.Errorf("finding on line %d of %d: %+v", finding.Line, lines, finding)
			}
		}
	})
}

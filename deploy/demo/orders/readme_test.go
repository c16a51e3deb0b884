package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the tables of README.md")

// TestReadme keeps the tables of flags in README.md in step with the flags.
func TestReadme(t *testing.T) {
	const file = "README.md"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := string(text)
	for mode, register := range map[string]func(*flag.FlagSet){
		"web":    new(webFlags).register,
		"worker": new(workerFlags).register,
	} {
		before, rest, found := strings.Cut(got, "<!-- flags of "+mode+" -->\n")
		_, after, ended := strings.Cut(rest, "<!-- end -->")
		if !found || !ended {
			t.Fatalf("%s has no place for the flags of %s", file, mode)
		}
		fs := flag.NewFlagSet(mode, flag.ContinueOnError)
		register(fs)
		got = before + "<!-- flags of " + mode + " -->\n" + table(fs) + "<!-- end -->" + after
	}
	if got == string(text) {
		return
	}
	if !*update {
		t.Fatalf("%s is not in step with the flags: run go test . -run TestReadme -update", file)
	}
	if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
		t.Fatal(err)
	}
}

func table(fs *flag.FlagSet) string {
	var b strings.Builder
	b.WriteString("| flag | default | |\n|---|---|---|\n")
	fs.VisitAll(func(f *flag.Flag) {
		fmt.Fprintf(&b, "| `--%s` | `%s` | %s |\n", f.Name, f.DefValue, f.Usage)
	})
	return b.String()
}

package scale

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tidegauge/tidegauge/test/env"
)

var codeSpan = regexp.MustCompile("`([^`]+)`")

// rows are those that docs/demo.md has to show a test of.
var rows = []string{"B1", "B2", "B3", "B7", "B11", "B14", "B16", "B17", "B18", "B19", "B20", "B21", "B22", "B24"}

// Each row of docs/demo.md names tests, and each of them is in the folder that is named
// before it.
func TestNamedTestsExist(t *testing.T) {
	root, err := env.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs", "demo.md"))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]int{} // of each row
	for line := range strings.Lines(string(text)) {
		row, is := strings.CutPrefix(line, "| ")
		if !is {
			continue
		}
		row, _, _ = strings.Cut(row, " |")
		dir := ""
		for _, span := range codeSpan.FindAllStringSubmatch(line, -1) {
			switch name := span[1]; {
			case strings.HasPrefix(name, "test/") || strings.HasPrefix(name, "deploy/"):
				dir = name
			case strings.HasPrefix(name, "Test"):
				tests[row]++
				if !hasTest(t, filepath.Join(root, dir), name) {
					t.Errorf("%s: %s has no test %s", row, dir, name)
				}
			}
		}
	}
	for _, row := range rows {
		if tests[row] == 0 {
			t.Errorf("no test shows the row %s", row)
		}
	}
}

// hasTest says whether a file of a folder has a test.
func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+name+"(t *testing.T)") {
			return true
		}
	}
	return false
}

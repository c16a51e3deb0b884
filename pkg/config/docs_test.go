package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestExamplesOfTheDocumentation loads every example of a configuration that the
// documentation has.
func TestExamplesOfTheDocumentation(t *testing.T) {
	found := 0
	for _, page := range []string{"prometheus.md", "run.md", "externalmetric.md"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "docs", page))
		if err != nil {
			t.Fatal(err)
		}
		for i, part := range strings.Split(string(text), "\n```yaml\n")[1:] {
			example, _, _ := strings.Cut(part, "\n```")
			if strings.Contains(example, "apiVersion:") {
				continue
			}
			found++
			t.Run(fmt.Sprintf("%s %d", page, i), func(t *testing.T) {
				c, err := Parse([]byte(example))
				if err != nil {
					t.Fatalf("%v\n%s", err, example)
				}
				if len(c.Compiled.Warnings) > 0 {
					t.Errorf("%q\n%s", c.Compiled.Warnings, example)
				}
			})
		}
	}
	if found < 8 {
		t.Errorf("%d examples were found", found)
	}
}

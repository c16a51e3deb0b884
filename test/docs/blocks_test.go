package docs

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/tidegauge/tidegauge/pkg/config"
)

// pages are those whose blocks of code these tests look at.
var pages = []string{
	"eks.md", "install-eks.md", "migrate-k8s-cloudwatch-adapter.md", "migrate-keda.md", "migrate-prometheus-adapter.md", "troubleshooting.md",
}

// TestBlocks shows that every block of code can be read by what it is for, also those that
// no test runs, such as commands of the AWS CLI.
func TestBlocks(t *testing.T) {
	for _, page := range pages {
		t.Run(page, func(t *testing.T) {
			for _, b := range readPage(t, page) {
				if err := readable(t, b); err != nil {
					t.Errorf("%s: %v\n%s", b, err, b.text)
				}
			}
		})
	}
}

func readable(t *testing.T, b block) error {
	t.Helper()
	switch b.language {
	case "sh":
		return bashReads(t, b.text)
	case "json":
		var content any
		return json.Unmarshal([]byte(b.text), &content)
	case "yaml":
		if _, ok := b.is("rules"); ok {
			return configReads(b.text)
		}
		return yamlReads(b.text)
	}
	return errors.New("no test knows this language: " + b.language)
}

func bashReads(t *testing.T, text string) error {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-n")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(err, errors.New(string(out)))
	}
	return nil
}

func configReads(text string) error {
	_, err := config.Parse([]byte(text))
	return err
}

func yamlReads(text string) error {
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		var content any
		if err := decoder.Decode(&content); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// TestMarks shows that no mark is misspelt.
func TestMarks(t *testing.T) {
	for _, page := range pages {
		for _, b := range readPage(t, page) {
			known := b.mark == ""
			for _, kind := range []string{"step", "back ", "file ", "rules"} {
				_, ok := b.is(kind)
				known = known || ok
			}
			if !known {
				t.Errorf("%s has the mark %q", b, b.mark)
			}
			if b.prints != "" && b.mark == "" {
				t.Errorf("%s prints something, and nothing runs it", b)
			}
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	notSlug = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// TestLinks shows that what the pages lead to is there: files, and headings in them.
func TestLinks(t *testing.T) {
	docs := filepath.Join(root(t), "docs")
	for _, page := range pages {
		text, err := os.ReadFile(filepath.Join(docs, page))
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range link.FindAllStringSubmatch(string(text), -1) {
			target := match[1]
			if strings.Contains(target, "://") {
				continue
			}
			file, anchor, _ := strings.Cut(target, "#")
			path := filepath.Join(docs, page)
			if file != "" {
				path = filepath.Join(docs, filepath.FromSlash(file))
			}
			if err := leads(path, anchor); err != nil {
				t.Errorf("docs/%s: (%s): %v", page, target, err)
			}
		}
	}
}

// leads returns nil if there is a file with such a heading.
func leads(path, anchor string) error {
	if anchor == "" {
		_, err := os.Stat(path)
		return err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var slugs []string
	for line := range strings.Lines(string(text)) {
		if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			slugs = append(slugs, slug(heading))
		}
	}
	if !slices.Contains(slugs, anchor) {
		return errors.New("there is no such heading")
	}
	return nil
}

// slug is what a heading is called in links.
func slug(heading string) string {
	return strings.ReplaceAll(notSlug.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), ""), " ", "-")
}

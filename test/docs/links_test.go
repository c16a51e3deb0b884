package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	codeSpan = regexp.MustCompile("`[^`\n]*`")
	// own are addresses of the repository itself, which the chart's README has, as it is read
	// elsewhere too.
	own = regexp.MustCompile(`^https://github\.com/tidegauge/tidegauge/(?:blob|tree)/main/`)
)

// TestEveryLink shows that every link of a page to a file of the repository, and to a heading
// of one, leads somewhere.
func TestEveryLink(t *testing.T) {
	dir := root(t)
	count := 0
	for _, page := range markdown(t, dir) {
		for _, target := range linksOf(t, filepath.Join(dir, page)) {
			count++
			if err := resolves(dir, page, target); err != nil {
				t.Errorf("%s: %s: %v", page, target, err)
			}
		}
	}
	if count < 100 {
		t.Errorf("there are %d links only", count)
	}
}

// TestReadmeLeadsEverywhere shows that whoever starts at the README finds every page of docs.
func TestReadmeLeadsEverywhere(t *testing.T) {
	dir := root(t)
	linked := map[string]bool{}
	for _, target := range linksOf(t, filepath.Join(dir, "README.md")) {
		path, _, _ := strings.Cut(target, "#")
		linked[strings.TrimSuffix(path, "/")] = true
	}
	want := []string{"docs/reference", "deploy/hpa", "deploy/iam", "charts/tidegauge", "CHANGELOG.md", "CONTRIBUTING.md"}
	pages, err := filepath.Glob(filepath.Join(dir, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		want = append(want, "docs/"+filepath.Base(page))
	}
	for _, page := range want {
		if !linked[page] && !linked[page+"/README.md"] {
			t.Errorf("README.md has no link to %s", page)
		}
	}
}

// markdown are the paths of all pages, but for those in folders that the repository does not
// keep, whose names begin with a dot.
func markdown(t *testing.T, dir string) []string {
	t.Helper()
	var pages []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && entry.Name() != ".github" && path != dir:
			return filepath.SkipDir
		case entry.IsDir() && entry.Name() == "node_modules":
			return filepath.SkipDir
		case strings.HasSuffix(path, ".md"):
			page, err := filepath.Rel(dir, path)
			pages = append(pages, page)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return pages
}

// linksOf are the targets of a page's links, in their order.
func linksOf(t *testing.T, path string) []string {
	t.Helper()
	var targets []string
	for _, match := range link.FindAllStringSubmatch(codeSpan.ReplaceAllString(prose(t, path), "x"), -1) {
		targets = append(targets, match[1])
	}
	return targets
}

// prose is a page without its blocks of code.
func prose(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var kept strings.Builder
	fenced := false
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.HasPrefix(strings.TrimLeft(line, " "), "```"):
			fenced = !fenced
		case !fenced && !strings.HasPrefix(line, "    "):
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// resolves is nil if a link of a page leads out of the repository, or to what is there.
func resolves(dir, page, target string) error {
	// The chart's README is made from this one, and stands elsewhere.
	if page == filepath.Join("test", "chart", "readme.md") {
		page = filepath.Join("charts", "tidegauge", "README.md")
	}
	path, anchor, _ := strings.Cut(target, "#")
	switch {
	case own.MatchString(path):
		path = filepath.Join(dir, own.ReplaceAllString(path, ""))
	case strings.Contains(path, "://"), strings.HasPrefix(path, "mailto:"):
		return nil
	case path == "":
		path = filepath.Join(dir, page)
	default:
		path = filepath.Join(dir, filepath.Dir(page), path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if anchor != "" && info.IsDir() {
		path = filepath.Join(path, "README.md")
	}
	return leads(path, anchor)
}

package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tidegauge/tidegauge/test/env"
)

// block is a block of code of a page.
type block struct {
	page string
	line int
	// heading is that of the section that it is in.
	heading string
	// mark is what the comment in front of it says, or empty.
	mark     string
	language string
	text     string
	// prints is the block of text directly behind it.
	prints string
}

func (b block) String() string { return fmt.Sprintf("docs/%s line %d", b.page, b.line) }

// is says whether the mark is of a kind, and what follows the kind.
func (b block) is(kind string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(b.mark, kind)
	return strings.TrimSpace(strings.TrimPrefix(rest, ",")), ok
}

var markComment = regexp.MustCompile(`^<!-- test: (.*) -->$`)

// readPage returns the blocks of code of a page of docs, in their order.
func readPage(t *testing.T, page string) []block {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	r := pageReader{page: page}
	for line := range strings.Lines(string(text)) {
		r.read(strings.TrimSuffix(line, "\n"))
	}
	if r.open {
		t.Fatalf("%s is not closed", r.now)
	}
	if r.mark != "" {
		t.Errorf("docs/%s: there is no block of code behind the mark %q", page, r.mark)
	}
	return r.blocks
}

// pageReader reads a page line by line.
type pageReader struct {
	page   string
	blocks []block

	line    int
	heading string
	mark    string
	// now is the block that is open, or was closed in the line before.
	now    block
	open   bool
	closed int
}

func (r *pageReader) read(line string) {
	r.line++
	if r.open {
		r.inBlock(line)
		return
	}
	switch mark := markComment.FindStringSubmatch(line); {
	case mark != nil:
		r.mark = mark[1]
	case strings.HasPrefix(line, "```"):
		r.now = block{page: r.page, line: r.line, heading: r.heading, mark: r.mark, language: strings.TrimPrefix(line, "```")}
		r.open, r.mark = true, ""
	case strings.HasPrefix(line, "#"):
		r.heading = strings.TrimSpace(strings.TrimLeft(line, "#"))
	}
}

func (r *pageReader) inBlock(line string) {
	if line != "```" {
		r.now.text += line + "\n"
		return
	}
	behind := r.closed == r.now.line-1 && len(r.blocks) > 0
	r.open, r.closed = false, r.line
	if r.now.language == "text" && behind {
		r.blocks[len(r.blocks)-1].prints = r.now.text
		return
	}
	r.blocks = append(r.blocks, r.now)
}

// printed returns nil if the output has the lines that a block of text has, in that order.
func printed(output, want string) error {
	lines := strings.Split(output, "\n")
	for line := range strings.Lines(want) {
		pattern := linePattern(line)
		i := 0
		for i < len(lines) && !pattern.MatchString(blanks(lines[i])) {
			i++
		}
		if i == len(lines) {
			return fmt.Errorf("this line is not printed, or not in its place:\n%sprinted is:\n%s", line, output)
		}
		lines = lines[i+1:]
	}
	return nil
}

func linePattern(line string) *regexp.Regexp {
	parts := strings.Split(blanks(line), "…")
	for i, part := range parts {
		parts[i] = regexp.QuoteMeta(strings.TrimSpace(part))
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$")
}

func blanks(line string) string { return strings.Join(strings.Fields(line), " ") }

// root is the repository's folder.
func root(t *testing.T) string {
	t.Helper()
	dir, err := env.Root()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

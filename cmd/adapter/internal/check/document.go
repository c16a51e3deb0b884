package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
	kyaml "sigs.k8s.io/yaml"
)

const (
	// stdin is how standard input is named among the files.
	stdin = "-"
	// maxFileBytes and maxFiles bound what is read.
	maxFileBytes = 32 << 20
	maxFiles     = 10_000
	// maxDocuments bounds the documents of all files, and with them the items of their Lists.
	maxDocuments = 20_000
)

var errTooMany = fmt.Errorf("more than %d documents and items of Lists: check them in parts", maxDocuments)

// Text is what a file has.
type Text struct {
	File string
	Text []byte
	// Config says that it is what --config names: the adapter serves by all of it, so that it
	// may have nothing but one configuration.
	Config bool
}

// Read reads the files, those of folders included that end in .yaml, .yml or .json, and
// standard input for "-". The file of --config is read too, unless it is empty. When the
// context ends, so does the reading, with an error: a pipe may never have an end.
func Read(ctx context.Context, names []string, config string, in io.Reader) ([]Text, error) {
	var texts []Text
	if config != "" {
		names = append(slices.Clip(names), config)
	}
	for i, name := range names {
		files, err := filesOf(name)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			texts = append(texts, Text{File: file, Config: config != "" && i == len(names)-1})
		}
		if len(texts) > maxFiles {
			return nil, fmt.Errorf("more than %d files", maxFiles)
		}
	}
	for i := range texts {
		text, err := readUntil(ctx, texts[i].File, in)
		if err != nil {
			return nil, err
		}
		texts[i].Text = text
	}
	return texts, nil
}

// filesOf is the file itself, or those of a folder, without the ones in folders below.
func filesOf(name string) ([]string, error) {
	if name == stdin {
		return []string{name}, nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{name}, nil
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		path := filepath.Join(name, e.Name())
		// A file of a mounted ConfigMap is a symbolic link.
		info, err := os.Stat(path)
		if err == nil && info.Mode().IsRegular() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)) {
			files = append(files, path)
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("folder %s has no file that ends in .yaml, .yml or .json", name)
	}
	return files, nil
}

// readUntil reads a file until the context ends. What then still reads, such as a pipe that
// nobody opens to write, is left behind.
func readUntil(ctx context.Context, name string, in io.Reader) ([]byte, error) {
	type read struct {
		text []byte
		err  error
	}
	done := make(chan read, 1)
	go func() {
		text, err := readFile(name, in)
		done <- read{text, err}
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: not read to its end: %w", name, context.Cause(ctx))
	}
}

func readFile(name string, in io.Reader) ([]byte, error) {
	if name != stdin {
		f, err := os.Open(name) //nolint:gosec // The command line names it.
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxFileBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	case len(text) > maxFileBytes:
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxFileBytes)
	}
	return text, nil
}

// document is one YAML document of a file.
type document struct {
	file string
	// before is how many lines of the file come before the text.
	before int
	text   []byte
	// served is all of the file, if the adapter would serve by it and it has no other document.
	served []byte
	// node is what the text is.
	node *yaml.Node
}

// isConfiguration says that the document is taken for a configuration: it has the fields of
// one, or of anything else that is no Kubernetes object.
func (d *document) isConfiguration() bool {
	return d.node != nil && d.node.Kind == yaml.MappingNode && field(d.node, "apiVersion") == nil && field(d.node, "kind") == nil
}

func isNull(n *yaml.Node) bool { return n.ShortTag() == "!!null" }

// documentsOf cuts a file at its lines that begin a document. Those without content are
// left out, and those after the first one beyond maxDocuments.
func documentsOf(t Text) []document {
	var docs []document
	current := document{file: t.File}
	end := func() {
		if !isBlank(current.text) {
			docs = append(docs, current)
		}
	}
	number := 0
	for line := range bytes.Lines(t.Text) {
		if isSeparator(line) {
			end()
			if len(docs) > maxDocuments {
				return docs
			}
			current = document{file: t.File, before: number}
			line = bytes.TrimPrefix(line, []byte("---"))
		}
		current.text = append(current.text, line...)
		number++
	}
	end()
	return docs
}

// isSeparator says whether the line begins a document
// (https://yaml.org/spec/1.2.2/#912-document-markers).
func isSeparator(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	return ok && (len(rest) == 0 || strings.ContainsRune(" \t\r\n", rune(rest[0])))
}

// isBlank says that a text has nothing but comments, directives and blanks.
func isBlank(text []byte) bool {
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && line[0] != '%' && !bytes.Equal(line, []byte("...")) {
			return false
		}
	}
	return true
}

// yamlLine is how errors of the YAML libraries name a line.
var yamlLine = regexp.MustCompile(`^(?:error converting YAML to JSON: )?(?:yaml: )?(?:unmarshal errors:\s+)?line (\d+): `)

// parse reads the text. The error says which line is at fault, if it is known.
func (d *document) parse() (line int, err error) {
	var root yaml.Node
	if err := yaml.Unmarshal(d.text, &root); err != nil {
		return d.yamlFault(err)
	}
	if len(root.Content) > 0 {
		d.node = root.Content[0]
	}
	return 0, nil
}

func (d *document) yamlFault(err error) (int, error) {
	text := err.Error()
	m := yamlLine.FindStringSubmatch(text)
	if m == nil {
		return d.before + 1, fmt.Errorf("not YAML: %s", oneLine(strings.TrimPrefix(text, "yaml: ")))
	}
	line, _ := strconv.Atoi(m[1])
	return d.before + line, fmt.Errorf("not YAML: %s", oneLine(text[len(m[0]):]))
}

// field is the value of a field of a mapping, or nil.
func field(n *yaml.Node, name string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

// object is a Kubernetes object of a document. It has no fields if it is the item of a List
// that is none.
type object struct {
	*unstructured.Unstructured

	document
}

var errNoObject = errors.New("neither a configuration nor a Kubernetes object, which are mappings of fields")

// objects are the document's, as kubectl reads them; those of a List one by one.
func (d *document) objects() (objects []object, line int, err error) {
	text, err := kyaml.YAMLToJSONStrict(d.text)
	if err != nil {
		line, err := d.yamlFault(err)
		return nil, line, err
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, d.before + d.node.Line, err
	}
	return d.unpack(fields, d.node), 0, nil
}

// unpack opens Lists, also within Lists.
func (d *document) unpack(fields map[string]any, node *yaml.Node) []object {
	one := *d
	one.node = node
	items, isList := fields["items"].([]any)
	if kind, _ := fields["kind"].(string); !isList || !strings.HasSuffix(kind, "List") {
		return []object{{&unstructured.Unstructured{Object: fields}, one}}
	}
	var objects []object
	for i, item := range items {
		at := one
		// An item that is merged into the List from elsewhere has the line of the List.
		if n := child(node, []string{"items", ""}); n != nil {
			if n = child(n, []string{"", strconv.Itoa(i)}); n != nil {
				at.node = n
			}
		}
		fields, ok := item.(map[string]any)
		if !ok {
			objects = append(objects, object{nil, at})
			continue
		}
		objects = append(objects, d.unpack(fields, at.node)...)
	}
	return objects
}

// segment is a step of a field's path.
var segment = regexp.MustCompile(`\[([^\]]*)\]|[^.\[\]]+`)

// line is where a field is, or the nearest one that it is part of.
func (d *document) line(path string) int {
	if d.node == nil {
		return d.before + 1
	}
	n := d.node
	for _, m := range segment.FindAllStringSubmatch(path, -1) {
		next := child(n, m)
		if next == nil {
			break
		}
		n = next
	}
	return d.before + n.Line
}

// child is the part of a node that a step leads to, or nil.
func child(n *yaml.Node, step []string) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.SequenceNode {
		i, err := strconv.Atoi(step[1])
		if err != nil || i < 0 || i >= len(n.Content) {
			return nil
		}
		return n.Content[i]
	}
	if step[1] != "" {
		return field(n, step[1])
	}
	return field(n, step[0])
}

// oneLine is a text without line breaks and other characters that a terminal obeys.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return -1
		}
		return r
	}, text)
}

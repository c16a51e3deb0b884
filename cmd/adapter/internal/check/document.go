package check

import (
	"bytes"
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
)

// Text is what a file has.
type Text struct {
	File string
	Text []byte
}

// Read reads the files, those of folders included that end in .yaml, .yml or .json, and
// standard input for "-".
func Read(names []string, in io.Reader) ([]Text, error) {
	var files []string
	for _, name := range names {
		inside, err := filesOf(name)
		if err != nil {
			return nil, err
		}
		if files = append(files, inside...); len(files) > maxFiles {
			return nil, fmt.Errorf("more than %d files", maxFiles)
		}
	}
	texts := make([]Text, len(files))
	for i, file := range files {
		text, err := readFile(file, in)
		if err != nil {
			return nil, err
		}
		texts[i] = Text{File: file, Text: text}
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
	// node is what the text is.
	node *yaml.Node
}

// documentsOf cuts a file at its lines that begin a document. Those without content are
// left out.
func documentsOf(t Text) []document {
	var docs []document
	current := document{file: t.File}
	number := 0
	for line := range bytes.Lines(t.Text) {
		if isSeparator(line) {
			docs = append(docs, current)
			current = document{file: t.File, before: number}
			line = bytes.TrimPrefix(line, []byte("---"))
		}
		current.text = append(current.text, line...)
		number++
	}
	docs = append(docs, current)
	return slices.DeleteFunc(docs, func(d document) bool { return isBlank(d.text) })
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

// object is a Kubernetes object of a document.
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
	items, isList := fields["items"].([]any)
	if kind, _ := fields["kind"].(string); !isList || !strings.HasSuffix(kind, "List") {
		one := *d
		one.node = node
		return []object{{&unstructured.Unstructured{Object: fields}, one}}
	}
	var objects []object
	nodes := field(node, "items")
	for i, item := range items {
		fields, ok := item.(map[string]any)
		if !ok || nodes == nil || i >= len(nodes.Content) {
			continue
		}
		objects = append(objects, d.unpack(fields, nodes.Content[i])...)
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

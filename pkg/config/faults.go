package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxFaults is how many faults an error spells out.
const maxFaults = 20

// Fault is one thing that is wrong with a configuration.
type Fault struct {
	// Line is where it is in the file; 0 if that is not known, or if it is not of the file.
	Line int
	// Path is the field, such as "rules[2].metricsQuery", or the flag; empty for the file
	// as a whole.
	Path string
	// Text says what is wrong, and the cure where there is one.
	Text string
}

func (f Fault) String() string {
	text := f.Text
	if f.Path != "" {
		text = f.Path + ": " + text
	}
	if f.Line > 0 {
		text = fmt.Sprintf("line %d: %s", f.Line, text)
	}
	return text
}

// FaultsError is all that is wrong with a configuration, in the order of its lines. The text
// of the error is one line.
type FaultsError []Fault

func (f FaultsError) Error() string {
	var texts []string
	for _, fault := range f[:min(len(f), maxFaults)] {
		texts = append(texts, fault.String())
	}
	text := strings.Join(texts, "; ")
	if more := len(f) - maxFaults; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}

// orNil is f as an error that is nil if there is no fault.
func (f FaultsError) orNil() error {
	if len(f) == 0 {
		return nil
	}
	slices.SortStableFunc(f, func(a, b Fault) int { return a.Line - b.Line })
	return f
}

// located is how errors of the packages that own a part of the file begin: with the line
// if they know it, and with the path of the field.
var located = regexp.MustCompile(`^(?:line (\d+): )?(?:([a-zA-Z][\w.\[\]-]*): )?(?s:(.*))$`)

// faultsOf takes apart an error of another package, whose paths are below that one.
func faultsOf(err error, below string) FaultsError {
	if list, ok := errors.AsType[FaultsError](err); ok {
		return list
	}
	var out FaultsError
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			out = append(out, faultsOf(err, below)...)
		}
		return out
	}
	if err == nil {
		return nil
	}
	m := located.FindStringSubmatch(err.Error())
	line, _ := strconv.Atoi(m[1])
	return FaultsError{{Line: line, Path: join(below, m[2]), Text: strings.Join(strings.Fields(m[3]), " ")}}
}

// unlessFrom leaves out the faults that may be no more than a consequence of an earlier one:
// those of a field that is part of what the earlier one is about, or of the same rule.
func (f FaultsError) unlessFrom(earlier FaultsError) FaultsError {
	return slices.DeleteFunc(f, func(later Fault) bool {
		return slices.ContainsFunc(earlier, func(e Fault) bool {
			return e.Path != "" && (isPart(later.Path, e.Path) || ruleOf(later.Path) != "" && ruleOf(later.Path) == ruleOf(e.Path))
		})
	})
}

// isPart says whether the field at path is the whole or part of it.
func isPart(path, whole string) bool {
	rest, ok := strings.CutPrefix(path, whole)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// ruleOf is the rule that a field belongs to, such as "rules[2]", or "".
func ruleOf(path string) string {
	if first, _, _ := strings.Cut(path, "."); strings.HasSuffix(first, "]") || first == "resourceRules" {
		return first
	}
	return ""
}

func join(path, field string) string {
	if path == "" || field == "" {
		return path + field
	}
	return path + "." + field
}

package rules

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
)

// filter keeps series by their names.
type filter struct {
	regex *regexp.Regexp
	keeps bool
}

// naming turns the name of a series into that of a metric.
type naming struct {
	filters []filter
	// matches is nil if every name is kept as it is.
	matches *regexp.Regexp
	as      string
}

// metric is the name of the metric; false if a filter leaves the series out, or if the
// name cannot be a part of a URL.
func (n *naming) metric(series string) (string, bool) {
	for _, f := range n.filters {
		if f.regex.MatchString(series) != f.keeps {
			return "", false
		}
	}
	name := series
	if n.matches != nil {
		found := n.matches.FindStringSubmatchIndex(series)
		if found == nil {
			return "", false
		}
		name = string(n.matches.ExpandString(nil, n.as, series, found))
	}
	if name == "" || len(content.IsPathSegmentName(name)) > 0 {
		return "", false
	}
	return name, true
}

// newMatches compiles name.matches and finds the default of name.as. An empty pattern is
// `.*`.
func newMatches(n Name) (*regexp.Regexp, error) {
	if n.Matches == "" && (n.As == "" || n.As == "$0" || n.As == "${0}") {
		return nil, nil //nolint:nilnil // Every name is kept.
	}
	if n.Matches == "" {
		n.Matches = ".*"
	}
	return regexp.Compile(n.Matches)
}

// newAs is name.as, or its default: the whole name without captures, the capture if there is
// one.
func newAs(as string, matches *regexp.Regexp) (string, error) {
	if matches == nil {
		return "$0", nil
	}
	if as == "" {
		switch matches.NumSubexp() {
		case 0:
			return "$0", nil
		case 1:
			return "$1", nil
		default:
			return "", fmt.Errorf("is required, since name.matches has %d captures (such as as: \"${1}_${2}\")", matches.NumSubexp())
		}
	}
	for _, capture := range captures(as) {
		if err := checkCapture(capture, matches); err != nil {
			return "", err
		}
	}
	if strings.ContainsAny(as, "/%") {
		return "", errors.New("has a character that cannot be in the path of a URL (leave out / and %)")
	}
	return as, nil
}

func checkCapture(capture string, matches *regexp.Regexp) error {
	if i, err := strconv.Atoi(capture); err == nil {
		if i <= matches.NumSubexp() {
			return nil
		}
		return fmt.Errorf("refers to capture %d, but name.matches has %d (add a pair of parentheses to it)", i, matches.NumSubexp())
	}
	if slices.Contains(matches.SubexpNames()[1:], capture) {
		return nil
	}
	if digits := leadingDigits.FindString(capture); digits != "" {
		return fmt.Errorf("refers to a capture of the name %q, which name.matches does not have (write ${%s}%s)",
			capture, digits, strings.TrimPrefix(capture, digits))
	}
	return fmt.Errorf("refers to a capture of the name %q, which name.matches does not have (write (?P<%s>…) there)", capture, capture)
}

var (
	leadingDigits = regexp.MustCompile(`^[0-9]+`)
	// reference is a capture in the template of a replacement
	// (https://pkg.go.dev/regexp#Regexp.Expand), or a dollar sign.
	reference = regexp.MustCompile(`\$(?:\$|([\pL\pN_]+)|\{([\pL\pN_]+)\})`)
)

// captures are the captures that a replacement refers to.
func captures(as string) []string {
	var names []string
	for _, found := range reference.FindAllStringSubmatch(as, -1) {
		if name := found[1] + found[2]; name != "" {
			names = append(names, name)
		}
	}
	return names
}

package promproxy

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

const metricName = "__name__"

// Matcher is a condition of a series selector.
type Matcher struct {
	Label string
	// Op is =, !=, =~ or !~.
	Op    string
	Value string
}

var (
	identifier = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*`)
	nameBefore = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*\s*$`)
	operator   = regexp.MustCompile(`^\s*(=~|!~|!=|=)\s*`)
	grouping   = regexp.MustCompile(`\bby\s*\(([^)]*)\)`)
)

// Matchers are those of the first selector of a PromQL text, the metric's name among
// them as that of the label __name__. A text without braces is taken for a name if it
// looks like one, and else has none.
func Matchers(text string) ([]Matcher, error) {
	before, rest, ok := strings.Cut(text, "{")
	if !ok {
		name := strings.TrimSpace(text)
		if identifier.FindString(name) != name || name == "" {
			return nil, nil
		}
		return []Matcher{{metricName, "=", name}}, nil
	}
	var matchers []Matcher
	if name := strings.TrimSpace(nameBefore.FindString(before)); name != "" {
		matchers = append(matchers, Matcher{metricName, "=", name})
	}
	for {
		rest = strings.TrimLeft(rest, " \t\n,")
		if strings.HasPrefix(rest, "}") {
			return matchers, nil
		}
		m, after, err := readMatcher(rest)
		if err != nil {
			return nil, fmt.Errorf("selector %q: %w", text, err)
		}
		matchers, rest = append(matchers, m), after
	}
}

// readMatcher reads a matcher, or the name of a metric in quotes.
func readMatcher(text string) (m Matcher, rest string, err error) {
	m.Label = identifier.FindString(text)
	rest = text[len(m.Label):]
	if m.Label == "" {
		if m.Label, rest, err = readString(text); err != nil {
			return m, "", err
		}
	}
	op := operator.FindStringSubmatch(rest)
	if op == nil {
		return Matcher{metricName, "=", m.Label}, rest, nil
	}
	m.Op = op[1]
	m.Value, rest, err = readString(rest[len(op[0]):])
	return m, rest, err
}

// readString reads a string in one of PromQL's three quotes, see
// https://prometheus.io/docs/prometheus/latest/querying/basics/#string-literals
func readString(text string) (value, rest string, err error) {
	quote := byte(0)
	if text != "" {
		quote = text[0]
	}
	if quote != '"' && quote != '\'' && quote != '`' {
		return "", "", fmt.Errorf("no string at %q", text)
	}
	end := 1
	for end < len(text) && text[end] != quote {
		if text[end] == '\\' && quote != '`' {
			end++
		}
		end++
	}
	if end >= len(text) {
		return "", "", fmt.Errorf("no end of the string at %q", text)
	}
	value, err = unquote(text[1:end], quote)
	return value, text[end+1:], err
}

func unquote(text string, quote byte) (string, error) {
	if quote == '`' {
		return text, nil
	}
	var b strings.Builder
	for text != "" {
		r, multibyte, rest, err := strconv.UnquoteChar(text, quote)
		if err != nil {
			return "", fmt.Errorf("string %q: %w", text, err)
		}
		if multibyte {
			b.WriteRune(r)
		} else {
			b.WriteByte(byte(r)) //nolint:gosec // An escaped byte, such as \xff, is no longer than that.
		}
		text = rest
	}
	return b.String(), nil
}

// condition is a Matcher whose regular expression is compiled.
type condition struct {
	Matcher

	pattern *regexp.Regexp // nil for = and !=
}

func (m Matcher) compile() (condition, error) {
	if m.Op == "=" || m.Op == "!=" {
		return condition{Matcher: m}, nil
	}
	pattern, err := regexp.Compile("^(?s:" + m.Value + ")$")
	return condition{m, pattern}, err
}

// holds says whether labels, which lack those that are empty, fulfill the condition.
func (c condition) holds(labels map[string]string) bool {
	value := labels[c.Label]
	switch c.Op {
	case "=":
		return value == c.Value
	case "!=":
		return value != c.Value
	case "=~":
		return c.pattern.MatchString(value)
	default:
		return !c.pattern.MatchString(value)
	}
}

package cloudwatch

import (
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// expression is a query's expression, cut at its references to other queries, so
// that it can be written again with other ids
// (https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html#metric-math-syntax).
type expression struct {
	// parts make the whole expression; an alone one has none.
	parts []part
	// alone says that the expression cannot be written with other ids, or would
	// not mean the same beside the queries of others.
	alone bool
	// allMetrics says that one of the parts stands for METRICS().
	allMetrics bool
	// insights says that it is a Metrics Insights query.
	insights bool
	// finds says that CloudWatch finds the series (SEARCH, SELECT), so that none
	// of them is missed when it has no datapoint.
	finds bool
	// calls says that it calls a function. Functions such as SUM and FILL have a
	// value for a period whose datapoints have not all arrived.
	calls bool
	// lists says that it has a list in it, so that it may have several series.
	lists bool
	// period is the longest one that a SEARCH names, in seconds; 0 if there is none.
	period int32
}

// part is a piece of an expression that stays as it is, or a reference.
type part struct {
	text string
	kind partKind
	// query is the index of the query that a reference means.
	query int
}

type partKind int

const (
	partText partKind = iota
	partReference
	// partAllMetrics is METRICS(), which is every metric of the call.
	partAllMetrics
)

// write is the expression with the given ids in place of its own, by the index of
// the query that they mean. metrics are the ids that METRICS() stands for.
func (e expression) write(ids, metrics []string) string {
	var b strings.Builder
	for _, p := range e.parts {
		switch p.kind {
		case partText:
			b.WriteString(p.text)
		case partReference:
			b.WriteString(ids[p.query])
		case partAllMetrics:
			b.WriteString("[" + strings.Join(metrics, ",") + "]")
		}
	}
	return b.String()
}

// size is at least the length of the expression in a shared call, for an object
// with that many metrics.
func (e expression) size(metrics int) int {
	n := 0
	for _, p := range e.parts {
		switch p.kind {
		case partText:
			n += len(p.text)
		case partReference:
			n += idBytes
		case partAllMetrics:
			n += len("[]") + metrics*(idBytes+len(","))
		}
	}
	return n
}

// parseExpression reads an expression over the queries whose indexes ids holds.
func parseExpression(text string, ids map[string]int) expression {
	if isInsights(text) {
		return expression{insights: true, finds: true, calls: true, parts: []part{{text: text}}}
	}
	tokens, ok := tokenize(text)
	if !ok {
		return expression{alone: true, calls: true, finds: mentionsSearch(text), period: longestPeriod(text)}
	}
	p := parser{tokens: tokens, ids: ids}
	for p.next < len(p.tokens) {
		p.step()
	}
	return p.expression
}

func isInsights(text string) bool {
	words := strings.Fields(text)
	return len(words) > 0 && strings.EqualFold(words[0], "SELECT")
}

func mentionsSearch(text string) bool {
	return strings.Contains(strings.ToUpper(text), "SEARCH")
}

// longestPeriod is the longest that a number in the text may be as a period: which of
// them is one cannot be told where the text cannot be cut into tokens.
func longestPeriod(text string) int32 {
	var longest int32
	for _, digits := range number.FindAllString(text, -1) {
		if n, err := strconv.ParseInt(digits, 10, 32); err == nil && n <= 86_400 && validPeriod(int32(n)) {
			longest = max(longest, int32(n))
		}
	}
	return longest
}

var number = regexp.MustCompile(`\b\d+\b`)

// parser cuts a sequence of tokens into the parts of an expression.
type parser struct {
	expression

	tokens []token
	next   int
	ids    map[string]int
	// open are the functions whose arguments the next token is among, innermost
	// last; "(" and "[" stand for a plain bracket.
	open []string
}

func (p *parser) step() {
	t := p.tokens[p.next]
	p.next++
	switch {
	case t.kind == tokenWord:
		p.word(t.text)
		return
	case t.text == "(" || t.text == "[":
		p.open = append(p.open, t.text)
		p.lists = p.lists || t.text == "["
	case (t.text == ")" || t.text == "]") && len(p.open) > 0:
		p.open = p.open[:len(p.open)-1]
	case t.kind == tokenNumber && p.within("SEARCH"):
		if n, err := strconv.ParseInt(t.text, 10, 32); err == nil && validPeriod(int32(n)) {
			p.period = max(p.period, int32(n))
		}
	case t.text[0] >= utf8.RuneSelf && t.kind == tokenOther:
		// A typographic quote, perhaps: what follows may be a string.
		p.alone = true
	}
	p.text(t.text)
}

// word handles a name, which is a function when a bracket follows.
func (p *parser) word(name string) {
	if p.peek(0) == "(" {
		p.function(name)
		return
	}
	if query, ok := p.ids[name]; ok {
		p.parts = append(p.parts, part{kind: partReference, query: query})
		return
	}
	// An id starts with a lower-case letter, and this one is not of this object.
	if c := name[0]; c >= 'a' && c <= 'z' {
		p.alone = true
	}
	p.text(name)
}

func (p *parser) function(name string) {
	p.calls = true
	upper := strings.ToUpper(name)
	p.finds = p.finds || upper == "SEARCH"
	if upper == "METRICS" {
		// With an argument it chooses by ids, which others would be; and a list
		// in a list is not known to mean what METRICS() there does.
		if p.peek(1) == ")" && !p.within("[") {
			p.skip(2)
			p.allMetrics = true
			p.parts = append(p.parts, part{kind: partAllMetrics})
			return
		}
		p.alone = true
	}
	p.text(name)
	for p.tokens[p.next].text != "(" {
		p.text(p.tokens[p.next].text)
		p.next++
	}
	p.text("(")
	p.next++
	p.open = append(p.open, upper)
}

// peek is the text of the n-th token ahead that is not blank.
func (p *parser) peek(n int) string {
	for _, t := range p.tokens[p.next:] {
		if t.kind == tokenBlank {
			continue
		}
		if n == 0 {
			return t.text
		}
		n--
	}
	return ""
}

// skip leaves out the next n tokens that are not blank, and the blanks before them.
func (p *parser) skip(n int) {
	for n > 0 {
		if p.tokens[p.next].kind != tokenBlank {
			n--
		}
		p.next++
	}
}

func (p *parser) within(opener string) bool {
	return len(p.open) > 0 && p.open[len(p.open)-1] == opener
}

func (p *parser) text(s string) {
	if n := len(p.parts); n > 0 && p.parts[n-1].kind == partText {
		p.parts[n-1].text += s
		return
	}
	p.parts = append(p.parts, part{text: s})
}

// token is a piece of an expression; all of them together are the expression.
type token struct {
	kind tokenKind
	text string
}

type tokenKind int

const (
	// tokenOther is an operator, a bracket or a comma: one byte.
	tokenOther tokenKind = iota
	tokenBlank
	tokenWord
	tokenNumber
	// tokenString has its quotes.
	tokenString
)

// tokenize is not ok when it cannot be sure where a string ends: the quote that
// ends it is missing, or there is a backslash, which may or may not escape one.
func tokenize(text string) (tokens []token, ok bool) {
	if strings.Contains(text, `\`) {
		return nil, false
	}
	for text != "" {
		kind, n := scan(text)
		if n == 0 {
			return nil, false
		}
		tokens = append(tokens, token{kind, text[:n]})
		text = text[n:]
	}
	return tokens, true
}

// scan is the kind and the length of the token that the text starts with; the
// length is 0 if it has no end.
func scan(text string) (tokenKind, int) {
	switch c := text[0]; {
	case c == '\'' || c == '"':
		if end := strings.IndexByte(text[1:], c); end >= 0 {
			return tokenString, 1 + end + 1
		}
		return tokenString, 0
	case isBlank(c):
		return tokenBlank, span(text, isBlank)
	case isLetter(c):
		return tokenWord, span(text, func(c byte) bool { return isLetter(c) || isDigit(c) })
	case isDigit(c):
		return tokenNumber, span(text, func(c byte) bool { return isLetter(c) || isDigit(c) || c == '.' })
	default:
		return tokenOther, 1
	}
}

func span(text string, in func(byte) bool) int {
	n := 0
	for n < len(text) && in(text[n]) {
		n++
	}
	return n
}

func isBlank(c byte) bool  { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }
func isLetter(c byte) bool { return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

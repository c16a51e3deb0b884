package fakeaws

import (
	"errors"
	"fmt"
	"iter"
	"regexp"
	"strconv"
	"strings"
)

// node is a part of a metric math expression, see
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html
type node interface {
	eval(e *evaluator) (value, error)
	// children are the parts of the part.
	children() []node
}

type (
	numberNode float64
	// wordNode is a text in quotes or a keyword such as REPEAT.
	wordNode string
	// referenceNode is the ID of another query.
	referenceNode string
	listNode      []node
	negationNode  struct{ operand node }
	binaryNode    struct {
		operator    string
		left, right node
	}
	callNode struct {
		name string
		args []node
	}
)

func (numberNode) children() []node     { return nil }
func (wordNode) children() []node       { return nil }
func (referenceNode) children() []node  { return nil }
func (n listNode) children() []node     { return n }
func (n negationNode) children() []node { return []node{n.operand} }
func (n binaryNode) children() []node   { return []node{n.left, n.right} }
func (n callNode) children() []node     { return n.args }

// references are the IDs of the queries that an expression uses.
func references(n node) iter.Seq[string] {
	return func(yield func(string) bool) { walkReferences(n, yield) }
}

func walkReferences(n node, yield func(string) bool) bool {
	if id, ok := n.(referenceNode); ok && !yield(string(id)) {
		return false
	}
	for _, child := range n.children() {
		if !walkReferences(child, yield) {
			return false
		}
	}
	return true
}

var (
	mathToken = regexp.MustCompile(`^\s*(?:(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)|([A-Za-z_]\w*)|("[^"]*"|'[^']*')|(\|\||&&|[<>=!]=|[-+*/^<>()\[\],]))`)
	// precedence of the binary operators; ^ binds to the right.
	precedence = map[string]int{
		"||": 1, "OR": 1, "&&": 2, "AND": 2,
		"<": 3, "<=": 3, ">": 3, ">=": 3, "==": 3, "!=": 3,
		"+": 4, "-": 4, "*": 5, "/": 5, "^": powerPrecedence,
	}
)

const powerPrecedence = 6

// token is a number, a name, a text in quotes or a symbol; the others are empty.
type token struct {
	number, name, text, symbol string
}

// operator is the token as an operator, if it can be one.
func (t token) operator() string {
	if name := strings.ToUpper(t.name); name == "AND" || name == "OR" {
		return name
	}
	return t.symbol
}

type parser struct {
	tokens []token
}

func parseExpression(text string) (node, error) {
	if text == "" {
		return nil, errors.New("the expression is empty")
	}
	p := &parser{}
	for rest := text; strings.TrimSpace(rest) != ""; {
		m := mathToken.FindStringSubmatch(rest)
		if m == nil {
			return nil, fmt.Errorf("syntax error at %q", strings.TrimSpace(rest))
		}
		p.tokens = append(p.tokens, token{m[1], m[2], m[3], m[4]})
		rest = rest[len(m[0]):]
	}
	n, err := p.binary(1)
	if err != nil {
		return nil, err
	}
	if left := p.peek(); left != (token{}) {
		return nil, fmt.Errorf("syntax error at %q", left.number+left.name+left.text+left.symbol)
	}
	return n, nil
}

// peek returns the next token, which has no content at the end.
func (p *parser) peek() token {
	if len(p.tokens) == 0 {
		return token{}
	}
	return p.tokens[0]
}

func (p *parser) next() token {
	t := p.peek()
	if len(p.tokens) > 0 {
		p.tokens = p.tokens[1:]
	}
	return t
}

func (p *parser) accept(symbol string) bool {
	if p.peek().symbol != symbol {
		return false
	}
	p.next()
	return true
}

// binary parses operators that bind at least as tightly as lowest.
func (p *parser) binary(lowest int) (node, error) {
	left, err := p.unary()
	if err != nil {
		return nil, err
	}
	for {
		operator := p.peek().operator()
		binds := precedence[operator]
		if binds == 0 || binds < lowest {
			return left, nil
		}
		p.next()
		if binds != powerPrecedence {
			binds++
		}
		right, err := p.binary(binds)
		if err != nil {
			return nil, err
		}
		left = binaryNode{operator, left, right}
	}
}

func (p *parser) unary() (node, error) {
	if p.accept("-") {
		operand, err := p.binary(powerPrecedence)
		return negationNode{operand}, err
	}
	switch t := p.next(); {
	case t.number != "":
		v, err := strconv.ParseFloat(t.number, 64)
		return numberNode(v), err
	case t.text != "":
		return wordNode(t.text[1 : len(t.text)-1]), nil
	case t.symbol == "(":
		inner, err := p.binary(1)
		if err == nil && !p.accept(")") {
			err = errors.New(`")" is missing`)
		}
		return inner, err
	case t.symbol == "[":
		list, err := p.list("]")
		return listNode(list), err
	case t.name != "":
		return p.named(t.name)
	case t == token{}:
		return nil, errors.New("the expression ends too early")
	default:
		return nil, fmt.Errorf("syntax error at %q", t.symbol)
	}
}

// named parses what starts with a name: a call, the ID of a query or a keyword.
func (p *parser) named(name string) (node, error) {
	if !p.accept("(") {
		if queryID.MatchString(name) {
			return referenceNode(name), nil
		}
		return wordNode(name), nil
	}
	args, err := p.list(")")
	if err != nil {
		return nil, err
	}
	name = strings.ToUpper(name)
	f, ok := functions[name]
	if !ok {
		return nil, fmt.Errorf("unsupported function %s", name)
	}
	if len(args) < f.least || len(args) > f.most {
		return nil, fmt.Errorf("%s takes %d to %d arguments and has %d", name, f.least, f.most, len(args))
	}
	return callNode{name, args}, nil
}

// list parses expressions with commas between them, to the closing symbol.
func (p *parser) list(closing string) ([]node, error) {
	var items []node
	if p.accept(closing) {
		return items, nil
	}
	for {
		item, err := p.binary(1)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
		if p.accept(closing) {
			return items, nil
		}
		if !p.accept(",") {
			return nil, fmt.Errorf("%q is missing", closing)
		}
	}
}

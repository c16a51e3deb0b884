package prometheus

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// errShape is of JSON that is not an answer of the API.
var errShape = failed(kindFailed, "the answer does not have the form of the Prometheus API")

// maxWarnings are kept of an answer.
const maxWarnings = 10

// decoder reads an answer piece by piece
// (https://prometheus.io/docs/prometheus/latest/querying/api/#format-overview).
type decoder struct {
	*jsontext.Decoder

	from    *meter
	names   interner
	unquote []byte
}

func newDecoder(from *meter) *decoder {
	return &decoder{Decoder: jsontext.NewDecoder(from), from: from, names: make(interner)}
}

// understood takes note that something was read whole, unless there is an error.
func (d *decoder) understood(err error) error {
	if err == nil {
		d.from.unread = 0
	}
	return err
}

// token reads the next token, which must be of that kind.
func (d *decoder) token(k jsontext.Kind) error {
	if next := d.PeekKind(); next != k && next != jsontext.KindInvalid {
		return errShape
	}
	_, err := d.ReadToken()
	return d.understood(err)
}

// raw reads the next value, which must be of that kind and not an object or array. It
// is valid until the next read.
func (d *decoder) raw(k jsontext.Kind) (jsontext.Value, error) {
	if next := d.PeekKind(); next != k && next != jsontext.KindInvalid {
		return nil, errShape
	}
	v, err := d.ReadValue()
	return v, d.understood(err)
}

// text reads a string. It is valid until the next read.
func (d *decoder) text() ([]byte, error) {
	v, err := d.raw(jsontext.KindString)
	if err != nil {
		return nil, err
	}
	if bytes.IndexByte(v, '\\') >= 0 {
		d.unquote, err = jsontext.AppendUnquote(d.unquote[:0], v)
		return d.unquote, err
	}
	return v[1 : len(v)-1], nil
}

// skip reads a value without keeping it.
func (d *decoder) skip() error {
	for depth := d.StackDepth(); ; {
		_, err := d.ReadToken()
		if err := d.understood(err); err != nil {
			return err
		}
		if d.StackDepth() <= depth {
			return nil
		}
	}
}

// object reads an object. Visit reads the value of each name, which is valid until then.
func (d *decoder) object(visit func(name []byte) error) error {
	if err := d.token(jsontext.KindBeginObject); err != nil {
		return err
	}
	for d.PeekKind() == jsontext.KindString {
		name, err := d.text()
		if err != nil {
			return err
		}
		if err := visit(name); err != nil {
			return err
		}
	}
	return d.token(jsontext.KindEndObject)
}

// array reads an array, or null for an empty one. Visit reads each element.
func (d *decoder) array(visit func() error) error {
	if d.PeekKind() == jsontext.KindNull {
		return d.skip()
	}
	if err := d.token(jsontext.KindBeginArray); err != nil {
		return err
	}
	for k := d.PeekKind(); k != jsontext.KindEndArray && k != jsontext.KindInvalid; k = d.PeekKind() {
		if err := visit(); err != nil {
			return err
		}
	}
	return d.token(jsontext.KindEndArray)
}

// envelope is what every answer has around its data.
type envelope struct {
	status, errorType, message string
	// warnings are those that the server gives with an answer, and its infos.
	warnings []string
	// incomplete is a warning that part of the data is missing; empty if there is none.
	incomplete string
	// partial is what VictoriaMetrics says of an answer without the data of some nodes
	// (https://docs.victoriametrics.com/victoriametrics/cluster-victoriametrics/#cluster-availability).
	partial bool
}

// envelope reads an answer to its end, and its data by that function.
func (d *decoder) envelope(e *envelope, data func() error) error {
	err := d.object(func(name []byte) error {
		switch string(name) {
		case "status":
			return d.textTo(&e.status)
		case "errorType":
			return d.textTo(&e.errorType)
		case "error", "message":
			return d.textTo(&e.message)
		case "warnings":
			return d.array(func() error { return d.warning(e, isIncomplete) })
		case "infos":
			return d.array(func() error { return d.warning(e, isHarmless) })
		case "isPartial":
			e.partial = d.PeekKind() == jsontext.KindTrue
			return d.skip()
		case "data":
			return data()
		default:
			return d.skip()
		}
	})
	if err != nil {
		return err
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return cmp.Or(err, error(errShape))
	}
	return nil
}

func (d *decoder) textTo(to *string) error {
	text, err := d.text()
	*to = string(text)
	return err
}

// warning reads one warning. Of those of missing data it keeps always the same, as
// Prometheus gives them in any order.
func (d *decoder) warning(e *envelope, incomplete func(string) bool) error {
	text, err := d.text()
	if err != nil {
		return err
	}
	if len(e.warnings) < maxWarnings {
		e.warnings = append(e.warnings, string(text))
	}
	if text := string(text); incomplete(text) {
		e.incomplete = max(e.incomplete, text)
	}
	return nil
}

// isIncomplete says that a warning may be of data that could not be read. Those of
// PromQL itself, of what is odd about the query, begin with these words; in older
// versions the infos are among the warnings
// (https://pkg.go.dev/github.com/prometheus/prometheus/util/annotations#pkg-variables).
// Any other is of the storage: of a remote read or of a store of Thanos. So may be those
// that Prometheus counts and omits, when a query has more than ten.
func isIncomplete(warning string) bool {
	return !strings.HasPrefix(warning, "PromQL info") && !strings.HasPrefix(warning, "PromQL warning")
}

func isHarmless(string) bool { return false }

// interner gives the same string for the same bytes, as long as it has room. What
// repeats in an answer is there early and often.
type interner map[string]string

const (
	maxInterned      = 4096
	maxInternedBytes = 256
)

func (i interner) get(b []byte) string {
	if s, ok := i[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(i) < maxInterned && len(s) <= maxInternedBytes {
		i[s] = s
	}
	return s
}

package prometheus

import (
	"math"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

const (
	// maxAnswer is how many bytes are read of the answer to a query.
	maxAnswer = 64 << 20
	// maxSamples are read of an answer.
	maxSamples = 200_000
)

// Types of results
// (https://prometheus.io/docs/prometheus/latest/querying/api/#expression-query-result-formats).
const (
	typeVector = "vector"
	typeScalar = "scalar"
	typeMatrix = "matrix"
	typeString = "string"
)

var (
	errMatrix    = failed(kindRejected, "the query gives a range vector, and must give an instant vector or a scalar: put a function such as rate() around the range")
	errString    = failed(kindRejected, "the query gives a string, and must give an instant vector or a scalar")
	errHistogram = failed(kindRejected, "the query gives native histograms, and must give numbers: put a function such as histogram_quantile() or histogram_avg() around it")
	errMany      = failed(kindRejected, "the query gives more than %d samples: aggregate them, for instance by sum() or topk()", maxSamples)
)

// answer is the result of a query while it is read. The order of its parts does not
// matter.
type answer struct {
	*decoder

	resultType string
	// found says that there was a result.
	found   bool
	samples []sources.Sample
	// point is the result of type scalar or string.
	point *point
	// pairs are the names and values of one sample's labels.
	pairs []string
}

// point is a time and a value, as the API has them.
type point struct {
	time  time.Time
	value string
}

// decodeQuery reads the samples of an answer.
func decodeQuery(from *meter, e *envelope) ([]sources.Sample, error) {
	a := &answer{decoder: newDecoder(from)}
	if err := a.envelope(e, a.data); err != nil {
		return nil, err
	}
	if e.status != "success" {
		return nil, nil
	}
	return a.result()
}

func (a *answer) data() error {
	if a.PeekKind() == jsontext.KindNull {
		return a.skip()
	}
	return a.object(func(name []byte) error {
		switch string(name) {
		case "resultType":
			return a.textTo(&a.resultType)
		case "result":
			a.found = true
			if err := a.refusal(); err != nil {
				return err
			}
			return a.array(a.element)
		default:
			return a.skip()
		}
	})
}

// refusal is the error of a type of result that is not for metrics.
func (a *answer) refusal() error {
	switch a.resultType {
	case typeMatrix:
		return errMatrix
	case typeString:
		return errString
	}
	return nil
}

// result is what was read, if it is a whole.
func (a *answer) result() ([]sources.Sample, error) {
	if err := a.refusal(); err != nil {
		return nil, err
	}
	switch {
	case a.resultType == typeVector && a.found && a.point == nil:
		return a.samples, nil
	case a.resultType == typeScalar && a.point != nil && len(a.samples) == 0:
		value, err := parseValue(a.point.value)
		return []sources.Sample{{Value: value, Time: a.point.time}}, err
	default:
		return nil, errShape
	}
}

// element reads one of the result's elements: a series; or both together that a scalar
// is made of.
func (a *answer) element() error {
	if a.PeekKind() == jsontext.KindBeginObject {
		return a.series()
	}
	if a.point != nil {
		return errShape
	}
	var p point
	a.point = &p
	return a.readPoint(&p)
}

// series reads an element of a vector.
func (a *answer) series() error {
	var s sources.Sample
	valued := false
	err := a.object(func(name []byte) (err error) {
		switch string(name) {
		case "metric":
			s.Labels, err = a.labels()
			return err
		case "value":
			valued = true
			return a.sample(&s)
		case "values", "histograms":
			return errMatrix
		case "histogram":
			return errHistogram
		default:
			return a.skip()
		}
	})
	switch {
	case err != nil:
		return err
	case !valued:
		return errShape
	case len(a.samples) == maxSamples:
		return errMany
	}
	a.samples = append(a.samples, s)
	return nil
}

// labels reads the labels of a series.
func (a *answer) labels() (sources.Labels, error) {
	a.pairs = a.pairs[:0]
	err := a.object(func(name []byte) error {
		label := a.names.get(name)
		value, err := a.text()
		a.pairs = append(a.pairs, label, a.names.get(value))
		return err
	})
	if err != nil {
		return sources.Labels{}, err
	}
	return sources.NewLabels(a.pairs...), nil
}

// sample reads the time and the value of a series.
func (a *answer) sample(s *sources.Sample) error {
	var p point
	if err := a.token(jsontext.KindBeginArray); err != nil {
		return err
	}
	if err := a.readPoint(&p); err != nil {
		return err
	}
	if err := a.token(jsontext.KindEndArray); err != nil {
		return err
	}
	value, err := parseValue(p.value)
	s.Time, s.Value = p.time, value
	return err
}

// readPoint reads a time and a value that follow each other.
func (a *answer) readPoint(p *point) error {
	seconds, err := a.raw(jsontext.KindNumber)
	if err != nil {
		return err
	}
	if p.time, err = parseTime(string(seconds)); err != nil {
		return err
	}
	value, err := a.text()
	p.value = string(value)
	return err
}

// maxSeconds is the end of the year 9999.
const maxSeconds = 253402300799

// parseTime reads a time in seconds, of which the milliseconds count.
func parseTime(text string) (time.Time, error) {
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || math.Abs(seconds) > maxSeconds {
		return time.Time{}, failed(kindFailed, "the answer has a sample of the time %s", sources.Shorten(text, maxQuote))
	}
	return time.UnixMilli(int64(math.Round(seconds * 1000))), nil
}

// parseValue reads a number, which may be NaN, +Inf or -Inf.
func parseValue(text string) (float64, error) {
	value, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, failed(kindFailed, "the answer has a value that is no number")
	}
	return value, nil
}

package promproxy

import (
	"bufio"
	"encoding/json"
	"iter"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// Sample is one element of an answer to an instant query.
type Sample struct {
	Labels map[string]string
	// Value is the text of the number, which may be none that Prometheus would write:
	// "17.5", "NaN", "+Inf", "1e300", "many".
	Value string
	// Time is the sample's, by default that of the answer.
	Time time.Time
	// Histogram makes it a sample of a native histogram, whose Value is not written.
	Histogram bool
}

// Vector is the answer of an instant query with these samples. Without any it is empty.
func Vector(samples ...Sample) Answer {
	return VectorOf(slices.Values(samples))
}

// Generated is a vector of n samples, which f makes while they are sent.
func Generated(n int, f func(i int) Sample) Answer {
	return VectorOf(func(yield func(Sample) bool) {
		for i := range n {
			if !yield(f(i)) {
				return
			}
		}
	})
}

// VectorOf is a vector of the samples of an iterator, which is run once for each call.
func VectorOf(samples iter.Seq[Sample]) Answer {
	return success(func(w *bufio.Writer) error {
		_, _ = w.WriteString(`{"resultType":"vector","result":[`)
		first := true
		for s := range samples {
			if !first {
				_ = w.WriteByte(',')
			}
			first = false
			if _, err := w.Write(s.appendJSON(nil)); err != nil {
				return err
			}
		}
		_, err := w.WriteString("]}")
		return err
	})
}

// Matrix is what a query gives that ends in a range, such as up[5m]: the samples, each
// as a series of its own.
func Matrix(samples ...Sample) Answer {
	return success(func(w *bufio.Writer) error {
		_, _ = w.WriteString(`{"resultType":"matrix","result":[`)
		for i, s := range samples {
			if i > 0 {
				_ = w.WriteByte(',')
			}
			text := appendLabels([]byte(`{"metric":`), s.Labels)
			text = append(text, `,"values":[`...)
			text = appendPoint(text, s.when(), s.Value)
			_, _ = w.Write(append(text, `]}`...))
		}
		_, err := w.WriteString("]}")
		return err
	})
}

// Scalar is what a query such as scalar(up) gives.
func Scalar(value string) Answer { return single("scalar", value) }

// String is what a query gives that is a string.
func String(value string) Answer { return single("string", value) }

func single(resultType, value string) Answer {
	return success(func(w *bufio.Writer) error {
		_, _ = w.WriteString(`{"resultType":"` + resultType + `","result":`)
		_, err := w.Write(append(appendPoint(nil, time.Now(), value), '}'))
		return err
	})
}

// success frames an answer's data.
func success(data func(w *bufio.Writer) error) Answer {
	return Answer{
		Header: http.Header{"Content-Type": {"application/json"}},
		Body: func(w *bufio.Writer) error {
			_, _ = w.WriteString(`{"status":"success","data":`)
			if err := data(w); err != nil {
				return err
			}
			return w.WriteByte('}')
		},
	}
}

func (s Sample) when() time.Time {
	if s.Time.IsZero() {
		return time.Now()
	}
	return s.Time
}

func (s Sample) appendJSON(b []byte) []byte {
	b = appendLabels(append(b, `{"metric":`...), s.Labels)
	if s.Histogram {
		b = append(b, `,"histogram":[`...)
		b = appendSeconds(b, s.when())
		return append(b, `,{"count":"3","sum":"4.5","buckets":[[0,"0.5","1","1"],[0,"1","2","2"]]}]}`...)
	}
	b = appendPoint(append(b, `,"value":`...), s.when(), s.Value)
	return append(b, '}')
}

func appendLabels(b []byte, labels map[string]string) []byte {
	if labels == nil {
		return append(b, "{}"...)
	}
	text, err := json.Marshal(labels)
	if err != nil {
		panic(err) // Strings are always written.
	}
	return append(b, text...)
}

// appendPoint appends a time and a value.
func appendPoint(b []byte, t time.Time, value string) []byte {
	b = appendSeconds(append(b, '['), t)
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // Strings are always written.
	}
	return append(append(append(b, ','), text...), ']')
}

// appendSeconds appends a time as Prometheus writes it, in seconds and milliseconds.
func appendSeconds(b []byte, t time.Time) []byte {
	return strconv.AppendFloat(b, float64(t.UnixMilli())/1000, 'f', -1, 64)
}

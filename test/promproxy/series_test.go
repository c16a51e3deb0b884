package promproxy

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestSyntheticSeriesAreAsLongAsRealOnes(t *testing.T) {
	const count = 2_000
	names := []string{"container_cpu_usage_seconds_total", "container_memory_working_set_bytes"}
	for _, labels := range []int{0, 2, 13, 15} {
		t.Run(strconv.Itoa(labels), func(t *testing.T) {
			_, body := answered(t, SyntheticSeries{Count: count, Labels: labels, Names: names}.Answer())
			var wire struct {
				Data []map[string]string `json:"data"`
			}
			if err := json.Unmarshal([]byte(body), &wire); err != nil {
				t.Fatal(err)
			}
			if len(wire.Data) != count {
				t.Fatalf("%d series, want %d", len(wire.Data), count)
			}
			seen := map[string]bool{}
			for _, series := range wire.Data {
				if len(series) != labels+1 || !slices.Contains(names, series["__name__"]) {
					t.Fatalf("%v has %d labels, want %d", series, len(series), labels+1)
				}
				seen[series["__name__"]+" "+series["namespace"]+" "+series["pod"]] = true
			}
			if labels >= 2 && len(seen) != count {
				t.Errorf("%d different series, want %d", len(seen), count)
			}
			if each := len(body) / count; labels == 13 && (each < 570 || each > 800) {
				t.Errorf("%d bytes a series, want about 600", each)
			}
		})
	}
}

func TestSyntheticSeriesAreTheSameInEachCall(t *testing.T) {
	series := SyntheticSeries{Count: 100, Labels: 13, Names: []string{"x"}}
	_, first := answered(t, series.Answer())
	_, second := answered(t, series.Answer())
	if first != second {
		t.Error("two answers differ")
	}
	if !strings.HasPrefix(first, `{"status":"success","data":[{"__name__":"x","container":"checkout-service-0","endpoint":"`) {
		t.Errorf("the labels are not sorted: %s", first[:100])
	}
}

// 300,000 series are 180 MB, of which the server holds a buffer.
func BenchmarkSyntheticSeries(b *testing.B) {
	const count = 300_000
	answer := SyntheticSeries{Count: count, Labels: 13, Names: []string{"x", "y"}}.Answer()
	for b.Loop() {
		w := &recordingWriter{ResponseWriter: nowhere{io.Discard, http.Header{}}}
		send(w, answer)
		b.SetBytes(w.bytes)
	}
}

type nowhere struct {
	io.Writer

	header http.Header
}

func (n nowhere) Header() http.Header { return n.header }
func (n nowhere) WriteHeader(int)     {}

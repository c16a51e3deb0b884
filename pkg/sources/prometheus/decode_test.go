package prometheus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// vectorOf is the answer of a server that gives that vector.
func vectorOf(elements string) string {
	return resultOf("vector", "["+elements+"]")
}

func resultOf(kind, result string) string {
	return fmt.Sprintf(`{"status":"success","data":{"resultType":%q,"result":%s}}`, kind, result)
}

func decode(from io.Reader) ([]sources.Sample, error) {
	c := &call{server: new(server), answer: &meter{from: from, limit: maxAnswer}}
	var e envelope
	samples, err := decodeQuery(c.answer, &e)
	if err == nil {
		err = c.check(e)
	}
	if err != nil {
		return nil, c.diagnose(context.Background(), err)
	}
	return samples, nil
}

func TestDecodeQuery(t *testing.T) {
	at := time.UnixMilli(1435781451781)
	one := func(value float64, labels ...string) []sources.Sample {
		return []sources.Sample{{Labels: sources.NewLabels(labels...), Value: value, Time: at}}
	}
	for _, test := range []struct {
		name, answer string
		want         []sources.Sample
	}{
		{"an empty vector", vectorOf(``), nil},
		{"an empty vector as null", resultOf("vector", "null"), nil},
		{"a sample", vectorOf(`{"metric":{"__name__":"up","job":"a"},"value":[1435781451.781,"0.9"]}`), one(0.9, "__name__", "up", "job", "a")},
		{"a sample without labels", vectorOf(`{"metric":{},"value":[1435781451.781,"-7.5"]}`), one(-7.5)},
		{"the parts the other way around", vectorOf(`{"value":[1435781451.781,"1"],"metric":{"a":"b"}}`), one(1, "a", "b")},
		{"the type after the result", `{"data":{"result":[{"metric":{},"value":[1435781451.781,"2"]}],"resultType":"vector"},"status":"success"}`, one(2)},
		{"two samples", vectorOf(`{"metric":{"a":"1"},"value":[1,"1"]},{"metric":{"a":"2"},"value":[2.0005,"2"]}`), []sources.Sample{
			{Labels: sources.NewLabels("a", "1"), Value: 1, Time: time.Unix(1, 0)},
			{Labels: sources.NewLabels("a", "2"), Value: 2, Time: time.UnixMilli(2001)},
		}},
		{"a scalar", resultOf("scalar", `[1435781451.781,"3"]`), one(3)},
		{"a scalar before its type", `{"status":"success","data":{"result":[1435781451.781,"3"],"resultType":"scalar"}}`, one(3)},
		{"infinite", vectorOf(`{"metric":{},"value":[1435781451.781,"+Inf"]}`), one(math.Inf(1))},
		{"negative infinite", vectorOf(`{"metric":{},"value":[1435781451.781,"-Inf"]}`), one(math.Inf(-1))},
		{"the smallest", vectorOf(`{"metric":{},"value":[1435781451.781,"5e-324"]}`), one(5e-324)},
		{"past 2^53", vectorOf(`{"metric":{},"value":[1435781451.781,"9007199254740993"]}`), one(9007199254740992)},
		{"escapes", vectorOf(`{"metric":{"a\"b":"c\\d\n\u00fc\ud83d\ude00ü","e":"}"},"value":[1435781451.781,"1"]}`), one(1, `a"b`, "c\\d\nü😀ü", "e", "}")},
		{"other fields", `{"status":"success","isPartial":false,"data":{"resultType":"vector","stats":{"a":[1,{"b":null}]},"result":[{"metric":{},"value":[1435781451.781,"1"],"x":[[]]}]},"warnings":null,"infos":["a","b"],"trace":{}}`, one(1)},
		{"spaces", strings.ReplaceAll(vectorOf(`{"metric":{},"value":[1435781451.781,"1"]}`), ":", " :\n\t ") + "\n", one(1)},
	} {
		t.Run(test.name, func(t *testing.T) {
			for name, from := range map[string]io.Reader{
				"whole":        strings.NewReader(test.answer),
				"byte by byte": iotest.OneByteReader(strings.NewReader(test.answer)),
			} {
				got, err := decode(from)
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if !reflect.DeepEqual(got, test.want) {
					t.Errorf("%s: got %+v, want %+v", name, got, test.want)
				}
			}
		})
	}
}

func TestDecodeQueryNaN(t *testing.T) {
	got, err := decode(strings.NewReader(vectorOf(`{"metric":{},"value":[1,"NaN"]}`)))
	if err != nil || len(got) != 1 || !math.IsNaN(got[0].Value) {
		t.Errorf("got %+v and %v, want a NaN as it is", got, err)
	}
}

func TestDecodeQueryErrors(t *testing.T) {
	const sample = `{"metric":{},"value":[1,"1"]}`
	good := vectorOf(sample)
	for _, test := range []struct {
		name, answer, want string
		rejected           bool
	}{
		{"nothing", "", "the answer is empty", false},
		{"HTML", "<!DOCTYPE html>\n<html>  <title>Log in</title>", "not an answer of the Prometheus API: <!DOCTYPE html> <html> <title>Log in</title>", false},
		{"binary", "\x00\x01\xff", "not an answer of the Prometheus API: nothing that can be shown", false},
		{"a number", "7", "the answer does not have the form", false},
		{"an array", "[]", "the answer does not have the form", false},
		{"other JSON", `{"kind":"Status","status":"Failure"}`, "not an answer of the Prometheus API: {", false},
		{"an empty object", `{}`, "not an answer of the Prometheus API: {}", false},
		{"no data", `{"status":"success"}`, "the answer does not have the form", false},
		{"null data", `{"status":"success","data":null}`, "the answer does not have the form", false},
		{"no result", `{"status":"success","data":{"resultType":"vector"}}`, "the answer does not have the form", false},
		{"no type", `{"status":"success","data":{"result":[` + sample + `]}}`, "the answer does not have the form", false},
		{"another type", resultOf("tensor", "[]"), "the answer does not have the form", false},
		{"a matrix", resultOf("matrix", `[{"metric":{},"values":[[1,"1"]]}]`), "a range vector", true},
		{"an empty matrix", resultOf("matrix", `[]`), "a range vector", true},
		{"a matrix before its type", `{"status":"success","data":{"result":[{"metric":{},"values":[[1,"1"]]}],"resultType":"matrix"}}`, "a range vector", true},
		{"a matrix of histograms", `{"status":"success","data":{"result":[{"metric":{},"histograms":[[1,{}]]}],"resultType":"matrix"}}`, "a range vector", true},
		{"a string", resultOf("string", `[1,"x"]`), "gives a string", true},
		{"a string before its type", `{"status":"success","data":{"result":[1,"x"],"resultType":"string"}}`, "gives a string", true},
		{"a histogram", vectorOf(sample + `,{"metric":{"a":"b"},"histogram":[1,{"count":"1","sum":"2"}]}`), "native histograms", true},
		{"an error with 200", `{"status":"error","errorType":"bad_data","error":"parse error"}`, "the answer is an error: bad_data: parse error", true},
		{"an error after data", `{"data":{"resultType":"vector","result":[` + sample + `]},"status":"error","errorType":"timeout","error":"too late"}`, "the answer is an error: timeout: too late", false},
		{"a vector called scalar", resultOf("scalar", `[`+sample+`]`), "the answer does not have the form", false},
		{"a scalar called vector", resultOf("vector", `[1,"1"]`), "the answer does not have the form", false},
		{"two scalars", resultOf("scalar", `[1,"1",2,"2"]`), "the answer does not have the form", false},
		{"half a scalar", resultOf("scalar", `[1]`), "the answer does not have the form", false},
		{"a scalar that is no number", resultOf("scalar", `[1,"one"]`), "a value that is no number", false},
		{"a sample without a value", vectorOf(`{"metric":{}}`), "the answer does not have the form", false},
		{"a value that is no number", vectorOf(`{"metric":{},"value":[1,"ten"]}`), "a value that is no number", false},
		{"a value out of range", vectorOf(`{"metric":{},"value":[1,"1e999"]}`), "a value that is no number", false},
		{"a value without quotes", vectorOf(`{"metric":{},"value":[1,1]}`), "the answer does not have the form", false},
		{"a time in quotes", vectorOf(`{"metric":{},"value":["1","1"]}`), "the answer does not have the form", false},
		{"a time far away", vectorOf(`{"metric":{},"value":[1e300,"1"]}`), "a sample of the time 1e300", false},
		{"three parts of a value", vectorOf(`{"metric":{},"value":[1,"1",2]}`), "the answer does not have the form", false},
		{"a label that is a number", vectorOf(`{"metric":{"a":1},"value":[1,"1"]}`), "the answer does not have the form", false},
		{"a label twice", vectorOf(`{"metric":{"a":"1","a":"2"},"value":[1,"1"]}`), "the answer is malformed: duplicate", false},
		{"two results", `{"status":"success","data":{"resultType":"vector","result":[],"result":[]}}`, "the answer is malformed: duplicate", false},
		{"invalid UTF-8", vectorOf("{\"metric\":{\"a\":\"\xff\"},\"value\":[1,\"1\"]}"), "the answer is malformed: invalid UTF-8", false},
		{"something behind it", good + "x", "the answer is malformed: invalid character 'x'", false},
		{"two answers", good + good, "the answer does not have the form", false},
		{"garbage in the middle", strings.Replace(good, `"value"`, `value`, 1), "the answer is malformed: invalid character 'v'", false},
		{"deep nesting", `{"x":` + strings.Repeat("[", 20_000), "the answer is malformed: exceeded max depth", false},
		{"a long value", vectorOf(`{"metric":{"a":"` + strings.Repeat("x", 2*maxUnread) + `"},"value":[1,"1"]}`), "a name or a value of more than 1048576 bytes", false},
		{"long space", "{" + strings.Repeat(" ", 2*maxUnread), "a name or a value of more than 1048576 bytes", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := decode(strings.NewReader(test.answer))
			if err == nil {
				t.Fatalf("got %+v", got)
			}
			if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "jsontext") || len(err.Error()) > 2*maxWords {
				t.Errorf("the error is %q, want one with %q", err, test.want)
			}
			if errors.Is(err, sources.ErrRejected) != test.rejected {
				t.Errorf("rejected: %v, want %v", !test.rejected, test.rejected)
			}
		})
	}

	for end := range len(good) {
		want := "connection cut before the end of the answer"
		if end == 0 {
			want = "the answer is empty"
		}
		if _, err := decode(strings.NewReader(good[:end])); err == nil || err.Error() != want {
			t.Errorf("cut after %q: the error is %v, want %q", good[:end], err, want)
		}
	}
}

// vectorJSON is the answer with a vector of n samples.
func vectorJSON(n int) []byte {
	b := []byte(`{"status":"success","data":{"resultType":"vector","result":[`)
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `{"metric":{"namespace":"team-%d","pod":"application-5d4f8c7b9d-x%05d"},"value":[1435781451.781,"%d.5"]}`, i%20, i, i)
	}
	return append(b, `]}}`...)
}

func TestDecodeQueryLimits(t *testing.T) {
	got, err := decode(bytes.NewReader(vectorJSON(100_000)))
	if err != nil || len(got) != 100_000 || got[99_999].Value != 99_999.5 {
		t.Errorf("100,000 samples: got %d and %v", len(got), err)
	}
	full := &answer{
		decoder: newDecoder(&meter{from: strings.NewReader(vectorOf(`{"metric":{},"value":[1,"1"]}`))}),
		samples: make([]sources.Sample, maxSamples),
	}
	if err := full.envelope(new(envelope), full.data); !errors.Is(err, sources.ErrRejected) || !strings.Contains(err.Error(), "more than 200000 samples") {
		t.Errorf("200,001 samples: the error is %v", err)
	}
	endless := io.MultiReader(strings.NewReader(`{"status":"success","data":{"resultType":"vector","x":[0`), &repeating{text: `,"` + strings.Repeat("x", 4000) + `"`})
	if _, err := decodeQuery(&meter{from: endless, limit: 1 << 20}, new(envelope)); !errors.Is(err, sources.ErrRejected) || !strings.Contains(err.Error(), "longer than 1048576 bytes") {
		t.Errorf("an endless answer: the error is %v", err)
	}
}

// repeating is an endless reader.
type repeating struct {
	text string
	at   int
}

func (r *repeating) Read(p []byte) (int, error) {
	n := copy(p, r.text[r.at:])
	r.at = (r.at + n) % len(r.text)
	return n, nil
}

func TestDecodeQueryKeepsOneOfEachString(t *testing.T) {
	answer := vectorJSON(10_000)
	var samples []sources.Sample
	held := heldBy(func() {
		var err error
		if samples, err = decode(bytes.NewReader(answer)); err != nil {
			t.Fatal(err)
		}
	})
	if perSample := held / len(samples); perSample > 600 {
		t.Errorf("a sample of two labels holds %d bytes", perSample)
	}
}

// heldBy is how many bytes of the heap are more in use after f.
func heldBy(f func()) int {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f()
	runtime.GC()
	runtime.ReadMemStats(&after)
	return int(after.HeapAlloc) - int(before.HeapAlloc)
}

// list gives the series of an answer as name{label,label}.
func list(from io.Reader) ([]string, error) {
	c := &call{server: new(server), answer: &meter{from: from}}
	var (
		e     envelope
		found []string
	)
	err := decodeSeries(c.answer, &e, func(name string, labels []string) {
		found = append(found, strings.Clone(name)+"{"+strings.Join(labels, ",")+"}")
	})
	if err == nil {
		err = c.check(e)
	}
	if err != nil {
		return found, c.diagnose(context.Background(), err)
	}
	return found, nil
}

func TestDecodeSeries(t *testing.T) {
	many := make([]string, maxLabels+1)
	for i := range many {
		many[i] = fmt.Sprintf(`"l%04d":"x"`, i)
	}
	for _, test := range []struct {
		name, data string
		want       []string
	}{
		{"none", `[]`, nil},
		{"null", `null`, nil},
		{"one", `[{"__name__":"up","job":"a"}]`, []string{"up{job}"}},
		{"without labels", `[{"__name__":"up"}]`, []string{"up{}"}},
		{"without a name", `[{"job":"a"},{},{"__name__":"up"}]`, []string{"up{}"}},
		{"with an empty name", `[{"__name__":""}]`, nil},
		{"unsorted", `[{"z":"1","__name__":"up","B":"2","a":"3"}]`, []string{"up{B,a,z}"}},
		{"several", `[{"__name__":"up","a":"x"},{"__name__":"up","a":"y"},{"__name__":"down","b":""}]`, []string{"up{a}", "up{a}", "down{b}"}},
		{"escapes", `[{"__name__":"a\"\u00fc","b\\c":"\"}"}]`, []string{`a"ü{b\c}`}},
		{"a name that is too long", `[{"__name__":"` + strings.Repeat("x", maxName+1) + `"},{"__name__":"up"}]`, []string{"up{}"}},
		{"a label that is too long", `[{"__name__":"down","` + strings.Repeat("x", maxName+1) + `":""},{"__name__":"up"}]`, []string{"up{}"}},
		{"too many labels", `[{"__name__":"down",` + strings.Join(many, ",") + `},{"__name__":"up"}]`, []string{"up{}"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer := `{"status":"success","data":` + test.data + `}`
			for name, from := range map[string]io.Reader{
				"whole":        strings.NewReader(answer),
				"byte by byte": iotest.OneByteReader(strings.NewReader(answer)),
			} {
				got, err := list(from)
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if !slices.Equal(got, test.want) {
					t.Errorf("%s: got %q, want %q", name, got, test.want)
				}
			}
		})
	}
}

func TestDecodeSeriesErrors(t *testing.T) {
	const good = `{"status":"success","data":[{"__name__":"up","a":"b"},{"__name__":"down"}]}`
	for _, test := range []struct {
		name, answer, want string
		visited            int
	}{
		{"nothing", "", "the answer is empty", 0},
		{"HTML", "<html>", "not an answer of the Prometheus API: <html>", 0},
		{"cut off", good[:len(good)-15], "connection cut before the end of the answer", 1},
		{"an error after data", `{"data":[{"__name__":"up"}],"status":"error","errorType":"internal","error":"disk"}`, "the answer is an error: internal: disk", 1},
		{"garbage in the middle", strings.Replace(good, `},{`, `},<`, 1), "the answer is malformed: invalid character '<'", 1},
		{"something behind it", good + "{", "the answer does not have the form", 2},
		{"no status", `{"data":[{"__name__":"up"}]}`, "not an answer of the Prometheus API", 1},
		{"no object", `{"status":"success","data":["up"]}`, "the answer does not have the form", 0},
		{"a vector", vectorOf(``), "the answer does not have the form", 0},
		{"a label that is a number", `{"status":"success","data":[{"__name__":"up","a":1}]}`, "the answer does not have the form", 0},
		{"a label that is an object", `{"status":"success","data":[{"__name__":"up","a":{"b":"c"}}]}`, "the answer does not have the form", 0},
		{"a label twice", `{"status":"success","data":[{"__name__":"up","a":"","a":""}]}`, "the answer is malformed: duplicate", 0},
		{"a name twice", `{"status":"success","data":[{"__name__":"up","__name__":"down"}]}`, "the answer is malformed: duplicate", 0},
		{"a long value", `{"status":"success","data":[{"__name__":"up","a":"` + strings.Repeat("x", 2*maxUnread) + `"}]}`, "a name or a value of more than 1048576 bytes", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := list(strings.NewReader(test.answer))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %v, want one with %q", err, test.want)
			}
			if len(got) != test.visited {
				t.Errorf("visited %q, want %d", got, test.visited)
			}
		})
	}
}

func TestWarningsAreKeptToALimit(t *testing.T) {
	warnings, err := json.Marshal(slices.Repeat([]string{"w"}, 1000))
	if err != nil {
		t.Fatal(err)
	}
	var e envelope
	answer := `{"status":"success","data":[],"warnings":` + string(warnings) + `}`
	if err := decodeSeries(&meter{from: strings.NewReader(answer)}, &e, func(string, []string) {}); err != nil {
		t.Fatal(err)
	}
	if len(e.warnings) != maxWarnings {
		t.Errorf("kept %d warnings", len(e.warnings))
	}
}

func FuzzDecodeQuery(f *testing.F) {
	for _, seed := range []string{
		vectorOf(`{"metric":{"__name__":"up","a\"":"\u00fc"},"value":[1435781451.781,"NaN"]}`),
		resultOf("scalar", `[1,"+Inf"]`), resultOf("matrix", `[]`), resultOf("string", `[1,"x"]`),
		vectorOf(`{"metric":{},"histogram":[1,{}]}`), `{"status":"error","errorType":"bad_data","error":"x"}`, "<html>", "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		samples, err := decode(bytes.NewReader(answer))
		if err != nil {
			if samples != nil {
				t.Errorf("%d samples together with the error %v", len(samples), err)
			}
			return
		}
		wantSuccess(t, answer)
		for _, s := range samples {
			if s.Time.IsZero() {
				t.Error("a sample without a time")
			}
		}
	})
}

func FuzzDecodeSeries(f *testing.F) {
	for _, seed := range []string{
		`{"status":"success","data":[{"__name__":"up","b":"c","a":""},{"__name__":"a\"\u00fc"}],"warnings":["w"]}`,
		`{"status":"error","errorType":"bad_data","error":"x"}`, `{"data":null,"status":"success"}`, "<html>", "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		err := decodeSeries(&meter{from: bytes.NewReader(answer)}, new(envelope), func(name string, labels []string) {
			if name == "" || !slices.IsSorted(labels) || slices.Contains(labels, "__name__") {
				t.Errorf("visited %q with %q", name, labels)
			}
		})
		if _, failed := list(bytes.NewReader(answer)); err != nil || failed != nil {
			return
		}
		wantSuccess(t, answer)
	})
}

// wantSuccess checks with another decoder that the answer is one of the API.
func wantSuccess(t *testing.T, answer []byte) {
	t.Helper()
	var e map[string]any
	if err := json.Unmarshal(answer, &e); err != nil {
		t.Errorf("garbage was taken for an answer: %v", err)
	}
	if e["status"] != "success" {
		t.Errorf("an answer of the status %v was taken for a success, with %q", e["status"], slices.Sorted(maps.Keys(e)))
	}
}

// seriesJSON gives the answer of a server that has so many series of 13 labels, without
// holding it.
type seriesJSON struct {
	left    int
	some    [][]byte
	pending []byte
}

func newSeriesJSON(n int) *seriesJSON {
	s := &seriesJSON{left: n, some: make([][]byte, 500), pending: []byte(`{"status":"success","data":[`)}
	for i := range s.some {
		s.some[i] = fmt.Appendf(nil, `{"__name__":"container_cpu_usage_seconds_total","container":"application","cpu":"total","endpoint":"https-metrics",`+
			`"id":"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod%08d_0f3c_4a4e_9d55_0a1b2c3d4e5f.slice/cri-containerd-%064d.scope",`+
			`"image":"registry.example.com/team/application@sha256:%064d","instance":"10.0.0.%d:10250","job":"kubelet","metrics_path":"/metrics/cadvisor",`+
			`"name":"%064d","namespace":"team-%d","node":"ip-10-0-0-%d.eu-west-1.compute.internal","pod":"application-5d4f8c7b9d-x%05d"},`, i, i, i, i, i, i, i, i)
	}
	return s
}

func (s *seriesJSON) Read(p []byte) (int, error) {
	if len(s.pending) == 0 && s.left >= 0 {
		s.pending = s.next()
		s.left--
	}
	if len(s.pending) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.pending)
	s.pending = s.pending[n:]
	return n, nil
}

func (s *seriesJSON) next() []byte {
	switch one := s.some[max(s.left, 0)%len(s.some)]; s.left {
	case 0:
		return []byte(`]}`)
	case 1:
		return one[:len(one)-1]
	default:
		return one
	}
}

func TestSeriesAreNotHeld(t *testing.T) {
	const n = 5_000
	from := newSeriesJSON(n)
	visited := 0
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m := &meter{from: from}
	if err := decodeSeries(m, new(envelope), func(_ string, labels []string) { visited += len(labels) }); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if visited != 12*n {
		t.Errorf("visited %d labels, want %d", visited, 12*n)
	}
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 1<<18 {
		t.Errorf("%d bytes of JSON took %d bytes of memory", m.total, allocated)
	}
}

// BenchmarkSeries reads the list of 300,000 series of 13 labels.
func BenchmarkSeries(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		m := &meter{from: newSeriesJSON(300_000)}
		b.StartTimer()
		n := 0
		if err := decodeSeries(m, new(envelope), func(string, []string) { n++ }); err != nil || n != 300_000 {
			b.Fatalf("%d series, %v", n, err)
		}
		b.SetBytes(m.total)
	}
}

// BenchmarkQuery reads a vector of 10,000 samples.
func BenchmarkQuery(b *testing.B) {
	answer := vectorJSON(10_000)
	b.ReportAllocs()
	b.SetBytes(int64(len(answer)))
	for b.Loop() {
		if _, err := decode(bytes.NewReader(answer)); err != nil {
			b.Fatal(err)
		}
	}
}

package promproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
)

// answered is what an answer is to a client.
func answered(t *testing.T, a Answer) (status int, body string) {
	t.Helper()
	s := start(t, Options{})
	s.Play(func(Call) (Answer, bool) { return a, true })
	status, body, err := get(t.Context(), queryURL(s, "up"))
	if err != nil {
		t.Fatal(err)
	}
	return status, body
}

func TestAnswers(t *testing.T) {
	noon := time.Date(2026, 11, 22, 12, 0, 0, 250e6, time.UTC)
	sample := Sample{Labels: map[string]string{"pod": `a"b`}, Value: "NaN", Time: noon}
	for name, tc := range map[string]struct {
		answer Answer
		status int
		want   string // the whole body, or how it starts
	}{
		"timeout":         {TimedOut(), 503, `{"status":"error","errorType":"timeout","error":"query timed out in expression evaluation"}`},
		"unavailable":     {Unavailable(), 503, `{"status":"error","errorType":"unavailable",`},
		"execution":       {ExecutionError(), 422, `{"status":"error","errorType":"execution",`},
		"bad data":        {BadData(), 400, `{"status":"error","errorType":"bad_data",`},
		"throttled":       {TooManyRequests(), 429, `{"status":"error",`},
		"unauthorized":    {Unauthorized(), 401, "Unauthorized\n"},
		"a login page":    {HTML(), 200, "<!DOCTYPE html>"},
		"half of a JSON":  {TruncatedJSON(), 200, `{"status":"success","data":{"resultType":"vector","result":[{`},
		"another JSON":    {OtherJSON(), 200, "["},
		"redirect":        {Redirect("http://127.0.0.1:1/"), 302, ""},
		"nothing":         {Vector(), 200, `{"status":"success","data":{"resultType":"vector","result":[]}}`},
		"vector":          {Vector(sample, Sample{Value: "1e300", Time: noon}), 200, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"pod":"a\"b"},"value":[1795348800.25,"NaN"]},{"metric":{},"value":[1795348800.25,"1e300"]}]}}`},
		"histogram":       {Vector(Sample{Histogram: true, Time: noon}), 200, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"histogram":[1795348800.25,{"count":"3","sum":"4.5",`},
		"matrix":          {Matrix(sample), 200, `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"pod":"a\"b"},"values":[[1795348800.25,"NaN"]]}]}}`},
		"scalar":          {Scalar("1"), 200, `{"status":"success","data":{"resultType":"scalar","result":[1`},
		"string":          {String("one"), 200, `{"status":"success","data":{"resultType":"string","result":[1`},
		"several samples": {Generated(3, func(i int) Sample { return Sample{Value: strconv.Itoa(i)} }), 200, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},`},
	} {
		t.Run(name, func(t *testing.T) {
			status, body := answered(t, tc.answer)
			if status != tc.status || !strings.HasPrefix(body, tc.want) {
				t.Errorf("answer is %d %q, want %d %q", status, body, tc.status, tc.want)
			}
		})
	}
}

// The client library's own types can read the answers.
func TestAnswersAreThoseOfPrometheus(t *testing.T) {
	for name, tc := range map[string]struct {
		answer Answer
		into   any
		n      func(any) int
	}{
		"vector": {
			Vector(Sample{Value: "+Inf"}, Sample{Value: "9.1e18"}, Sample{Histogram: true}), new(model.Vector),
			func(v any) int { return len(*v.(*model.Vector)) },
		},
		"many samples": {
			Generated(20_000, func(i int) Sample {
				return Sample{Labels: map[string]string{"pod": fmt.Sprintf("web-%d", i)}, Value: "1"}
			}),
			new(model.Vector), func(v any) int { return len(*v.(*model.Vector)) },
		},
		"matrix": {Matrix(Sample{Value: "1"}, Sample{Value: "2"}), new(model.Matrix), func(v any) int { return len(*v.(*model.Matrix)) }},
		"scalar": {Scalar("1"), new(model.Scalar), func(v any) int { return int(v.(*model.Scalar).Value) }},
		"string": {String("7 letters"), new(model.String), func(v any) int { return len(v.(*model.String).Value) }},
	} {
		t.Run(name, func(t *testing.T) {
			_, body := answered(t, tc.answer)
			wire := struct {
				Status string `json:"status"`
				Data   struct {
					ResultType string          `json:"resultType"`
					Result     json.RawMessage `json:"result"`
				} `json:"data"`
			}{}
			if err := json.Unmarshal([]byte(body), &wire); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(wire.Data.Result, tc.into); err != nil {
				t.Fatal(err)
			}
			want := map[string]int{"vector": 3, "many samples": 20_000, "matrix": 2, "scalar": 1, "string": 9}[name]
			if got := tc.n(tc.into); got != want || wire.Status != "success" {
				t.Errorf("status %q, %d, want %d", wire.Status, got, want)
			}
		})
	}
}

func TestClientThatLeavesEndsAnAnswer(t *testing.T) {
	s := start(t, Options{})
	s.Play(func(Call) (Answer, bool) {
		return Generated(1<<40, func(int) Sample { return Sample{Value: "1"} }), true
	})
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		get(ctx, queryURL(s, "up"))
	}()
	eventually(t, "the call is recorded", func() bool { return len(s.Calls("")) == 1 })
	leave()
	<-gone
	if c := ended(t, s); c.Complete {
		t.Errorf("recorded %+v", c)
	}
}

func TestMatchers(t *testing.T) {
	for text, want := range map[string][]Matcher{
		"up":      {{"__name__", "=", "up"}},
		"sum(up)": nil,
		"":        nil,
		`sum(rate(x_total{a="b",c!~"d|e",}[2m])) by (pod)`: {{"__name__", "=", "x_total"}, {"a", "=", "b"}, {"c", "!~", "d|e"}},
		`{__name__=~"^a.*", b != ""}`:                      {{"__name__", "=~", "^a.*"}, {"b", "!=", ""}},
		`{"a.metric","a label"=~'it\'s'}`:                  {{"__name__", "=", "a.metric"}, {"a label", "=~", "it's"}},
		"x{a=\"}\\\"\\n\\\\{\",b=`\\n`}":                   {{"__name__", "=", "x"}, {"a", "=", "}\"\n\\{"}, {"b", "=", `\n`}},
	} {
		got, err := Matchers(text)
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("%s: got %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"x{", `x{a="b`, "x{a=b}", "x{a=", `x{a="\q"}`} {
		if got, err := Matchers(text); err == nil {
			t.Errorf("%s: got %v", text, got)
		}
	}
}

func TestData(t *testing.T) {
	data := Data{
		{Labels: map[string]string{"__name__": "x_total", "namespace": "a", "pod": "p1", "code": "200"}, Value: "1.5"},
		{Labels: map[string]string{"__name__": "x_total", "namespace": "a", "pod": "p1", "code": "500"}, Value: "2"},
		{Labels: map[string]string{"__name__": "x_total", "namespace": "b", "pod": "p2"}, Value: "4"},
		{Labels: map[string]string{"__name__": "depth"}, Value: "7"},
	}
	s := start(t, Options{})
	s.Play(data.Play)
	for promQL, want := range map[string]map[string]string{
		`sum(rate(x_total{namespace="a",pod=~"p1|p9"}[2m])) by (pod)`:             {`{"pod":"p1"}`: "3.5"},
		`sum by (namespace, pod) (x_total{pod!=""})`:                              {`{"namespace":"a","pod":"p1"}`: "3.5", `{"namespace":"b","pod":"p2"}`: "4"},
		`sum(x_total{namespace!~"a|c"}) by ()`:                                    {`{}`: "4"},
		`depth`:                                                                   {`{"__name__":"depth"}`: "7"},
		`x_total{namespace="c"}`:                                                  {},
		`sum(rate(x_total{namespace="a",pod=~"p"}[2m])) by (pod)`:                 {},
		`sum(rate(x_total{namespace="a",code!="200"}[2m])) by (<<.Unknown>>,pod)`: {`{"pod":"p1"}`: "2"},
	} {
		_, body, err := get(t.Context(), queryURL(s, promQL))
		if err != nil {
			t.Fatal(err)
		}
		wire := struct {
			Data struct {
				Result []struct {
					Metric json.RawMessage `json:"metric"`
					Value  []any           `json:"value"`
				} `json:"result"`
			} `json:"data"`
		}{}
		if err := json.Unmarshal([]byte(body), &wire); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		got := map[string]string{}
		for _, r := range wire.Data.Result {
			got[string(r.Metric)] = r.Value[1].(string)
		}
		if !cmp.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", promQL, got, want)
		}
	}
	for address, want := range map[string]string{
		seriesURL(s, `{__name__=~"d.*"}`): `{"status":"success","data":[{"__name__":"depth"}]}`,
		seriesURL(s, `nothing`):           `{"status":"success","data":[]}`,
		seriesURL(s, `{a=~"["}`):          `{"status":"error","errorType":"bad_data","error":"invalid parameter \"match[]\": `,
		queryURL(s, `x{`):                 `{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": `,
	} {
		if _, body, err := get(t.Context(), address); err != nil || !strings.HasPrefix(body, want) {
			t.Errorf("%s: got %q, %v, want %q", address, body, err, want)
		}
	}
	if status, _, err := get(t.Context(), s.URL()+"/api/v1/labels"); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("what the data does not play: status %d, %v", status, err)
	}
}

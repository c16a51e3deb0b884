package page

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestAbsentIsNullAndNeverZero(t *testing.T) {
	for name, tc := range map[string]struct {
		number Number
		want   string
	}{
		"zero":     {Num(0), "0"},
		"whole":    {Num(int32(7)), "7"},
		"fraction": {Num(0.25), "0.25"},
		"not set":  {Number{}, "null"},
		"NaN":      {Num(math.NaN()), "null"},
		"infinite": {Num(math.Inf(-1)), "null"},
	} {
		got, err := json.Marshal(tc.number)
		if err != nil || string(got) != tc.want {
			t.Errorf("%s: got %s and %v, want %s", name, got, err, tc.want)
		}
		var back Number
		if err := json.Unmarshal(got, &back); err != nil || back != tc.number && tc.want != "null" {
			t.Errorf("%s: read back as %v: %v", name, back, err)
		}
	}
	text, err := json.Marshal(Snapshot{}.bounded())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), ":0,") {
		t.Errorf("an empty snapshot has zeros: %s", text)
	}
	for _, list := range []string{`"hpas":[]`, `"metrics":[]`, `"parts":[]`} {
		if !strings.Contains(string(text), list) {
			t.Errorf("an empty snapshot has no %s: %s", list, text)
		}
	}
}

func TestSnapshotIsBounded(t *testing.T) {
	long := strings.Repeat("ü", maxText)
	s := Snapshot{
		HPAs:    make([]HPA, maxHPAs+5),
		Metrics: make([]Metric, maxMetrics+5),
		Parts:   []Part{{Name: "database", State: Down, Says: long}},
	}
	s.HPAs[0].Events = make([]Event, maxRows+5)
	s.HPAs[0].Events[0].Message = long
	got := s.bounded()
	if len(got.HPAs) != maxHPAs || len(got.Metrics) != maxMetrics || len(got.HPAs[0].Events) != maxRows {
		t.Errorf("got %d HPAs, %d metrics, %d events", len(got.HPAs), len(got.Metrics), len(got.HPAs[0].Events))
	}
	for _, text := range []string{got.Parts[0].Says, got.HPAs[0].Events[0].Message} {
		if len(text) > maxText || !strings.HasSuffix(text, "…") || !utf8.ValidString(text) {
			t.Errorf("a text has %d bytes and ends with %q", len(text), text[len(text)-8:])
		}
	}
	if s.Parts[0].Says != long || s.HPAs[0].Events[0].Message != long {
		t.Error("the caller's snapshot was cut")
	}
}

func TestPointHasWhatIsPlottedAndWhatIsDown(t *testing.T) {
	s := Snapshot{
		Time:    time.UnixMilli(1_700_000_000_123),
		Phase:   Phase{Word: "rise", Title: "The load rises"},
		Traffic: Traffic{Asked: Num(25), Total: map[string]Number{"502": Num(3)}},
		Parts:   []Part{{Name: "adapter", State: Up}, {Name: "database", State: Down}, {Name: "Prometheus"}},
	}
	text, err := json.Marshal(pointOf(&s))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"t":1700000000123`, `"phase":"rise"`, `"down":["database"]`, `"asked":25`, `"served":null`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	if strings.Contains(string(text), "total") {
		t.Errorf("the totals are in every point: %s", text)
	}
}

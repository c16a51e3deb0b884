package check

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	kyaml "sigs.k8s.io/yaml"
)

func report() *Report {
	at := time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
	r := &Report{
		Findings: []Finding{
			{Severity: Note, File: "b.yaml", Line: 3, Object: "rules[0]", Message: "noted"},
			{Severity: Error, File: "a.yaml", Object: "ExternalMetric shop/x", Message: "wrong", Cure: "right it"},
		},
		Rules: []Rule{{Rule: "rules[0]", Server: "default", Series: 12, Names: 4, Metrics: 4, Exposes: []string{"pods/a", "pods/b", "pods/c", "pods/d"}}},
		Values: []Value{
			{Namespace: "shop", Metric: "x", Source: "ExternalMetric", Value: "1500m", Time: &at, Took: "3ms", Items: []Item{
				{Value: "1", Time: at, Labels: map[string]string{"id": "a"}, Window: "1m0s"}, {Value: "500m", Time: at},
			}},
			{Namespace: "shop", Metric: "y", Source: "externalRules[0]", Error: "away"},
		},
		Checked: Counts{Files: 2, Configurations: 1, ExternalMetrics: 2},
	}
	r.finish()
	return r
}

func TestJSONAndYAMLAreTheReport(t *testing.T) {
	for format, decode := range map[string]func([]byte, any) error{
		"json": json.Unmarshal,
		"yaml": func(text []byte, v any) error { return kyaml.UnmarshalStrict(text, v) },
	} {
		var text bytes.Buffer
		if err := report().Print(&text, format); err != nil {
			t.Fatal(err)
		}
		var got Report
		if err := decode(text.Bytes(), &got); err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		if want := report(); !reflect.DeepEqual(&got, want) {
			t.Errorf("%s: got %+v, want %+v", format, got, want)
		}
	}
}

func TestTableHasARowForEach(t *testing.T) {
	var text bytes.Buffer
	if err := report().Print(&text, "table"); err != nil {
		t.Fatal(err)
	}
	var rows [][]string
	for line := range strings.Lines(text.String()) {
		rows = append(rows, strings.Fields(line))
	}
	for _, want := range []string{
		"SEVERITY WHERE OBJECT MESSAGE",
		"note b.yaml:3 rules[0] noted",
		"error a.yaml ExternalMetric shop/x wrong (right it)",
		"RULE SERVER SERIES METRICS EXPOSES",
		"rules[0] default 12 4 pods/a, pods/b, pods/c and 1 more",
		"NAMESPACE METRIC SOURCE VALUE MEASURED AGE TOOK",
		"shop y externalRules[0] error - - -",
		"checked 1 configuration, 2 ExternalMetrics in 2 files: 1 error, 0 warnings",
	} {
		if !containsRow(rows, strings.Fields(want)) {
			t.Errorf("no row %q in\n%s", want, text.String())
		}
	}
	if !strings.Contains(text.String(), "1500m (sum of 2)") {
		t.Errorf("the sum does not say of how many it is:\n%s", text.String())
	}
}

func containsRow(rows [][]string, want []string) bool {
	for _, row := range rows {
		if reflect.DeepEqual(row, want) {
			return true
		}
	}
	return false
}

// A thousand findings are more than anybody reads.
func TestTheWorstOfManyFindingsArePrinted(t *testing.T) {
	r := &Report{}
	for i := range 2 * maxFindings {
		severity := Note
		switch i % 4 {
		case 1:
			severity = Warning
		case 2:
			severity = Error
		}
		r.Findings = append(r.Findings, Finding{Severity: severity, File: "a.yaml", Line: i + 1, Message: "x"})
	}
	r.finish()
	var text bytes.Buffer
	if err := r.Print(&text, "json"); err != nil {
		t.Fatal(err)
	}
	var got Report
	if err := json.Unmarshal(text.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Findings) != maxFindings || got.More != maxFindings || got.Checked.Errors != maxFindings/2 {
		t.Errorf("got %d findings, %d more and %d errors", len(got.Findings), got.More, got.Checked.Errors)
	}
	for i, f := range got.Findings {
		if f.Severity == Note || i > 0 && f.Line <= got.Findings[i-1].Line {
			t.Fatalf("finding %d is %+v", i, f)
		}
	}
	text.Reset()
	if err := r.Print(&text, "table"); err != nil {
		t.Fatal(err)
	}
	if rows := strings.Count(text.String(), "a.yaml:"); rows != maxFindings || !strings.Contains(text.String(), "\nand 1000 more\n") {
		t.Errorf("the table has %d rows:\n%s", rows, text.String()[text.Len()-200:])
	}
	r.Strict()
	if r.Checked.Errors != maxFindings {
		t.Errorf("got %d errors strictly, want all %d that are printed or not", r.Checked.Errors, maxFindings)
	}
}

package monitoring

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/tidegauge/tidegauge/test/env"
)

// metric is what is known of a metric.
type metric struct {
	labels []string
	// meaning names the values of the labels that have fixed ones.
	meaning string
}

// target are the labels that a scrape adds.
var target = []string{model.JobLabel, model.InstanceLabel}

// others are the metrics that come from elsewhere: Prometheus' client library in the
// adapter, the API server and cAdvisor. TestScrape shows that the first two are there.
var others = map[string]metric{
	"process_resident_memory_bytes":     {},
	"process_cpu_seconds_total":         {},
	"process_start_time_seconds":        {},
	"go_goroutines":                     {},
	"aggregator_unavailable_apiservice": {labels: []string{"name"}},
	"container_memory_working_set_bytes": {
		labels: []string{"namespace", "pod", "container"},
	},
	"container_spec_memory_limit_bytes": {
		labels: []string{"namespace", "pod", "container"},
	},
}

// root is the repository's.
func root(t *testing.T) string {
	t.Helper()
	dir, err := env.Root()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// read is a file of the repository.
func read(t *testing.T, elements ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{root(t)}, elements...)...))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var referenceRow = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([a-z_, ]*) \\| (.*) \\|$")

// known are the metrics of the reference and the others, by name.
func known(t *testing.T) map[string]metric {
	t.Helper()
	all := map[string]metric{}
	for _, row := range referenceRow.FindAllStringSubmatch(string(read(t, "docs", "reference", "metrics.md")), -1) {
		m := metric{meaning: row[3]}
		for name := range strings.SplitSeq(row[2], ", ") {
			if name != "" {
				m.labels = append(m.labels, name)
			}
		}
		all[row[1]] = m
	}
	if len(all) < 20 {
		t.Fatalf("docs/reference/metrics.md has %d metrics that can be read", len(all))
	}
	maps.Copy(all, others)
	return all
}

var promQL = parser.NewParser(parser.Options{})

// check says what is wrong with an expression.
func check(expression string, all map[string]metric) error {
	parsed, err := promQL.ParseExpr(expression)
	if err != nil {
		return err
	}
	var faults []error
	var there []string
	parser.Inspect(parsed, func(n parser.Node, _ []parser.Node) error {
		if s, ok := n.(*parser.VectorSelector); ok {
			have, err := checkSelector(s, all)
			there, faults = append(there, have...), append(faults, err)
		}
		return nil
	})
	parser.Inspect(parsed, func(n parser.Node, _ []parser.Node) error {
		for _, name := range namedBy(n) {
			if !slices.Contains(there, name) {
				faults = append(faults, fmt.Errorf("no metric of the expression has the label %s", name))
			}
		}
		return nil
	})
	return errors.Join(faults...)
}

// namedBy are the labels by which a part of an expression groups or joins.
func namedBy(n parser.Node) []string {
	switch e := n.(type) {
	case *parser.AggregateExpr:
		return e.Grouping
	case *parser.BinaryExpr:
		if e.VectorMatching != nil {
			return append(e.VectorMatching.MatchingLabels, e.VectorMatching.Include...)
		}
	}
	return nil
}

// checkSelector also gives the labels that the selected series have.
func checkSelector(s *parser.VectorSelector, all map[string]metric) ([]string, error) {
	m, ok := all[s.Name]
	have := append(slices.Clone(target), m.labels...)
	if base := histogramOf(s.Name); !ok && base != "" {
		m, ok = all[base]
		have = append(append(have, m.labels...), model.BucketLabel)
	}
	if !ok {
		return nil, fmt.Errorf("there is no metric %s", s.Name)
	}
	var faults []error
	for _, matcher := range s.LabelMatchers {
		if matcher.Name == model.MetricNameLabel {
			continue
		}
		if !slices.Contains(have, matcher.Name) {
			faults = append(faults, fmt.Errorf("%s has no label %s", s.Name, matcher.Name))
		}
		faults = append(faults, checkWords(s.Name, matcher, m))
	}
	return have, errors.Join(faults...)
}

// histogramOf is the histogram that the series belong to; empty if they belong to none.
func histogramOf(name string) string {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, suffix); ok {
			return base
		}
	}
	return ""
}

// checkWords looks up the values of a label that has fixed ones.
func checkWords(name string, matcher *labels.Matcher, m metric) error {
	if !slices.Contains([]string{"result", "endpoint", "api", "kind", "state"}, matcher.Name) {
		return nil
	}
	for word := range strings.SplitSeq(matcher.Value, "|") {
		if !regexp.MustCompile(`\b` + regexp.QuoteMeta(word) + `\b`).MatchString(m.meaning) {
			return fmt.Errorf("%s knows no %s %q", name, matcher.Name, word)
		}
	}
	return nil
}

// TestCheckFindsFaults keeps the other tests from saying yes to everything.
func TestCheckFindsFaults(t *testing.T) {
	for expression, want := range map[string]string{
		`sum by (source) (rate(tidegauge_fetches_total{result="ok"}[5m]))`:                   "",
		`histogram_quantile(0.9, sum by (le) (rate(tidegauge_fetch_batch_size_bucket[5m])))`: "",
		`rate(tidegauge_fetches_total[5m]`:                                                   "unclosed left parenthesis",
		`tidegauge_nothing`:                                                                  "there is no metric tidegauge_nothing",
		`tidegauge_fetches_count`:                                                            "there is no metric tidegauge_fetches_count",
		`tidegauge_fetches_total{region="a"}`:                                                "tidegauge_fetches_total has no label region",
		`tidegauge_fetches_total{result=~"ok|fine"}`:                                         `tidegauge_fetches_total knows no result "fine"`,
		`sum by (le) (tidegauge_fetches_total)`:                                              "no metric of the expression has the label le",
		`tidegauge_fetches_total * on (region) tidegauge_queries_stale`:                      "no metric of the expression has the label region",
	} {
		err := check(expression, known(t))
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", expression, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: got %v, want %q", expression, err, want)
		}
	}
}

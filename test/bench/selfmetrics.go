package bench

import (
	"bytes"
	"fmt"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// sumOf adds up a counter of a server's own metrics over the label sets that have
// certain values; an absent label is an empty one.
func sumOf(text []byte, name string, labels map[string]string) (float64, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return 0, fmt.Errorf("self-metrics: %w", err)
	}
	sum := 0.0
	for _, m := range families[name].GetMetric() {
		has := map[string]string{}
		for _, l := range m.GetLabel() {
			has[l.GetName()] = l.GetValue()
		}
		matches := true
		for label, value := range labels {
			matches = matches && has[label] == value
		}
		if matches {
			sum += m.GetCounter().GetValue()
		}
	}
	return sum, nil
}

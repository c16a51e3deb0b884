package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"github.com/tidegauge/tidegauge/test/demo/page"
)

// knownPath is where the adapter says what it knows of each metric.
const knownPath = "/debug/metrics-known"

// knownBy asks the adapter. The client is one of the adapter itself, as Adapter.Config makes
// it, for whoever has get of the non-resource URL.
func knownBy(client rest.Interface) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		text, err := client.Get().AbsPath(knownPath).DoRaw(ctx)
		if err != nil {
			return nil, fmt.Errorf("the adapter's %s: %w", knownPath, err)
		}
		return text, nil
	}
}

// knownQuery is what of the adapter's answer is shown.
type knownQuery struct {
	Metrics []struct {
		Namespace, Name string
	}
	Source, Backend, Query, Value, Error  string
	Measured, Fetched, Next, FailingSince time.Time
}

func (c *collector) askKnown(ctx context.Context) error {
	text, err := c.opts.Known(ctx)
	var metrics []page.Metric
	if err == nil {
		metrics, err = metricsOf(text)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = remembered[[]page.Metric]{metrics, time.Now(), err}
	return err
}

// metricsOf are the metrics in the adapter's answer. A query that no metric is known of has
// none but its own words.
func metricsOf(text []byte) ([]page.Metric, error) {
	var answer struct{ Queries []knownQuery }
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("the adapter's %s: %w", knownPath, err)
	}
	var metrics []page.Metric
	for _, q := range answer.Queries {
		m := page.Metric{
			Name: q.Query, Value: q.Value, Measured: q.Measured, Asked: q.Fetched, Next: q.Next,
			Source: sourceOf(q), Query: q.Query, Error: q.Error, FailingSince: q.FailingSince,
		}
		if len(q.Metrics) == 0 {
			metrics = append(metrics, m)
		}
		for _, of := range q.Metrics {
			m.Name, m.Namespace = of.Name, of.Namespace
			metrics = append(metrics, m)
		}
	}
	return metrics, nil
}

// sourceOf is the source and its backend, which is empty where the client's own region and
// account are meant.
func sourceOf(q knownQuery) string { return strings.TrimSpace(q.Source + " " + q.Backend) }

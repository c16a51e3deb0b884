// Package builtin is the list of the sources that the adapter has. A new source
// is a folder beside pkg/sources/cloudwatch and a line in Open.
package builtin

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidegauge/tidegauge/pkg/config"
	"github.com/tidegauge/tidegauge/pkg/sources"
	"github.com/tidegauge/tidegauge/pkg/sources/cloudwatch"
)

// CloudWatch is the name of the CloudWatch source.
const CloudWatch = "cloudwatch"

// Source is a source that also counts what it does.
type Source interface {
	sources.Source
	prometheus.Collector
}

// Open makes every source that the configuration asks for, by name. It makes no
// call to a backend: one that is away shows in the metrics that need it.
func Open(ctx context.Context, c *config.Config) (map[string]Source, error) {
	cw, err := cloudwatch.New(ctx, c.CloudWatch)
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", CloudWatch, err)
	}
	return map[string]Source{CloudWatch: cw}, nil
}

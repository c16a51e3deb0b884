package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"

	"github.com/tidegauge/tidegauge/cmd/adapter/internal/check"
	"github.com/tidegauge/tidegauge/cmd/adapter/internal/local"
	"github.com/tidegauge/tidegauge/pkg/rules"
)

const externalExample = `  # The ExternalMetric of a file, with the GetMetricData call.
  adapter query external --filename queue-depth.yaml --explain

  # An external metric of a rule, as an HPA of namespace shop reads it.
  adapter query external jobs_waiting -n shop --selector queue=orders \
    --config rules.yaml --prometheus-url=http://127.0.0.1:9090`

func queryExternalCommand() *cobra.Command {
	q := newQuerier()
	cmd := &cobra.Command{
		Use:   "external [METRIC]",
		Short: "Read a metric of external.metrics.k8s.io",
		Long: `Reads a metric of external.metrics.k8s.io: that of an ExternalMetric of the files, or one
that a rule of the configuration makes. METRIC may be left out if the files have one
ExternalMetric.`,
		Example: externalExample,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return q.run(cmd, func(loaded *check.Loaded) (reading, error) { return q.external(cmd, loaded, args) })
		},
	}
	q.addFlags(cmd)
	cmd.Flags().StringVarP(&q.selector, "selector", "l", "", "selector of the metric's labels, such as queue=orders")
	return cmd
}

// external is the reading that the command line asks for.
func (q *querier) external(cmd *cobra.Command, loaded *check.Loaded, args []string) (reading, error) {
	selector, err := labels.Parse(q.selector)
	if err != nil {
		return nil, fmt.Errorf("--selector: %w", err)
	}
	name := types.NamespacedName{Namespace: q.namespace}
	var of []types.NamespacedName
	for _, o := range loaded.Parts.Objects {
		if len(args) == 0 || o.GetName() == args[0] {
			of = append(of, types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()})
		}
	}
	switch {
	case len(args) == 0 && len(of) != 1:
		return nil, fmt.Errorf("which METRIC? The files have %d ExternalMetrics", len(of))
	case len(args) == 0:
		name = of[0]
	case len(of) == 1 && !cmd.Flags().Changed("namespace"):
		name = of[0]
	default:
		name.Name = args[0]
	}
	return func(ctx context.Context, a *local.Adapter, to *answer) error {
		if a.Catalog.External(name) == nil {
			a.Await(ctx)
		}
		return readExternal(ctx, a, to, name, selector)
	}, nil
}

// readExternal reads an external metric as an HPA does.
func readExternal(ctx context.Context, a *local.Adapter, to *answer, name types.NamespacedName, selector labels.Selector) error {
	if a.Catalog.External(name) != nil {
		to.MadeBy = "ExternalMetric " + name.String()
	} else if rule := a.Catalog.ExternalRule(name.Name); rule != nil {
		to.MadeBy = madeBy(rule.Rule, rule.Series)
	}
	list, err := a.External.GetExternalMetric(ctx, name.Namespace, selector, provider.ExternalMetricInfo{Metric: name.Name})
	if err != nil {
		return err
	}
	total := resource.Quantity{Format: resource.DecimalSI}
	for _, item := range list.Items {
		total.Add(item.Value)
		to.Values = append(to.Values, value{Metric: name.Name, Item: check.NewItem(item.MetricLabels, item.Value, item.Timestamp, item.WindowSeconds)})
	}
	if len(list.Items) > 1 {
		to.Sum = total.String()
	}
	return nil
}

// madeBy names a rule and the series that the metric is made of.
func madeBy(r *rules.Compiled, series string) string {
	text := r.ID
	if r.Where != "" {
		text += " (" + r.Where + ")"
	}
	return text + " of series " + series
}

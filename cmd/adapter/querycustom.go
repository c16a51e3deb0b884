package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"

	"github.com/tidegauge/tidegauge/cmd/adapter/internal/check"
	"github.com/tidegauge/tidegauge/cmd/adapter/internal/local"
	"github.com/tidegauge/tidegauge/pkg/catalog"
)

const customExample = `  # A metric of one pod.
  adapter query custom pods/web-0 http_requests_per_second -n shop \
    --config rules.yaml --prometheus-url=http://127.0.0.1:9090

  # Of all pods of a label, which takes a cluster to know them.
  adapter query custom 'pods/*' http_requests_per_second -n shop --selector app=web \
    --config rules.yaml --prometheus-url=http://127.0.0.1:9090 --kubeconfig ~/.kube/config`

// all stands for all objects of a resource.
const all = "*"

func queryCustomCommand() *cobra.Command {
	q := newQuerier()
	var metricSelector string
	cmd := &cobra.Command{
		Use:   "custom RESOURCE/NAME METRIC",
		Short: "Read a metric of custom.metrics.k8s.io",
		Long: `Reads a metric of custom.metrics.k8s.io, which rules of the configuration make. RESOURCE
is that of the objects that it describes, such as pods or ingresses.networking.k8s.io,
and NAME one of them. * stands for all that --selector matches; only a cluster knows which
those are, so that it needs --kubeconfig.`,
		Example: customExample,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return q.run(cmd, func(*check.Loaded) (reading, error) { return q.custom(args[0], args[1], metricSelector) })
		},
	}
	q.addFlags(cmd)
	cmd.Flags().StringVarP(&q.selector, "selector", "l", "", "selector of the objects' labels, for *")
	cmd.Flags().StringVar(&metricSelector, "metric-selector", "", "selector of the metric's labels, as in an HPA")
	return cmd
}

// objectRead is a read of a metric of objects.
type objectRead struct {
	resource schema.GroupResource
	name     string
	metric   string
	// namespace is that of the objects if they have one.
	namespace        string
	selector, labels labels.Selector
}

// custom is the reading that the command line asks for.
func (q *querier) custom(object, metric, metricSelector string) (reading, error) {
	resource, name, named := strings.Cut(object, "/")
	r := objectRead{resource: schema.ParseGroupResource(resource), name: name, metric: metric, namespace: q.namespace}
	var err error
	if r.selector, err = labels.Parse(q.selector); err != nil {
		return nil, fmt.Errorf("--selector: %w", err)
	}
	if r.labels, err = labels.Parse(metricSelector); err != nil {
		return nil, fmt.Errorf("--metric-selector: %w", err)
	}
	switch {
	case !named || resource == "" || name == "":
		return nil, fmt.Errorf("%q is not RESOURCE/NAME, such as pods/web-0 or pods/*", object)
	case name == all && q.kubeconfig == "":
		return nil, fmt.Errorf("%s: only a cluster knows which %s there are: name one, as in %s/NAME, or give --kubeconfig", object, resource, resource)
	case name != all && q.selector != "":
		return nil, errors.New("--selector is for *, and one object is named")
	}
	return r.read, nil
}

// read reads the metric as an HPA does.
func (r objectRead) read(ctx context.Context, a *local.Adapter, to *answer) error {
	a.Await(ctx)
	resource, namespaced, ok := a.Mapper.Normalize(r.resource)
	if ok {
		made := a.Catalog.Custom(catalog.CustomName{Resource: resource, Namespaced: namespaced, Metric: r.metric})
		if made != nil {
			to.MadeBy = madeBy(made.Rule, made.Series)
		}
	}
	namespace := r.namespace
	if !namespaced {
		namespace = ""
	}
	info := provider.CustomMetricInfo{GroupResource: r.resource, Namespaced: namespaced, Metric: r.metric}
	if r.name == all {
		list, err := a.Custom.GetMetricBySelector(ctx, namespace, r.selector, info, r.labels)
		if err != nil {
			return err
		}
		for i := range list.Items {
			to.Values = append(to.Values, valueOf(&list.Items[i]))
		}
		return nil
	}
	one, err := a.Custom.GetMetricByName(ctx, types.NamespacedName{Namespace: namespace, Name: r.name}, info, r.labels)
	if err != nil {
		return err
	}
	to.Values = []value{valueOf(one)}
	return nil
}

func valueOf(v *custom_metrics.MetricValue) value {
	o := v.DescribedObject
	name := o.Name
	if o.Namespace != "" {
		name = o.Namespace + "/" + name
	}
	return value{Object: o.Kind + " " + name, Metric: v.Metric.Name, Item: check.NewItem(nil, v.Value, v.Timestamp, v.WindowSeconds)}
}

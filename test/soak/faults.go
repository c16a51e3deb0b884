package soak

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegauge/tidegauge/test/fakeaws"
	"github.com/tidegauge/tidegauge/test/promproxy"
)

// side is who has a fault.
type side string

const (
	sideAWS        side = "aws"
	sidePrometheus side = "prometheus"
	sideKubernetes side = "kubernetes"
	sideConfig     side = "configuration"
	sideObjects    side = "objects"
)

// fault is something that goes wrong for a while, or is done to the adapter.
type fault struct {
	name string
	side side
	// words are those of which an error has one that comes of the fault. A fault without
	// any keeps no metric from being read.
	words []string
	// nothing says that the backend answers that there is no value, so that this is the
	// truth.
	nothing bool
	// regional faults may be in one region of AWS.
	regional bool
	// once is for what comes once only.
	once  bool
	begin beginner
}

// beginner begins a fault. What it returns ends the fault, and then, when all is fresh
// again, brings everything to where it was; both may be nil.
type beginner func(ctx context.Context, b *bed, c chosen) (lift, tidy func(context.Context) error, err error)

// affects says whether the fault may keep a workload's metric from being read.
func (f fault) affects(c chosen, w *workload) bool {
	switch f.side {
	case sideAWS:
		return w.kind == cloudWatch && (c.region == "" || c.region == w.region)
	case sidePrometheus:
		return w.kind != cloudWatch && len(f.words) > 0
	default:
		return false
	}
}

// Words of errors. Which of the first is used depends on what the connection was doing.
var (
	gone = []string{"connection refused", "connection reset", "connection cut", "EOF", "broken pipe"}
	cut  = []string{"connection cut before the end of the answer", "EOF"}
	late = []string{"no answer in time", "no answer within", "it gave no newer answer in time", "serves no longer than"}
)

// forever is longer than any fault.
const forever = time.Hour

// catalogue is all that can go wrong.
func catalogue() []fault {
	aws := func(name string, words []string, f fakeaws.Fault) fault {
		return fault{name: name, side: sideAWS, words: words, regional: true, begin: awsFault(f)}
	}
	prometheus := func(name string, words []string, f promproxy.Fault) fault {
		return fault{name: name, side: sidePrometheus, words: words, begin: prometheusFault(f)}
	}
	return []fault{
		aws("AWS throttles", []string{"Rate exceeded"}, fakeaws.Fault{ErrorCode: "Throttling"}),
		aws("AWS fails with 500", []string{"InternalFailure"}, fakeaws.Fault{ErrorCode: "InternalFailure"}),
		aws("AWS fails with 503", []string{"ServiceUnavailable"}, fakeaws.Fault{ErrorCode: "ServiceUnavailable"}),
		aws("AWS is slow", late, fakeaws.Fault{Latency: 2 * time.Second}),
		aws("AWS hangs", slices.Concat(late, gone), fakeaws.Fault{Latency: forever}),
		aws("AWS cuts connections", cut, fakeaws.Fault{Cut: true}),
		aws("AWS gives partial data", []string{"PartialData"}, fakeaws.Fault{StatusCode: "PartialData"}),
		aws("AWS answers garbage", []string{"deserialization failed"}, fakeaws.Fault{Garbage: true}),
		{name: "AWS is away", side: sideAWS, words: gone, begin: awsAway},

		prometheus("Prometheus is slow", late, promproxy.Fault{Delay: 2 * time.Second}),
		prometheus("Prometheus hangs", slices.Concat(late, gone), promproxy.Fault{Delay: forever}),
		prometheus("Prometheus answers 503", []string{"TSDB not ready"}, promproxy.Fault{Answer: promproxy.Unavailable().Pointer()}),
		prometheus("Prometheus answers 429", []string{"too many outstanding requests"}, promproxy.Fault{Answer: promproxy.TooManyRequests().Pointer()}),
		prometheus("Prometheus answers garbage", []string{"not an answer of the Prometheus API"}, promproxy.Fault{Answer: promproxy.HTML().Pointer()}),
		prometheus("Prometheus answers half", cut, promproxy.Fault{Answer: promproxy.TruncatedJSON().Pointer()}),
		prometheus("Prometheus cuts connections", cut, promproxy.Fault{CutAfter: 60}),
		prometheus("Prometheus lists nothing", nil, promproxy.Fault{Endpoint: promproxy.Series, Answer: promproxy.JSON(0, `{"status":"success","data":[]}`).Pointer()}),
		{
			name: "Prometheus answers nothing", side: sidePrometheus, nothing: true, words: []string{"no sample"},
			begin: prometheusFault(promproxy.Fault{Endpoint: promproxy.Query, Answer: promproxy.Vector().Pointer()}),
		},
		{name: "Prometheus answers NaN", side: sidePrometheus, words: []string{"NaN"}, begin: prometheusNaN},
		{name: "Prometheus is away", side: sidePrometheus, words: gone, begin: prometheusAway},

		{name: "kube-apiserver restarts", side: sideKubernetes, once: true, begin: restartAPIServer},
		{name: "pods are replaced", side: sideKubernetes, begin: replacePods},
		{name: "a good configuration", side: sideConfig, begin: goodConfig},
		{name: "a bad configuration", side: sideConfig, begin: badConfig},
		{name: "objects come and go", side: sideObjects, begin: comeAndGo},
	}
}

// faultOf is a fault of the catalogue.
func faultOf(name string) fault {
	all := catalogue()
	return all[slices.IndexFunc(all, func(f fault) bool { return f.name == name })]
}

func awsFault(f fakeaws.Fault) beginner {
	return func(_ context.Context, b *bed, c chosen) (lift, tidy func(context.Context) error, err error) {
		f.Service, f.Region = "cloudwatch", c.region
		return later(b.aws.Fault(f)), nil, nil
	}
}

// later is for an end that cannot fail.
func later(end func()) func(context.Context) error {
	return func(context.Context) error {
		end()
		return nil
	}
}

func awsAway(_ context.Context, b *bed, _ chosen) (lift, tidy func(context.Context) error, err error) {
	b.aws.Pause()
	return func(context.Context) error { return b.aws.Resume() }, nil, nil
}

func prometheusFault(f promproxy.Fault) beginner {
	return func(_ context.Context, b *bed, _ chosen) (lift, tidy func(context.Context) error, err error) {
		return later(b.proxy.Fault(f)), nil, nil
	}
}

func prometheusNaN(_ context.Context, b *bed, _ chosen) (lift, tidy func(context.Context) error, err error) {
	b.noNumber.Store(true)
	return later(func() { b.noNumber.Store(false) }), nil, nil
}

func prometheusAway(_ context.Context, b *bed, _ chosen) (lift, tidy func(context.Context) error, err error) {
	b.proxy.Pause()
	return func(context.Context) error { return b.proxy.Resume() }, nil, nil
}

// restartAPIServer is over when it is ready again.
func restartAPIServer(ctx context.Context, b *bed, _ chosen) (lift, tidy func(context.Context) error, err error) {
	b.away.begin(time.Now())
	if err := b.RestartAPIServer(ctx); err != nil {
		return nil, nil, err
	}
	b.away.end(time.Now().Add(settleAway))
	return nil, nil, nil
}

// replacePods deletes a pod of each Deployment, and all of one of them.
func replacePods(ctx context.Context, b *bed, c chosen) (lift, tidy func(context.Context) error, err error) {
	all := b.workloads[c.pick%uint64(len(b.workloads))]
	for _, w := range b.workloads {
		replaced := b.pods.of(w.name)
		if w != all && len(replaced) > 1 {
			replaced = replaced[:1]
		}
		for _, pod := range replaced {
			if err := b.Client().CoreV1().Pods(namespace).Delete(ctx, pod, metav1.DeleteOptions{}); err != nil {
				return nil, nil, err
			}
		}
	}
	return nil, nil, nil
}

// goodConfig brings a rule more into force, and then takes it away again.
func goodConfig(ctx context.Context, b *bed, c chosen) (lift, tidy func(context.Context) error, err error) {
	more := strings.Replace(configuration, "externalRules:\n", "externalRules:\n"+externalRule("more", time.Minute), 1)
	if err := b.reload(ctx, fmt.Sprintf("# Variant %d.\n%s", c.pick, more), taken); err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context) error { return b.reload(ctx, configuration, taken) }, nil, nil
}

// badConfig gives the adapter a file that it must not take.
func badConfig(ctx context.Context, b *bed, c chosen) (lift, tidy func(context.Context) error, err error) {
	bad := badConfigurations()
	if err := b.reload(ctx, bad[c.pick%uint64(len(bad))], refused); err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context) error { return b.reload(ctx, configuration, taken) }, nil, nil
}

// badConfigurations have a field that there is not, a query that is none, half of a
// document, and a value that cannot be.
func badConfigurations() []string {
	return []string{
		strings.ReplaceAll(configuration, "metricsQuery", "metricQuery"),
		strings.ReplaceAll(configuration, "{<<.LabelMatchers>>}", "{<<.LabelMatchers>>"),
		configuration[:len(configuration)/2] + "\n\t- {",
		strings.Replace(configuration, "maxAge: 1m", "maxAge: -1m", 1),
	}
}

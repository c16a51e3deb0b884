package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/promproxy"
)

const (
	hangNamespace = "bench-hang"
	// hangMetrics are as many of each of the two servers.
	hangMetrics = 20
	hangReaders = 10
	// hangPeriod is between two reads of one reader of the server that hangs.
	hangPeriod = 200 * time.Millisecond

	hangRounds = 6
	// hangWindow is longer than a call may take, and than an old value serves.
	hangWindow = 10 * time.Second

	figHang      = "p99 of reads from the other Prometheus"
	figHangUsual = "p50 of reads from the other Prometheus"
)

// hangRules have two servers, whose queries are asked often enough that a window sees many.
const hangRules = `
prometheus:
  servers:
    default: {url: %q}
    stuck: {url: %q}
externalRules:
- seriesQuery: '{__name__=~"^fine.*"}'
  resources: {namespaced: false}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>})
  interval: 2s
- seriesQuery: '{__name__=~"^stuck.*"}'
  resources: {namespaced: false}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>})
  interval: 2s
  maxAge: 4s
  server: stuck
`

// hang measures whether a Prometheus that takes calls and never answers is noticed by who
// reads from another one. What it is compared with is what the same reads take while both
// answer, in turns.
func hang() measurement {
	return measurement{
		name: "hang",
		figures: []figure{
			{name: figHang, unit: "ms", ratioAtMost: new(1.1)},
			{name: figHangUsual, unit: "ms"},
		},
		run: measureHang,
	}
}

func measureHang(ctx context.Context, b *bed) (map[string]measured, error) {
	other, err := promproxy.Start(context.WithoutCancel(ctx), promproxy.Options{})
	if err != nil {
		return nil, err
	}
	defer other.Close()
	fine, stuck := hangNames("fine"), hangNames("stuck")
	b.proxy.Play(depths(fine).Play)
	defer b.proxy.Play(nil)
	other.Play(depths(stuck).Play)
	if err := b.namespace(ctx, hangNamespace); err != nil {
		return nil, err
	}
	if err := b.createHPAs(ctx, append(fine, stuck...)); err != nil {
		return nil, err
	}
	values := map[string]measured{}
	file, err := b.writeConfig(fmt.Appendf(nil, hangRules, b.proxy.URL(), other.URL()))
	if err != nil {
		return nil, err
	}
	err = b.during(ctx, env.AdapterOptions{Binary: b.adapter, Args: []string{"--config=" + file}, Env: noAmazon}, func(a *env.Adapter) error {
		client, err := b.reader(ctx, a)
		if err != nil {
			return err
		}
		h := &hanging{
			bed: b, other: other, client: client,
			fine: externalURLs(a, fine), stuck: externalURLs(a, stuck),
		}
		return h.measure(ctx, values)
	})
	return values, b.clearAfter(ctx, []string{hangNamespace}, err)
}

// hangNames are the metrics of one server, which HPAs name too.
func hangNames(prefix string) []types.NamespacedName {
	names := make([]types.NamespacedName, hangMetrics)
	for i := range names {
		names[i] = types.NamespacedName{Namespace: hangNamespace, Name: fmt.Sprintf("%s%02d", prefix, i)}
	}
	return names
}

func depths(names []types.NamespacedName) promproxy.Data {
	var data promproxy.Data
	for _, n := range names {
		data = append(data, promproxy.Sample{Labels: map[string]string{"__name__": n.Name}, Value: "100"})
	}
	return data
}

// hanging are the parts of the measurement.
type hanging struct {
	*bed

	other       *promproxy.Server
	client      *http.Client
	fine, stuck []string // URLs
}

func (h *hanging) measure(ctx context.Context, values map[string]measured) error {
	if err := h.awaitAll(ctx, h.client, append(h.fine, h.stuck...)); err != nil {
		return err
	}
	reading, stop := context.WithCancel(ctx)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer stop()
	for r := range hangReaders {
		readers.Go(func() { h.keepReading(reading, r) })
	}
	states := []func(context.Context) (took, error){h.answering, h.hanging}
	each := make([][]float64, len(states))
	err := inTurns(hangRounds, len(states), func(i int) error {
		t, err := states[i](ctx)
		each[i] = append(each[i], t.each...)
		return err
	})
	if err != nil {
		return err
	}
	for name, part := range map[string]float64{figHang: 0.99, figHangUsual: 0.5} {
		values[name] = measured{
			value: quantile(each[1], part) / float64(time.Millisecond),
			floor: new(quantile(each[0], part) / float64(time.Millisecond)),
		}
	}
	return nil
}

// answering reads while both servers answer.
func (h *hanging) answering(ctx context.Context) (took, error) {
	h.say("reading while both servers answer")
	return h.read(ctx)
}

// hanging reads while one server takes calls and answers none.
func (h *hanging) hanging(ctx context.Context) (took, error) {
	h.say("reading while one server hangs")
	before := h.other.Counts()
	lift := h.other.Fault(promproxy.Fault{Delay: time.Hour})
	t, err := h.read(ctx)
	lift()
	after := h.other.Counts()
	if err != nil {
		return t, err
	}
	if asked := after.Calls[promproxy.Query] - before.Calls[promproxy.Query]; asked == 0 {
		return t, errors.New("nobody asked the server that hangs")
	}
	// What hangs is cut off, so that the next window has nothing of it.
	h.other.Pause()
	return t, errors.Join(h.other.Resume(), h.awaitAll(ctx, h.client, h.stuck))
}

// read reads the metrics of the server that answers. A read that fails is an error.
func (h *hanging) read(ctx context.Context) (took, error) {
	return load{urls: h.fine, inFlight: 1, limit: hangWindow, items: 1}.run(ctx, h.client)
}

// keepReading reads the metrics of the server that hangs, whatever comes of it, as HPAs
// would.
func (h *hanging) keepReading(ctx context.Context, from int) {
	for i := from; pause(ctx, hangPeriod) == nil; i++ {
		_, _ = read(ctx, h.client, h.stuck[i%len(h.stuck)]) // What the others have is measured.
	}
}

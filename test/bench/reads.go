package bench

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/promproxy"
)

const (
	readsNamespace = "bench-reads"

	// customPath is for the app of that name, which is that of the floor's selector too.
	customPath   = "/apis/custom.metrics.k8s.io/v1beta1/namespaces/" + readsNamespace + "/pods/*/http_requests_per_second?labelSelector=app%%3Dpods-%d"
	externalPath = "/apis/external.metrics.k8s.io/v1beta1/namespaces/" + readsNamespace + "/queue_depth"

	few, many = 100, 1000 // pods

	readRounds     = 10
	roundLimit     = time.Second
	firstReadLimit = time.Minute
)

var (
	//go:embed requests.yaml
	requestRules []byte
	//go:embed reader.yaml
	readerObjects []byte
)

// kind is a kind of read, at some number in flight.
type kind struct {
	what     string
	path     string
	items    int // of an answer
	inFlight int
	// leastRate and mostLate are what is required of rate and p99, as ratios to the
	// floor's; nil is nothing.
	leastRate, mostLate *float64
	// rate and p99 are prometheus-adapter's; nil is not known.
	rate, p99 *float64
}

func (k kind) figure(what string) string {
	return fmt.Sprintf("%s, %d in flight, %s", k.what, k.inFlight, what)
}

const (
	figRate = "rate"
	figLate = "p99"
	figCost = "CPU of one"
)

func kinds() []kind {
	external := kind{what: "external metric", path: externalPath, items: 1, leastRate: new(0.95), mostLate: new(1.1)}
	pods := func(n int) kind {
		return kind{what: fmt.Sprintf("Pods metric of %d pods", n), path: fmt.Sprintf(customPath, n), items: n, leastRate: new(0.9)}
	}
	return []kind{
		external.at(1, new(406.0), new(8.8)), external.at(10, new(706.0), new(35.0)), external.at(50, nil, nil),
		pods(few).at(1, new(33.0), new(60.0)), pods(few).at(10, new(54.0), new(363.0)),
		pods(many).at(1, nil, nil), pods(many).at(10, nil, nil),
	}
}

// at is the same kind with so many in flight, and prometheus-adapter's figures of that.
func (k kind) at(inFlight int, rate, p99 *float64) kind {
	k.inFlight, k.rate, k.p99 = inFlight, rate, p99
	return k
}

// reads measures how fast the adapter answers, beside what does nothing but answer.
func reads() measurement {
	m := measurement{name: "reads", run: measureReads}
	for _, k := range kinds() {
		m.figures = append(m.figures,
			figure{name: k.figure(figRate), unit: "req/s", ratioAtLeast: k.leastRate, peer: k.rate},
			figure{name: k.figure(figLate), unit: "ms", ratioAtMost: k.mostLate, peer: k.p99},
			figure{name: k.figure(figCost), unit: "ms"},
		)
	}
	return m
}

func measureReads(ctx context.Context, b *bed) (map[string]measured, error) {
	values := map[string]measured{}
	err := b.measureKinds(ctx, values)
	return values, b.clearAfter(ctx, []string{readsNamespace}, err)
}

func (b *bed) measureKinds(ctx context.Context, values map[string]measured) error {
	pods, err := b.deployments(ctx, []deployment{
		{readsNamespace, fmt.Sprintf("pods-%d", few), few}, {readsNamespace, fmt.Sprintf("pods-%d", many), many},
	})
	if err != nil {
		return err
	}
	depth := promproxy.Sample{Labels: map[string]string{"__name__": "queue_depth", "queue": "orders"}, Value: "17"}
	b.proxy.Play(append(requests(pods), depth).Play)
	defer b.proxy.Play(nil)

	return b.with(ctx, requestRules, nil, func(a *env.Adapter) error {
		return b.withPeer(ctx, requestRules, func(peer *env.Adapter) error {
			sides, err := b.sides(ctx, a, peer)
			if err != nil {
				return err
			}
			for _, k := range kinds() {
				if err := b.measureKind(ctx, sides, k, values); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// measureKind reads again and again what was read once and is complete.
func (b *bed) measureKind(ctx context.Context, sides []side, k kind, values map[string]measured) error {
	if err := b.alike(ctx, sides, k); err != nil {
		return err
	}
	of := func(s side) load {
		return load{urls: []string{s.server.URL + k.path}, inFlight: k.inFlight, limit: roundLimit, items: k.items}
	}
	b.say("reading: %s, %d in flight", k.what, k.inFlight)
	t, err := compare(ctx, sides, readRounds, of)
	if err != nil {
		return err
	}
	values[k.figure(figRate)] = t.beside(tally.rate)
	values[k.figure(figLate)] = t.beside(tally.late)
	values[k.figure(figCost)] = t.beside(tally.cost)
	return b.profile(ctx, sides, fmt.Sprintf("%s %d in flight", k.what, k.inFlight), of)
}

// sides are what is compared: the adapter, the floor, and prometheus-adapter unless it is
// nil.
func (b *bed) sides(ctx context.Context, a, peer *env.Adapter) ([]side, error) {
	floor, err := b.startFloor(ctx)
	if err != nil {
		return nil, err
	}
	sides := []side{{name: "the adapter", server: a}, {name: "the floor", server: floor}}
	if peer != nil {
		sides = append(sides, side{name: "prometheus-adapter", server: peer})
	}
	for i := range sides {
		if sides[i].client, err = b.reader(ctx, sides[i].server); err != nil {
			return nil, err
		}
	}
	return sides, nil
}

// alike waits until each side gives whole answers, and compares their items.
func (b *bed) alike(ctx context.Context, sides []side, k kind) error {
	var shapes []string
	for _, s := range sides {
		var shape string
		err := b.await(ctx, s.name+": "+k.what, firstReadLimit, func(ctx context.Context) (string, bool, error) {
			body, err := read(ctx, s.client, s.server.URL+k.path)
			if err != nil {
				return "", false, err
			}
			var n int
			n, shape, err = shapeOf(body)
			return fmt.Sprintf("%d of %d items", n, k.items), n == k.items, err
		})
		if err != nil {
			return err
		}
		shapes = append(shapes, shape)
	}
	if shapes[0] != shapes[1] {
		return fmt.Errorf("%s: the floor's items have %s, the adapter's %s", k.what, shapes[1], shapes[0])
	}
	return nil
}

// shapeOf is how many items an answer has, and the names of the first one's fields.
func shapeOf(body []byte) (items int, shape string, err error) {
	var list struct {
		Items []map[string]any `json:"items"`
	}
	if err := json.Unmarshal(body, &list); err != nil || len(list.Items) == 0 {
		return 0, "", err
	}
	var names []string
	for name, value := range list.Items[0] {
		names = append(names, name)
		if fields, ok := value.(map[string]any); ok {
			for field := range fields {
				names = append(names, name+"."+field)
			}
		}
	}
	slices.Sort(names)
	return len(list.Items), strings.Join(names, ", "), nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

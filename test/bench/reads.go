package bench

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/promproxy"
)

const (
	readerNamespace = "bench-reads"
	readerName      = "reader"
	readPods        = 100

	customPath   = "/apis/custom.metrics.k8s.io/v1beta1/namespaces/" + readerNamespace + "/pods/*/http_requests_per_second?labelSelector=app%3Dweb"
	externalPath = "/apis/external.metrics.k8s.io/v1beta1/namespaces/" + readerNamespace + "/queue_depth"

	alone, together = 1, 10
	loadLimit       = 20 * time.Second
	firstReadLimit  = time.Minute
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
	count    int
	// rate, p50 and p99 are prometheus-adapter's; nil is not known.
	rate, p50, p99 *float64
}

func (k kind) figure(what string) string {
	return fmt.Sprintf("%s, %d in flight, %s", k.what, k.inFlight, what)
}

var kinds = []kind{
	{"Pods metric of 100 pods", customPath, readPods, alone, 1000, new(33.0), new(30.0), new(60.0)},
	{"Pods metric of 100 pods", customPath, readPods, together, 2000, new(54.0), nil, new(363.0)},
	{"external metric", externalPath, 1, alone, 2000, new(406.0), nil, new(8.8)},
	{"external metric", externalPath, 1, together, 4000, new(706.0), nil, new(35.0)},
}

// reads measures how fast the adapter answers.
func reads() measurement {
	m := measurement{name: "reads", run: measureReads}
	for _, k := range kinds {
		m.figures = append(m.figures,
			figure{name: k.figure("rate"), unit: "req/s", peer: k.rate},
			figure{name: k.figure("p50"), unit: "ms", peer: k.p50},
			figure{name: k.figure("p99"), unit: "ms", peer: k.p99},
		)
	}
	return m
}

func measureReads(ctx context.Context, b *bed) (map[string]float64, error) {
	pods, err := b.deployments(ctx, []deployment{{readerNamespace, "web", readPods}})
	if err != nil {
		return nil, err
	}
	depth := promproxy.Sample{Labels: map[string]string{"__name__": "queue_depth", "queue": "orders"}, Value: "17"}
	b.proxy.Play(append(requests(pods), depth).Play)
	defer b.proxy.Play(nil)

	values := map[string]float64{}
	err = b.with(ctx, requestRules, nil, func(a *env.Adapter) error {
		client, err := b.reader(ctx, a)
		if err != nil {
			return err
		}
		for _, k := range kinds {
			s, err := b.measureRead(ctx, client, a.URL, k)
			if err != nil {
				return err
			}
			values[k.figure("rate")] = s.perSecond
			values[k.figure("p50")] = milliseconds(s.p50)
			values[k.figure("p99")] = milliseconds(s.p99)
		}
		return nil
	})
	return values, err
}

// measureRead reads again and again what was read once and is complete.
func (b *bed) measureRead(ctx context.Context, client *http.Client, adapter string, k kind) (speed, error) {
	url := adapter + k.path
	err := b.await(ctx, k.what, firstReadLimit, func(ctx context.Context) (string, bool, error) {
		body, err := read(ctx, client, url)
		if err != nil {
			return "", false, err
		}
		var list struct {
			Items []json.RawMessage `json:"items"`
		}
		err = json.Unmarshal(body, &list)
		return fmt.Sprintf("%d of %d items", len(list.Items), k.items), len(list.Items) == k.items, err
	})
	if err != nil {
		return speed{}, err
	}
	b.say("reading: %s, %d in flight", k.what, k.inFlight)
	return load{url: url, inFlight: k.inFlight, count: k.count, limit: loadLimit}.run(ctx, client)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

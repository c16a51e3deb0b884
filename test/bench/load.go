package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"

	"github.com/tidegauge/tidegauge/test/env"
)

// load is what several readers ask, one request after the other.
type load struct {
	url string
	// inFlight is how many requests there are at a time, count how many in total, and
	// limit how long they may take; the first of the two ends the load.
	inFlight, count int
	limit           time.Duration
}

// speed is how fast a load was answered.
type speed struct {
	perSecond float64
	p50, p99  time.Duration
}

// run reads until the load is over. An answer other than 200 is an error.
func (l load) run(ctx context.Context, client *http.Client) (speed, error) {
	ctx, cancel := context.WithTimeout(ctx, l.limit+stopLimit) // A request that began in time may end.
	defer cancel()
	var left atomic.Int64
	left.Store(int64(l.count))
	took := make([][]float64, l.inFlight)
	errs := make([]error, l.inFlight)
	start := time.Now()
	var readers sync.WaitGroup
	for i := range l.inFlight {
		readers.Go(func() {
			for left.Add(-1) >= 0 && time.Since(start) < l.limit && errs[i] == nil {
				began := time.Now()
				_, errs[i] = read(ctx, client, l.url)
				took[i] = append(took[i], float64(time.Since(began)))
			}
		})
	}
	readers.Wait()
	elapsed := time.Since(start)
	var all []float64
	for _, t := range took {
		all = append(all, t...)
	}
	if err := errors.Join(errs...); err != nil {
		return speed{}, err
	}
	return speed{
		perSecond: float64(len(all)) / elapsed.Seconds(),
		p50:       time.Duration(median(all)),
		p99:       time.Duration(quantile(all, 0.99)),
	}, nil
}

// read asks once, over HTTP/2.
func read(ctx context.Context, client *http.Client, url string) (body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	if resp.ProtoMajor != 2 {
		return nil, fmt.Errorf("%s: answered with %s, want HTTP/2", url, resp.Proto)
	}
	return body, nil
}

// reader is a client of the adapter itself, with the token of a ServiceAccount that may
// read metrics.
func (b *bed) reader(ctx context.Context, a *env.Adapter) (*http.Client, error) {
	if err := b.Apply(ctx, readerObjects); err != nil {
		return nil, err
	}
	config, err := b.ServiceAccountConfig(ctx, readerNamespace, readerName)
	if err != nil {
		return nil, err
	}
	transport, err := rest.TransportFor(a.Config(config))
	return &http.Client{Transport: transport}, err
}

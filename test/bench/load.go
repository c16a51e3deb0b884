package bench

import (
	"bytes"
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
	// urls are asked in turn.
	urls []string
	// inFlight is how many requests there are at a time, count how many in total (0 is as
	// many as there is time for), and limit how long they may take; the first of the two
	// ends the load.
	inFlight, count int
	limit           time.Duration
	// items is how many an answer has to have; 0 is any number.
	items int
}

// took is how long the requests of a load took, in nanoseconds, and all of them together.
type took struct {
	each    []float64
	elapsed time.Duration
}

// rate is the number of requests in a second.
func (t took) rate() float64 { return float64(len(t.each)) / t.elapsed.Seconds() }

// run reads until the load is over. An answer other than 200 is an error, and so is one
// with too few or too many items.
func (l load) run(ctx context.Context, client *http.Client) (took, error) {
	ctx, cancel := context.WithTimeout(ctx, l.limit+stopLimit) // A request that began in time may end.
	defer cancel()
	var asked atomic.Int64
	each := make([][]float64, l.inFlight)
	errs := make([]error, l.inFlight)
	start := time.Now()
	var readers sync.WaitGroup
	for i := range l.inFlight {
		readers.Go(func() {
			for time.Since(start) < l.limit && errs[i] == nil {
				n := int(asked.Add(1))
				if l.count > 0 && n > l.count {
					return
				}
				began := time.Now()
				errs[i] = l.once(ctx, client, n)
				each[i] = append(each[i], float64(time.Since(began)))
			}
		})
	}
	readers.Wait()
	t := took{elapsed: time.Since(start)}
	for _, some := range each {
		t.each = append(t.each, some...)
	}
	return t, errors.Join(errs...)
}

func (l load) once(ctx context.Context, client *http.Client, n int) error {
	body, err := read(ctx, client, l.urls[n%len(l.urls)])
	if err != nil {
		return err
	}
	// To decode each answer would take more time than to make it.
	if found := bytes.Count(body, []byte(`"timestamp":`)); l.items > 0 && found != l.items {
		return fmt.Errorf("%s: %d items, want %d", l.urls[n%len(l.urls)], found, l.items)
	}
	return nil
}

// awaitAll waits until each URL has an answer.
func (b *bed) awaitAll(ctx context.Context, client *http.Client, urls []string) error {
	return b.await(ctx, "metrics", firstReadLimit, func(ctx context.Context) (string, bool, error) {
		for i, url := range urls {
			if _, err := read(ctx, client, url); err != nil {
				return fmt.Sprintf("%d of %d have a value", i, len(urls)), false, err
			}
		}
		return "", true, nil
	})
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

// reader is a client of the adapter itself, with the token of a ServiceAccount that lives
// where the HPA controller's does and may read all metrics; it is the same token for all. The client takes answers as they are: the
// bare library would compress long ones, which takes it more time than everything else.
func (b *bed) reader(ctx context.Context, a *env.Adapter) (*http.Client, error) {
	if b.as == nil {
		if err := b.Apply(ctx, readerObjects); err != nil {
			return nil, err
		}
		var err error
		if b.as, err = b.ServiceAccountConfig(ctx, "kube-system", "bench-reader"); err != nil {
			return nil, err
		}
	}
	config := a.Config(b.as)
	config.DisableCompression = true
	transport, err := rest.TransportFor(config)
	return &http.Client{Transport: transport}, err
}

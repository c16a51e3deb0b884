package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/tidegauge/tidegauge/test/fakeaws"
)

const (
	// grace is the time that Kubernetes gives a pod between SIGTERM and SIGKILL.
	grace = 30 * time.Second
	// loadReaders read a known metric one time after the other while the adapter stops.
	loadReaders = 20
	// coldReaders wait for the first value of a metric when the adapter is told to stop.
	coldReaders = 10
)

func TestStopUnderLoad(t *testing.T) {
	t.Parallel()
	for name, delay := range map[string]time.Duration{"at once": 0, "after a delay": 2 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := ownBedWithAdapter(t, fmt.Sprintf("--shutdown-delay-duration=%v", delay)).newSpace(t)
			s.stopUnderLoad()

			// An HPA's metric is known again before it is asked for.
			s.scale(worker, 1, "orders")
			if err := s.adapter.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.awaitReplicas(worker, 4)
		})
	}
}

func (s *space) stopUnderLoad() {
	s.t.Helper()
	s.put("Orders", 95)
	s.put("Returns", 5)
	s.create(s.metric("orders", "Orders"))
	s.awaitValue("orders", "95")
	config := s.adapter.Config(s.reader())
	s.eventually("direct read", func(ctx context.Context) error {
		_, err := readValues(ctx, s.client(config), s.namespace, "orders")
		return err
	})

	s.fault(fakeaws.Fault{Service: "cloudwatch", Metric: "Returns", Latency: 5 * time.Second, Count: 1})
	s.create(s.metric("returns", "Returns"))
	cold := s.readCold(config, "returns")
	load := s.startLoad(config, "orders")

	ctx, cancel := context.WithTimeout(s.t.Context(), grace)
	defer cancel()
	state, err := s.adapter.Stop(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	if state.ExitCode() != 0 {
		s.t.Errorf("the adapter ended with %v", state)
	}
	for err := range cold {
		if err != nil {
			s.t.Errorf("a read that was in flight: %v", err)
		}
	}
	load.check(s.t)
}

// inFlight finds the most requests that the adapter had in flight at once lately.
var inFlight = regexp.MustCompile(`apiserver_current_inflight_requests\{request_kind="readOnly"\} (\d+)`)

// readCold starts reads of a metric whose first value takes long, each over a connection
// of its own. It returns when the adapter has all of them in flight; their errors follow
// as they end.
func (s *space) readCold(config *rest.Config, name string) <-chan error {
	s.t.Helper()
	admin := newHTTPClient(s.t, s.adapter.Config(s.Config()))
	s.eventually("discovery", func(ctx context.Context) error {
		text, err := get(ctx, admin, config.Host+apiPath)
		if err != nil {
			return err
		}
		return mentions(text, strconv.Quote(name))
	})
	errs := make(chan error, coldReaders)
	var readers sync.WaitGroup
	for range coldReaders {
		client := newHTTPClient(s.t, config)
		readers.Go(func() {
			_, err := get(s.t.Context(), client, config.Host+metricPath(s.namespace, name))
			errs <- err
		})
	}
	go func() {
		readers.Wait()
		close(errs)
	}()
	s.eventually("reads in flight", func(ctx context.Context) error {
		text, err := get(ctx, admin, config.Host+"/metrics")
		if err != nil {
			return err
		}
		found := inFlight.FindStringSubmatch(text)
		if found == nil {
			return errors.New("there is no gauge of the requests in flight")
		}
		n, err := strconv.Atoi(found[1])
		if err == nil && n < coldReaders {
			err = fmt.Errorf("%d requests are in flight", n)
		}
		return err
	})
	return errs
}

// load is what readers of a known metric met until they were refused a connection.
type load struct {
	readers sync.WaitGroup
	reads   atomic.Int64
	errs    chan error
}

func (s *space) startLoad(config *rest.Config, name string) *load {
	s.t.Helper()
	l := &load{errs: make(chan error, loadReaders)}
	ctx := s.t.Context()
	for range loadReaders {
		client := newHTTPClient(s.t, config)
		l.readers.Go(func() {
			for {
				if _, err := get(ctx, client, config.Host+metricPath(s.namespace, name)); err != nil {
					l.errs <- err
					return
				}
				l.reads.Add(1)
			}
		})
	}
	s.eventually("load", func(context.Context) error {
		if n := l.reads.Load(); n < loadReaders {
			return fmt.Errorf("%d reads", n)
		}
		return nil
	})
	return l
}

// check fails the test if a reader ended for any other reason than that nobody listened
// any more: what was accepted must be answered.
func (l *load) check(t *testing.T) {
	t.Helper()
	l.readers.Wait()
	close(l.errs)
	for err := range l.errs {
		if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "dial" {
			t.Errorf("after %d reads: %v", l.reads.Load(), err)
		}
	}
}

// newHTTPClient has a connection of its own, and does not retry as clients of the
// Kubernetes API do.
func newHTTPClient(t *testing.T, config *rest.Config) *http.Client {
	t.Helper()
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	wrapped, err := rest.HTTPWrappersForConfig(config, transport)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: wrapped}
}

// get is the body of an answer with the status 200.
func get(ctx context.Context, client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}

package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
)

const (
	// pace is the pause between two reads: 50 each second.
	pace = 20 * time.Millisecond
	// patience is how long a read may take.
	patience = 20 * time.Second
	// settled is for how long reads go on after the last thing that was done.
	settled = 3 * time.Second
)

// reader reads metrics through the API server, as the HPA controller does.
type reader struct {
	client *http.Client
	host   string
}

func (b *bed) reader(t *testing.T) *reader {
	t.Helper()
	config, err := b.ServiceAccountConfig(t.Context(), "kube-system", "horizontal-pod-autoscaler")
	if err != nil {
		t.Fatal(err)
	}
	return newReader(t, config)
}

// readerOf reads from one pod, past the API server.
func (b *bed) readerOf(t *testing.T, pod corev1.Pod) *reader {
	t.Helper()
	config, err := b.ServiceAccountConfig(t.Context(), "kube-system", "horizontal-pod-autoscaler")
	if err != nil {
		t.Fatal(err)
	}
	config.Host = "https://" + podAddress(pod)
	// Which certificate it has is not the question here.
	config.TLSClientConfig = rest.TLSClientConfig{Insecure: true}
	return newReader(t, config)
}

func newReader(t *testing.T, config *rest.Config) *reader {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return &reader{client: client, host: config.Host}
}

// podAddress is where the adapter in a pod listens.
func podAddress(pod corev1.Pod) string {
	return net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(int(pod.Spec.Containers[0].Ports[0].ContainerPort)))
}

// read returns nil if the answer is good and has the value.
func (r *reader) read(ctx context.Context, path, value string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.host+path, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return &statusError{code: resp.StatusCode, text: string(body)}
	}
	if !strings.Contains(string(body), value) {
		return fmt.Errorf("want %s, got %s", value, body)
	}
	return nil
}

// statusError is an answer that says that there is no value. No number is in it.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return fmt.Sprintf("%d %s", e.code, strings.TrimSpace(e.text)) }

// load are reads at a steady pace.
type load struct {
	stop  context.CancelFunc
	ended chan struct{}

	mu      sync.Mutex
	reads   int
	slowest time.Duration
	lost    []lostRead
}

// lostRead is a read that did not give the value.
type lostRead struct {
	at   time.Time // of its start
	path string
	err  error
}

// startLoad reads both metrics in turn until load.end.
func (b *bed) startLoad(t *testing.T) *load {
	t.Helper()
	r := b.reader(t)
	ctx, stop := context.WithCancel(t.Context())
	l := &load{stop: stop, ended: make(chan struct{})}
	t.Cleanup(stop)
	go func() {
		defer close(l.ended)
		var reads sync.WaitGroup
		defer reads.Wait()
		ticker := time.NewTicker(pace)
		defer ticker.Stop()
		all := slices.Sorted(maps.Keys(paths))
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			// A read that has begun goes on after the end.
			reads.Go(func() { l.read(context.WithoutCancel(ctx), r, all[i%len(all)]) })
		}
	}()
	<-time.After(settled)
	return l
}

func (l *load) read(ctx context.Context, r *reader, path string) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	start := time.Now()
	err := r.read(ctx, path, paths[path])
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	l.slowest = max(l.slowest, time.Since(start))
	if err != nil {
		l.lost = append(l.lost, lostRead{start, path, err})
	}
}

// end ends the reads some time after the last event and returns those that were lost.
func (l *load) end(t *testing.T) []lostRead {
	t.Helper()
	<-time.After(settled)
	l.stop()
	<-l.ended
	t.Logf("%d reads, %d lost, the slowest took %v", l.reads, len(l.lost), l.slowest.Round(time.Millisecond))
	if l.reads < int(settled/pace) {
		t.Errorf("there were %d reads only", l.reads)
	}
	return l.lost
}

// endWithNoneLost ends the reads and fails the test if one was lost.
func (l *load) endWithNoneLost(t *testing.T) {
	t.Helper()
	for _, lost := range firstOf(l.end(t)) {
		t.Errorf("lost at %s: %s: %v", lost.at.Format(time.StampMilli), lost.path, lost.err)
	}
}

// firstOf are the first few, which tell enough.
func firstOf(lost []lostRead) []lostRead { return lost[:min(len(lost), 10)] }

// unavailable says whether the read got a 503, by which nobody is misled.
func (l lostRead) unavailable() bool {
	status, ok := errors.AsType[*statusError](l.err)
	return ok && status.code == http.StatusServiceUnavailable
}

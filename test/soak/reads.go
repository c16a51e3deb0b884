package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	"k8s.io/metrics/pkg/apis/external_metrics/v1beta1"
)

const (
	// directReaders ask the adapter itself, and others the API server.
	directReaders = 3
	// readPause is between two reads of a reader.
	readPause = 50 * time.Millisecond
	// readLimit is how long an answer may take: the HPA controller waits no longer.
	readLimit = 30 * time.Second
	// maxShown is how much of an answer is shown, in bytes.
	maxShown = 400
	// podGrace is how long a pod may run before an answer has to have it.
	podGrace = 5 * time.Second
)

// read is a read of a workload's metric, and its answer.
type read struct {
	workload     *workload
	began, ended time.Time
	// aggregated says that kube-apiserver was asked, and not the adapter itself.
	aggregated bool
	// err is why there is no answer at all; then status is 0.
	err    error
	status int
	body   []byte
}

// item is a value of an answer.
type item struct {
	object string // the pod that it is of
	value  micros
	at     time.Time
}

// reader reads the metrics of all workloads, one after the other.
type reader struct {
	client *http.Client
	url    string
	// aggregated says that kube-apiserver is in between.
	aggregated bool
}

func newReader(config *rest.Config, aggregated bool) (*reader, error) {
	// Each reader has connections of its own.
	config = rest.CopyConfig(config)
	config.Dial = nil
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, err
	}
	return &reader{client: &http.Client{Transport: transport, Timeout: readLimit}, url: config.Host, aggregated: aggregated}, nil
}

// read reads a metric once.
func (r *reader) read(ctx context.Context, w *workload) read {
	one := read{workload: w, began: time.Now(), aggregated: r.aggregated}
	one.status, one.body, one.err = get(ctx, r.client, r.url+w.path())
	one.ended = time.Now()
	return one
}

// get gives the status and the body of an answer.
func get(ctx context.Context, client *http.Client, url string) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		return 0, nil, err
	}
	return resp.StatusCode, body, nil
}

// run reads until ctx is done.
func (r *reader) run(ctx context.Context, b *bed) {
	tick := time.NewTicker(readPause)
	defer tick.Stop()
	for {
		for _, w := range b.workloads {
			one := r.read(ctx, w)
			if ctx.Err() != nil {
				return // The answer may have been cut short by that.
			}
			b.judge(one)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}
}

// judge checks an answer and takes note of it.
func (b *bed) judge(one read) {
	if b.away.over(one.began, one.ended) && (one.aggregated || refuses(one.status)) {
		b.tally.excuse()
		return
	}
	items, err := b.checkRead(one)
	b.tally.check(honest, err)
	if err != nil {
		return
	}
	if items == nil {
		b.tally.erred()
		return
	}
	// The least of what the items show is what the metric shows.
	freshest := time.Time{}
	for _, i := range items {
		p, err := b.checkGenuine(one, i)
		b.tally.check(genuine, err)
		if err != nil {
			return
		}
		b.tally.check(young, checkYoung(one, i, p))
		if freshest.IsZero() || p.from.Before(freshest) {
			freshest = p.from
		}
	}
	b.fresh.saw(one.workload.name, freshest)
}

// refuses says whether an answer may come of nobody's being able to say who may read.
func refuses(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden || status >= http.StatusInternalServerError
}

// checkRead gives the items of an honest answer; none of an honest error.
func (b *bed) checkRead(one read) ([]item, error) {
	w := one.workload
	troubles := b.episodes.during(w, one.began, one.ended)
	nothing := slices.ContainsFunc(troubles, func(f fault) bool { return f.nothing })
	switch {
	case one.err != nil:
		return nil, fmt.Errorf("%s: no answer after %v: %w", w.metric, one.ended.Sub(one.began).Round(time.Millisecond), one.err)
	case one.status == http.StatusOK:
		items, err := parse(w, one.body)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: an answer that is none: %w: %s", w.metric, err, shown(one.body))
		case len(items) == 0 && nothing:
			return nil, nil // As an error says that there is nothing.
		case len(items) == 0:
			return nil, fmt.Errorf("%s: an empty list", w.metric)
		}
		return items, b.checkWhole(one, items)
	case one.status == http.StatusNotFound && nothing:
		return nil, nil // The backend said so.
	case one.status == http.StatusTooManyRequests, one.status >= http.StatusInternalServerError:
		return nil, checkError(one, troubles)
	default:
		return nil, fmt.Errorf("%s: %d: %s", w.metric, one.status, shown(one.body))
	}
}

// checkError is nil if an error says what the cause is.
func checkError(one read, troubles []fault) error {
	var status metav1.Status
	if err := json.Unmarshal(one.body, &status); err != nil || status.Status != metav1.StatusFailure {
		return fmt.Errorf("%s: %d without a status of the API: %s", one.workload.metric, one.status, shown(one.body))
	}
	switch {
	case len(troubles) == 0:
		return fmt.Errorf("%s: %d, and nothing is wrong with its backend: %s", one.workload.metric, one.status, status.Message)
	case !explains(troubles, status.Message):
		return fmt.Errorf("%s: %d, which does not name the cause: %s", one.workload.metric, one.status, status.Message)
	}
	return nil
}

// checkWhole is nil if an answer has one item, or one of each pod that ran all the while.
func (b *bed) checkWhole(one read, items []item) error {
	w := one.workload
	if w.kind != ofPods {
		if len(items) != 1 {
			return fmt.Errorf("%s: %d items, want 1", w.metric, len(items))
		}
		return nil
	}
	for _, pod := range b.pods.throughout(w.name, one.began.Add(-w.maxAge-podGrace)) {
		if !slices.ContainsFunc(items, func(i item) bool { return i.object == pod }) {
			return fmt.Errorf("%s: pod %s is missing from %d items", w.metric, pod, len(items))
		}
	}
	return nil
}

// checkGenuine gives what is known of a value.
func (b *bed) checkGenuine(one read, i item) (point, error) {
	series := one.workload.seriesOf(i.object)
	p, ok := b.truth.find(series, i.value)
	if !ok {
		return p, fmt.Errorf("%s: %v, which the backend did not have in the last %v", series, i.value, remembered)
	}
	// The API has whole seconds.
	if want := p.measured.Truncate(time.Second); !i.at.Truncate(time.Second).Equal(want) {
		return p, fmt.Errorf("%s: %v has the time %v, and is of %v", series, i.value, i.at.UTC(), want.UTC())
	}
	return p, nil
}

// checkYoung is nil if a value is no older than its maxAge. The adapter counts from
// before it asks, so there is nothing to be lenient with.
func checkYoung(one read, i item, p point) error {
	if p.until.IsZero() {
		return nil
	}
	if age := one.began.Sub(p.until); age > one.workload.maxAge {
		return fmt.Errorf("%s: %v was last to be had from the backend %v before the read, and may be served for %v",
			one.workload.seriesOf(i.object), i.value, age.Round(time.Millisecond), one.workload.maxAge)
	}
	return nil
}

// parse reads a list of the API.
func parse(w *workload, body []byte) ([]item, error) {
	if w.kind == cloudWatch || w.kind == external {
		return parseExternal(body)
	}
	var list v1beta2.MetricValueList
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, err
	}
	if list.Kind != "MetricValueList" {
		return nil, errors.New("kind is " + list.Kind)
	}
	items := make([]item, len(list.Items))
	for i, v := range list.Items {
		items[i] = item{object: v.DescribedObject.Name, value: microsOf(v.Value), at: v.Timestamp.Time}
	}
	return items, nil
}

func parseExternal(body []byte) ([]item, error) {
	var list v1beta1.ExternalMetricValueList
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, err
	}
	if list.Kind != "ExternalMetricValueList" {
		return nil, errors.New("kind is " + list.Kind)
	}
	items := make([]item, len(list.Items))
	for i, v := range list.Items {
		items[i] = item{value: microsOf(v.Value), at: v.Timestamp.Time}
	}
	return items, nil
}

func shown(body []byte) string { return string(body[:min(len(body), maxShown)]) }

// freshness is how late a workload's metric is known to be of.
type freshness struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// saw takes note of the time from which on the backend had a value that was read.
func (f *freshness) saw(name string, from time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if from.After(f.last[name]) {
		f.last[name] = from
	}
}

// stale are the workloads whose metric is of before a time.
func (f *freshness) stale(workloads []*workload, since time.Time) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for _, w := range workloads {
		if f.last[w.name].Before(since) {
			names = append(names, w.name)
		}
	}
	return names
}

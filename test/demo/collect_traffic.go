package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/tidegauge/tidegauge/test/demo/page"
)

// What a loader says of itself on its admin port. It is asked, and not Prometheus, so that
// the page knows the load while Prometheus is away.
const (
	loaderRate      = "loader_rate"
	loaderResponses = "loader_responses_total"
	loaderDuration  = "loader_request_duration_seconds"
)

const (
	// meterWindow is the time that rates and latencies are of.
	meterWindow = 10 * time.Second
	// maxReadings bounds the readings that are kept.
	maxReadings = 64
	// maxExposition bounds what a loader may say.
	maxExposition = 1 << 20
	// firstFailure is the least status code that counts as not served.
	firstFailure = 500
)

// reading is what all loaders together counted since they began.
type reading struct {
	at    time.Time
	asked float64 // requests a second
	// responses are answers by status code, "0" for none.
	responses map[string]float64
	// within are answers that took no longer than a bound in seconds, by bound.
	within map[float64]float64
}

// trafficMeter makes rates of readings. The zero one knows nothing.
type trafficMeter struct{ readings []reading }

// take adds a reading. Counters that went back are those of a loader that began anew, of
// which what was before says nothing.
func (m *trafficMeter) take(r reading) {
	if n := len(m.readings); n > 0 && m.readings[n-1].total() > r.total() {
		m.readings = nil
	}
	m.readings = append(m.readings, r)
	if len(m.readings) > maxReadings {
		m.readings = slices.Delete(m.readings, 0, len(m.readings)-maxReadings)
	}
}

func (r *reading) total() float64 {
	var n float64
	for _, count := range r.responses {
		n += count
	}
	return n
}

// at is the traffic of the window that ends now.
func (m *trafficMeter) at(now time.Time) page.Traffic {
	if len(m.readings) == 0 || now.Sub(m.readings[len(m.readings)-1].at) > staleAfter {
		return page.Traffic{}
	}
	last := m.readings[len(m.readings)-1]
	t := page.Traffic{Asked: page.Num(last.asked), Total: map[string]page.Number{}}
	for code, n := range last.responses {
		t.Total[code] = page.Num(n)
	}
	first := last
	for _, r := range slices.Backward(m.readings) {
		if last.at.Sub(r.at) <= meterWindow {
			first = r
		}
	}
	seconds := last.at.Sub(first.at).Seconds()
	if seconds <= 0 {
		return t
	}
	per := func(counts func(code int) bool) page.Number {
		var n float64
		for code, count := range last.responses {
			if c, err := strconv.Atoi(code); err == nil && counts(c) {
				n += count - first.responses[code]
			}
		}
		return page.Num(n / seconds)
	}
	only := func(want int) page.Number { return per(func(code int) bool { return code == want }) }
	t.Served = per(func(code int) bool { return code > 0 && code < firstFailure })
	t.E502, t.E503, t.E504 = only(http.StatusBadGateway), only(http.StatusServiceUnavailable), only(http.StatusGatewayTimeout)
	within := map[float64]float64{}
	for bound, n := range last.within {
		within[bound] = n - first.within[bound]
	}
	t.P50, t.P99 = quantile(within, 0.5), quantile(within, 0.99)
	return t
}

// quantile is the time within which that part of the answers came, taken as spread evenly
// within each bucket, as histogram_quantile of Prometheus has it. It is absent if there were
// none, and the last bound if it lies beyond.
func quantile(within map[float64]float64, part float64) page.Number {
	var bounds []float64
	for b := range within {
		bounds = append(bounds, b)
	}
	slices.Sort(bounds)
	if len(bounds) == 0 || within[bounds[len(bounds)-1]] <= 0 {
		return page.Number{}
	}
	rank := part * within[bounds[len(bounds)-1]]
	below, from := 0.0, 0.0
	for _, b := range bounds {
		if n := within[b]; n >= rank {
			if math.IsInf(b, 1) {
				return page.Num(from)
			}
			return page.Num(from + (b-from)*(rank-below)/max(n-below, 1e-9))
		}
		below, from = within[b], b
	}
	return page.Num(from)
}

// askLoaders takes a reading of all loaders. Without one of them it would be a part.
func (c *collector) askLoaders(ctx context.Context) error {
	all := reading{at: time.Now(), responses: map[string]float64{}, within: map[float64]float64{}}
	loaders := c.opts.Loaders()
	if len(loaders) == 0 {
		return errors.New("there are no loaders")
	}
	for _, url := range loaders {
		text, err := fetchText(ctx, url+"/metrics")
		if err != nil {
			return err
		}
		if err := all.read(text); err != nil {
			return fmt.Errorf("%s: %w", url, err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.traffic.take(all)
	return nil
}

// read adds what a loader says.
func (r *reading) read(text []byte) error {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return err
	}
	if families[loaderRate] == nil {
		return fmt.Errorf("there is no %s: it is no loader", loaderRate)
	}
	for _, m := range families[loaderRate].GetMetric() {
		r.asked += m.GetGauge().GetValue()
	}
	for _, m := range families[loaderResponses].GetMetric() {
		r.responses[labelOf(m, "code")] += m.GetCounter().GetValue()
	}
	for _, m := range families[loaderDuration].GetMetric() {
		for _, b := range m.GetHistogram().GetBucket() {
			r.within[b.GetUpperBound()] += float64(b.GetCumulativeCount())
		}
	}
	return nil
}

func labelOf(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// fetchText is what a server answers with 200.
func fetchText(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxExposition))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, response.Status)
	}
	return text, err
}

package scale

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"k8s.io/client-go/kubernetes"

	"github.com/tidegauge/tidegauge/test/promproxy"
)

// Self-metrics of the adapter, see docs/reference/metrics.md.
const (
	readsMetric      = "tidegauge_api_reads_total"
	durationMetric   = "tidegauge_api_read_duration_seconds"
	cloudWatchMetric = "tidegauge_cloudwatch_calls_total"
	billedMetric     = "tidegauge_cloudwatch_metrics_requested_total"
	prometheusMetric = "tidegauge_prometheus_calls_total"
	receivedMetric   = "tidegauge_prometheus_received_bytes_total"
	cpuMetric        = "process_cpu_seconds_total"
	residentMetric   = "process_resident_memory_bytes"
)

const (
	// callsASecond is how often at most a query is asked in a second, with room for a refresh
	// that comes early.
	callsASecond = 1.2
	// callsBeside are those of the first demand.
	callsBeside = 10
	// mostQueries are those of Prometheus: the one for all pods, and the exact one with which
	// the HPA's first read began, which stays in demand for a minute.
	mostQueries = 2
	// inFlight is by how much the counts of both sides of a call may differ.
	inFlight = 5
	megabyte = 1e6
)

// figures are what the adapter says of itself, and others of it, since they started.
type figures struct {
	reads, goodReads           float64
	cloudWatch, billed         float64
	prometheus, received, cpu  float64
	resident                   float64
	durations                  map[float64]float64 // reads by the upper bound of their time, in seconds, cumulated
	awsAnswered, queryAnswered float64             // calls, as the other side counts them
}

// figures asks the adapter itself.
func (w *wave) figures() figures {
	w.t.Helper()
	families := w.selfMetrics()
	f := figures{
		reads:      families.sum(readsMetric, "", ""),
		goodReads:  families.sum(readsMetric, "result", "ok"),
		cloudWatch: families.sum(cloudWatchMetric, "", ""),
		billed:     families.sum(billedMetric, "", ""),
		prometheus: families.sum(prometheusMetric, "endpoint", "query"),
		received:   families.sum(receivedMetric, "", ""),
		cpu:        families.sum(cpuMetric, "", ""),
		resident:   families.sum(residentMetric, "", ""),
		durations:  families.buckets(durationMetric),
	}
	f.awsAnswered = float64(w.aws.Counts().CallsByCaller[w.aws.AccessKeyID()]["cloudwatch.GetMetricData"])
	f.queryAnswered = float64(w.prometheus.Counts().Calls["query"])
	return f
}

// selfSample is one of the adapter's self-metrics.
type selfSample struct {
	labels  map[string]string
	value   float64
	buckets map[float64]float64
}

type selfMetrics map[string][]selfSample

func (w *wave) selfMetrics() selfMetrics {
	w.t.Helper()
	text, err := w.adapterText()
	if err != nil {
		w.t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		w.t.Fatal(err)
	}
	metrics := selfMetrics{}
	for _, name := range []string{
		readsMetric, durationMetric, cloudWatchMetric, billedMetric, prometheusMetric, receivedMetric, cpuMetric, residentMetric,
	} {
		if families[name] == nil {
			w.t.Fatalf("the adapter has no self-metric %s", name)
		}
		for _, m := range families[name].GetMetric() {
			s := selfSample{labels: map[string]string{}, value: m.GetCounter().GetValue() + m.GetGauge().GetValue(), buckets: map[float64]float64{}}
			for _, l := range m.GetLabel() {
				s.labels[l.GetName()] = l.GetValue()
			}
			for _, b := range m.GetHistogram().GetBucket() {
				s.buckets[b.GetUpperBound()] = float64(b.GetCumulativeCount())
			}
			metrics[name] = append(metrics[name], s)
		}
	}
	return metrics
}

// sum adds up a metric, of the samples with a label's value if there is a label.
func (s selfMetrics) sum(name, label, value string) float64 {
	total := 0.0
	for _, m := range s[name] {
		if label == "" || m.labels[label] == value {
			total += m.value
		}
	}
	return total
}

func (s selfMetrics) buckets(name string) map[float64]float64 {
	total := map[float64]float64{}
	for _, m := range s[name] {
		for bound, n := range m.buckets {
			total[bound] += n
		}
	}
	return total
}

// most99 is the least bound, in seconds, that 99% of the reads between two points did not
// exceed.
func most99(before, after map[float64]float64) float64 {
	bounds, all := []float64{}, 0.0
	for bound, n := range after {
		bounds = append(bounds, bound)
		all = max(all, n-before[bound])
	}
	slices.Sort(bounds)
	for _, bound := range bounds {
		if after[bound]-before[bound] >= 0.99*all {
			return bound
		}
	}
	return math.Inf(1)
}

// noteMemory keeps the most that the adapter has resident.
func (w *wave) noteMemory() {
	w.t.Helper()
	resident := w.selfMetrics().sum(residentMetric, "", "")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.resident = max(w.resident, resident)
}

// adapterText are the adapter's self-metrics.
func (w *wave) adapterText() ([]byte, error) {
	client, err := kubernetes.NewForConfig(w.adapter.Config(w.Config()))
	if err != nil {
		return nil, err
	}
	return client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(w.t.Context())
}

// report writes the table, and fails the test if the adapter asked more than it has to or
// does not count what the other side does.
func (w *wave) report(before, after figures, took time.Duration) {
	w.t.Helper()
	seconds := took.Seconds()
	w.mu.Lock()
	c, most := w.checked, w.resident
	w.mu.Unlock()
	cloudWatch, prometheus := after.cloudWatch-before.cloudWatch, after.prometheus-before.prometheus
	rows := []struct {
		name  string
		value string
	}{
		{"time", fmt.Sprintf("%.0f s", seconds)},
		{"reads", fmt.Sprintf("%.0f, %.1f a second", after.reads-before.reads, (after.reads-before.reads)/seconds)},
		{"reads that failed", fmt.Sprintf("%.0f", (after.reads-before.reads)-(after.goodReads-before.goodReads))},
		{"99% of reads took at most", fmt.Sprintf("%.3g ms", 1000*most99(before.durations, after.durations))},
		{"calls of CloudWatch", fmt.Sprintf("%.0f, for %.0f metrics", cloudWatch, after.billed-before.billed)},
		{"calls of Prometheus", fmt.Sprintf("%.0f, %.1f MB", prometheus, (after.received-before.received)/megabyte)},
		{"CPU", fmt.Sprintf("%.3f cores", (after.cpu-before.cpu)/seconds)},
		{"resident memory, the most", fmt.Sprintf("%.0f MB", max(most, after.resident)/megabyte)},
		{"numbers checked", fmt.Sprintf("%d in %d reads", c.numbers, c.reads)},
		{"oldest requests per second read", fmt.Sprintf("%.1f s", c.oldestOfWeb.Seconds())},
		{"oldest depth of the queue read", fmt.Sprintf("%.1f s", c.oldestDepth.Seconds())},
	}
	var table strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&table, "| %-32s | %-28s |\n", r.name, r.value)
	}
	w.t.Logf("the adapter, %d steps up to %d pods:\n%s", waveSteps, peakWeb+peakWorkers, table.String())

	if failed := (after.reads - before.reads) - (after.goodReads - before.goodReads); failed > 0 {
		w.t.Errorf("%v reads failed", failed)
	}
	if c.numbers == 0 {
		w.t.Error("no number was checked")
	}
	queries := w.queriesOfPrometheus()
	if len(queries) > mostQueries {
		w.t.Errorf("Prometheus was asked %d queries, want at most %d: %q", len(queries), mostQueries, queries)
	}
	for _, calls := range []struct {
		what                       string
		counted, answered, queries float64
	}{
		{"calls of CloudWatch", cloudWatch, after.awsAnswered - before.awsAnswered, 1},
		{"queries of Prometheus", prometheus, after.queryAnswered - before.queryAnswered, float64(len(queries))},
	} {
		if math.Abs(calls.counted-calls.answered) > inFlight {
			w.t.Errorf("the adapter counts %v %s, the other side %v", calls.counted, calls.what, calls.answered)
		}
		if limit := calls.queries*callsASecond*seconds + callsBeside; calls.answered == 0 || calls.answered > limit {
			w.t.Errorf("%v %s in %.0f s, want some and at most %.0f", calls.answered, calls.what, seconds, limit)
		}
	}
}

// queriesOfPrometheus are the different queries that it was asked of late.
func (w *wave) queriesOfPrometheus() []string {
	var all []string
	for _, c := range w.prometheus.Calls(promproxy.Query) {
		all = append(all, c.Query)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

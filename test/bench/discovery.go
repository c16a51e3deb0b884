package bench

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/promproxy"
)

const (
	manySeries   = 300_000
	seriesLabels = 13

	relistInterval = 5 * time.Second
	// listings is how many times each series query is to be answered before memory is
	// taken for settled.
	listings      = 5
	listingsLimit = 5 * time.Minute

	megabyte = 1e6
)

//go:embed stock.yaml
var stockRules []byte

// containerNames are metrics of cAdvisor.
var containerNames = []string{
	"container_blkio_device_usage_total", "container_cpu_cfs_periods_total", "container_cpu_cfs_throttled_periods_total",
	"container_cpu_cfs_throttled_seconds_total", "container_cpu_system_seconds_total", "container_cpu_usage_seconds_total",
	"container_cpu_user_seconds_total", "container_file_descriptors", "container_fs_reads_bytes_total",
	"container_fs_reads_total", "container_fs_usage_bytes", "container_fs_writes_bytes_total", "container_fs_writes_total",
	"container_last_seen", "container_memory_cache", "container_memory_failcnt", "container_memory_failures_total",
	"container_memory_mapped_file", "container_memory_max_usage_bytes", "container_memory_rss", "container_memory_swap",
	"container_memory_usage_bytes", "container_memory_working_set_bytes", "container_network_receive_bytes_total",
	"container_network_receive_errors_total", "container_network_receive_packets_dropped_total",
	"container_network_receive_packets_total", "container_network_transmit_bytes_total",
	"container_network_transmit_errors_total", "container_network_transmit_packets_dropped_total",
	"container_network_transmit_packets_total", "container_oom_events_total", "container_processes", "container_sockets",
	"container_spec_cpu_period", "container_spec_cpu_quota", "container_spec_cpu_shares", "container_spec_memory_limit_bytes",
	"container_start_time_seconds", "container_threads",
}

// appNames are metrics of 100 programs.
func appNames() []string {
	var names []string
	for app := range 100 {
		for _, suffix := range []string{
			"http_requests_total", "http_request_duration_seconds_bucket", "queue_depth", "busy_seconds_total", "cache_hits_total",
		} {
			names = append(names, fmt.Sprintf("app_%02d_%s", app, suffix))
		}
	}
	return names
}

const (
	figResidentOne  = "resident, 1 series"
	figResidentEach = "resident, 1 series of each of 540 metrics"
	figResidentMany = "resident, 300,000 series of 13 labels"
	figResidentMore = "resident, above that of 1 series"
	figPeakMore     = "peak, above that of 1 series"
	figListing      = "time of a listing, 300,000 series"
	figMetrics      = "metrics found, 300,000 series"
)

// discovery measures what listing the series of a large cluster takes.
func discovery() measurement {
	return measurement{
		name: "discovery",
		figures: []figure{
			{name: figResidentOne, unit: "MB", peer: new(66.0)},
			{name: figResidentEach, unit: "MB"},
			{name: figResidentMany, unit: "MB", peer: new(658.0)},
			{name: figResidentMore, unit: "MB", atMost: new(20.0), peer: new(592.0)},
			{name: figPeakMore, unit: "MB", atMost: new(40.0), peer: new(707.0)},
			{name: figListing, unit: "s"},
			{name: figMetrics, atLeast: new(float64(len(containerNames) + len(appNames())))},
		},
		run: measureDiscovery,
	}
}

func measureDiscovery(ctx context.Context, b *bed) (map[string]measured, error) {
	one, err := b.measureListings(ctx, 1, 0)
	if err != nil {
		return nil, err
	}
	// The difference between this and the next is what the number of series takes.
	each, err := b.measureListings(ctx, len(containerNames), len(appNames()))
	if err != nil {
		return nil, err
	}
	many, err := b.measureListings(ctx, manySeries/2, manySeries/2)
	if err != nil {
		return nil, err
	}
	return plain(map[string]float64{
		figResidentOne:  one.resident / megabyte,
		figResidentEach: each.resident / megabyte,
		figResidentMany: many.resident / megabyte,
		figResidentMore: (many.resident - one.resident) / megabyte,
		figPeakMore:     (many.peak - one.peak) / megabyte,
		figListing:      many.took.Seconds(),
		figMetrics:      float64(many.metrics),
	}), nil
}

// listed is what an adapter is like that has listed some series again and again.
type listed struct {
	memory

	took    time.Duration // of one listing of all series
	metrics int
}

// measureListings starts an adapter of its own, in front of so many series of cAdvisor
// and of other programs.
func (b *bed) measureListings(ctx context.Context, containers, apps int) (listed, error) {
	b.proxy.Play(cluster(containers, apps))
	defer b.proxy.Play(nil)
	b.proxy.Reset()
	var l listed
	args := []string{"--metrics-relist-interval=" + relistInterval.String(), "--metrics-max-age=1m"}
	err := b.with(ctx, stockRules, args, func(a *env.Adapter) error {
		err := b.await(ctx, fmt.Sprintf("listing %d series %d times", containers+apps, listings), listingsLimit, b.listedOften)
		if err != nil {
			return err
		}
		if l.metrics, err = b.metricNames(ctx, a); err != nil {
			return err
		}
		b.say("reading the memory for %v", 2*relistInterval)
		l.memory, err = settledMemory(ctx, a.ID().PID, 2*relistInterval)
		return err
	})
	l.took = listingTime(b.proxy.Calls(promproxy.Series))
	return l, err
}

// listedOften says whether each selector was answered often enough.
func (b *bed) listedOften(context.Context) (seen string, done bool, err error) {
	least, selectors := 0, map[string]int{}
	for _, c := range b.proxy.Calls(promproxy.Series) {
		key := strings.Join(c.Match, " ")
		selectors[key] += 0
		if c.OK() {
			selectors[key]++
		}
	}
	for _, n := range selectors {
		if least == 0 || n < least {
			least = n
		}
		if n == 0 {
			return fmt.Sprintf("no whole answer of %d calls", len(selectors)), false, nil
		}
	}
	// The stock rules have two selectors.
	return fmt.Sprintf("%d selectors, each %d times", len(selectors), least), len(selectors) >= 2 && least >= listings, nil
}

// listingTime is how long it usually takes to list every selector once.
func listingTime(calls []promproxy.Call) time.Duration {
	took := map[string][]float64{}
	for _, c := range calls {
		if c.OK() {
			key := strings.Join(c.Match, " ")
			took[key] = append(took[key], float64(c.Took))
		}
	}
	var sum time.Duration
	for _, times := range took {
		sum += time.Duration(median(times))
	}
	return sum
}

// metricNames counts the metrics that the adapter lists, each once whatever it describes.
func (b *bed) metricNames(ctx context.Context, a *env.Adapter) (int, error) {
	client, err := kubernetes.NewForConfig(a.Config(b.Config()))
	if err != nil {
		return 0, err
	}
	names := map[string]bool{}
	err = b.await(ctx, "the adapter's list of metrics", listingsLimit, func(ctx context.Context) (string, bool, error) {
		var list metav1.APIResourceList
		text, err := client.RESTClient().Get().AbsPath("/apis/custom.metrics.k8s.io/v1beta1").DoRaw(ctx)
		if err != nil {
			return "", false, err
		}
		if err := json.Unmarshal(text, &list); err != nil {
			return "", false, err
		}
		for _, r := range list.APIResources {
			_, metric, _ := strings.Cut(r.Name, "/")
			names[metric] = true
		}
		return "it is empty", len(names) > 0, nil
	})
	return len(names), err
}

// cluster plays so many series of cAdvisor and of other programs.
func cluster(containers, apps int) promproxy.Player {
	names := appNames()
	return func(c promproxy.Call) (promproxy.Answer, bool) {
		if c.Endpoint != promproxy.Series {
			return promproxy.Answer{}, false
		}
		series := promproxy.SyntheticSeries{Count: apps, Labels: seriesLabels, Names: names}
		if len(c.Match) > 0 && strings.Contains(c.Match[0], `__name__=~"^container_`) {
			series.Count, series.Names = containers, containerNames
		}
		return series.Answer(), true
	}
}

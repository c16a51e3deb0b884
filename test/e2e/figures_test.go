package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/fakeaws"
)

// Limits of a GetMetricData call
// (https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch_limits.html).
const (
	maxQueries   = 500
	maxBodyBytes = 614_400
)

// 1,200 metrics need three calls of 500 queries.
func TestCallsPerRefresh(t *testing.T) {
	t.Parallel()
	const (
		objects         = 600
		metrics         = 2 * objects
		callsPerRefresh = 3
		refreshes       = 3
		interval        = 5 * time.Second
	)
	// With periods of a second the limit of datapoints would need more.
	s := ownBedWithAdapter(t).newSpace(t)
	s.createMany(objects, interval)
	for _, i := range []int{0, objects - 1} {
		s.awaitSum(fmt.Sprintf("work-%d", i), int64(i))
	}
	s.awaitAllReady(objects)

	// Objects of the first seconds were asked apart; a reset in mid-refresh would count a
	// part of it, so whole refreshes are looked for between pauses.
	s.aws.ResetCounts()
	var calls []fakeaws.GetMetricDataCall
	s.eventually("refreshes", func(context.Context) error {
		calls = wholeRefreshes(s.asked(), interval)
		if n := len(calls); n < refreshes*callsPerRefresh {
			return fmt.Errorf("%d calls in whole refreshes", n)
		}
		return nil
	})
	for i, c := range calls {
		t.Logf("call %d at %v: %d queries, %d metrics, %d bytes", i, c.Time.Format("05.000"), c.Queries, c.Metrics, c.BodyBytes)
		if c.Queries > maxQueries || c.BodyBytes > maxBodyBytes {
			t.Errorf("call %d has %d queries in %d bytes", i, c.Queries, c.BodyBytes)
		}
	}
	for i := 0; i+callsPerRefresh <= len(calls); i += callsPerRefresh {
		sum := 0
		for _, c := range calls[i : i+callsPerRefresh] {
			sum += c.Metrics
		}
		if sum != metrics {
			t.Errorf("the calls from %d have %d metrics, want all %d in %d calls", i, sum, metrics, callsPerRefresh)
		}
	}
	if failed := s.aws.Counts().Errors["cloudwatch.GetMetricData"]; len(failed) > 0 {
		t.Errorf("calls failed: %v", failed)
	}
}

// awaitAllReady waits until so many objects say that they have a value: until then
// some are asked for the first time, in calls of their own.
func (s *space) awaitAllReady(n int) {
	s.t.Helper()
	s.eventually("all objects are ready", func(ctx context.Context) error {
		list, err := s.objects().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		have := 0
		for _, o := range list.Items {
			if _, ok, err := unstructured.NestedString(o.Object, "status", "value"); ok && err == nil {
				have++
			}
		}
		if have != n {
			return fmt.Errorf("%d of %d have a value", have, n)
		}
		return nil
	})
}

// createMany creates objects of two metrics each, whose sum is the object's number.
func (s *space) createMany(n int, interval time.Duration) {
	s.t.Helper()
	const writers = 20
	g, ctx := errgroup.WithContext(s.t.Context())
	g.SetLimit(writers)
	for i := range n {
		in, out := fmt.Sprintf("In%d", i), fmt.Sprintf("Out%d", i)
		s.put(in, float64(2*i))
		s.put(out, float64(-i))
		o := s.object(fmt.Sprintf("work-%d", i), query("in", in), query("out", out))
		for i := range o.Spec.Queries {
			o.Spec.Queries[i].MetricStat.Period = 60
		}
		o.Spec.Interval = &metav1.Duration{Duration: interval}
		content := s.unstructured(o)
		g.Go(func() error {
			_, err := s.objects().Create(ctx, content, metav1.CreateOptions{})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		s.t.Fatal(err)
	}
}

// awaitSum waits until the items of a metric add up to a number.
func (s *space) awaitSum(name string, want int64) {
	s.t.Helper()
	s.eventually(name, func(ctx context.Context) error {
		items, err := s.values(ctx, name)
		if err != nil {
			return err
		}
		var sum resource.Quantity
		for _, item := range items {
			sum.Add(item.Value)
		}
		if sum.CmpInt64(want) != 0 {
			return fmt.Errorf("the sum is %s, want %d", sum.String(), want)
		}
		return nil
	})
}

// wholeRefreshes are the calls between the first and the last pause of half an interval.
func wholeRefreshes(calls []fakeaws.GetMetricDataCall, interval time.Duration) []fakeaws.GetMetricDataCall {
	first, last := 0, 0
	for i := 1; i < len(calls); i++ {
		if calls[i].Time.Sub(calls[i-1].Time) < interval/2 {
			continue
		}
		if first == 0 {
			first = i
		}
		last = i
	}
	return calls[first:last]
}

func TestReadOfAKnownMetricAsksNobody(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	s.put("Orders", 95)
	o := s.metric("orders", "Orders")
	o.Spec.Interval = &metav1.Duration{Duration: time.Hour}
	o.Spec.MaxAge = &metav1.Duration{Duration: 2 * time.Hour}
	s.create(o)
	s.awaitValue("orders", "95")
	before := len(s.asked())
	const reads = 200
	for range reads {
		if err := s.hasValue(t.Context(), "orders", "95"); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.asked()); n != before {
		t.Errorf("%d reads of a known metric made %d calls", reads, n-before)
	}
}

// maxResident is what an adapter may take that has nothing to do, in bytes.
const maxResident = 100_000_000

func TestIdleAdapterIsSmall(t *testing.T) {
	t.Parallel()
	b := ownBed(t)
	// Not the binary of the other tests, which may have the race detector.
	adapter, err := b.StartAdapter(t.Context(), env.AdapterOptions{
		Binary: filepath.Join(b.Binaries(), "adapter"),
		Env: []string{
			"AWS_ENDPOINT_URL=" + b.aws.URL(), "AWS_REGION=" + fakeaws.DefaultRegion,
			"AWS_ACCESS_KEY_ID=" + b.aws.AccessKeyID(), "AWS_SECRET_ACCESS_KEY=" + b.aws.SecretAccessKey(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	resident, err := residentBytes(adapter.ID().PID)
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("there is no /proc on this system")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the idle adapter has %d bytes resident", resident)
	if resident > maxResident {
		t.Errorf("more than %d", maxResident)
	}
}

// residentBytes is how much of a process is in memory.
func residentBytes(pid int) (int, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(value, "kB")))
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmRSS", pid)
}

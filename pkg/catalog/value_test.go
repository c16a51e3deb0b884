package catalog

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

func TestQuantity(t *testing.T) {
	for _, tc := range []struct {
		value float64
		want  string
	}{
		{0, "0"},
		{math.Copysign(0, -1), "0"},
		{95, "95"},
		{0.9, "900m"},
		{-7.5, "-7500m"},
		{-1.5, "-1500m"},
		{0.001, "1m"},
		{0.0015, "1500u"},
		{1e-9, "1n"},
		{1e-12, "1n"},
		{1.0 / 3, "333333334n"},
		{300, "300"},
		{1e6, "1M"},
		{9007199254740.992, "9007199254740992m"},
		{9.1e18, "9100P"},
		{-9.1e18, "-9100P"},
		{math.Nextafter(1<<63, 0), "9223372036854774784"},
		{123456789012.345, "123456789012345m"},
	} {
		q, err := quantity(tc.value)
		if err != nil {
			t.Errorf("quantity(%v): %v", tc.value, err)
			continue
		}
		if got := q.String(); got != tc.want {
			t.Errorf("quantity(%v) = %s, want %s", tc.value, got, tc.want)
		}
	}
}

func TestQuantityRefuses(t *testing.T) {
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), 1 << 63, -(1 << 63), 1e300} {
		if q, err := quantity(v); !errors.Is(err, ErrNotANumber) {
			t.Errorf("quantity(%v) = %s, %v; want ErrNotANumber", v, q.String(), err)
		}
	}
}

// FuzzQuantity holds every finite value to what a Quantity can hold: the same
// number to a billionth, and never another sign.
func FuzzQuantity(f *testing.F) {
	for _, v := range []float64{0, 0.9, -7.5, 9.1e18, 1e-9, 123456.789, math.MaxInt32 + 0.5} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v float64) {
		q, err := quantity(v)
		if err != nil {
			return
		}
		got := q.AsApproximateFloat64()
		if diff := math.Abs(got - v); diff > 1e-9+math.Abs(v)*1e-15 {
			t.Errorf("quantity(%v) = %s, off by %v", v, q.String(), diff)
		}
		if got*v < 0 {
			t.Errorf("quantity(%v) = %s has another sign", v, q.String())
		}
	})
}

func TestItems(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	fetched := at.Add(90 * time.Second)
	a := sources.NewLabels("id", "a")
	b := sources.NewLabels("id", "b")
	noData := fmt.Errorf("queue jobs: %w", sources.ErrNoData)
	away := errors.New("cloudwatch is away")

	for _, tc := range []struct {
		name    string
		metric  Metric
		answer  engine.Answer
		err     error
		want    []string
		wantErr string
	}{
		{
			name: "one item a sample, with the sample's own time",
			answer: engine.Answer{Fetched: fetched, Samples: []sources.Sample{
				{Labels: a, Value: 0.9, Time: at, Window: time.Minute}, {Labels: b, Value: 2, Time: at},
			}},
			want: []string{"{id=a} 900m 03:04:00 1m0s", "{id=b} 2 03:04:00 0s"},
		},
		{
			name: "one NaN fails the whole, for a part of the sum is a wrong sum",
			answer: engine.Answer{Fetched: fetched, Samples: []sources.Sample{
				{Labels: a, Value: 1, Time: at}, {Labels: b, Value: math.NaN(), Time: at},
			}},
			wantErr: "series {id=b}: not a number that can be served: NaN",
		},
		{name: "no data is an error", answer: engine.Answer{Fetched: fetched}, err: noData, wantErr: "no data"},
		{
			name:   "no data is zero where somebody wrote it",
			metric: Metric{Zeros: []sources.Labels{a, b}}, answer: engine.Answer{Fetched: fetched}, err: noData,
			want: []string{"{id=a} 0 03:05:30 0s", "{id=b} 0 03:05:30 0s"},
		},
		{
			name:   "a backend that is away is never zero",
			metric: Metric{Zeros: []sources.Labels{a}}, err: away, wantErr: "cloudwatch is away",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			items, err := tc.metric.Items(tc.answer, tc.err)
			if (err != nil) != (tc.wantErr != "") || err != nil && !strings.Contains(err.Error(), tc.wantErr) {
				t.Fatalf("error %v, want %q", err, tc.wantErr)
			}
			var got []string
			for _, i := range items {
				got = append(got, fmt.Sprint(i.Labels, " ", i.Value.String(), " ", i.Time.Format(time.TimeOnly), " ", i.Window))
			}
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestReadableByHPA pins down from where on an HPA misreads a number, by the very
// call that the HPA controller makes.
func TestReadableByHPA(t *testing.T) {
	for _, tc := range []struct {
		value float64
		want  bool
	}{{0, true}, {0.9, true}, {9e15, true}, {9.3e15, false}, {9.1e18, false}} {
		q, err := quantity(tc.value)
		if err != nil {
			t.Fatal(err)
		}
		if err := ReadableByHPA([]Item{{Value: q}}); (err == nil) != tc.want {
			t.Errorf("ReadableByHPA(%v): %v", tc.value, err)
		}
		asHPA := resource.MustParse(q.String())
		if exact := float64(asHPA.MilliValue()) == tc.value*1000; exact != tc.want {
			t.Errorf("an HPA reads %v as %d thousandths", tc.value, asHPA.MilliValue())
		}
	}
	for _, tc := range []struct {
		values []string
		want   bool
	}{
		{[]string{"5P", "4P"}, true},
		{[]string{"5P", "5P"}, false},
		{[]string{"-7500m"}, false},
		{[]string{"10", "-5"}, true},
		{[]string{"-5", "10"}, false}, // The sum is negative on the way.
		// Each is rounded to a thousandth before it is added: 2-1-1-1 is negative.
		{[]string{"2m", "-500u", "-500u", "-500u"}, false},
	} {
		var items []Item
		for _, v := range tc.values {
			items = append(items, Item{Value: resource.MustParse(v)})
		}
		if err := ReadableByHPA(items); (err == nil) != tc.want || err != nil && !errors.Is(err, ErrMisreadByHPA) {
			t.Errorf("ReadableByHPA(%v): %v", tc.values, err)
		}
	}
}

// TestReplicasOfSumReadableByHPA pins down from where on an HPA without replicas gets more
// of them than it can count, by the very division that the HPA controller makes.
func TestReplicasOfSumReadableByHPA(t *testing.T) {
	for _, tc := range []struct {
		values []string
		target float64
		want   bool
	}{
		{nil, 1, true},
		{[]string{"0"}, 0.001, true},
		{[]string{"2147483646"}, 1, true},
		{[]string{"2147483648"}, 1, false},
		{[]string{"3G"}, 1, false},
		{[]string{"3G"}, 2, true},
		{[]string{"9P"}, 1e7, true},
		{[]string{"2147484"}, 0.001, false},
		{[]string{"2G", "1G"}, 1, false},
		// It adds up all, also those below zero.
		{[]string{"5G", "-4G"}, 1, true},
		// Each is rounded to a thousandth before it is added: these are three of them.
		{[]string{"2147483645", "1u", "1u", "1u"}, 1, true},
	} {
		var items []Item
		var milli int64
		for _, v := range tc.values {
			items = append(items, Item{Value: resource.MustParse(v)})
			milli += items[len(items)-1].Value.MilliValue()
		}
		if err := ReplicasOfSumReadableByHPA(items, tc.target); (err == nil) != tc.want || err != nil && !errors.Is(err, ErrMisreadByHPA) {
			t.Errorf("ReplicasOfSumReadableByHPA(%v, %v): %v", tc.values, tc.target, err)
		}
		replicas := math.Ceil(float64(milli) / math.Round(1000*tc.target))
		if fits := replicas <= math.MaxInt32; fits != tc.want {
			t.Errorf("of %v and the target %v an HPA makes %v replicas", tc.values, tc.target, replicas)
		}
	}
}

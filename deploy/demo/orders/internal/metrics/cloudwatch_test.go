package metrics

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
)

// cloud is a CloudWatch that keeps what it is given.
type cloud struct {
	mu    sync.Mutex
	err   error
	puts  [][]types.MetricDatum
	sums  map[string]float64
	after int // how many puts it takes before it fails
}

func (c *cloud) PutMetricData(_ context.Context, in *cloudwatch.PutMetricDataInput, _ ...func(*cloudwatch.Options)) (*cloudwatch.PutMetricDataOutput, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil && c.after == 0 {
		return nil, c.err
	}
	if c.err != nil {
		c.after--
	}
	if c.sums == nil {
		c.sums = map[string]float64{}
	}
	for _, d := range in.MetricData {
		c.sums[*d.MetricName] += *d.StatisticValues.Sum
	}
	c.puts = append(c.puts, in.MetricData)
	return &cloudwatch.PutMetricDataOutput{}, nil
}

// back has it take everything again.
func (c *cloud) back() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = nil
}

// taken is the sum of a metric, in how many puts, and the data of the last one.
func (c *cloud) taken(name string) (sum float64, puts, data int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.puts); n > 0 {
		data = len(c.puts[n-1])
	}
	return c.sums[name], len(c.puts), data
}

func TestCountsOfEachMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{}
		p := PublisherOf(c, Namespace)
		p.Count("502", 1)
		p.Count("502", 2)
		p.Count("200", 1)
		first := time.Now().Truncate(time.Minute)
		<-time.After(time.Minute)
		p.Count("502", 4)
		p.Flush(t.Context())
		p.Flush(t.Context()) // There is nothing.
		if len(c.puts) != 1 || len(c.puts[0]) != 3 {
			t.Fatalf("put %v, want three data at once", c.puts)
		}
		for i, want := range []struct {
			name string
			at   time.Time
			sum  float64
		}{{"200", first, 1}, {"502", first, 3}, {"502", first.Add(time.Minute), 4}} {
			d := c.puts[0][i]
			if *d.MetricName != want.name || !d.Timestamp.Equal(want.at) || *d.StatisticValues.Sum != want.sum ||
				*d.StatisticValues.SampleCount != 1 || *d.StatisticValues.Maximum != want.sum || d.Unit != types.StandardUnitCount {
				t.Errorf("%s at %v: %+v, want %+v", *d.MetricName, d.Timestamp, d.StatisticValues, want)
			}
		}
	})
}

func TestGaugesAreNotAddedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{}
		p := PublisherOf(c, Namespace)
		for _, v := range []float64{3, 9, 6} {
			p.Gauge("app_workers", v)
		}
		p.Flush(t.Context())
		got := c.puts[0][0].StatisticValues
		want := types.StatisticSet{Sum: aws.Float64(18), Minimum: aws.Float64(3), Maximum: aws.Float64(9), SampleCount: aws.Float64(3)}
		if *got.Sum != *want.Sum || *got.Minimum != *want.Minimum || *got.Maximum != *want.Maximum || *got.SampleCount != *want.SampleCount {
			t.Errorf("sum %v, from %v to %v, of %v", *got.Sum, *got.Minimum, *got.Maximum, *got.SampleCount)
		}
	})
}

func TestNothingIsLostWhileCloudWatchIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{err: errors.New("away")}
		p := PublisherOf(c, Namespace)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); p.Run(ctx, 10*time.Second, nil) }()
		for range 30 { // 5 minutes
			p.Count("200", 7)
			<-time.After(10 * time.Second)
		}
		c.back()
		<-time.After(11 * time.Second)
		if sum, puts, data := c.taken("200"); sum != 210 || puts != 1 || data < 5 {
			t.Errorf("%v in %d puts of %d data, want 210 in one of five minutes", sum, puts, data)
		}
		p.Count("200", 1)
		cancel()
		<-done
		if sum, _, _ := c.taken("200"); sum != 211 {
			t.Errorf("%v, want the last one too", sum)
		}
	})
}

func TestAPutHasNoMoreThanAThousand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{err: errors.New("away"), after: 2}
		p := PublisherOf(c, Namespace)
		for range 4 {
			for code := range 900 {
				p.Count(strconv.Itoa(code), 1)
			}
			<-time.After(time.Minute)
		}
		p.Flush(t.Context()) // The third of four fails.
		if len(c.puts) != 2 || len(p.pending) != 1600 {
			t.Fatalf("%d puts and %d left, want 2 and 1600", len(c.puts), len(p.pending))
		}
		c.back()
		p.Flush(t.Context())
		for _, put := range c.puts {
			if len(put) > 1000 {
				t.Errorf("%d data in one put", len(put))
			}
		}
		for code := range 900 {
			if got := c.sums[strconv.Itoa(code)]; got != 4 {
				t.Fatalf("%d of code %d, want 4", int(got), code)
			}
		}
	})
}

func TestWhatIsKeptIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{err: errors.New("away")}
		p := PublisherOf(c, Namespace)
		const minutes, codes = 150, 100
		for range minutes {
			for code := range codes {
				p.Count(strconv.Itoa(code), 1)
			}
			p.Flush(t.Context())
			if len(p.pending) > maxPending {
				t.Fatalf("%d are kept", len(p.pending))
			}
			<-time.After(time.Minute)
		}
		c.back()
		p.Flush(t.Context())
		for code := range codes {
			if got := c.sums[strconv.Itoa(code)]; got != minutes {
				t.Fatalf("%v of code %d, want %d", got, code, minutes)
			}
		}
	})
}

// A clock that is set, or a CloudWatch that is away for weeks, leaves times that CloudWatch
// refuses, with all that is put beside them.
func TestTimesThatAreRefusedHoldUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{}
		p := PublisherOf(c, Namespace)
		now := time.Now().Truncate(time.Minute)
		one := set{count: true, sum: 1, least: 1, most: 1, samples: 1}
		for _, at := range []time.Time{now.AddDate(0, 0, -15), now.AddDate(0, 0, -14), now.Add(-time.Hour), now, now.Add(3 * time.Hour)} {
			p.add(key{at.Unix(), "200"}, one)
		}
		p.Flush(t.Context())
		for _, d := range c.puts[0] {
			if age := now.Sub(*d.Timestamp); age > 14*24*time.Hour || age < -2*time.Hour {
				t.Errorf("%v is put, which is refused at %v", *d.Timestamp, now)
			}
		}
		if sum, puts, data := c.taken("200"); sum != 5 || puts != 1 || data != 2 {
			t.Errorf("%v in %d puts of %d data, want 5 in one of two minutes", sum, puts, data)
		}
	})
}

func TestNilPublishesNothing(t *testing.T) {
	var p *Publisher
	p.Count("200", 1)
	p.Gauge("app_workers", 1)
	p.Run(t.Context(), 0, nil)
}

// By the SDK, and not compressed, which it would be.
func TestAFullPutIsBelowAMegabyte(t *testing.T) {
	var size atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		size.Store(max(size.Load(), n))
		w.Header().Set("Smithy-Protocol", "rpc-v2-cbor")
		_, _ = w.Write([]byte{0xa0}) // An empty map.
	}))
	t.Cleanup(server.Close)
	p := PublisherOf(cloudwatch.New(cloudwatch.Options{
		BaseEndpoint: &server.URL, Region: "us-east-1", DisableRequestCompression: true,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}, nil
		}),
	}), Namespace)
	for code := range perPut {
		p.Count(strings.Repeat("x", 250)+strconv.Itoa(code), 1<<40+1)
	}
	p.Flush(t.Context())
	if n := size.Load(); n < 300_000 || n > 1_000_000 || len(p.pending) != 0 {
		t.Errorf("%d bytes, and %d sets are left", n, len(p.pending))
	}
}

// Package metrics puts what a mode counts to CloudWatch.
package metrics

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
)

// Namespace is where the load and those who bear it are in CloudWatch.
const Namespace = "appsimulator"

const (
	// perPut is how many metrics a PutMetricData may have. So many of these, which have no
	// dimensions, are far below the 1 MB that it may have, see
	// https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html
	perPut = 1000
	// putTimeout is how long a PutMetricData may take, the SDK's own retries included.
	putTimeout = 10 * time.Second
	// maxPending is how many sets are kept for a CloudWatch that is away.
	maxPending = 10 * perPut
	// oldest and newest are of which times CloudWatch takes metrics, less a margin: it refuses all
	// of a put that has one of another time. See the page above.
	oldest = 13 * 24 * time.Hour
	newest = time.Hour
)

// Putter is the one method of a CloudWatch client that a Publisher calls.
type Putter interface {
	PutMetricData(context.Context, *cloudwatch.PutMetricDataInput, ...func(*cloudwatch.Options)) (*cloudwatch.PutMetricDataOutput, error)
}

// Publisher puts metrics without dimensions into a namespace of CloudWatch. What could not
// be put is put the next time, with the minute that it is of; a put that was taken and whose
// answer was lost is counted twice. A nil Publisher publishes nothing.
type Publisher struct {
	client    Putter
	namespace string

	flushing sync.Mutex // One flush at a time.
	away     bool       // belongs to flushing

	mu      sync.Mutex
	pending map[key]set
}

// key is a metric in a minute: CloudWatch keeps no finer times of ordinary metrics.
type key struct {
	minute int64 // Unix
	name   string
}

func (k key) compare(other key) int {
	return cmp.Or(cmp.Compare(k.minute, other.minute), cmp.Compare(k.name, other.name))
}

// set is what was seen of a metric.
type set struct {
	count            bool // The values add up to one.
	sum, least, most float64
	samples          float64
}

func (s set) and(other set) set {
	if s.samples == 0 {
		return other
	}
	s.sum += other.sum
	if s.count {
		s.least, s.most = s.sum, s.sum
		return s
	}
	s.samples += other.samples
	s.least, s.most = min(s.least, other.least), max(s.most, other.most)
	return s
}

// NewPublisher returns one that uses the SDK's default chain of credentials.
func NewPublisher(ctx context.Context, namespace string) (*Publisher, error) {
	config, err := awsconfig.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("configuration of AWS: %w", err)
	}
	return PublisherOf(cloudwatch.NewFromConfig(config), namespace), nil
}

// PublisherOf returns one that puts with client.
func PublisherOf(client Putter, namespace string) *Publisher {
	return &Publisher{client: client, namespace: namespace, pending: map[key]set{}}
}

// Count adds n to what happened in this minute. Its Sum is the number of times.
func (p *Publisher) Count(name string, n int) {
	v := float64(n)
	p.see(name, set{count: true, sum: v, least: v, most: v, samples: 1})
}

// Gauge notes a value of now.
func (p *Publisher) Gauge(name string, v float64) {
	p.see(name, set{sum: v, least: v, most: v, samples: 1})
}

func (p *Publisher) see(name string, s set) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.add(key{time.Now().Truncate(time.Minute).Unix(), name}, s)
}

// add needs the mutex. When there are too many sets the oldest minute becomes part of the one
// after it: a count that is late is better than one that is lost.
func (p *Publisher) add(k key, s set) {
	p.pending[k] = p.pending[k].and(s)
	for len(p.pending) > maxPending {
		keys := slices.SortedFunc(maps.Keys(p.pending), key.compare)
		oldest := keys[0].minute
		next := slices.IndexFunc(keys, func(k key) bool { return k.minute > oldest })
		if next < 0 {
			return // One minute has no more than there are names.
		}
		for _, k := range keys[:next] {
			later := key{keys[next].minute, k.name}
			p.pending[later] = p.pending[k].and(p.pending[later])
			delete(p.pending, k)
		}
	}
}

// Run calls collect, if there is one, and flushes, at each interval until ctx is done, and
// once more then.
func (p *Publisher) Run(ctx context.Context, interval time.Duration, collect func(context.Context)) {
	if p == nil {
		return
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if collect != nil {
				collect(ctx)
			}
			p.Flush(ctx)
		case <-ctx.Done():
			p.Flush(context.WithoutCancel(ctx))
			if n := p.kept(); n > 0 {
				slog.Error("ended before CloudWatch took all metrics", "namespace", p.namespace, "lost", n)
			}
			return
		}
	}
}

func (p *Publisher) kept() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pending)
}

// take takes what is pending. What is of a time that CloudWatch refuses is from now on of now:
// it would keep all others from being put.
func (p *Publisher) take(now time.Time) map[key]set {
	p.mu.Lock()
	defer p.mu.Unlock()
	from, to, minute := now.Add(-oldest).Unix(), now.Add(newest).Unix(), now.Truncate(time.Minute).Unix()
	taken := make(map[key]set, len(p.pending))
	for k, s := range p.pending {
		if k.minute < from || k.minute > to {
			k.minute = minute
		}
		taken[k] = taken[k].and(s)
	}
	p.pending = map[key]set{}
	return taken
}

// Flush puts what is pending. The log says when CloudWatch begins to fail, and when it is back.
func (p *Publisher) Flush(ctx context.Context) {
	p.flushing.Lock()
	defer p.flushing.Unlock()
	taken := p.take(time.Now())
	keys := slices.SortedFunc(maps.Keys(taken), key.compare)
	var err error
	for len(keys) > 0 {
		n := min(perPut, len(keys))
		if err = p.put(ctx, keys[:n], taken); err != nil {
			break
		}
		keys = keys[n:]
	}
	p.mu.Lock()
	for _, k := range keys {
		p.add(k, taken[k])
	}
	p.mu.Unlock()

	switch {
	case err != nil && !p.away:
		slog.Warn("CloudWatch took no metrics; they are kept and put later", "namespace", p.namespace, "pending", len(keys), "error", err)
	case err == nil && p.away:
		slog.Info("CloudWatch takes metrics again", "namespace", p.namespace)
	}
	p.away = err != nil
}

func (p *Publisher) put(ctx context.Context, keys []key, sets map[key]set) error {
	data := make([]types.MetricDatum, 0, len(keys))
	for _, k := range keys {
		s := sets[k]
		data = append(data, types.MetricDatum{
			MetricName: aws.String(k.name),
			Timestamp:  aws.Time(time.Unix(k.minute, 0)),
			Unit:       types.StandardUnitCount,
			StatisticValues: &types.StatisticSet{
				Sum: &s.sum, Minimum: &s.least, Maximum: &s.most, SampleCount: &s.samples,
			},
		})
	}
	ctx, cancel := context.WithTimeout(ctx, putTimeout)
	defer cancel()
	if _, err := p.client.PutMetricData(ctx, &cloudwatch.PutMetricDataInput{Namespace: &p.namespace, MetricData: data}); err != nil {
		return fmt.Errorf("putting %d metrics into %s: %w", len(data), p.namespace, err)
	}
	return nil
}

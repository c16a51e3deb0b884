package demo

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

const (
	queueInterval   = 500 * time.Millisecond
	metricInterval  = time.Second
	historyInterval = time.Second
	// callLimit bounds a call that measures something.
	callLimit = 3 * time.Second
)

// each calls do at once and then in each interval, until ctx is done.
func each(ctx context.Context, interval time.Duration, do func(context.Context)) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		do(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// measureQueue keeps the board's depth of the queue.
func (d *demo) measureQueue(ctx context.Context) {
	each(ctx, queueInterval, func(ctx context.Context) {
		call, cancel := context.WithTimeout(ctx, callLimit)
		defer cancel()
		waiting, inWork, err := d.amazon.depth(call)
		if ctx.Err() != nil {
			return // The story is over, and what was seen last stays.
		}
		if err != nil {
			klog.FromContext(ctx).Error(err, "Cannot ask the queue for its depth")
		}
		d.board.update(func(s *snapshot) {
			s.queue.known = err == nil
			if err == nil {
				s.queue.messages, s.queue.measured = waiting+inWork, d.board.elapsed()
			}
		})
	})
}

// measureMetric keeps the board's depth as CloudWatch knows it.
func (d *demo) measureMetric(ctx context.Context) {
	each(ctx, metricInterval, func(ctx context.Context) {
		call, cancel := context.WithTimeout(ctx, callLimit)
		defer cancel()
		value, at, err := d.amazon.metric(call)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			klog.FromContext(ctx).Error(err, "Cannot ask CloudWatch for the depth of the queue")
		}
		d.board.update(func(s *snapshot) {
			s.metric = depth{known: err == nil && !at.IsZero(), messages: int(value), measured: at.Sub(d.board.start)}
		})
	})
}

// keepHistory adds a point for each second.
func (d *demo) keepHistory(ctx context.Context) {
	each(ctx, historyInterval, func(context.Context) { d.board.update((*snapshot).remember) })
}

// usage is what the adapter answered and asked so far.
func (d *demo) usage(ctx context.Context) (usage, error) {
	var u usage
	u.calls, u.metrics = d.amazon.asked()
	client, err := kubernetes.NewForConfig(d.adapter.Config(d.cluster.Config()))
	if err != nil {
		return u, err
	}
	text, err := client.RESTClient().Get().AbsPath("/metrics").Stream(ctx)
	if err != nil {
		return u, fmt.Errorf("the adapter's /metrics: %w", err)
	}
	defer text.Close()
	u.reads, u.waited, err = parseReads(text)
	return u, err
}

// parseReads finds in the adapter's own metrics how many reads it answered, and how
// many of them had to wait for CloudWatch.
func parseReads(text io.Reader) (reads, waited int, err error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(text)
	if err != nil {
		return 0, 0, fmt.Errorf("the adapter's /metrics: %w", err)
	}
	for _, m := range families["tidegauge_reads_total"].GetMetric() {
		count := int(m.GetCounter().GetValue())
		reads += count
		for _, label := range m.GetLabel() {
			if label.GetName() == "result" && label.GetValue() == "waited" {
				waited += count
			}
		}
	}
	return reads, waited, nil
}

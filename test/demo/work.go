package demo

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/tidegauge/tidegauge/test/runner"
)

// What the shop counts of itself.
const (
	ordersPlaced     = "orders_placed_total"
	ordersProcessed  = "orders_processed_total"
	ordersDuplicates = "orders_duplicates_total"
	ordersPoison     = "orders_poison_total"
)

// worked is what the workers say that they did.
type worked struct {
	// processed are orders, and duplicates messages of orders that were processed already: SQS
	// delivers each at least once. Poison are messages that no worker can process.
	processed, duplicates, poison int
	// counting are the workers that were asked, and again how often one of them was started
	// again: then it counts from 0.
	counting, again int
}

// checkPlaced holds what the web pods counted against what was placed. No pod of them is gone
// yet: the HPA takes none away while the load rises.
func (d *demo) checkPlaced(ctx context.Context) error {
	counts, _, err := d.countAt(ctx, webName)
	if err == nil && int(counts[ordersPlaced]) != d.opts.Messages {
		err = fmt.Errorf("the web pods stored %v orders: %d were placed", counts[ordersPlaced], d.opts.Messages)
	}
	return err
}

// countWork asks the workers what they did.
func (d *demo) countWork(ctx context.Context) error {
	counts, pods, err := d.countAt(ctx, workerName)
	if err != nil {
		return err
	}
	d.worked = worked{
		processed: int(counts[ordersProcessed]), duplicates: int(counts[ordersDuplicates]), poison: int(counts[ordersPoison]),
		counting: len(pods),
	}
	for _, pod := range pods {
		d.worked.again += pod.Restarts
	}
	return nil
}

// checkOrders holds what the shop has, and what the workers counted, against what was placed.
func (d *demo) checkOrders(ctx context.Context) error {
	placed, processed, err := d.countOrders(ctx)
	if err != nil {
		return err
	}
	if placed != d.opts.Messages || processed != placed {
		return fmt.Errorf("the shop has %d orders, of which %d are processed: %d were placed", placed, processed, d.opts.Messages)
	}
	if err := d.worked.check(placed); err != nil {
		return err
	}
	d.board.step(d.worked.verdict(placed))
	return nil
}

// check returns why the orders that were placed cannot have been processed once each. What a
// worker counted before it was started again is not known, so there may be fewer then.
func (w worked) check(placed int) error {
	switch {
	case w.poison > 0:
		return fmt.Errorf("the workers took %d messages for poison", w.poison)
	case w.processed > placed:
		return fmt.Errorf("the workers processed %d orders: %d were placed", w.processed, placed)
	case w.processed < placed && w.again == 0 && w.counting >= maxWorkers:
		return fmt.Errorf("the workers processed %d orders only: %d were placed", w.processed, placed)
	}
	return nil
}

func (w worked) verdict(placed int) string {
	return fmt.Sprintf("all %d orders are processed, each once (duplicates: %d, restarts: %d)",
		placed, w.duplicates, w.again)
}

// countAt adds up what the pods of a Deployment count.
func (d *demo) countAt(ctx context.Context, deployment string) (counts map[string]float64, pods []runner.State, err error) {
	err = d.insist(ctx, "asking the "+deployment+" pods for their metrics", func(ctx context.Context) error {
		counts, pods = map[string]float64{}, nil
		for _, pod := range d.podsOf(deployment) {
			if err := d.addCounts(ctx, counts, pod); err != nil {
				return fmt.Errorf("pod %s: %w", pod.Name, err)
			}
			pods = append(pods, pod)
		}
		return nil
	})
	return counts, pods, err
}

// podsOf are the pods of a Deployment that have a process.
func (d *demo) podsOf(deployment string) []runner.State {
	var pods []runner.State
	for _, pod := range d.runner.Pods() {
		if pod.Namespace == namespace && strings.HasPrefix(pod.Name, deployment+"-") && pod.PID != 0 {
			pods = append(pods, pod)
		}
	}
	return pods
}

func (d *demo) addCounts(ctx context.Context, counts map[string]float64, pod runner.State) error {
	address, err := d.runner.Address(pod.Namespace, pod.Name, adminPort)
	if err != nil {
		return err
	}
	text, err := call(ctx, http.MethodGet, "http://"+address+"/metrics", "", nil, http.StatusOK)
	if err != nil {
		return err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return err
	}
	for name, family := range families {
		for _, m := range family.GetMetric() {
			counts[name] += m.GetCounter().GetValue()
		}
	}
	return nil
}

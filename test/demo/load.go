package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegauge/tidegauge/test/demo/page"
)

const (
	// senders are so many users who place orders at a time.
	senders = 8
	// callPause is the time between two attempts of a call that may be repeated.
	callPause = 200 * time.Millisecond
	// listSize is how many orders a list has at most.
	listSize = 100
	// maxListed bounds an answer, in bytes.
	maxListed = 1 << 20
)

// load is what the loaders are told: where to send requests, and how many a second.
type load struct {
	mu  sync.Mutex
	url string
	now float64
}

func (l *load) target() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.url
}

func (l *load) aim(url string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.url = url
}

func (l *load) rate() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func (l *load) set(rate float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = rate
}

// loaders are the URLs of the loaders' admin ports.
func (d *demo) loaders() []string {
	var urls []string
	for _, pod := range d.podsOf(loaderName) {
		if address, err := d.runner.Address(namespace, pod.Name, adminPort); err == nil {
			urls = append(urls, "http://"+address)
		}
	}
	return urls
}

// setLoad has the loaders send so many requests a second each.
func (d *demo) setLoad(ctx context.Context, rate float64) error {
	d.load.set(rate)
	body := []byte(`{"rate":` + strconv.FormatFloat(rate, 'f', -1, 64) + `}`)
	return d.insist(ctx, "the loaders' rate", func(ctx context.Context) error {
		urls := d.loaders()
		if len(urls) == 0 {
			return errors.New("there are no loaders")
		}
		for _, url := range urls {
			if _, err := call(ctx, http.MethodPut, url+"/rate", "", body, http.StatusOK); err != nil {
				return err
			}
		}
		return nil
	})
}

// placeOrders places orders as users do, through the balancer. One that is not answered is
// placed again under its key, which makes no second one.
func (d *demo) placeOrders(ctx context.Context, orders int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(senders)
	for n := range orders {
		g.Go(func() error {
			body := fmt.Appendf(nil, `{"item":"item %d","quantity":1}`, n)
			return d.insist(ctx, "placing an order", func(ctx context.Context) error {
				_, err := call(ctx, http.MethodPost, d.balancer.URL()+"/api/orders", fmt.Sprintf("demo-%d", n), body, http.StatusCreated)
				return err
			})
		})
	}
	return g.Wait()
}

// countOrders asks the shop for all its orders.
func (d *demo) countOrders(ctx context.Context) (placed, processed int, err error) {
	after := ""
	for {
		var list struct {
			Orders []struct{ Processed *time.Time }
			After  string
		}
		err := d.insist(ctx, "listing the orders", func(ctx context.Context) error {
			url := fmt.Sprintf("%s/api/orders?limit=%d&after=%s", d.balancer.URL(), listSize, after)
			text, err := call(ctx, http.MethodGet, url, "", nil, http.StatusOK)
			if err != nil {
				return err
			}
			return json.Unmarshal(text, &list)
		})
		if err != nil {
			return 0, 0, err
		}
		for _, o := range list.Orders {
			placed++
			if o.Processed != nil {
				processed++
			}
		}
		if after = list.After; after == "" {
			return placed, processed, nil
		}
	}
}

// insist calls until it worked or the limit of a step is over.
func (d *demo) insist(ctx context.Context, what string, do func(context.Context) error) error {
	limit := time.After(d.opts.stepLimit)
	for {
		attempt, cancel := context.WithTimeout(ctx, callLimit)
		err := do(attempt)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(callPause):
		case <-limit:
			return fmt.Errorf("%s: %w", what, err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// call sends a request and returns the answer, which has to have the status.
func call(ctx context.Context, method, url, key string, body []byte, want int) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxListed))
	if err == nil && resp.StatusCode != want {
		err = fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, bytes.TrimSpace(text))
	}
	return text, err
}

// phaseNow is the phase for the page.
func (d *demo) phaseNow() page.Phase {
	s := d.board.look()
	return page.Phase{Word: s.phase.String(), Title: s.phase.title(), Since: s.entered}
}

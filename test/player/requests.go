package player

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

// defaultInterval is taken for the interval of the scrapes of a scraper that does not say.
const defaultInterval = 5 * time.Second

// Requests are what clients ask of a workload, or of one pod.
type Requests struct {
	Namespace string `json:"namespace"`
	// Workload is the name of a Deployment, StatefulSet or whatever else owns the pods.
	// The rate is spread evenly over those of its pods that are scraped, as a load
	// balancer does.
	Workload string `json:"workload,omitempty"`
	// Pod is the name of one pod, in place of Workload.
	Pod string `json:"pod,omitempty"`
	// PerSecond is the rate. 0 ends the requests.
	PerSecond float64 `json:"perSecond"`
}

func (r Requests) scope() scope {
	return scope{namespace: r.Namespace, workload: r.Workload, pod: r.Pod}
}

func (r Requests) check() error {
	if err := r.scope().check(); err != nil {
		return err
	}
	return checkAmount("perSecond", r.PerSecond)
}

// SetRequests sets how many requests come, each in place of those that came for the
// same workload or pod before. Those for a pod add to those for its workload. When one
// is refused, none is set.
func (p *Player) SetRequests(requests ...Requests) error {
	for _, r := range requests {
		if err := r.check(); err != nil {
			return fmt.Errorf("requests: %w", err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range requests {
		p.pods.set(time.Now(), r.scope(), r.PerSecond, 0)
	}
	return nil
}

// servePod answers a scrape of a pod, which is a request itself. So a pod that nobody
// else asks shows 0.2 requests per second at a scrape interval of 5 s.
func (p *Player) servePod(w http.ResponseWriter, r *http.Request) {
	id := targetID{namespace: r.PathValue("namespace"), pod: r.PathValue("pod")}
	e := p.exposePod(time.Now(), id, scrapeInterval(r))
	e.write(w)
}

func (p *Player) exposePod(now time.Time, id targetID, interval time.Duration) exposition {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.pods.scraped(now, id, interval)
	// Sums of shares miss whole numbers by a little.
	requests, scrapes := math.Floor(t.count+1e-6), float64(t.scrapes)
	var e exposition
	e.counter("http_requests_total", requests, labels{"method": "GET", "path": "/", "status": "200"})
	e.counter("http_requests_total", scrapes, labels{"method": "GET", "path": "/metrics", "status": "200"})
	// A mesh's proxy answers scrapes itself and does not count them.
	e.counter("envoy_cluster_upstream_rq", requests, labels{"envoy_cluster_name": "local_app", "envoy_response_code": "200"})
	return e
}

// scrapeInterval is the least that lies between the request and the next of the same
// scraper. Prometheus says its timeout, which is never above the interval and by
// default the same, up to 10 s.
func scrapeInterval(r *http.Request) time.Duration {
	seconds, err := strconv.ParseFloat(r.Header.Get("X-Prometheus-Scrape-Timeout-Seconds"), 64)
	if err != nil || !(seconds > 0) {
		return defaultInterval
	}
	return min(time.Duration(seconds*float64(time.Second)), maxInterval)
}

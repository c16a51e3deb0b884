package demo

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"

	"k8s.io/client-go/kubernetes"

	"github.com/tidegauge/tidegauge/test/demo/page"
)

// pageAddress is of this machine only, as the page has no passwords.
const pageAddress = "127.0.0.1:0"

// newLive makes the collector, which knows for the page and for the story how it is with each
// part.
func (d *demo) newLive() error {
	adapter, err := kubernetes.NewForConfig(d.adapter.Config(d.cluster.Config()))
	if err != nil {
		return err
	}
	d.collector = newCollector(collectorOptions{
		Kube: d.cluster.Client(), Namespace: namespace, Told: d.see, Web: webName, Worker: workerName,
		Depth: d.amazon.depth, Loaders: d.loaders, Known: knownBy(adapter.Discovery().RESTClient()),
		Probes: []probe{
			{controlPlane, answers(d.cluster.Client())},
			{AWS, func(ctx context.Context) error {
				_, _, err := d.amazon.depth(ctx)
				return err
			}},
			{Database, d.database.check},
			{Prometheus, fetches(d.prometheus.URL + "/-/ready")},
			{Adapter, answers(adapter)},
			{"load balancer", fetches(d.balancer.MetricsURL() + "/targets")},
		},
		Phase: d.phaseNow,
	})
	return nil
}

// live collects, and serves the page if there is to be one, until ctx is done.
func (d *demo) live(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { d.collector.run(ctx) })
	if !d.opts.Page {
		return
	}
	p := page.New(d.collector)
	running.Go(func() { p.Run(ctx) })
	running.Go(func() {
		err := p.Serve(ctx, pageAddress, func(url string) {
			d.board.update(func(s *snapshot) { s.page = url })
			d.board.step("the page: " + url)
		})
		if err != nil {
			d.fail(err)
		}
	})
}

// answers checks an API server.
func answers(client kubernetes.Interface) func(context.Context) error {
	return func(ctx context.Context) error {
		return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	}
}

// fetches checks a URL.
func fetches(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := fetchText(ctx, url)
		return err
	}
}

// check says whether somebody listens there, or whether the file is there.
func (b *database) check(ctx context.Context) error {
	if b.postgres == nil {
		_, err := os.Stat(b.file)
		return err
	}
	u, err := url.Parse(b.postgres.DatabaseURL())
	if err != nil {
		return fmt.Errorf("the database's URL: %w", err)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return err
	}
	return conn.Close()
}

// scraped serves what Prometheus scrapes: the pods, under paths that name them.
type scraped struct {
	server *http.Server
	url    string
}

func (d *demo) startScraped(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", pageAddress)
	if err != nil {
		return err
	}
	d.scraped = &scraped{
		server: &http.Server{Handler: d.runner.Handler(nil), ReadHeaderTimeout: callLimit},
		url:    "http://" + l.Addr().String(),
	}
	go func() { _ = d.scraped.server.Serve(l) }() // Until Close.
	return nil
}

func (s *scraped) stop() {
	if s != nil {
		_ = s.server.Close() // Nobody is to have an answer any more.
	}
}

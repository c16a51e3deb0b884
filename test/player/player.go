// Package player plays the pods of simulated nodes towards Prometheus: one server whose
// counters rise as if somebody used the pods.
//
//	/{namespace}/{pod}/metrics  the metrics of a pod, of whatever name; any other path of a pod is the same
//	/cadvisor/metrics           the CPU and memory of every node; with ?namespace=&pod=&container=&node= of a container
//	/extra/metrics              the series that SetSeries gave
//	/_control/                  the control API, see Client
//
// A pod exists from its first scrape on. It counts as gone when it missed three scrapes,
// and what it had to do goes to the other pods of its workload.
package player

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/tidegauge/tidegauge/test/standin"
)

// Options say how a Player is to be. The zero value works.
type Options struct {
	// Addr is the host and port to listen on; by default 127.0.0.1 and any free port.
	Addr string
}

// Player plays the pods. Its methods may be called at any time and from any goroutine.
type Player struct {
	*standin.Server

	start time.Time

	mu         sync.Mutex
	pods       *spread // whose counts are requests
	containers *spread // whose counts are seconds of CPU
	nodes      map[string]*node
	sets       map[string]set
}

// Start listens and serves until ctx is done or Close is called.
func Start(ctx context.Context, opts Options) (*Player, error) {
	p := newPlayer()
	p.Server = standin.New(ctx, opts.Addr, p.handler(), nil)
	if err := p.Resume(); err != nil {
		p.Close()
		return nil, err
	}
	context.AfterFunc(ctx, p.Close)
	return p, nil
}

// newPlayer returns a Player that does not listen.
func newPlayer() *Player {
	return &Player{
		start: time.Now(), pods: newSpread(), containers: newSpread(),
		nodes: map[string]*node{}, sets: map[string]set{},
	}
}

func (p *Player) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{namespace}/{pod}/{path...}", p.servePod)
	mux.HandleFunc("GET /cadvisor/metrics", p.serveUsage)
	mux.HandleFunc("GET /extra/metrics", p.serveSeries)
	p.control(mux)
	return mux
}

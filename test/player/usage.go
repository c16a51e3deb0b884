package player

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"
)

// nodeBytes is the memory of a node, as that of the test bed's nodes.
const nodeBytes = 1 << 40

// Usage is what the containers of a workload or of a pod use, or a node.
type Usage struct {
	Namespace string `json:"namespace,omitempty"`
	// Workload owns pods, as in Requests: their containers share the usage evenly.
	Workload string `json:"workload,omitempty"`
	// Pod is one pod, in place of Workload.
	Pod string `json:"pod,omitempty"`
	// Container narrows the usage to the containers of this name.
	Container string `json:"container,omitempty"`
	// Node is a node, in place of all of the above. Its usage is apart from that of its pods.
	Node string `json:"node,omitempty"`
	// Cores are CPU seconds per second.
	Cores float64 `json:"cores"`
	// Bytes are memory.
	Bytes float64 `json:"bytes"`
}

func (u Usage) scope() scope {
	return scope{namespace: u.Namespace, workload: u.Workload, pod: u.Pod, container: u.Container}
}

func (u Usage) check() error {
	return errors.Join(u.checkScope(), checkAmount("cores", u.Cores), checkAmount("bytes", u.Bytes))
}

func (u Usage) checkScope() error {
	if u.Node == "" {
		return u.scope().check()
	}
	if u.scope() != (scope{}) {
		return fmt.Errorf("node %s: a node has no namespace, workload, pod or container", u.Node)
	}
	return nil
}

// node is what a node uses.
type node struct {
	cpu   meter
	bytes float64
}

// SetUsage sets usages, each in place of the one before of the same node, or of the
// same workload or pod and container. Others add up. When one is refused, none is set.
func (p *Player) SetUsage(usages ...Usage) error {
	for _, u := range usages {
		if err := u.check(); err != nil {
			return fmt.Errorf("usage: %w", err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, u := range usages {
		if u.Node == "" {
			p.containers.set(now, u.scope(), u.Cores, u.Bytes)
			continue
		}
		n := p.node(u.Node)
		n.cpu = meter{value: n.cpu.read(now), rate: u.Cores, at: now}
		n.bytes = u.Bytes
	}
	return nil
}

// node makes a node known.
func (p *Player) node(name string) *node {
	n := p.nodes[name]
	if n == nil {
		n = &node{}
		p.nodes[name] = n
	}
	return n
}

func (p *Player) serveUsage(w http.ResponseWriter, r *http.Request) {
	if r.URL.RawQuery == "" {
		e := p.exposeNodes(time.Now())
		e.write(w)
		return
	}
	id := targetID{namespace: r.FormValue("namespace"), pod: r.FormValue("pod"), container: r.FormValue("container")}
	if id.namespace == "" || id.pod == "" || id.container == "" {
		http.Error(w, "namespace, pod and container have to be given together", http.StatusBadRequest)
		return
	}
	e := p.exposeContainer(time.Now(), id, r.FormValue("node"), scrapeInterval(r))
	e.write(w)
}

// exposeContainer shows a container as cAdvisor does.
func (p *Player) exposeContainer(now time.Time, id targetID, onNode string, interval time.Duration) exposition {
	p.mu.Lock()
	defer p.mu.Unlock()
	if onNode != "" {
		p.node(onNode)
	}
	t := p.containers.scraped(now, id, interval)
	l := labels{
		"namespace": id.namespace, "pod": id.pod, "container": id.container, "node": onNode,
		"id": "/kubepods/" + id.namespace + "/" + id.pod + "/" + id.container,
	}
	var e exposition
	e.counter("container_cpu_usage_seconds_total", t.count, l)
	e.gauge("container_memory_working_set_bytes", t.level(), l)
	return e
}

// exposeNodes shows the nodes, as cAdvisor and as node-exporter do.
func (p *Player) exposeNodes(now time.Time) exposition {
	p.mu.Lock()
	defer p.mu.Unlock()
	var e exposition
	for _, name := range slices.Sorted(maps.Keys(p.nodes)) {
		n := p.nodes[name]
		root := labels{"id": "/", "node": name}
		e.counter("container_cpu_usage_seconds_total", n.cpu.read(now), root)
		e.gauge("container_memory_working_set_bytes", n.bytes, root)
		e.counter("node_cpu_seconds_total", n.cpu.read(now), labels{"node": name, "cpu": "0", "mode": "user"})
		e.counter("node_cpu_seconds_total", now.Sub(p.start).Seconds(), labels{"node": name, "cpu": "0", "mode": "idle"})
		e.gauge("node_memory_MemTotal_bytes", nodeBytes, labels{"node": name})
		e.gauge("node_memory_MemAvailable_bytes", nodeBytes-n.bytes, labels{"node": name})
	}
	return e
}

package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log" //nolint:depguard // what net/http takes
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// network is where the pods' addresses are from. kwok's pods have others.
var network = netip.MustParsePrefix("10.66.0.0/16")

const (
	// The ports lie below those that operating systems give to outgoing connections, and
	// beside those of the test bed's components.
	firstPort = 10000
	lastPort  = 19999
	portTries = 100
)

// addressOf is a new pod's address: the one that it has from an earlier runner, or one that no
// pod had before, up to the network's size. The caller holds mu.
func (r *Runner) addressOf(object *corev1.Pod) string {
	if ip, err := netip.ParseAddr(object.Status.PodIP); err == nil && network.Contains(ip) && r.byIP[ip.String()] == nil {
		return ip.String()
	}
	for {
		r.given = r.given%(1<<16-2) + 1
		base := network.Addr().As4()
		base[2], base[3] = byte(r.given>>8&0xff), byte(r.given&0xff)
		if ip := netip.AddrFrom4(base).String(); r.byIP[ip] == nil {
			return ip
		}
	}
}

var ports struct {
	sync.Mutex
	given map[int]bool
}

// takePort is a TCP port of 127.0.0.1 on which nothing listens, and which no other pod has.
func takePort(ctx context.Context) (int, error) {
	ports.Lock()
	defer ports.Unlock()
	if ports.given == nil {
		ports.given = map[int]bool{}
	}
	for range portTries {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		if ports.given[port] {
			continue
		}
		l, err := new(net.ListenConfig).Listen(ctx, "tcp4", loopback(port))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			return 0, err
		}
		ports.given[port] = true
		return port, nil
	}
	return 0, fmt.Errorf("no free port of 127.0.0.1 between %d and %d in %d tries", firstPort, lastPort, portTries)
}

func givePorts(back map[int32]int) {
	ports.Lock()
	defer ports.Unlock()
	for _, port := range back {
		delete(ports.given, port)
	}
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// Dial connects to a port of a pod, which is one that its container declares or listens on by
// its arguments. Where no pod is, it fails as Options.BlackHole says. Other addresses are
// connected to as they are.
func (r *Runner) Dial(ctx context.Context, protocol, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: protocol, Err: err}
	}
	to, err := r.resolve(ctx, host, port)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: protocol, Addr: name(address), Err: err}
	}
	if to == "" {
		to = address
	}
	return new(net.Dialer).DialContext(ctx, protocol, to)
}

// resolve is the address of a pod's process, or empty for what is no pod's address.
func (r *Runner) resolve(ctx context.Context, host, port string) (string, error) {
	ip, err := netip.ParseAddr(host)
	if err != nil || !network.Contains(ip) {
		return "", nil //nolint:nilerr // A name is no pod's address.
	}
	r.mu.Lock()
	p := r.byIP[host]
	r.mu.Unlock()
	if p == nil {
		if r.opts.BlackHole {
			<-ctx.Done()
			return "", ctx.Err()
		}
		return "", syscall.EHOSTUNREACH
	}
	n, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		return "", err
	}
	return p.real(int32(n))
}

// name is the address that could not be connected to, for errors.
type name string

// Network is of net.Addr.
func (n name) Network() string { return "tcp" }

// String is the address.
func (n name) String() string { return string(n) }

// Address is where a port of a pod is on this machine, by its number or its name.
func (r *Runner) Address(namespace, pod, port string) (string, error) {
	p, err := r.find(namespace, pod)
	if err != nil {
		return "", err
	}
	n, err := number(p.container(), port)
	if err != nil {
		return "", fmt.Errorf("pod %s/%s: %w", namespace, pod, err)
	}
	to, err := p.real(n)
	if err != nil {
		return "", fmt.Errorf("pod %s/%s, port %s: %w", namespace, pod, port, err)
	}
	return to, nil
}

// number is that of a container's port, given its name or its number.
func number(c *corev1.Container, port string) (int32, error) {
	for _, p := range c.Ports {
		if p.Name == port {
			return p.ContainerPort, nil
		}
	}
	n, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("container %s has no port named %q", c.Name, port)
	}
	return int32(n), nil
}

// Handler serves what Prometheus scrapes in the test bed: GET /{namespace}/{pod}/{path} is
// the pod's own, at the port of its annotation prometheus.io/port, or else at the port that
// it names admin or metrics. What is no pod's of the runner is for the other handler, which
// may be nil.
func (r *Runner) Handler(otherwise http.Handler) http.Handler {
	if otherwise == nil {
		otherwise = http.NotFoundHandler()
	}
	mux := http.NewServeMux()
	mux.Handle("/", otherwise)
	mux.HandleFunc("GET /{namespace}/{pod}/{path...}", func(w http.ResponseWriter, req *http.Request) {
		p, err := r.find(req.PathValue("namespace"), req.PathValue("pod"))
		if err != nil {
			otherwise.ServeHTTP(w, req)
			return
		}
		to, err := p.metricsAddress()
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		forward(w, req, to)
	})
	return mux
}

// forward passes a request for a path of a pod on to where its port is. Pods end while they are
// asked: only who asked is told.
func forward(w http.ResponseWriter, req *http.Request, to string) {
	proxy := httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL = &url.URL{Scheme: "http", Host: to, Path: "/" + req.PathValue("path"), RawQuery: req.URL.RawQuery}
			pr.Out.Host = to
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
		// Of an answer that ends before its time.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	proxy.ServeHTTP(w, req)
}

func (p *pod) metricsAddress() (string, error) {
	for _, port := range []string{p.now().Annotations["prometheus.io/port"], "admin", "metrics"} {
		n, err := number(p.container(), port)
		if err == nil {
			return p.real(n)
		}
	}
	return "", errors.New("the pod has no port for metrics")
}

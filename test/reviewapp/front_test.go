package reviewapp

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/runner"
)

var (
	httpRoutes = schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"}
	gateways   = schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "gateways"}
)

// route and gateway are the parts that deploy/review-app uses.
type route struct {
	metav1.ObjectMeta `json:"metadata"`

	Spec struct {
		ParentRefs []struct{ Name, Namespace, SectionName string }
		Hostnames  []string
		Rules      []struct {
			BackendRefs []struct {
				Name string
				Port int32
			}
		}
	}
}

type listener struct {
	Name, Protocol, Hostname string
	Port                     int32
	AllowedRoutes            struct {
		Namespaces struct {
			From     string
			Selector *metav1.LabelSelector
		}
	}
}

// front is in the place of the shared Gateway: it takes the routes that the Gateway's
// listener allows, and serves them with one wildcard certificate.
type front struct {
	cluster   *env.Cluster
	runner    *runner.Runner
	server    *httptest.Server
	authority *x509.CertPool
	stop      context.CancelFunc
	accepting sync.WaitGroup
}

func startFront(ctx context.Context, c *env.Cluster, r *runner.Runner) (*front, error) {
	f := &front{cluster: c, runner: r, authority: x509.NewCertPool()}
	cert, err := wildcard()
	if err != nil {
		return nil, err
	}
	f.authority.AddCert(cert.Leaf)
	f.server = httptest.NewUnstartedServer(http.HandlerFunc(f.serve))
	f.server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	f.server.StartTLS()
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	f.stop = stop
	f.accepting.Go(func() {
		for ctx.Err() == nil {
			_ = f.accept(ctx) // A route that is changed meanwhile is for the next time.
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	})
	return f, nil
}

func (f *front) close() {
	f.stop()
	f.accepting.Wait()
	f.server.Close()
}

// into reads an object as far as a type has it.
func into(o *unstructured.Unstructured, to any) error {
	text, err := o.MarshalJSON()
	if err != nil {
		return err
	}
	return json.Unmarshal(text, to)
}

// wildcard is a certificate of the names of one level, which vouches for itself.
func wildcard() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"*.example.com"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

// client goes to the front whatever the name is, as with a wildcard record in DNS.
func (f *front) client() *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: f.authority, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, f.server.Listener.Addr().String())
		},
	}}
}

func (f *front) serve(w http.ResponseWriter, r *http.Request) {
	to, err := f.target(r.Context(), r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	if to == "" {
		http.NotFound(w, r)
		return
	}
	proxy := httputil.ReverseProxy{
		Transport: &http.Transport{DialContext: f.runner.Dial, DisableKeepAlives: true},
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(&url.URL{Scheme: "http", Host: to})
			pr.SetXForwarded()
			pr.Out.Host = r.Host
		},
	}
	proxy.ServeHTTP(w, r)
}

// target is the address of a ready pod of the Service that the route of a host leads to;
// empty if there is no route.
func (f *front) target(ctx context.Context, host string) (string, error) {
	routes, err := f.routes(ctx)
	if err != nil {
		return "", err
	}
	for _, route := range routes {
		if len(route.Spec.Hostnames) != 1 || route.Spec.Hostnames[0] != host {
			continue
		}
		backend := route.Spec.Rules[0].BackendRefs[0]
		slices, err := f.cluster.Client().DiscoveryV1().EndpointSlices(route.Namespace).List(ctx,
			metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + backend.Name})
		if err != nil {
			return "", err
		}
		for _, s := range slices.Items {
			for _, e := range s.Endpoints {
				if e.Conditions.Ready != nil && *e.Conditions.Ready && len(s.Ports) > 0 {
					return net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*s.Ports[0].Port))), nil
				}
			}
		}
		return "", fmt.Errorf("Service %s/%s has no ready pod", route.Namespace, backend.Name)
	}
	return "", nil
}

// routes are those that the listener apps of the shared Gateway takes.
func (f *front) routes(ctx context.Context) ([]route, error) {
	l, err := f.listener(ctx)
	if err != nil {
		return nil, err
	}
	selector, err := metav1.LabelSelectorAsSelector(l.AllowedRoutes.Namespaces.Selector)
	if err != nil {
		return nil, err
	}
	list, err := f.cluster.Dynamic().Resource(httpRoutes).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var taken []route
	for _, o := range list.Items {
		var r route
		if err := into(&o, &r); err != nil {
			return nil, err
		}
		ns, err := f.cluster.Client().CoreV1().Namespaces().Get(ctx, r.Namespace, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		if l.takes(r) && selector.Matches(labels.Set(ns.Labels)) {
			taken = append(taken, r)
		}
	}
	return taken, nil
}

func (f *front) listener(ctx context.Context) (listener, error) {
	o, err := f.cluster.Dynamic().Resource(gateways).Namespace("review-apps").Get(ctx, "review-apps", metav1.GetOptions{})
	if err != nil {
		return listener{}, err
	}
	var gateway struct {
		Spec struct{ Listeners []listener }
	}
	if err := into(o, &gateway); err != nil {
		return listener{}, err
	}
	for _, l := range gateway.Spec.Listeners {
		if l.Name == "apps" {
			return l, nil
		}
	}
	return listener{}, errors.New("the Gateway has no listener apps")
}

// takes says whether a route is for this listener. A wildcard takes names of any level, but
// its certificate only those of one.
func (l listener) takes(r route) bool {
	for _, p := range r.Spec.ParentRefs {
		if p.Name != "review-apps" || p.Namespace != "review-apps" || p.SectionName != l.Name {
			return false
		}
	}
	for _, host := range r.Spec.Hostnames {
		if !strings.HasSuffix(host, strings.TrimPrefix(l.Hostname, "*")) {
			return false
		}
	}
	return len(r.Spec.ParentRefs) == 1
}

// accept writes the status of the routes that are taken, as a controller does.
func (f *front) accept(ctx context.Context) error {
	routes, err := f.routes(ctx)
	if err != nil {
		return err
	}
	for _, r := range routes {
		client := f.cluster.Dynamic().Resource(httpRoutes).Namespace(r.Namespace)
		o, err := client.Get(ctx, r.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if parents, _, _ := unstructured.NestedSlice(o.Object, "status", "parents"); len(parents) > 0 {
			continue
		}
		condition := map[string]any{
			"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": time.Now().UTC().Format(time.RFC3339),
		}
		o.Object["status"] = map[string]any{"parents": []any{map[string]any{
			"controllerName": "tidegauge.dev/front", "conditions": []any{condition},
			"parentRef": map[string]any{"name": "review-apps", "namespace": "review-apps", "sectionName": "apps"},
		}}}
		if _, err := client.UpdateStatus(ctx, o, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
			return err
		}
	}
	return nil
}

package balancer

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
)

// TargetType is what a target group registers.
type TargetType string

// See https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-target-groups.html#target-type.
const (
	// IP registers the addresses of pods.
	IP TargetType = "ip"
	// Instance registers nodes, with the Service's NodePort.
	Instance TargetType = "instance"
)

// Algorithm is how a target is chosen for a request.
type Algorithm string

// See https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-target-group-attributes.html#modify-routing-algorithm.
const (
	RoundRobin       Algorithm = "round_robin"
	LeastOutstanding Algorithm = "least_outstanding_requests"
)

// NodeHealthPort in Health.Port asks the Service's healthCheckNodePort, where kube-proxy
// says whether a node has a ready pod of a Service with externalTrafficPolicy Local. The
// controller does not choose it for an ALB by itself: an annotation has to say so, see
// https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/ingress/annotations/#healthcheck-port.
const NodeHealthPort = -1

const (
	// maxTargets is AWS's quota of targets per target group, see
	// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-limits.html.
	maxTargets = 1000
	// callTargets is how many targets the controller puts into one call.
	callTargets = 200
	// maxDelay is the longest deregistration delay that AWS takes.
	maxDelay = time.Hour
)

// Health says how targets are checked. The names are those of
// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html.
type Health struct {
	Path string
	// Port is 0 for the port that takes the requests, or NodeHealthPort.
	Port int
	// Interval is at least 5 s on AWS. It is not bound here, so that time can be compressed.
	Interval time.Duration
	// Timeout is shorter than Interval.
	Timeout time.Duration
	// HealthyThreshold is how many checks in a row bring an unhealthy target back. A new one
	// needs one.
	HealthyThreshold int
	// UnhealthyThreshold is how many failures in a row take a target out.
	UnhealthyThreshold int
	// Matcher are the codes of success, such as "200" or "200-301,404".
	Matcher string
}

// Throttle bounds the calls of RegisterTargets and DeregisterTargets, which share one bucket.
type Throttle struct {
	// PerSecond is how many calls a second are taken for good, 0 for any number.
	PerSecond float64
	// Burst is how many are taken at once.
	Burst int
}

// Options say what is balanced, and how. Start from Defaults: a zero means zero.
type Options struct {
	// Addr and MetricsAddr are hosts and ports to listen on. MetricsAddr serves /metrics,
	// and /targets as JSON.
	Addr, MetricsAddr string
	// TLS makes the listener one of https. It may be nil.
	TLS *tls.Config

	Client             kubernetes.Interface
	Namespace, Service string
	// Port is the name or the number of the Service's port; it may be left out if there is one.
	Port       string
	TargetType TargetType
	// Gate is the name of the TargetGroupBinding, which is the second part of the readiness
	// gate target-health.elbv2.k8s.aws/NAME. By default it is the Service's name.
	Gate string

	Algorithm Algorithm
	Health    Health
	// DeregistrationDelay is how long a draining target may finish what it has.
	DeregistrationDelay time.Duration
	// RegistrationLag and DeregistrationLag are how long it takes from an EndpointSlice to a
	// call that is in force: the controller's queue, the call, and what AWS needs.
	RegistrationLag, DeregistrationLag time.Duration
	Throttle                           Throttle
	// CallTargets is how many targets a call has at most.
	CallTargets int
	// Requeue is how often the controller asks for the health of targets whose pods wait for
	// their readiness gate: --targetgroupbinding-requeue-duration.
	Requeue time.Duration

	// ConnectTimeout and IdleTimeout end with 504.
	ConnectTimeout, IdleTimeout time.Duration
	// MaxRequests is how many requests may be under way; more are answered by 503.
	MaxRequests int
	// MaxConnections is how many clients may be connected; more wait to be accepted.
	MaxConnections int
	// Grace is how long Close lets requests end.
	Grace time.Duration
	// Dial connects to targets, for requests and checks. The address is the one that is
	// registered, so that pods which nothing runs in can be played by processes elsewhere.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Defaults are those of AWS and of the controller, but for the health check, which is that
// of the applications that are balanced here: /healthz every 3 s, well by 200 to 301. Nothing
// lags and nothing is throttled.
func Defaults() Options {
	return Options{
		Addr: "127.0.0.1:0", MetricsAddr: "127.0.0.1:0",
		TargetType: IP,
		Algorithm:  RoundRobin,
		Health: Health{
			Path: "/healthz", Interval: 3 * time.Second, Timeout: 2 * time.Second,
			HealthyThreshold: 2, UnhealthyThreshold: 2, Matcher: "200-301",
		},
		// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-target-group-attributes.html#deregistration-delay
		DeregistrationDelay: 300 * time.Second,
		CallTargets:         callTargets,
		Requeue:             15 * time.Second,
		// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-troubleshooting.html#http-504-issues
		ConnectTimeout: 10 * time.Second,
		// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-load-balancer-attributes.html#connection-idle-timeout
		IdleTimeout:    60 * time.Second,
		MaxRequests:    10_000,
		MaxConnections: 10_000,
		Grace:          10 * time.Second,
		Dial:           (&net.Dialer{}).DialContext,
	}
}

func (o *Options) check() error {
	var errs []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	refuse(o.Client == nil, "client is missing")
	refuse(o.Namespace == "" || o.Service == "", "namespace and Service are missing")
	refuse(o.TargetType != IP && o.TargetType != Instance, "target type %q is neither %s nor %s", o.TargetType, IP, Instance)
	refuse(o.Algorithm != RoundRobin && o.Algorithm != LeastOutstanding, "algorithm %q is neither %s nor %s",
		o.Algorithm, RoundRobin, LeastOutstanding)
	refuse(o.DeregistrationDelay < 0 || o.DeregistrationDelay > maxDelay, "deregistration delay %v is not within 0 and %v",
		o.DeregistrationDelay, maxDelay)
	refuse(o.RegistrationLag < 0 || o.DeregistrationLag < 0, "a lag is negative")
	refuse(o.Throttle.PerSecond < 0 || o.Throttle.PerSecond > 0 && o.Throttle.Burst < 1, "a throttle needs a rate and a burst of at least 1")
	refuse(o.CallTargets < 1 || o.CallTargets > callTargets, "targets of a call are not within 1 and %d", callTargets)
	refuse(o.Requeue <= 0, "requeue is not positive")
	refuse(o.ConnectTimeout <= 0 || o.IdleTimeout <= 0, "a timeout is not positive")
	refuse(o.MaxRequests < 1 || o.MaxConnections < 1, "a limit of requests or connections is not positive")
	refuse(o.Grace < 0, "grace is negative")
	refuse(o.Dial == nil, "Dial is missing")
	return errors.Join(append(errs, o.Health.check(o.TargetType))...)
}

func (h Health) check(kind TargetType) error {
	if !strings.HasPrefix(h.Path, "/") {
		return fmt.Errorf("health path %q does not start with /", h.Path)
	}
	if h.Timeout <= 0 || h.Timeout >= h.Interval {
		return fmt.Errorf("health timeout %v is not between 0 and the interval %v", h.Timeout, h.Interval)
	}
	if h.HealthyThreshold < 1 || h.UnhealthyThreshold < 1 {
		return errors.New("a health threshold is not positive")
	}
	if h.Port < NodeHealthPort || h.Port > 65535 || h.Port == NodeHealthPort && kind != Instance {
		return fmt.Errorf("health port %d cannot be", h.Port)
	}
	_, err := parseMatcher(h.Matcher)
	return err
}

// span is a range of codes, both ends in it.
type span struct{ from, to int }

type matcher []span

// parseMatcher reads codes and ranges of codes between 200 and 499.
func parseMatcher(text string) (matcher, error) {
	var m matcher
	for part := range strings.SplitSeq(text, ",") {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		from, err1 := strconv.Atoi(low)
		to, err2 := strconv.Atoi(high)
		if cmp.Or(err1, err2) != nil || from < 200 || to > 499 || from > to {
			return nil, fmt.Errorf("matcher %q: %q is no code or range of codes between 200 and 499", text, part)
		}
		m = append(m, span{from, to})
	}
	return m, nil
}

func (m matcher) matches(code int) bool {
	for _, s := range m {
		if s.from <= code && code <= s.to {
			return true
		}
	}
	return false
}

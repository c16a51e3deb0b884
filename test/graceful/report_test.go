package graceful

import (
	"maps"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/test/balancer"
)

func TestReportHasVariantsSideBySide(t *testing.T) {
	r := newReport(Defaults())
	before := Result{Variant: "before"}
	before.Total = before.Total.plus(Round{Requests: 300, Failed: 20, Codes: map[string]int{"200": 280, "502": 20}, Balancer: map[int]uint64{502: 20}, WorstSecond: .8, P99: .2})
	before.Total = before.Total.plus(Round{Requests: 100, Failed: 20, Codes: map[string]int{"200": 80, "502": 20}, Balancer: map[int]uint64{502: 20}, WorstSecond: .5, P99: .1})
	r.Results = []Result{before, {Variant: "after", Total: Round{Requests: 400}}}
	var table strings.Builder
	if err := r.WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]string{
		{"before", "after"},
		{"requests", "400", "400"},
		{"failed, of all", "10.0 %", "0.0 %"},
		{"50x, of the worst second", "80.0 %", "0.0 %"},
		{"502 of the load balancer", "40", "0"},
		{"latency p99", "200 ms", "0 ms"},
	} {
		if !hasLine(table.String(), want) {
			t.Errorf("no line has %q in this order:\n%s", want, table.String())
		}
		if !hasLine(r.markdown(), want) {
			t.Errorf("no line of the page has %q in this order:\n%s", want, r.markdown())
		}
	}
}

// hasLine says whether a line has all words in their order.
func hasLine(text string, words []string) bool {
	for line := range strings.Lines(text) {
		found := true
		for _, word := range words {
			_, line, found = strings.Cut(line, word)
			if !found {
				break
			}
		}
		if found {
			return true
		}
	}
	return false
}

func TestReplaceFigures(t *testing.T) {
	const page = "# Title\n" + pageBegin + "old\n" + pageEnd + "rest\n"
	got, err := replaceFigures(page, "new\n")
	if want := "# Title\n" + pageBegin + "\nnew\n\n" + pageEnd + "rest\n"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for _, page := range []string{"", pageBegin, pageEnd, pageEnd + pageBegin} {
		if _, err := replaceFigures(page, "new\n"); err == nil {
			t.Errorf("%q: got no error, want one: the figures have no place", page)
		}
	}
}

func TestErrorShareIsOfOneInterval(t *testing.T) {
	then := balancer.Snapshot{Balancer: map[int]uint64{502: 7}, Target: map[int]uint64{200: 100, 503: 1}}
	now := balancer.Snapshot{Balancer: map[int]uint64{502: 8, 460: 1}, Target: map[int]uint64{200: 105, 503: 2}}
	if got, want := errorShare(then, now), 2./8; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := errorShare(now, now); got != 0 {
		t.Errorf("got %v of no answers, want 0", got)
	}
}

func TestFailedIsAllBut2xx(t *testing.T) {
	var l loaded
	l.summary.Codes = map[string]int{"200": 5, "201": 3, "0": 1, "404": 2, "502": 4}
	if got, want := l.round().Failed, 7; got != want {
		t.Errorf("got %d, want %d", got, want)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"pods":     func(o *Options) { o.Pods = left },
		"rounds":   func(o *Options) { o.Rounds = 0 },
		"rate":     func(o *Options) { o.Rate = 0 },
		"window":   func(o *Options) { o.Window = 0 },
		"negative": func(o *Options) { o.Lag = -1 },
	} {
		o := Defaults()
		change(&o)
		if err := o.check(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v, want an error that says so", name, err)
		}
	}
	o := Defaults()
	if err := o.check(); err != nil {
		t.Errorf("defaults: %v", err)
	}
}

// someShop is what an overlay may look like.
const someShop = `
apiVersion: v1
kind: Namespace
metadata: {name: orders, labels: {elbv2.k8s.aws/pod-readiness-gate-inject: enabled}}
---
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: orders
  annotations:
    alb.ingress.kubernetes.io/target-type: ip
    alb.ingress.kubernetes.io/healthcheck-path: /up
    alb.ingress.kubernetes.io/healthcheck-interval-seconds: "7"
    alb.ingress.kubernetes.io/unhealthy-threshold-count: "4"
    alb.ingress.kubernetes.io/target-group-attributes: deregistration_delay.timeout_seconds=90
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: orders}
spec:
  template:
    spec:
      securityContext: {runAsNonRoot: true}
      terminationGracePeriodSeconds: 150
      containers:
      - name: web
        image: shop
        args: [web, --drain=120s, --drain-idle=15s]
        readinessProbe: {httpGet: {path: /readyz, port: http}}
        lifecycle: {preStop: {httpGet: {path: /drain, port: admin}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: worker, namespace: orders}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: orders}
`

func TestReadTier(t *testing.T) {
	got, err := readTier(someShop)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.compress(Options{DrainIdle: 2 * time.Second}); err != nil {
		t.Fatal(err)
	}
	got.fit(nil)
	kinds := map[string]int{}
	for _, o := range got.around {
		kinds[o.GetKind()]++
	}
	if want := map[string]int{"Namespace": 1, "Service": 1}; !maps.Equal(kinds, want) {
		t.Errorf("around the Deployment there is %v, want %v", kinds, want)
	}
	h := got.balancing.Health
	if h.Path != "/up" || h.Interval != 7*time.Second || h.UnhealthyThreshold != 4 || got.balancing.DeregistrationDelay != 90*time.Second {
		t.Errorf("the load balancer has %+v and a delay of %v, want what the annotations say", h, got.balancing.DeregistrationDelay)
	}
	if gates := got.pod().ReadinessGates; len(gates) != 1 || gates[0].ConditionType != gate {
		t.Errorf("gates are %v, want that of the load balancer", gates)
	}
	if args := strings.Join(got.container().Args, " "); args != "web --drain=120s --drain-idle=2s" {
		t.Errorf("arguments are %q, want a drain that ends after 2 s without requests", args)
	}
}

func TestEachPartCanBeTakenAway(t *testing.T) {
	for _, v := range parts {
		got, err := readTier(someShop)
		if err != nil {
			t.Fatal(err)
		}
		whole, err := readTier(someShop)
		if err != nil {
			t.Fatal(err)
		}
		if err := v.without(got); err != nil {
			t.Errorf("%s: %v", v.Name, err)
		}
		if reflect.DeepEqual(got.deployment, whole.deployment) && got.gated == whole.gated &&
			got.balancing.DeregistrationDelay == whole.balancing.DeregistrationDelay {
			t.Errorf("%s: nothing was taken away", v.Name)
		}
	}
}

func TestReadTierRefuses(t *testing.T) {
	for name, test := range map[string]struct{ old, new, want string }{
		"no web":             {"metadata: {name: web, namespace: orders}", "metadata: {name: other, namespace: orders}", "no Deployment web"},
		"no number":          {`"7"`, `"often"`, "healthcheck-interval-seconds"},
		"another attribute":  {"deregistration_delay.timeout_seconds=90", "slow_start.duration_seconds=30", "slow_start"},
		"no YAML":            {"kind: Namespace", "kind: [", "yaml"},
		"other kind of list": {"args: [web, --drain=120s, --drain-idle=15s]", "args: web", "Deployment web"},
	} {
		if _, err := readTier(strings.ReplaceAll(someShop, test.old, test.new)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, test.want)
		}
	}
}

func TestPageHasAPlaceForFigures(t *testing.T) {
	page, err := os.ReadFile("../../docs/graceful-stop.md")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := replaceFigures(string(page), "new\n"); err != nil {
		t.Error(err)
	}
}

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/tidegauge/tidegauge/test/fakeaws"
)

func TestUnknownMetric(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	s.awaitError("nowhere", http.StatusNotFound, `"nowhere"`, fmt.Sprintf("%q", s.namespace))
	_, err := s.runKubectl(t.Context(), "get", "--raw", metricPath(s.namespace, "nowhere"))
	if err == nil {
		t.Fatal("kubectl reads a metric that is not there")
	}
	if err := mentions(err.Error(), "NotFound", "nowhere", s.namespace); err != nil {
		t.Error(err)
	}
	s.deploy(worker, 3)
	release := s.hold(3)
	s.createHPA(autoscaler(worker, 0, "nowhere"))
	s.awaitBlindHPA("nowhere", s.namespace)
	s.awaitUnknownMetric("nowhere")
	release()
}

// awaitUnknownMetric waits until the workers' HPA has the Event that tells of a metric that
// nobody defines, and a self-metric counts it. That takes a minute: an HPA and its metric are
// often applied together.
func (s *space) awaitUnknownMetric(metric string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*await)
	defer cancel()
	about := fields.Set{"regarding.kind": "HorizontalPodAutoscaler", "regarding.name": worker, "reason": "UnknownMetric"}
	told := func() error {
		list, err := s.Client().EventsV1().Events(s.namespace).List(ctx, metav1.ListOptions{FieldSelector: about.String()})
		if err != nil || len(list.Items) == 0 {
			return fmt.Errorf("%d Events: %w", len(list.Items), err)
		}
		s.warns(list.Items[0])
		return mentions(list.Items[0].Note, metric, s.namespace, "spec.metrics[0].external.metric.name")
	}
	err := told()
	for err != nil && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(pause):
			err = told()
		}
	}
	if err != nil {
		s.t.Fatalf("Event UnknownMetric: %v", err)
	}
	s.eventually("tidegauge_hpa_unknown_metrics", func(ctx context.Context) error {
		text, err := s.selfMetric(ctx, `tidegauge_hpa_unknown_metrics{api="external"}`)
		if err != nil || text == "0" {
			return fmt.Errorf("it is %q: %w", text, err)
		}
		return nil
	})
}

// What only AWS can judge is refused with AWS's words, and spoils no other object in the
// same call.
func TestObjectThatAWSRejects(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		expression string
		words      string
	}{
		"unknown id":       {"orders + missing", "missing"},
		"unknown function": {"NOSUCH(orders)", "NOSUCH"},
		"broken syntax":    {"orders +", "Error in expression"},
		"scalar":           {"1 + 1", "Error in expression"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sharedBed(t).newSpace(t)
			s.put("Orders", 95)
			s.put("Returns", 5)
			maxAge := &metav1.Duration{Duration: maxAge}
			good, also := s.metric("good", "Orders"), s.metric("also-good", "Returns")
			good.Spec.MaxAge, also.Spec.MaxAge = maxAge, maxAge
			s.create(good, also)
			s.awaitValue("good", "95")
			stop := s.keepReading("good", "95")

			bad := s.object("bad", hidden(query("orders", "Orders")), expression("wrong", tc.expression))
			s.create(bad)
			s.awaitError("bad", http.StatusInternalServerError, s.namespace+"/bad", "ValidationError", tc.words)
			s.awaitCondition("bad", notReady("Rejected"), "ValidationError", tc.words)
			s.warns(s.awaitEvent("bad", "Rejected", "ValidationError", tc.words))
			s.put("Returns", 6)
			s.awaitValue("also-good", "6")
			stop()

			s.update(s.metric("bad", "Orders"))
			s.awaitValue("bad", "95")
			s.awaitCondition("bad", ready("Available"))
		})
	}
}

// One metric that may not be read leaves the others of the same call alone.
func TestForbiddenResultBesideOthers(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	s.fault(fakeaws.Fault{Metric: "Secret", StatusCode: "Forbidden"})
	s.put("Orders", 95)
	s.put("Secret", 7)
	s.create(s.metric("orders", "Orders"), s.metric("secret", "Secret"))
	s.awaitValue("orders", "95")
	s.awaitError("secret", http.StatusServiceUnavailable, "Forbidden", "Secret")
	s.awaitValue("orders", "95")
}

func TestStartIsRefused(t *testing.T) {
	t.Parallel()
	b := sharedBed(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	missing := filepath.Join(dir, "missing.yaml")
	unknown := file("unknown.yaml", "maxAge: 5m\nmaxAgee: 5m\n")
	bounds := file("bounds.yaml", "maxAge: 1ms\n")
	nested := file("nested.yaml", "cloudwatch:\n  maxCalls: 0\n")
	syntax := file("syntax.yaml", "maxAge: [\n")
	for name, tc := range map[string]struct {
		args  []string
		words []string
	}{
		"unknown flag":      {[]string{"--no-such-flag"}, []string{"--no-such-flag"}},
		"flag of no number": {[]string{"--max-age=soon"}, []string{"--max-age", "soon"}},
		"flag out of range": {[]string{"--max-age=1ms"}, []string{"--max-age", "1ms"}},
		"negative delay":    {[]string{"--shutdown-delay-duration=-1s"}, []string{"--shutdown-delay-duration", "-1s"}},
		"port out of range": {[]string{"--secure-port=70000"}, []string{"--secure-port"}},
		"argument":          {[]string{"nonsense"}, []string{"nonsense"}},
		"missing file":      {[]string{"--config=" + missing}, []string{missing, "no such file"}},
		"unknown field":     {[]string{"--config=" + unknown}, []string{unknown, "line 2", "maxAgee"}},
		"value":             {[]string{"--config=" + bounds}, []string{bounds, "maxAge", "1ms"}},
		"value in a source": {[]string{"--config=" + nested}, []string{nested, "cloudwatch.maxCalls"}},
		"syntax":            {[]string{"--config=" + syntax}, []string{syntax, "line"}},
		"missing kubeconfig": {
			[]string{"--lister-kubeconfig=" + missing}, []string{missing, "no such file"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stderr, err := b.runAdapter(t.Context(), tc.args...)
			if _, ok := errors.AsType[*exec.ExitError](err); !ok {
				t.Fatalf("it ended with %v, want a code that is not 0: %s", err, stderr)
			}
			if n := strings.Count(stderr, "\n"); n != 1 {
				t.Errorf("it wrote %d lines, want one:\n%s", n, stderr)
			}
			if err := mentions(stderr, tc.words...); err != nil {
				t.Error(err)
			}
		})
	}
}

// runAdapter runs an adapter that is not expected to stay, with the rights of an
// administrator, and returns what it wrote to stderr.
func (b *bed) runAdapter(ctx context.Context, args ...string) (string, error) {
	kubeconfig := b.Kubeconfig()
	args = append([]string{
		"--lister-kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
	}, args...)
	ctx, cancel := context.WithTimeout(ctx, await)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.adapterBinary(), args...)
	cmd.Env = []string{"AWS_REGION=" + fakeaws.DefaultRegion, "POD_NAMESPACE=default"}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	return stderr.String(), err
}

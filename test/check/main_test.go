// Package check tests `adapter check` and `adapter query` as they are used: the program
// itself, against a real Prometheus and the stand-in for AWS.
package check

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/fakeaws"
)

const (
	// patience is how long a program may take on a loaded machine.
	patience = time.Minute
	// region is that of the stand-in's data.
	region = "eu-west-1"
)

func binary(t *testing.T, name string) string {
	t.Helper()
	if path := os.Getenv("TIDEGAUGE_ADAPTER"); path != "" && name == "adapter" {
		return path
	}
	path, err := env.Program(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// outcome is how a run of the adapter ended.
type outcome struct {
	t           *testing.T
	args        []string
	out, errOut string
	code        int
}

// bed is what commands are run against.
type bed struct {
	t   *testing.T
	env []string
	// prometheus is the address of Prometheus.
	prometheus string
	aws        *fakeaws.Server
}

// run runs the adapter.
func (b *bed) run(args ...string) *outcome {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(b.t, "adapter"), args...)
	cmd.Env = append([]string{"HOME=" + b.t.TempDir()}, b.env...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		b.t.Fatal(err)
	}
	return &outcome{b.t, args, out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// check runs check --live with the address of Prometheus.
func (b *bed) check(args ...string) *outcome {
	b.t.Helper()
	return b.run(append([]string{"check", "--live", "--prometheus-url=" + b.prometheus}, args...)...)
}

func (o *outcome) String() string {
	return fmt.Sprintf("adapter %s\nended with %d\n%s%s", strings.Join(o.args, " "), o.code, o.out, o.errOut)
}

// want fails the test unless the program ended with that code and said the words.
func (o *outcome) want(code int, words ...string) {
	o.t.Helper()
	if o.code != code {
		o.t.Errorf("ended with %d, want %d: %v", o.code, code, o)
	}
	for _, w := range words {
		if !strings.Contains(o.out+o.errOut, w) {
			o.t.Errorf("does not say %q: %v", w, o)
		}
	}
}

// into decodes what was printed as JSON.
func (o *outcome) into(v any) {
	o.t.Helper()
	if err := json.Unmarshal([]byte(o.out), v); err != nil {
		o.t.Fatalf("%v: %v", err, o)
	}
}

// file writes a file.
func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// start starts a Prometheus and a stand-in for AWS with some data.
func start(t *testing.T) *bed {
	t.Helper()
	aws, err := fakeaws.Start(t.Context(), fakeaws.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(aws.Close)
	aws.PutMetric(fakeaws.Metric{
		Region: region, Namespace: "AWS/SQS", Name: "Visible", Dimensions: map[string]string{"QueueName": "orders"},
		Value: fakeaws.Float(41.5), Time: time.Now().Add(-2 * time.Minute),
	})
	return &bed{
		t: t, aws: aws, prometheus: startPrometheus(t),
		env: []string{
			"AWS_ENDPOINT_URL=" + aws.URL(), "AWS_REGION=" + region, "AWS_ACCESS_KEY_ID=" + aws.AccessKeyID(),
			"AWS_SECRET_ACCESS_KEY=" + aws.SecretAccessKey(), "AWS_EC2_METADATA_DISABLED=true",
		},
	}
}

// scraped are what Prometheus scrapes: requests of two pods, jobs of two queues, and the lag
// of a rollout, whose kind is a CRD's.
func scraped() http.Handler {
	registry := prometheus.NewPedanticRegistry()
	gauge := func(name string, value float64, labels prometheus.Labels) {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: name, ConstLabels: labels})
		g.Set(value)
		registry.MustRegister(g)
	}
	gauge("http_requests", 1.5, prometheus.Labels{"namespace": "shop", "pod": "web-0"})
	gauge("http_requests", 2.5, prometheus.Labels{"namespace": "shop", "pod": "web-1"})
	gauge("http_errors", 1, prometheus.Labels{"namespace": "shop", "pod": "web-0"})
	gauge("jobs_waiting", 7, prometheus.Labels{"queue": "orders"})
	gauge("jobs_waiting", 0.5, prometheus.Labels{"queue": "mail"})
	gauge("rollout_lag", 3, prometheus.Labels{"namespace": "shop", "rollout": "web"})
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// startPrometheus starts a Prometheus, and gives its address when it has the data.
func startPrometheus(t *testing.T) string {
	t.Helper()
	target := httptest.NewServer(scraped())
	t.Cleanup(target.Close)
	config := fmt.Sprintf("global: {scrape_interval: 200ms, scrape_timeout: 200ms}\nscrape_configs:\n- job_name: tide\n  static_configs: [{targets: [%q]}]\n",
		strings.TrimPrefix(target.URL, "http://"))
	address, stop, err := env.LonePrometheus(t.TempDir(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("prometheus: %v", err)
		}
	})
	base := "http://" + address
	awaitData(t, base)
	return base
}

// stop asks a program to end, and kills it if it does not.
// awaitData waits until Prometheus has scraped.
func awaitData(t *testing.T, base string) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(50 * time.Millisecond) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/api/v1/query?query=jobs_waiting", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			continue
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err == nil && bytes.Contains(text, []byte("orders")) {
			return
		}
	}
	t.Fatal("prometheus has no data")
}

package monitoring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/testcluster"
)

// deadline is how long a test waits, however loaded the machine is.
const deadline = time.Minute

// scraper is the name of the ServiceAccount and of the Secret of its token.
const scraper = "tidegauge-scraper"

// TestScrape scrapes a real adapter with the rights and the token of deploy/monitoring.
func TestScrape(t *testing.T) {
	cluster := testcluster.Start(t, env.Options{Nodes: 1})
	if err := cluster.Apply(t.Context(), read(t, "deploy", "monitoring", "rbac.yaml")); err != nil {
		t.Fatal(err)
	}
	adapter, err := cluster.StartAdapter(t.Context(), env.AdapterOptions{
		Binary: os.Getenv("TIDEGAUGE_ADAPTER"),
		Env:    []string{"AWS_REGION=eu-west-1", "AWS_EC2_METADATA_DISABLED=true"},
	})
	if err != nil {
		t.Fatal(err)
	}
	as := rest.AnonymousClientConfig(cluster.Config())
	as.BearerToken = tokenOf(t, cluster.Client())
	own := clientOf(t, adapter.Config(as))

	t.Run("self-metrics", func(t *testing.T) { checkSelfMetrics(t, scrape(t, own)) })
	t.Run("nothing else", func(t *testing.T) {
		err := own.Get().AbsPath("/apis/external.metrics.k8s.io/v1beta1/namespaces/default/orders").Do(t.Context()).Error()
		if !apierrors.IsForbidden(err) {
			t.Errorf("the scraper reads metrics: %v, want 403", err)
		}
	})
	t.Run("the API server's view", func(t *testing.T) {
		apis := scrape(t, clientOf(t, cluster.Config()))["aggregator_unavailable_apiservice"]
		if !slices.Contains(apis, `name="v1beta1.external.metrics.k8s.io"`) {
			t.Errorf("aggregator_unavailable_apiservice is there for %v", apis)
		}
	})
}

// tokenOf waits until Kubernetes has filled in the scraper's Secret.
func tokenOf(t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	var token []byte
	err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, deadline, true, func(ctx context.Context) (bool, error) {
		secret, err := client.CoreV1().Secrets(env.Namespace).Get(ctx, scraper, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		token = secret.Data[corev1.ServiceAccountTokenKey]
		return len(token) > 0, nil
	})
	if err != nil {
		t.Fatalf("the Secret %s has no token: %v", scraper, err)
	}
	return string(token)
}

func clientOf(t *testing.T, config *rest.Config) rest.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client.Discovery().RESTClient()
}

// scrape are the label sets of each metric, each as name="value",…, sorted by name.
func scrape(t *testing.T, client rest.Interface) map[string][]string {
	t.Helper()
	var text []byte
	// A right that was just given takes a moment to be known.
	err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, deadline, true, func(ctx context.Context) (bool, error) {
		var err error
		if text, err = client.Get().AbsPath("/metrics").DoRaw(ctx); apierrors.IsForbidden(err) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	series := map[string][]string{}
	for name, f := range families {
		for _, m := range f.GetMetric() {
			var set []string
			for _, l := range m.GetLabel() {
				set = append(set, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			series[name] = append(series[name], strings.Join(set, ","))
		}
	}
	return series
}

// checkSelfMetrics compares what the adapter serves with what is said of it.
func checkSelfMetrics(t *testing.T, series map[string][]string) {
	t.Helper()
	for _, name := range []string{
		"tidegauge_api_reads_total", "tidegauge_api_read_duration_seconds", "tidegauge_api_reads_uncached_dollars_total",
		"tidegauge_queries_stale", "tidegauge_config_last_reload_successful",
	} {
		if len(series[name]) == 0 {
			t.Errorf("the adapter does not serve %s from the start", name)
		}
	}
	for name := range others {
		// The rest is the API server's and cAdvisor's.
		if (strings.HasPrefix(name, "process_") || strings.HasPrefix(name, "go_")) && len(series[name]) == 0 {
			t.Errorf("the adapter does not serve %s", name)
		}
	}
	all := known(t)
	for name, sets := range series {
		if !strings.HasPrefix(name, "tidegauge_") {
			continue
		}
		for _, set := range sets {
			for _, label := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(set, -1) {
				if !slices.Contains(all[name].labels, label[1]) {
					t.Errorf("docs/reference/metrics.md does not know %s{%s}", name, set)
				}
			}
		}
	}
}

// TestScrapeConfigurations has promtool look at those of docs/monitoring.md.
func TestScrapeConfigurations(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```yaml\n(- job_name.*?)```").FindAllStringSubmatch(string(read(t, "docs", "monitoring.md")), -1)
	if len(blocks) == 0 {
		t.Fatal("there is none")
	}
	for _, block := range blocks {
		file := filepath.Join(t.TempDir(), "prometheus.yaml")
		if err := os.WriteFile(file, []byte("scrape_configs:\n"+block[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), program(t, "promtool"), "check", "config", "--syntax-only", file)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s\n%s", err, out, block[1])
		}
	}
}

// TestKustomization has kubectl put the folder together, and looks at what hangs together.
func TestKustomization(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), program(t, "kubectl"), "kustomize", filepath.Join(root(t), "deploy", "monitoring"))
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Fatalf("%v\n%s", err, exit.Stderr)
	}
	objects := map[string]map[string]any{}
	for document := range strings.SplitSeq(string(out), "\n---\n") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			t.Fatal(err)
		}
		name, _ := o["metadata"].(map[string]any)["name"].(string)
		objects[fmt.Sprint(o["kind"], " ", name)] = o
	}
	for _, name := range []string{
		"ServiceAccount " + scraper, "Secret " + scraper, "ClusterRole " + scraper, "ClusterRoleBinding " + scraper,
		"PodMonitor tidegauge", "PrometheusRule tidegauge", "ConfigMap tidegauge-dashboard",
	} {
		if objects[name] == nil {
			t.Errorf("there is no %s", name)
		}
	}
	dashboard, _ := objects["ConfigMap tidegauge-dashboard"]["data"].(map[string]any)["dashboard.json"].(string)
	if dashboard != string(read(t, "deploy", "monitoring", "dashboard.json")) {
		t.Error("the ConfigMap has another dashboard")
	}
	var monitor struct {
		Spec struct {
			Selector  metav1.LabelSelector `json:"selector"`
			Endpoints []struct {
				Port          string `json:"port"`
				Authorization struct {
					Credentials corev1.SecretKeySelector `json:"credentials"`
				} `json:"authorization"`
				TLSConfig struct {
					ServerName string `json:"serverName"`
				} `json:"tlsConfig"`
			} `json:"podMetricsEndpoints"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(read(t, "deploy", "monitoring", "podmonitor.yaml"), &monitor); err != nil {
		t.Fatal(err)
	}
	var service corev1.Service
	if err := yaml.UnmarshalStrict(read(t, "deploy", "base", "service.yaml"), &service); err != nil {
		t.Fatal(err)
	}
	if got, want := metav1.FormatLabelSelector(&monitor.Spec.Selector), metav1.FormatLabelSelector(metav1.SetAsLabelSelector(service.Spec.Selector)); got != want {
		t.Errorf("the PodMonitor looks for pods of %s, the Service for those of %s", got, want)
	}
	e := monitor.Spec.Endpoints[0]
	if e.Port != service.Spec.Ports[0].TargetPort.StrVal || e.TLSConfig.ServerName != service.Name+"."+service.Namespace+".svc" {
		t.Errorf("the PodMonitor scrapes port %q of %s", e.Port, e.TLSConfig.ServerName)
	}
	if c := e.Authorization.Credentials; c.Name != scraper || c.Key != corev1.ServiceAccountTokenKey {
		t.Errorf("the PodMonitor takes its token from %s, key %s", c.Name, c.Key)
	}
}

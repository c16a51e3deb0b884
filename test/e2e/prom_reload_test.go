package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/pkg/self"
	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/fakeaws"
	"github.com/tidegauge/tidegauge/test/promproxy"
)

const lastReload = "tidegauge_config_last_reload_successful"

// mount is a folder as kubelet makes it of a ConfigMap: a new content comes as a new
// folder, to which a symbolic link goes over at once.
type mount struct {
	t    *testing.T
	dir  string
	last string // the folder of the content
}

func newMount(t *testing.T, text string) *mount {
	t.Helper()
	m := &mount{t: t, dir: t.TempDir()}
	m.set(text)
	m.must(os.Symlink(filepath.Join("..data", "config.yaml"), m.file()))
	return m
}

func (m *mount) file() string { return filepath.Join(m.dir, "config.yaml") }

func (m *mount) set(text string) {
	m.t.Helper()
	next, err := os.MkdirTemp(m.dir, "..")
	m.must(err)
	m.must(os.WriteFile(filepath.Join(next, "config.yaml"), []byte(text), 0o600))
	link := filepath.Join(m.dir, "..data_tmp")
	m.must(os.Symlink(filepath.Base(next), link))
	m.must(os.Rename(link, filepath.Join(m.dir, "..data")))
	if m.last != "" {
		m.must(os.RemoveAll(m.last))
	}
	m.last = next
}

func (m *mount) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// externalRule makes a metric of that name of the series external_<name>. It has five lines.
func externalRule(name string) string {
	return `- seriesQuery: external_` + name + `
  resources: {overrides: {namespace: {resource: namespace}}}
  name: {matches: ^external_(.*)$}
  metricsQuery: <<.Series>>{<<.LabelMatchers>>}
  interval: 1s
`
}

// configuration is a file with external rules, of which the first begins at line 4.
func configuration(maxAge string, rules ...string) string {
	return "# Of a test.\nmaxAge: " + maxAge + "\nexternalRules:\n" + strings.Join(rules, "")
}

func TestConfigurationIsReloaded(t *testing.T) {
	t.Parallel()
	b := ownBedScrapedEvery(t, scrape)
	good := configuration("24h", externalRule("orders"), externalRule("returns"))
	m := newMount(t, configuration("24h", externalRule("orders")))
	err := b.startAdapter(t.Context(), "--config="+m.file(), "--prometheus-url="+b.proxy.URL(), "--metrics-relist-interval=1s")
	if err != nil {
		t.Fatal(err)
	}
	s, pid := b.newSpace(t), b.adapter.ID()
	s.setSeries(outside("orders", 95, s.here()), outside("returns", 5, s.here()))
	s.awaitValue("orders", "95")
	s.awaitError("returns", http.StatusNotFound)
	s.awaitPodCondition(self.ConfigurationLoaded, corev1.ConditionTrue, "1 in externalRules")

	m.set(good)
	s.awaitValue("returns", "5")
	s.awaitPodCondition(self.ConfigurationLoaded, corev1.ConditionTrue, "2 in externalRules")

	bad := strings.Replace(good, "metricsQuery", "metricQuery", 1)
	s.keepsLastGood(m, strings.TrimSuffix(bad, externalRule("returns")), "line 7: externalRules[0]: field metricQuery")
	s.keepsLastGood(m, strings.Replace(good, "{<<.LabelMatchers>>}", "{<<.LabelMatchers>>", 1), "externalRules[0].metricsQuery")

	m.set(good)
	s.awaitPodCondition(self.ConfigurationLoaded, corev1.ConditionTrue, "2 in externalRules")
	s.awaitPodEvent("ConfigurationLoaded", corev1.EventTypeNormal, "2 in externalRules")
	s.awaitSelfMetric(lastReload, "1")
	s.awaitValue("orders", "95")

	s.reloadsMaxAge(m)
	if now := s.adapter.ID(); now != pid {
		t.Errorf("the adapter was %v and is %v", pid, now)
	}
}

// keepsLastGood gives the adapter a file that is bad in the way that the words say.
func (s *space) keepsLastGood(m *mount, text, words string) {
	s.t.Helper()
	m.set(text)
	s.eventually("log", func(context.Context) error {
		for line := range strings.Lines(s.adapter.Logs()) {
			if mentions(line, "Configuration not loaded: the one before stays in force", m.file(), words) == nil {
				return nil
			}
		}
		return fmt.Errorf("no line says %s", words)
	})
	s.awaitSelfMetric(lastReload, "0")
	s.awaitPodCondition(self.ConfigurationLoaded, corev1.ConditionFalse, m.file(), words)
	s.awaitPodEvent("ConfigurationInvalid", corev1.EventTypeWarning, m.file(), words)
	// They are not only remembered, but asked.
	s.setSeries(outside("orders", 96, s.here()), outside("returns", 6, s.here()))
	s.awaitValue("orders", "96")
	s.awaitValue("returns", "6")
	s.setSeries(outside("orders", 95, s.here()), outside("returns", 5, s.here()))
	s.awaitValue("orders", "95")
	s.awaitValue("returns", "5")
}

// reloadsMaxAge shortens the time for which the value of an ExternalMetric serves that
// says nothing of it.
func (s *space) reloadsMaxAge(m *mount) {
	s.t.Helper()
	s.put("Depth", 30)
	s.create(s.metric("depth", "Depth"))
	s.awaitValue("depth", "30")
	lift := s.fault(fakeaws.Fault{ErrorCode: "ServiceUnavailable"})
	s.awaitCondition("depth", notFresh(), "ServiceUnavailable")
	s.awaitValue("depth", "30")
	m.set(configuration("2s", externalRule("orders")))
	s.awaitError("depth", http.StatusServiceUnavailable, "ServiceUnavailable")
	lift()
	s.put("Depth", 31)
	s.awaitValue("depth", "31")
}

// awaitSelfMetric waits until a self-metric of the adapter without labels has the value.
func (s *space) awaitSelfMetric(name, want string) {
	s.t.Helper()
	s.eventually(name, func(ctx context.Context) error {
		got, err := s.selfMetric(ctx, name)
		if err == nil && got != want {
			err = fmt.Errorf("it is %s, want %s", got, want)
		}
		return err
	})
}

// The resource of a CRD that is younger than the adapter has the metrics of the series
// which name it. By a selector they are read once the adapter has the right to know
// the objects, and before that the error says which right that is.
func TestMetricOfANewCRD(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	pid, load := s.adapter.ID(), s.own("load")
	s.setSeries(described(load, 40, s.here("berth", "one")), described(load, 7, s.here("berth", "other")))
	s.awaitDescribed(texts{s.namespace: "47"}, "/namespaces/"+s.namespace+"/metrics/"+load)
	group := s.namespace + ".example.com"
	berths := "berths." + group
	one, all := s.of(berths, "one", load), s.of(berths, "*", load)
	if err := s.refuses(t.Context(), http.StatusNotFound, []string{load, berths}, one); err != nil {
		t.Error(err)
	}

	s.createCRD(group)
	s.eventually("a berth", func(ctx context.Context) error {
		return s.Apply(ctx, fmt.Appendf(nil, "{apiVersion: %s/v1, kind: Berth, metadata: {namespace: %s, name: one}}", group, s.namespace))
	})
	s.awaitDescribed(texts{"one": "40"}, one)
	items, err := s.described(t.Context(), one)
	if err != nil || len(items) != 1 || items[0].DescribedObject.APIVersion != group+"/v1" || items[0].DescribedObject.Kind != "Berth" {
		t.Errorf("%v, %v", items, err)
	}
	// Prometheus adds the label job, which names a resource as well.
	s.awaitDiscovered(pathV1beta2, load, map[string]bool{"namespaces": false, "jobs.batch": true, berths: true})

	s.awaitRefusal(http.StatusServiceUnavailable, []string{
		"cannot read " + berths, "forbidden", fmt.Sprintf(`{apiGroups: [%q], resources: ["berths"], verbs: [list, watch]}`, group),
	}, all)
	s.allowAdapter(rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{"berths"}, Verbs: []string{"list", "watch"}})
	s.awaitDescribed(texts{"one": "40"}, all)
	if now := s.adapter.ID(); now != pid {
		t.Errorf("the adapter was %v and is %v", pid, now)
	}
}

// createCRD creates the CRD of berths, which is deleted when the test ends.
func (s *space) createCRD(group string) {
	s.t.Helper()
	err := s.Apply(s.t.Context(), fmt.Appendf(nil, `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: berths.%[1]s}
spec:
  group: %[1]s
  scope: Namespaced
  names: {plural: berths, singular: berth, kind: Berth, listKind: BerthList}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}
`, group))
	if err != nil {
		s.t.Fatal(err)
	}
	definitions := s.Dynamic().Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	ctx := context.WithoutCancel(s.t.Context())
	s.t.Cleanup(func() {
		if err := definitions.Delete(ctx, "berths."+group, metav1.DeleteOptions{}); err != nil {
			s.t.Error(err)
		}
	})
}

// allowAdapter gives the adapter one more right in the cluster, until the test ends.
func (s *space) allowAdapter(rule rbacv1.PolicyRule) {
	s.t.Helper()
	ctx, meta := s.t.Context(), metav1.ObjectMeta{Name: s.namespace + "-adapter"}
	rbac := s.Client().RbacV1()
	_, err := rbac.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{rule}}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = rbac.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: env.ServiceAccount, Namespace: env.Namespace}},
	}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx = context.WithoutCancel(ctx)
	s.t.Cleanup(func() {
		for _, remove := range []func(context.Context, string, metav1.DeleteOptions) error{rbac.ClusterRoleBindings().Delete, rbac.ClusterRoles().Delete} {
			if err := remove(ctx, meta.Name, metav1.DeleteOptions{}); err != nil {
				s.t.Error(err)
			}
		}
	})
}

// A Prometheus that restarts without its data knows no series until it has scraped. The
// metrics stay for as long as the adapter was told.
func TestMetricsOutliveTheirSeries(t *testing.T) {
	t.Parallel()
	const known = 15 * time.Second
	b := ownBedScrapedEvery(t, scrape)
	if err := b.startAdapter(t.Context(), append(b.withRules(), "--metrics-max-age="+known.String())...); err != nil {
		t.Fatal(err)
	}
	s := b.newSpace(t)
	stock := described("stock", 7, s.here("service", "shop"))
	s.setSeries(described("jobs", 95, s.here("service", "shop")), stock)
	s.awaitDescribed(texts{"shop": "95"}, s.of("services", "shop", "jobs"))
	s.awaitDescribed(texts{"shop": "7"}, s.of("services", "shop", "stock"))

	s.setSeries(stock)
	lost := s.losePrometheusData()
	seen := false
	s.eventually("the metric without a series goes", func(ctx context.Context) error {
		metrics, err := s.discovered(ctx, pathV1beta2)
		if err != nil {
			return err
		}
		_, ok := metrics["services/jobs"]
		at := lost()
		switch {
		case ok && at.IsZero():
			return errors.New("the adapter has not listed series yet")
		case ok:
			seen = true
			return errors.New("it is still known")
		case at.IsZero() || time.Since(at) < known:
			t.Fatalf("the metric is gone after %v, want %v", time.Since(at), known)
		}
		return nil
	})
	if !seen {
		t.Error("the metric went before it was seen without its series")
	}
	s.awaitRefusal(http.StatusNotFound, []string{"no rule of the configuration makes it"}, s.of("services", "shop", "jobs"))
	s.awaitDescribed(texts{"shop": "7"}, s.of("services", "shop", "stock"))
}

// losePrometheusData restarts Prometheus without the series that it had, and gives when
// the adapter first listed what is left; zero before that.
func (s *space) losePrometheusData() (lost func() time.Time) {
	s.t.Helper()
	if _, err := s.prometheus.Stop(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	u, err := url.Parse(s.prometheus.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	data := filepath.Join(s.Dir(), "prometheus", u.Port(), "data")
	if _, err := os.Stat(data); err != nil {
		s.t.Fatal(err)
	}
	if err := os.RemoveAll(data); err != nil {
		s.t.Fatal(err)
	}
	s.proxy.Reset()
	if err := s.prometheus.Restart(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	return func() time.Time {
		for _, c := range s.proxy.Calls(promproxy.Series) {
			if c.OK() && slices.ContainsFunc(c.Match, func(selector string) bool { return strings.Contains(selector, "e2e_") }) {
				return c.Time
			}
		}
		return time.Time{}
	}
}

// A rule that names its series needs no list of them.
func TestRuleWithALiteralNameServesAtOnce(t *testing.T) {
	t.Parallel()
	b := ownBedScrapedEvery(t, scrape)
	s := b.newSpace(t)
	s.setSeries(outside("orders", 95, s.here()), outside("returns", 5, s.here()), described("jobs", 30, s.here("service", "shop")))
	s.awaitSeries(3, fmt.Sprintf(`{__name__=~"external_.*|e2e_.*",namespace=%q}`, s.namespace))
	lift := b.proxy.Fault(promproxy.Fault{Endpoint: promproxy.Series, Answer: promproxy.Unavailable().Pointer()})
	byPattern := strings.Replace(externalRule("returns"), "external_returns", `'{__name__=~"external_.*"}'`, 1)
	m := newMount(t, configuration("5m", byPattern, externalRule("orders"))+`
rules:
- seriesQuery: e2e_jobs{namespace!="",service!=""}
  resources: {template: <<.Resource>>}
  name: {as: jobs}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)
`)
	if err := b.startAdapter(t.Context(), "--config="+m.file(), "--prometheus-url="+b.proxy.URL(), "--metrics-relist-interval=1s"); err != nil {
		t.Fatal(err)
	}

	if err := s.hasValue(t.Context(), "orders", "95"); err != nil {
		t.Error(err)
	}
	if err := s.hasDescribed(t.Context(), texts{"shop": "30"}, s.of("services", "shop", "jobs")); err != nil {
		t.Error(err)
	}
	s.awaitError("returns", http.StatusServiceUnavailable, "externalRules[0]", "TSDB not ready")
	s.awaitPodCondition(self.RulesDiscovered, corev1.ConditionFalse, "externalRules[0]", "TSDB not ready")
	lift()
	s.awaitValue("returns", "5")
	s.awaitPodCondition(self.RulesDiscovered, corev1.ConditionTrue)
}

// awaitSeries waits until Prometheus has so many series.
func (s *space) awaitSeries(want int, selector string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), await)
	defer cancel()
	err := s.prometheus.Await(ctx, selector, func(v model.Vector) error {
		if len(v) != want {
			return fmt.Errorf("%d series, want %d", len(v), want)
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

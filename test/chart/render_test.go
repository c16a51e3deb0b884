package chart

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegauge/tidegauge/pkg/config"
	"github.com/tidegauge/tidegauge/pkg/sources/prometheus"
)

func TestLint(t *testing.T) {
	for _, name := range helmNames {
		h := newHelm(t, name)
		for _, variant := range variants(t) {
			t.Run(name+"/"+variant, func(t *testing.T) {
				h.run(t, "lint", "--strict", chartDir(t), "--values", valuesOf(t, variant))
			})
		}
	}
}

// TestConfiguration gives what the chart renders to the loader that serves.
func TestConfiguration(t *testing.T) {
	h := newHelm(t, "helm")
	for variant, want := range map[string]string{
		"default":                "0 in rules, 0 in externalRules, Prometheus servers default",
		"cloudwatch":             "0 in rules, 0 in externalRules, 1 in cloudwatch.roles, Prometheus servers default",
		"extras":                 "0 in rules, 0 in externalRules, Prometheus servers default",
		"prometheus":             "1 in rules, 1 in externalRules, Prometheus servers default, tenant",
		"stock-rules":            "6 in rules, 0 in externalRules, Prometheus servers default",
		"managed-prometheus":     "1 in rules, 0 in externalRules, Prometheus servers default",
		"resource-metrics":       "0 in rules, 0 in externalRules, resourceRules, Prometheus servers default",
		"prometheus-adapter":     "7 in rules, 1 in externalRules, Prometheus servers default",
		"k8s-cloudwatch-adapter": "0 in rules, 0 in externalRules, Prometheus servers default",
	} {
		t.Run(variant, func(t *testing.T) {
			all := h.template(t, "--values", valuesOf(t, variant))
			text := nested(all.get(t, "ConfigMap", all.deployment(t).GetName()), "data", "config.yaml")
			c, err := config.Parse([]byte(text), serverOfFlag(flagValue(arguments(t, all.deployment(t)), "prometheus-url")))
			if err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
			if got, _, _ := strings.Cut(c.Summary(), ", digest"); got != want {
				t.Errorf("the configuration has %s, want %s", got, want)
			}
		})
	}
}

// serverOfFlag adds the server of --prometheus-url, as the adapter does.
func serverOfFlag(url string) config.Overlay {
	return func(c *config.Config) error {
		if url == "" {
			return nil
		}
		if c.Prometheus.Servers == nil {
			c.Prometheus.Servers = map[string]prometheus.Server{}
		}
		c.Prometheus.Servers[prometheus.DefaultServer] = prometheus.Server{URL: url}
		return nil
	}
}

// TestPrometheus shows what the values of prometheus-adapter's chart come to, in every
// combination that matters.
func TestPrometheus(t *testing.T) {
	const rule = `rules.custom[0].seriesQuery=up,rules.custom[0].metricsQuery=sum(up)`
	for name, test := range map[string]struct {
		set   []string
		url   string
		rules int
		apis  string
	}{
		"nothing":                          {nil, "", 0, "external"},
		"address":                          {[]string{"prometheus.url=http://p.m.svc"}, "http://p.m.svc:9090", 6, "custom external"},
		"address with port":                {[]string{"prometheus.url=http://p.m.svc:80"}, "http://p.m.svc:80", 6, "custom external"},
		"address with slash":               {[]string{"prometheus.url=http://p.m.svc/"}, "http://p.m.svc:9090", 6, "custom external"},
		"address with slash, IPv6":         {[]string{"prometheus.url=http://[fd00::1]/"}, "http://[fd00::1]:9090", 6, "custom external"},
		"address with slash and path":      {[]string{"prometheus.url=http://p.m.svc/", "prometheus.path=/x"}, "http://p.m.svc:9090/x", 6, "custom external"},
		"address with slash, port, path":   {[]string{"prometheus.url=http://p.m.svc:80/", "prometheus.path=/x"}, "http://p.m.svc:80/x", 6, "custom external"},
		"address with slash, without port": {[]string{"prometheus.url=http://p.m.svc/", "prometheus.port=0"}, "http://p.m.svc/", 6, "custom external"},
		"templated address":                {[]string{"prometheus.url=http{{ .Values.global.s }}://p.m.svc/", "global.s=s"}, "https://p.m.svc:9090", 6, "custom external"},
		"address with path":                {[]string{"prometheus.url=https://p.example.com/api/"}, "https://p.example.com/api/", 6, "custom external"},
		"address, IPv6":                    {[]string{"prometheus.url=http://[fd00::1]"}, "http://[fd00::1]:9090", 6, "custom external"},
		"address, IPv6 with port":          {[]string{"prometheus.url=http://[fd00::1]:80"}, "http://[fd00::1]:80", 6, "custom external"},
		"address, port and path":           {[]string{"prometheus.url=http://p.m.svc", "prometheus.port=80", "prometheus.path=/x"}, "http://p.m.svc:80/x", 6, "custom external"},
		"address without port":             {[]string{"prometheus.url=https://p.m.svc", "prometheus.port=null"}, "https://p.m.svc", 6, "custom external"},
		"rules only":                       {[]string{rule}, "http://prometheus.default.svc:9090", 7, "custom external"},
		"rules and no stock rules":         {[]string{rule, "rules.default=false"}, "http://prometheus.default.svc:9090", 1, "custom external"},
		"stock rules only":                 {[]string{"rules.default=true"}, "http://prometheus.default.svc:9090", 6, "custom external"},
		"address and no stock rules":       {[]string{"prometheus.url=http://p.m.svc", "rules.default=false"}, "http://p.m.svc:9090", 0, "external"},
		"servers of the configuration":     {[]string{rule, "config.prometheus.servers.default.url=http://p.m.svc"}, "", 1, "custom external"},
		"ConfigMap of somebody else's":     {[]string{"rules.existing=mine"}, "http://prometheus.default.svc:9090", -1, "custom external"},
		"the same, which has the servers":  {[]string{"rules.existing=mine", "prometheus.url=", "apiServices.custom=true"}, "", -1, "custom external"},
		"the same, of CloudWatch only":     {[]string{"rules.existing=mine", "prometheus.url=", "apiServices.custom=false"}, "", -1, "external"},
		"no configuration":                 {[]string{rule, "config=null"}, "http://prometheus.default.svc:9090", 7, "custom external"},
		"custom off":                       {[]string{rule, "apiServices.custom=false"}, "http://prometheus.default.svc:9090", 7, "external"},
		"KEDA has the external metrics":    {[]string{rule, "apiServices.external=false"}, "http://prometheus.default.svc:9090", 7, "custom"},
		"resource metrics without a rule":  {[]string{"apiServices.resource=true"}, "", 0, "external resource"},
		"resource metrics by rules for it": {[]string{"rules.default=false", "rules.resource.window=1m"}, "http://prometheus.default.svc:9090", 0, "external resource"},
	} {
		t.Run(name, func(t *testing.T) {
			var args []string
			for _, set := range test.set {
				args = append(args, "--set", set)
			}
			all := newHelm(t, "helm").template(t, args...)
			if url := flagValue(arguments(t, all.deployment(t)), "prometheus-url"); url != test.url {
				t.Errorf("--prometheus-url is %q, want %q", url, test.url)
			}
			want := map[string][]string{
				"external": {"v1beta1.external.metrics.k8s.io"},
				"custom":   {"v1beta1.custom.metrics.k8s.io", "v1beta2.custom.metrics.k8s.io"},
				"resource": {"v1beta1.metrics.k8s.io"},
			}
			var apis []string
			for api := range strings.FieldsSeq(test.apis) {
				apis = append(apis, want[api]...)
			}
			slices.Sort(apis)
			if diff := cmp.Diff(apis, all.apis()); diff != "" {
				t.Errorf("the APIServices are not those wanted (-want +got):\n%s", diff)
			}
			file := all.find("ConfigMap", release)
			rules := -1
			if file != nil {
				rules = strings.Count(nested(file, "data", "config.yaml"), "seriesQuery:")
			}
			if rules != test.rules {
				t.Errorf("there are %d rules, want %d", rules, test.rules)
			}
		})
	}
}

// TestOldValues shows that values of the old charts mean what they meant.
func TestOldValues(t *testing.T) {
	h := newHelm(t, "helm")
	for variant, want := range map[string]struct {
		args    []string
		fields  map[string]string
		account map[string]string
	}{
		"prometheus-adapter": {
			args: []string{
				"--secure-port=6443", "--prometheus-url=http://prometheus." + namespace + ".svc:9090",
				"--metrics-relist-interval=1m", "--v=4", "--prometheus-header=X-Scope-OrgID=shop",
			},
			fields: map[string]string{
				"spec.replicas":                                       "1",
				"spec.revisionHistoryLimit":                           "10",
				"spec.strategy.rollingUpdate.maxSurge":                "25%",
				"spec.template.spec.securityContext.fsGroup":          "10001",
				"spec.template.spec.dnsPolicy":                        "ClusterFirst",
				"spec.template.spec.containers.0.readinessProbe.path": "/healthz",
				"spec.template.spec.containers.0.image":               "ghcr.io/tidegauge/tidegauge:0.1.0",
				"spec.template.spec.containers.0.runAsUser":           "10001",
			},
		},
		"k8s-cloudwatch-adapter": {
			args: []string{"--secure-port=6444", "--cert-dir=/tmp", "--logtostderr=true", "--v=2"},
			fields: map[string]string{
				"spec.replicas":                              "1",
				"metadata.labels.app":                        "adapter",
				"spec.template.metadata.labels.app":          "adapter",
				"spec.template.spec.containers.0.image":      "ghcr.io/tidegauge/tidegauge:0.1.0",
				"spec.template.spec.containers.0.limits.cpu": "1",
			},
			account: map[string]string{"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/cloudwatch"},
		},
	} {
		t.Run(variant, func(t *testing.T) {
			all := h.template(t, "--values", valuesOf(t, variant))
			d := all.deployment(t)
			args := arguments(t, d)
			for _, arg := range want.args {
				name, value, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
				if got := flagValue(args, name); got != value {
					t.Errorf("--%s is %q, want %q", name, got, value)
				}
			}
			for path, value := range want.fields {
				if got := fmt.Sprint(at(t, d, path)); got != value {
					t.Errorf("%s is %s, want %s", path, got, value)
				}
			}
			if got := all.get(t, "ServiceAccount", release).GetAnnotations(); !maps.Equal(got, want.account) {
				t.Errorf("the ServiceAccount has the annotations %v, want %v", got, want.account)
			}
		})
	}
}

// at is a field of a Deployment. Those of the container are found by the end of the path.
func at(t *testing.T, d *unstructured.Unstructured, path string) any {
	t.Helper()
	in, rest := d.Object, path
	if field, ok := strings.CutPrefix(path, "spec.template.spec.containers.0."); ok {
		in = container(t, d)
		rest = map[string]string{
			"readinessProbe.path": "readinessProbe.httpGet.path",
			"runAsUser":           "securityContext.runAsUser",
			"limits.cpu":          "resources.limits.cpu",
		}[field]
		if rest == "" {
			rest = field
		}
	}
	got, _, err := unstructured.NestedFieldNoCopy(in, strings.Split(rest, ".")...)
	if err != nil {
		t.Errorf("%s: %v", path, err)
	}
	return got
}

// TestAsDeploy shows that the chart gives what deploy gives: the same rights, APIs and
// scraper.
func TestAsDeploy(t *testing.T) {
	const home = "tidegauge-system"
	h := newHelm(t, "helm")
	all := parse(t, h.run(t, "template", release, chartDir(t), "--set", "namespaceOverride="+home,
		"--set", "podMonitor.enabled=true,apiServices.custom=true,apiServices.resource=true,apiServices.insecureSkipTLSVerify=true"))
	rights := []string{"ClusterRole/tidegauge-metrics-reader", "ClusterRole/tidegauge-externalmetrics-editor"}
	for _, file := range []string{
		"base/rbac.yaml", "base/apiservice.yaml", "base/service.yaml", "monitoring/rbac.yaml", "monitoring/podmonitor.yaml", "resource-metrics/apiservice.yaml",
	} {
		for _, want := range parse(t, string(read(t, root(t), "deploy", file))) {
			got := all.get(t, want.GetKind(), want.GetName())
			if got.GetNamespace() != want.GetNamespace() {
				t.Errorf("%s %s is in %q, want %q", want.GetKind(), want.GetName(), got.GetNamespace(), want.GetNamespace())
			}
			if diff := cmp.Diff(substance(want), substance(got)); diff != "" {
				t.Errorf("%s %s is not as in deploy/%s (-deploy +chart):\n%s", want.GetKind(), want.GetName(), file, diff)
			}
			if isRight(want) {
				rights = append(rights, want.GetKind()+"/"+want.GetName())
			}
		}
	}
	var got []string
	for _, o := range all {
		if isRight(o) {
			got = append(got, o.GetKind()+"/"+o.GetName())
		}
	}
	slices.Sort(rights)
	slices.Sort(got)
	if diff := cmp.Diff(rights, got); diff != "" {
		t.Errorf("the rights are not those of deploy, and of whoever reads or makes metrics (-want +got):\n%s", diff)
	}
}

func isRight(o *unstructured.Unstructured) bool {
	return o.GroupVersionKind().Group == "rbac.authorization.k8s.io"
}

// substance is an object without what a release adds to it.
func substance(o *unstructured.Unstructured) map[string]any {
	o = o.DeepCopy()
	delete(o.Object, "metadata")
	for _, path := range [][]string{
		{"spec", "selector"}, {"spec", "type"}, {"spec", "insecureSkipTLSVerify"},
	} {
		unstructured.RemoveNestedField(o.Object, path...)
	}
	return o.Object
}

// TestAlerts shows that the PrometheusRule has every alert of deploy/monitoring.
func TestAlerts(t *testing.T) {
	h := newHelm(t, "helm")
	origin := read(t, root(t), "deploy/monitoring/rules.yaml")
	want := parse(t, strings.ReplaceAll(string(origin), "tidegauge-system", namespace))[0]
	got := h.template(t, "--set", "prometheusRule.enabled=true").get(t, "PrometheusRule", release)
	if diff := cmp.Diff(want.Object["spec"], got.Object["spec"]); diff != "" {
		t.Errorf("the alerts are not those of deploy/monitoring (-deploy +chart):\n%s", diff)
	}
	few := h.template(t, "--set", "prometheusRule.enabled=true,prometheusRule.disabled={TidegaugeDown}").get(t, "PrometheusRule", release)
	if text := fmt.Sprint(few.Object); strings.Contains(text, "TidegaugeDown") || !strings.Contains(text, "TidegaugeThrottled") {
		t.Error("prometheusRule.disabled does not take away its alert, or takes more")
	}
}

// TestRefusals shows that a wrong value is refused with its path.
func TestRefusals(t *testing.T) {
	for set, words := range map[string][]string{
		"replica=3":                                   {"additional properties 'replica' not allowed"},
		"replicas=two":                                {"/replicas", "want integer"},
		"replicas=-1":                                 {"/replicas", "minimum"},
		"image.tags=1":                                {"/image", "'tags' not allowed"},
		"image.digest=sha256:12":                      {"/image/digest", "pattern"},
		"image.pullPolicy=Sometimes":                  {"/image/pullPolicy", "IfNotPresent"},
		"prometheus.port=http":                        {"/prometheus/port", "got string"},
		"prometheus.uri=http://p":                     {"/prometheus", "'uri' not allowed"},
		"rules.custom=all":                            {"/rules/custom", "got string"},
		"rules.custom[0].metricsQuery=x":              {"/rules/custom/0", "seriesQuery"},
		"config.rules=all":                            {"/config", "'rules' not allowed"},
		"config.maxAge=5":                             {"/config/maxAge", "want string"},
		"config.maxAge=long":                          {"/config/maxAge", "pattern"},
		"config.cloudwatch.regions=x":                 {"/config/cloudwatch", "'regions' not allowed"},
		"config.cloudwatch.roles[0].namespaces={a}":   {"/config/cloudwatch/roles/0", "arns"},
		"config.cloudwatch.roles[0].namespaces={A}":   {"/config/cloudwatch/roles/0/namespaces/0", "pattern"},
		"config.cloudwatch.roles[0].arns={*}":         {"/config/cloudwatch/roles/0/arns/0", "pattern"},
		"config.prometheus.servers.a.verb=GET":        {"/config/prometheus/servers/a", "url"},
		"metricsRelistInterval=1":                     {"/metricsRelistInterval"},
		"logLevel=debug":                              {"/logLevel"},
		"listenPort=70000":                            {"/listenPort"},
		"args.v={1}":                                  {"/args/v"},
		"extraArguments={v=2}":                        {"/extraArguments/0", "pattern"},
		"env[0].value=1":                              {"/env/0", "name"},
		"strategy.type=Fast":                          {"/strategy/type"},
		"podDisruptionBudget.maxUnavailable=many":     {"/podDisruptionBudget/maxUnavailable"},
		"hostNetwork=true":                            {"/hostNetwork", "want object"},
		"serviceAccount.annotations.a=1":              {"/serviceAccount/annotations/a", "want string"},
		"rbac.extraRules=all":                         {"/rbac/extraRules"},
		"rbac.aggregateToEdit=all":                    {"/rbac/aggregateToEdit", "want boolean"},
		"service.type=ExternalName":                   {"/service/type"},
		"apiServices.custom=yes":                      {"/apiServices/custom"},
		"apiServices.v2=true":                         {"/apiServices", "'v2' not allowed"},
		"apiServices.takeOver=keda":                   {"/apiServices/takeOver", "want boolean"},
		"tls.enabled=true":                            {"/tls", "'enabled' not allowed"},
		"certManager.issuerRef.issuer=x":              {"/certManager/issuerRef", "'issuer' not allowed"},
		"networkPolicy.egress[0].ports[0].port=1":     {"/networkPolicy", "'egress' not allowed"},
		"podMonitor.interval=often":                   {"/podMonitor/interval"},
		"fullnameOverride=UPPER":                      {"/fullnameOverride", "pattern"},
		"fullnameOverride=tide.gauge":                 {"/fullnameOverride", "pattern"},
		"fullnameOverride=1st":                        {"/fullnameOverride", "pattern"},
		"nameOverride=tide.gauge":                     {"/nameOverride", "pattern"},
		"namespaceOverride=tide.gauge":                {"/namespaceOverride", "pattern"},
		"prometheus.url=p.m.svc":                      {"/prometheus/url", "pattern"},
		"prometheus.url=ftp://p":                      {"/prometheus/url", "pattern"},
		"prometheus.url=x{{ .Release.Name }}.m.svc":   {"prometheus.url: its template", "http:// or https://"},
		"args.secure-port=https":                      {"/args/secure-port"},
		"args.secure-port=70000":                      {"/args/secure-port", "maximum"},
		"args.secure_port=7443":                       {"args.secure_port", "use listenPort"},
		"extraArguments={--secure-port=7443}":         {"extraArguments", "--secure-port=7443", "use listenPort"},
		"extraArguments={--secure_port=7443}":         {"extraArguments", "--secure_port=7443", "use listenPort"},
		`podLabels.app\.kubernetes\.io/name=x`:        {"podLabels: app.kubernetes.io/name", "leave it out"},
		`podLabels.app\.kubernetes\.io/instance=x`:    {"podLabels: app.kubernetes.io/instance", "leave it out"},
		"terminationGracePeriodSeconds=10":            {"terminationGracePeriodSeconds: 10", "above shutdownDelaySeconds, which is 10"},
		"tls.enable=true,tls.key=k":                   {"tls.certificate: give it as PEM"},
		"tls.enable=true,tls.key=k,tls.certificate=c": {"tls.ca: give the authority"},
		"tls.existingSecret=s":                        {"tls.ca: give the authority", namespace + "/s"},
		"tls.enable=true,certManager.enabled=true":    {"certManager.enabled and tls.enable: the certificate can come from one of them only"},
		"tls.enable=true,tls.existingSecret=secret":   {"tls.existingSecret and tls.enable"},
		"shutdownDelaySeconds=60,terminationGracePeriodSeconds=45": {
			"terminationGracePeriodSeconds: 45", "above shutdownDelaySeconds, which is 60",
		},
	} {
		t.Run(set, func(t *testing.T) {
			for _, name := range helmNames {
				_, err := newHelm(t, name).try(t, "template", release, chartDir(t), "--set", set)
				if err == nil {
					t.Errorf("%s renders it", name)
					continue
				}
				for _, word := range words {
					if !strings.Contains(err.Error(), word) {
						t.Errorf("%s does not say %q: %v", name, word, err)
					}
				}
			}
		})
	}
}

// TestStrategyOfHostNetwork shows that pods that have ports of their node make room for the
// next ones: there may be no node besides.
func TestStrategyOfHostNetwork(t *testing.T) {
	h := newHelm(t, "helm")
	for set, want := range map[string]string{
		"hostNetwork.enabled=false":                                  "map[rollingUpdate:map[maxSurge:1 maxUnavailable:0] type:RollingUpdate]",
		"hostNetwork.enabled=true":                                   "map[rollingUpdate:map[maxSurge:0 maxUnavailable:1] type:RollingUpdate]",
		"hostNetwork.enabled=true,strategy.rollingUpdate.maxSurge=2": "map[rollingUpdate:map[maxSurge:2 maxUnavailable:0] type:RollingUpdate]",
		"hostNetwork.enabled=true,strategy.type=Recreate":            "map[type:Recreate]",
	} {
		got, _, _ := unstructured.NestedMap(h.template(t, "--set", set).deployment(t).Object, "spec", "strategy")
		if fmt.Sprint(got) != want {
			t.Errorf("with %s the strategy is %v, want %s", set, got, want)
		}
	}
}

// TestNetworkPolicyOfPrometheus shows that the ports of Prometheus' Service and of its pods
// are both open, and neither if there is none.
func TestNetworkPolicyOfPrometheus(t *testing.T) {
	h := newHelm(t, "helm")
	for set, want := range map[string]bool{"prometheus.url=http://p.m.svc,prometheus.port=80": true, "prometheus.url=": false} {
		all := h.template(t, "--set", "networkPolicy.enabled=true,apiServices.custom=false,"+set)
		egress, _, err := unstructured.NestedSlice(all.get(t, "NetworkPolicy", release).Object, "spec", "egress")
		if err != nil || len(egress) < 2 {
			t.Fatalf("the NetworkPolicy lets out %v (%v)", egress, err)
		}
		for _, port := range []string{"port:80]", "port:9090]"} {
			if got := strings.Contains(fmt.Sprint(egress[1]), port); got != want {
				t.Errorf("with %s, %s among %v: %v, want %v", set, port, egress[1], got, want)
			}
		}
	}
}

// TestAuthorityKeepsItsKey shows that cert-manager renews the authority with the same key:
// it does not issue anew what the old key signed.
func TestAuthorityKeepsItsKey(t *testing.T) {
	all := newHelm(t, "helm").template(t, "--set", "certManager.enabled=true")
	for name, want := range map[string]string{release + "-ca": "Never", release: "Always"} {
		if got := nested(all.get(t, "Certificate", name), "spec", "privateKey", "rotationPolicy"); got != want {
			t.Errorf("the rotationPolicy of %s is %q, want %s", name, got, want)
		}
	}
}

// TestPort shows that the adapter, its container and the NetworkPolicy have the same port,
// however it is given.
func TestPort(t *testing.T) {
	h := newHelm(t, "helm")
	for set, want := range map[string]string{
		"args.v=2":              "6443",
		"listenPort=7443":       "7443",
		"args.secure-port=7443": "7443",
		// It is the same port, and so was accepted by the old chart.
		"listenPort=7443,extraArguments={--secure-port=7443}": "7443",
	} {
		t.Run(set, func(t *testing.T) {
			all := h.template(t, "--set", "networkPolicy.enabled=true", "--set", set)
			d := all.deployment(t)
			if got := flagValue(arguments(t, d), "secure-port"); got != want {
				t.Errorf("--secure-port is %s, want %s", got, want)
			}
			if got := fmt.Sprint(container(t, d)["ports"]); !strings.Contains(got, "containerPort:"+want+" ") {
				t.Errorf("the container has the ports %s, want %s", got, want)
			}
			ingress, _, err := unstructured.NestedSlice(all.get(t, "NetworkPolicy", release).Object, "spec", "ingress")
			if got := fmt.Sprint(ingress); err != nil || !strings.Contains(got, "port:"+want) {
				t.Errorf("the NetworkPolicy lets in %s (%v), want %s", got, err, want)
			}
		})
	}
}

// TestSchemaKnowsTheConfiguration shows that whatever the configuration file may have can be
// given in config, but for the rules.
func TestSchemaKnowsTheConfiguration(t *testing.T) {
	schema := parse(t, string(read(t, chartDir(t), "values.schema.json")))[0]
	properties := func(path ...string) []string {
		fields, found, err := unstructured.NestedMap(schema.Object, path...)
		if err != nil || !found {
			t.Fatalf("the schema has no %v: %v", path, err)
		}
		return slices.Sorted(maps.Keys(fields))
	}
	c := reflect.TypeFor[config.Config]()
	at := []string{"properties", "config", "properties"}
	for _, test := range []struct {
		of   reflect.Type
		path []string
	}{
		{c, at},
		{field(t, c, "CloudWatch"), slices.Concat(at, []string{"cloudwatch", "properties"})},
		{field(t, field(t, c, "CloudWatch"), "Roles").Elem(), slices.Concat(at, []string{"cloudwatch", "properties", "roles", "items", "properties"})},
		{field(t, c, "Prometheus"), slices.Concat(at, []string{"prometheus", "properties"})},
		{field(t, field(t, c, "Prometheus"), "Servers").Elem(), slices.Concat(at, []string{"prometheus", "properties", "servers", "additionalProperties", "properties"})},
	} {
		if diff := cmp.Diff(yamlFields(test.of), properties(test.path...)); diff != "" {
			t.Errorf("values.schema.json does not have the fields of %v (-code +schema):\n%s", test.of, diff)
		}
	}
}

func field(t *testing.T, of reflect.Type, name string) reflect.Type {
	t.Helper()
	f, ok := of.FieldByName(name)
	if !ok {
		t.Fatalf("%v has no %s", of, name)
	}
	return f.Type
}

// yamlFields are the names of the fields in the file. What is inlined, the rules, is not among them.
func yamlFields(of reflect.Type) []string {
	var names []string
	for f := range of.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name != "" && name != "-" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// TestTokens shows that no token is handed out but to the adapter's pods, by the kubelet and
// for an hour, and to whoever scrapes, where somebody is to.
func TestTokens(t *testing.T) {
	for _, variant := range variants(t) {
		t.Run(variant, func(t *testing.T) {
			all := newHelm(t, "helm").template(t, "--values", valuesOf(t, variant), "--set", "tls.key=k,tls.certificate=c,tls.ca=BEGIN CERTIFICATE")
			scraped := all.find("PodMonitor", release) != nil || all.find("ServiceMonitor", release) != nil
			for _, o := range all {
				switch o.GetKind() {
				case "ServiceAccount":
					// The values of prometheus-adapter's chart have it written out.
					want := variant == "prometheus-adapter"
					if got, found, err := unstructured.NestedBool(o.Object, "automountServiceAccountToken"); err != nil || !found || got != want {
						t.Errorf("that pods get the token of the ServiceAccount %s without asking for it is %t, want %t (%v)", o.GetName(), got, want, err)
					}
				case "Secret":
					if nested(o, "type") == "kubernetes.io/service-account-token" && (!scraped || o.GetName() != release+"-scraper") {
						t.Errorf("the Secret %s has a token", o.GetName())
					}
				}
			}
			volumes, _, err := unstructured.NestedSlice(all.deployment(t).Object, "spec", "template", "spec", "volumes")
			if text := fmt.Sprint(volumes); err != nil || strings.Contains(text, "serviceAccountToken") {
				t.Errorf("the pods have a token besides: %s (%v)", text, err)
			}
		})
	}
}

// Fargate has no DaemonSets, host networks and host ports, and no volumes of the host.
func TestFargate(t *testing.T) {
	all := newHelm(t, "helm").template(t)
	for _, o := range all {
		if o.GetKind() == "DaemonSet" {
			t.Errorf("there is a DaemonSet %s", o.GetName())
		}
	}
	text := fmt.Sprint(all.deployment(t).Object)
	for _, word := range []string{"hostNetwork", "hostPort", "hostPath", "privileged:"} {
		if strings.Contains(text, word) {
			t.Errorf("the Deployment has %s", word)
		}
	}
}

// TestKubernetesVersion shows which clusters the chart is for.
func TestKubernetesVersion(t *testing.T) {
	for _, name := range helmNames {
		h := newHelm(t, name)
		for version, want := range map[string]bool{"1.29.9": false, "1.30.0": true, "v1.30.0-eks-1234567": true, "v1.37.1+k3s1": true} {
			_, err := h.try(t, "template", release, chartDir(t), "--kube-version", version)
			if got := err == nil; got != want {
				t.Errorf("%s, Kubernetes %s: rendered is %t, want %t (%v)", name, version, got, want, err)
			}
		}
	}
}

// What the chart says after it is installed is in sentences, for all values.
func TestNotes(t *testing.T) {
	h := newHelm(t, "helm")
	for variant, words := range map[string][]string{
		"default":            {"serves external.metrics.k8s.io.", "troubleshooting.md"},
		"prometheus-adapter": {"serves external.metrics.k8s.io custom.metrics.k8s.io.", "image.repository is another adapter's, registry.k8s.io/", "stock rules are on", "one replica"},
		"tls-insecure":       {"takes any certificate"},
		"default --set rules.existing=mine": {
			"asked at http://prometheus.default.svc:9090", "in the ConfigMap mine", `set prometheus.url=""`, "apiServices.custom=false",
		},
		"default --set apiServices.external=false": {"no API leads to it: all apiServices are off.\n\nIs it there?\n\n    kubectl -n"},
	} {
		t.Run(variant, func(t *testing.T) {
			variant, set, _ := strings.Cut(variant, " --set ")
			out := h.run(t, "install", release, chartDir(t), "--dry-run=client", "--values", valuesOf(t, variant), "--set", set)
			_, text, _ := strings.Cut(out, "\nNOTES:\n")
			for _, word := range words {
				if !strings.Contains(text, word) {
					t.Errorf("the notes do not say %q:\n%s", word, text)
				}
			}
		})
	}
}

// copyChart copies the chart, to change it.
func copyChart(t *testing.T, dir string) {
	t.Helper()
	if err := os.CopyFS(dir, os.DirFS(chartDir(t))); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

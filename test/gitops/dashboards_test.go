package gitops

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/tidegauge/tidegauge/test/balancer"
	"github.com/tidegauge/tidegauge/test/repo"
)

const (
	grafanaFile    = "deploy/monitoring/orders-dashboard.json"
	cloudWatchFile = "deploy/monitoring/cloudwatch-dashboard.json"
)

// box is where something is on a page that is 24 wide.
type box struct {
	title      string
	x, y, w, h int
}

// wantApart fails the test if two lie on one another, or one is not on the page.
func wantApart(t *testing.T, boxes []box) {
	t.Helper()
	taken := map[[2]int]string{}
	for _, b := range boxes {
		if b.x < 0 || b.y < 0 || b.w < 1 || b.h < 1 || b.x+b.w > 24 {
			t.Errorf("%q is not on the page: %+v", b.title, b)
		}
		for x := b.x; x < b.x+b.w; x++ {
			for y := b.y; y < b.y+b.h; y++ {
				if other, twice := taken[[2]int{x, y}]; twice {
					t.Fatalf("%q and %q lie on one another", other, b.title)
				}
				taken[[2]int{x, y}] = b.title
			}
		}
	}
}

// cloudWatchBody is a dashboard's body, as far as ours has it, see
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CloudWatch-Dashboard-Body-Structure.html.
type cloudWatchBody struct {
	Start          string   `json:"start"`
	PeriodOverride string   `json:"periodOverride"`
	Widgets        []widget `json:"widgets"`
}

type widget struct {
	Type       string `json:"type"`
	X          int    `json:"x"`
	Y          int    `json:"y"`
	Width      int    `json:"width"`
	Height     int    `json:"height"`
	Properties struct {
		Markdown string              `json:"markdown"`
		Title    string              `json:"title"`
		Region   string              `json:"region"`
		View     string              `json:"view"`
		Stat     string              `json:"stat"`
		Period   int                 `json:"period"`
		Metrics  [][]json.RawMessage `json:"metrics"`
		YAxis    struct {
			Left struct {
				Min float64 `json:"min"`
			} `json:"left"`
		} `json:"yAxis"`
	} `json:"properties"`
}

// series is a metric of CloudWatch.
type series struct {
	namespace, name string
	dimensions      map[string]string
}

func (s series) String() string { return fmt.Sprintf("%s %s %v", s.namespace, s.name, s.dimensions) }

func readCloudWatch(t *testing.T) cloudWatchBody {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(repo.Read(t, cloudWatchFile)))
	decoder.DisallowUnknownFields()
	var body cloudWatchBody
	if err := decoder.Decode(&body); err != nil {
		t.Fatal(err)
	}
	return body
}

// parseMetric reads namespace, name, names and values of dimensions, and options.
func parseMetric(row []json.RawMessage) (series, error) {
	var texts []string
	for i, part := range row {
		var text string
		if err := json.Unmarshal(part, &text); err == nil {
			texts = append(texts, text)
			continue
		}
		var options struct{ Label, Stat string }
		decoder := json.NewDecoder(bytes.NewReader(part))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&options); err != nil || i != len(row)-1 {
			return series{}, fmt.Errorf("%s: options come last and are label and stat: %w", part, err)
		}
	}
	if len(texts) < 2 || len(texts)%2 != 0 {
		return series{}, fmt.Errorf("%v is no namespace, name and pairs of dimensions", texts)
	}
	s := series{texts[0], texts[1], map[string]string{}}
	for pair := range slices.Chunk(texts[2:], 2) {
		s.dimensions[pair[0]] = pair[1]
	}
	return s, nil
}

func TestCloudWatchDashboardIsWellFormed(t *testing.T) {
	body := readCloudWatch(t)
	var boxes []box
	for _, w := range body.Widgets {
		p := w.Properties
		boxes = append(boxes, box{p.Title, w.X, w.Y, w.Width, w.Height})
		if w.Type == "text" && p.Markdown != "" && len(p.Metrics) == 0 {
			continue
		}
		if w.Type != "metric" || p.Title == "" || p.View != "timeSeries" || p.Period != 60 || !regexp.MustCompile(`^[a-z]{2}-[a-z]+-\d$`).MatchString(p.Region) {
			t.Errorf("widget %q is %+v", p.Title, w)
		}
		if !regexp.MustCompile(`^(Sum|Maximum|p\d\d)$`).MatchString(p.Stat) || len(p.Metrics) == 0 {
			t.Errorf("widget %q asks the statistic %q of %d metrics", p.Title, p.Stat, len(p.Metrics))
		}
		for _, row := range p.Metrics {
			if _, err := parseMetric(row); err != nil {
				t.Errorf("widget %q: %v", p.Title, err)
			}
		}
	}
	wantApart(t, boxes)
}

func cloudWatchSeries(t *testing.T) []series {
	t.Helper()
	var all []series
	for _, w := range readCloudWatch(t).Widgets {
		for _, row := range w.Properties.Metrics {
			s, err := parseMetric(row)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, s)
		}
	}
	return all
}

// documented are the dimensions of metrics that come from AWS itself and no stand-in has, see
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Container-Insights-metrics-EKS.html.
var documented = map[string][]string{
	"ContainerInsights cluster_node_count":        {"ClusterName"},
	"ContainerInsights cluster_failed_node_count": {"ClusterName"},
}

// TestCloudWatchDashboardAsksWhatIsThere looks each metric up where the demo's own programs
// and the stand-ins of SQS and the load balancer publish it.
func TestCloudWatchDashboardAsksWhatIsThere(t *testing.T) {
	d := runDemo(t)
	// What the load balancer counts, when everything has happened to it.
	counted := balancer.Snapshot{
		Balancer: map[int]uint64{502: 1, 504: 1}, Target: map[int]uint64{500: 1}, ResponseTime: balancer.ResponseTime{Count: 1},
	}.CloudWatch()
	var own []series
	for _, s := range cloudWatchSeries(t) {
		names := slices.Sorted(maps.Keys(s.dimensions))
		switch s.namespace {
		case "AWS/ApplicationELB":
			want := []string{"LoadBalancer"}
			if strings.HasSuffix(s.name, "HostCount") {
				want = append(want, "TargetGroup") // They are counted by target group only.
			}
			if _, ok := counted[s.name]; !ok || !slices.Equal(names, want) {
				t.Errorf("a load balancer has no %v, of %v", s, want)
			}
		case "ContainerInsights":
			if want, ok := documented[s.namespace+" "+s.name]; !ok || !slices.Equal(names, want) {
				t.Errorf("%v is not documented", s)
			}
		default:
			own = append(own, s)
		}
	}
	if len(own) < 8 {
		t.Errorf("only %d metrics are of the demo", len(own))
	}
	d.wantPublished(t, own)
}

// wantPublished waits until each metric has a value.
func (d *demo) wantPublished(t *testing.T, all []series) {
	t.Helper()
	client := cloudwatch.New(cloudwatch.Options{
		Region: region, BaseEndpoint: sdk.String(d.aws.URL()),
		Credentials: credentials.NewStaticCredentialsProvider(d.aws.AccessKeyID(), d.aws.SecretAccessKey(), ""),
	})
	eventually(t, "metrics of CloudWatch", func() error {
		for _, s := range all {
			metric := &types.Metric{Namespace: &s.namespace, MetricName: &s.name}
			for name, value := range s.dimensions {
				metric.Dimensions = append(metric.Dimensions, types.Dimension{Name: &name, Value: &value})
			}
			now := time.Now().Truncate(time.Minute)
			out, err := client.GetMetricData(t.Context(), &cloudwatch.GetMetricDataInput{
				StartTime: sdk.Time(now.Add(-10 * time.Minute)), EndTime: sdk.Time(now.Add(time.Minute)),
				MetricDataQueries: []types.MetricDataQuery{{
					Id: sdk.String("q"), MetricStat: &types.MetricStat{Metric: metric, Period: sdk.Int32(60), Stat: sdk.String("Maximum")},
				}},
			})
			if err != nil {
				return err
			}
			if len(out.MetricDataResults[0].Values) == 0 {
				return fmt.Errorf("%v has no value", s)
			}
		}
		return nil
	})
}

// grafana is the part of Grafana's format that the tests look at.
type grafana struct {
	UID        string
	Templating struct {
		List []struct{ Name, Type, Query string }
	}
	Panels []struct {
		ID          int
		Type, Title string
		Datasource  *source
		GridPos     struct{ H, W, X, Y int }
		Targets     []struct {
			RefID      string
			Datasource source
			Expr       string

			Namespace, MetricName, Region string
			Dimensions                    map[string]string
		}
	}
}

type source struct{ Type, UID string }

func readGrafana(t *testing.T) grafana {
	t.Helper()
	var d grafana
	if err := json.Unmarshal(repo.Read(t, grafanaFile), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestGrafanaDashboardIsWellFormed(t *testing.T) {
	d := readGrafana(t)
	chosen := map[source]bool{}
	for _, v := range d.Templating.List {
		if v.Type != "datasource" {
			t.Errorf("variable %s is no data source", v.Name)
		}
		chosen[source{v.Query, "${" + v.Name + "}"}] = true
	}
	ids := map[int]bool{}
	var boxes []box
	for _, p := range d.Panels {
		boxes = append(boxes, box{p.Title, p.GridPos.X, p.GridPos.Y, p.GridPos.W, p.GridPos.H})
		if ids[p.ID] || p.ID == 0 {
			t.Errorf("panel %q has the id %d, which another has, or none", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			continue
		}
		if len(p.Targets) == 0 || p.Datasource == nil || !chosen[*p.Datasource] {
			t.Errorf("panel %q asks %d times of %v", p.Title, len(p.Targets), p.Datasource)
		}
		refs := map[string]bool{}
		for _, q := range p.Targets {
			if refs[q.RefID] || q.Datasource != *p.Datasource {
				t.Errorf("panel %q: query %s is there twice, or of another data source", p.Title, q.RefID)
			}
			refs[q.RefID] = true
		}
	}
	wantApart(t, boxes)
	var other struct{ UID string }
	if err := json.Unmarshal(repo.Read(t, "deploy/monitoring/dashboard.json"), &other); err != nil || other.UID == d.UID {
		t.Errorf("both dashboards have the uid %s: %v", d.UID, err)
	}
}

// kubeState are the metrics of kube-state-metrics that are asked for, with their labels, see
// https://github.com/kubernetes/kube-state-metrics/tree/main/docs/metrics.
var kubeState = map[string][]string{
	"kube_node_info": {"node"},
	"kube_horizontalpodautoscaler_status_current_replicas": {"namespace", "horizontalpodautoscaler"},
	"kube_horizontalpodautoscaler_status_desired_replicas": {"namespace", "horizontalpodautoscaler"},
}

// scraped are the labels that deploy/demo/prometheus/prometheus.yaml gives to a pod's series.
var scraped = []string{"namespace", "pod"}

// TestGrafanaDashboardAsksWhatIsThere has the demo's own programs serve each metric, and the
// labels that are asked for.
func TestGrafanaDashboardAsksWhatIsThere(t *testing.T) {
	d := runDemo(t)
	there := maps.Clone(kubeState)
	eventually(t, "metrics of Prometheus", func() error {
		served, err := d.served(t.Context())
		if err == nil && !slices.Contains(served["loader_responses_total"], "code") {
			err = fmt.Errorf("the loader has no answer yet: %v", served)
		}
		maps.Copy(there, served)
		return err
	})
	var own []series
	expressions := 0
	for _, p := range readGrafana(t).Panels {
		for _, q := range p.Targets {
			if q.Datasource.Type == "cloudwatch" {
				own = append(own, series{q.Namespace, q.MetricName, q.Dimensions})
				continue
			}
			expressions++
			expression := strings.ReplaceAll(q.Expr, "$__rate_interval", "5m")
			if strings.Contains(expression, "$") {
				t.Errorf("panel %q: a variable that is none: %s", p.Title, q.Expr)
			}
			for _, fault := range faults(expression, there) {
				t.Errorf("panel %q: %v in %s", p.Title, fault, q.Expr)
			}
		}
	}
	if expressions < 10 {
		t.Errorf("there are %d expressions", expressions)
	}
	d.wantPublished(t, own)
}

// faults are what is wrong with an expression, given the labels of each metric.
func faults(expression string, there map[string][]string) (all []error) {
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expression)
	if err != nil {
		return []error{err}
	}
	var have []string
	parser.Inspect(parsed, func(n parser.Node, _ []parser.Node) error {
		s, ok := n.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		own, found := there[s.Name]
		if !found {
			all = append(all, fmt.Errorf("there is no metric %s", s.Name))
		}
		own = slices.Concat(own, scraped)
		have = append(have, own...)
		for _, m := range s.LabelMatchers {
			if m.Name != "__name__" && !slices.Contains(own, m.Name) {
				all = append(all, fmt.Errorf("%s has no label %s", s.Name, m.Name))
			}
		}
		return nil
	})
	parser.Inspect(parsed, func(n parser.Node, _ []parser.Node) error {
		if a, ok := n.(*parser.AggregateExpr); ok {
			for _, name := range a.Grouping {
				if !slices.Contains(have, name) {
					all = append(all, fmt.Errorf("no metric of the expression has the label %s", name))
				}
			}
		}
		return nil
	})
	return all
}

// TestFaults keeps the test above from saying yes to everything.
func TestFaults(t *testing.T) {
	there := map[string][]string{"a_total": {"code"}}
	for expression, want := range map[string]string{
		`sum by (code, pod) (rate(a_total{code="502"}[5m]))`: "",
		`rate(a_total[5m]`:          "unclosed left parenthesis",
		`b_total`:                   "there is no metric b_total",
		`a_total{reason="x"}`:       "a_total has no label reason",
		`sum by (reason) (a_total)`: "no metric of the expression has the label reason",
	} {
		got := faults(expression, there)
		if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || !strings.Contains(got[0].Error(), want)) {
			t.Errorf("%s: got %v, want %q", expression, got, cmp.Or(want, "nothing"))
		}
	}
}

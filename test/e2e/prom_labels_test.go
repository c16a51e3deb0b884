package e2e

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	external "k8s.io/metrics/pkg/apis/external_metrics/v1beta1"

	"github.com/tidegauge/tidegauge/test/player"
)

// oddTexts are those that mean something in PromQL, in a regular expression or in a URL.
var oddTexts = []string{
	`x"} or vector(1) #`,
	`{namespace="default"}`,
	"a.b", "aXb", ".*", ".+", "a|b", "^a$", "[ab]", "(a)", "a{1,2}", `a\.b`, `\`, `\\`, `\"`, `"`, "'", "`", "$0", "${1}", "<<.Series>>",
	"line\nbreak", "tab\tstop", "nul\x00byte", "ü", "日本", "😀", "\u2028", "\u00a0", "%2F", "%", "a b", " ", "?x=1", "#", "&", "+", ";", ",", "=", "!", "~",
}

// Objects are found by exactly their name, whatever that has in it. A name that would
// be injected into the query, or be a pattern in it, would give another's value.
func TestObjectNamesAreExact(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	jobs := s.own("jobs")
	var series []player.Series
	for i, name := range oddTexts {
		series = append(series, described(jobs, float64(i+100), s.here("pod", name)))
	}
	// Other labels of a series are nobody's business.
	for i, value := range oddTexts {
		series = append(series, described(jobs, float64(i+1), s.here("pod", "plain", "queue", value)))
	}
	s.setSeries(series...)
	s.awaitDescribed(texts{"plain": strconv.Itoa(len(oddTexts) * (len(oddTexts) + 1) / 2)}, s.of("pods", "plain", jobs))
	for i, name := range oddTexts {
		want, path := texts{name: strconv.Itoa(i + 100)}, s.of("pods", name, jobs)
		if err := s.hasDescribed(t.Context(), want, path); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		truth := fmt.Sprintf("sum(e2e_%s{namespace=%q,pod=%s})", jobs, s.namespace, strconv.Quote(name))
		if vector, err := s.prometheus.Query(t.Context(), truth); err != nil || len(vector) != 1 || float64(vector[0].Value) != float64(i+100) {
			t.Errorf("%s: Prometheus itself says %v, %v", truth, vector, err)
		}
	}
	// These are nobody's names, and would be all of them as patterns.
	for _, name := range []string{".*|a", "a.?b", "pl.in", `plain"}`, `plain",pod=~".*`, "plain|web", "PLAIN", "plain ", "😀😀"} {
		if err := s.refuses(t.Context(), http.StatusNotFound, []string{"no sample"}, s.of("pods", name, jobs)); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestMetricSelectorsAreExact compares sums over what the selector matches with what is
// served.
func TestMetricSelectorsAreExact(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	jobs, depth := s.own("jobs"), s.own("depth")
	pods := []string{"web-0", "web-1"}
	queues := append([]string{"", "a-b", "a_b", "axb", "A.B"}, oddTexts...)
	s.pendingPods(nil, pods...)
	var series []player.Series
	for i, queue := range queues {
		l := s.here("pod", pods[i%len(pods)], "queue", queue)
		if i%3 == 0 {
			l["color"] = "red"
		}
		// Powers of two: each set of series has its own sum.
		series = append(series, described(jobs, math.Ldexp(1, i), l), outside(depth, math.Ldexp(1, i), l))
	}
	s.setSeries(series...)
	s.awaitSelected(series, "", jobs, depth)
	for _, selector := range []string{
		"queue in (a.b)", "queue in (a.b,aXb)", "queue in (a.b,nothing)", "queue notin (a.b)", "queue notin (a.b,aXb,A.B)",
		"queue=a.b", "queue==a.b", "queue!=a.b", "queue", "!queue", "color,queue=a.b", "!color,queue!=aXb", "color=red,queue in (a.b,axb)",
		"queue in ()", "queue notin ()", "color!=red", "color notin (red,blue)", "queue=", "queue!=", "queue=a.b,queue=aXb",
		"queue=a.b,queue!=aXb", "size", "!size", "queue in (a_b),queue in (a-b,a_b)",
	} {
		s.awaitSelected(series, selector, jobs, depth)
	}
	for _, tc := range []struct{ selector, says string }{
		{"queue>5", "compares"},
		{"queue<5", "compares"},
		{"example.com/queue=a", "example_com_queue"},
		{"my-queue=a", "my_queue"},
	} {
		err := s.refuses(t.Context(), http.StatusBadRequest, []string{tc.says, jobs}, s.of("pods", "*", jobs), "metricLabelSelector", tc.selector)
		if err != nil {
			t.Errorf("%s: %v", tc.selector, err)
		}
		_, err = read[external.ExternalMetricValueList](t.Context(), s.admin(), metricPath(s.namespace, depth), "labelSelector", tc.selector)
		if err == nil {
			t.Errorf("external, %s: it is taken", tc.selector)
		} else if err := isError(err, http.StatusBadRequest, tc.says, depth); err != nil {
			t.Errorf("external, %s: %v", tc.selector, err)
		}
	}
}

// awaitSelected waits until the pods' metric and the external metric of the series have
// exactly what the selector matches.
func (s *space) awaitSelected(series []player.Series, selector, jobs, depth string) {
	s.t.Helper()
	parsed, err := labels.Parse(selector)
	if err != nil {
		s.t.Fatal(err)
	}
	sums, elements := map[string]float64{}, map[string]float64{}
	for _, e := range series {
		l := e.Labels
		switch {
		case !selects(parsed, l):
		case strings.HasPrefix(e.Name, "e2e_"):
			sums[l["pod"]] += float64(e.Value)
		default:
			elements[l["queue"]] = float64(e.Value)
		}
	}
	want := texts{}
	for pod, sum := range sums {
		want[pod] = strconv.FormatFloat(sum, 'f', -1, 64)
	}
	s.eventually("the selector "+selector, func(ctx context.Context) error {
		if err := s.hasDescribed(ctx, want, s.of("pods", "*", jobs), "metricLabelSelector", selector); err != nil {
			return err
		}
		list, err := read[external.ExternalMetricValueList](ctx, s.admin(), metricPath(s.namespace, depth), "labelSelector", selector)
		if err != nil {
			return err
		}
		for _, item := range list.Items {
			if queue := item.MetricLabels["queue"]; item.Value.AsApproximateFloat64() != elements[queue] {
				return fmt.Errorf("external: queue %q has %v, want %v", queue, item.Value.String(), elements[queue])
			}
		}
		if len(list.Items) != len(elements) {
			return fmt.Errorf("external: %d items, want %d", len(list.Items), len(elements))
		}
		return nil
	})
}

// selects says whether a selector matches labels as Prometheus has them: one that is
// empty is none, and none is empty. For all other values that is what Kubernetes says.
func selects(selector labels.Selector, of map[string]string) bool {
	requirements, _ := selector.Requirements()
	for _, r := range requirements {
		value := of[r.Key()]
		var matches bool
		switch r.Operator() {
		case selection.Exists:
			matches = value != ""
		case selection.DoesNotExist:
			matches = value == ""
		case selection.NotIn, selection.NotEquals:
			matches = !r.Values().Has(value)
		default:
			matches = r.Values().Has(value)
		}
		if !matches {
			return false
		}
	}
	return true
}

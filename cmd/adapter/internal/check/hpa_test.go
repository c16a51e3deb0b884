package check

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// ofSeverity are the findings of that severity.
func ofSeverity(s Severity, all []Finding) []Finding {
	return slices.DeleteFunc(slices.Clone(all), func(f Finding) bool { return f.Severity != s })
}

// The HPAs are those that a test in test/check sends to a real API server. The first line of
// each says what check says of it: of a bad one as an error, of a good one as a warning.
func TestHPAsAreJudgedByTheirFields(t *testing.T) {
	for file, severity := range map[string]Severity{"good.yaml": Warning, "bad.yaml": Error} {
		text, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "test", "check", "testdata", "hpas", file))
		if err != nil {
			t.Fatal(err)
		}
		for i, one := range strings.Split(string(text), "---\n") {
			words := comments(one)
			t.Run(file+" "+strings.Join(words, ""), func(t *testing.T) {
				all := run(t, one).Findings
				if n := len(ofSeverity(Error, all)); severity == Warning && n > 0 || severity == Error && n == 0 {
					t.Errorf("document %d: got %+v\nof %s", i, all, one)
				}
				if len(words) > 0 && !slices.ContainsFunc(ofSeverity(severity, all), func(f Finding) bool { return strings.Contains(f.Message, words[0]) }) {
					t.Errorf("document %d: got %+v, want %q", i, all, words[0])
				}
			})
		}
	}
}

// What is wrong with an HPA is said all at once, each at its line and with its cure, and
// keeps no other metric of it from being looked up.
func TestAllThatIsWrongWithAnHPAIsSaid(t *testing.T) {
	hpa := strings.NewReplacer("maxReplicas: 3", "maxReplicas: 0", "metrics:\n", `metrics:
  - type: External
    external:
      metric: {name: queue-dept}
      target: {type: AverageValue, averageValue: "0"}
  - type: Pods
    external:
      metric: {name: queue-dept}
      target: {type: AverageValue, averageValue: "1"}
`, "queue-depth", "queue-dept").Replace(goodHPA)
	want := []found{
		{Error, "b.yaml", 5, "HorizontalPodAutoscaler shop/web", "spec.maxReplicas: is missing or 0", "write how many pods there may be, 1 or more"},
		{Error, "b.yaml", 11, "HorizontalPodAutoscaler shop/web", "spec.metrics[0].external.target.averageValue: 0 is not more than 0", "write what one pod, or all of them, should have to do"},
		{Error, "b.yaml", 12, "HorizontalPodAutoscaler shop/web", "spec.metrics[1].pods: is missing", "add it, or write the type whose field is there"},
		{Error, "b.yaml", 14, "HorizontalPodAutoscaler shop/web", "spec.metrics[1].external: is for type External", "leave it out, or write type: External"},
		{Warning, "b.yaml", 18, "HorizontalPodAutoscaler shop/web", "is it queue-depth that is meant?", ""},
	}
	got := run(t, goodMetric, hpa).Findings
	wantFindings(t, got, want)
	for i, f := range got[:4] {
		if f.Cure != want[i].Cure {
			t.Errorf("the cure of %q is %q, want %q", f.Message, f.Cure, want[i].Cure)
		}
	}
}

// What an HPA of autoscaling/v1 has in annotations is of another form, which is not judged.
func TestAnnotationsOfV1AreNotJudged(t *testing.T) {
	const text = `apiVersion: autoscaling/v1
kind: HorizontalPodAutoscaler
metadata:
  name: web
  annotations:
    autoscaling.alpha.kubernetes.io/metrics: '[]'
spec: {minReplicas: 0, maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}
`
	wantFindings(t, run(t, text).Findings, []found{
		{Note, "a.yaml", 6, "HorizontalPodAutoscaler web", "annotation autoscaling.alpha.kubernetes.io/metrics is not judged: write autoscaling/v2", ""},
	})
}

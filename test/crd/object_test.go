package crd

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
)

const mergePatch = types.MergePatchType

func toTyped(t *testing.T, o *unstructured.Unstructured) *v1alpha1.ExternalMetric {
	t.Helper()
	var typed v1alpha1.ExternalMetric
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &typed); err != nil {
		t.Fatal(err)
	}
	return &typed
}

// Two owners can each keep a query in one object, and a query goes with its owner.
func TestServerSideApplyMergesQueriesByID(t *testing.T) {
	client, _ := metrics(t)
	apply := func(owner string, queries ...v1alpha1.MetricDataQuery) *v1alpha1.ExternalMetric {
		m := metric()
		m.Spec.Queries = queries
		o := toUnstructured(t, m)
		unstructured.RemoveNestedField(o.Object, "status")
		applied, err := client.Apply(t.Context(), m.Name, o, metav1.ApplyOptions{FieldManager: owner})
		if err != nil {
			t.Fatalf("apply as %s: %v", owner, err)
		}
		return toTyped(t, applied)
	}
	ids := func(m *v1alpha1.ExternalMetric) []string {
		var all []string
		for _, q := range m.Spec.Queries {
			all = append(all, q.ID)
		}
		slices.Sort(all)
		return all
	}
	three := queries(3)

	apply("one", three[0], three[1])
	deleteLater(t, client, metric().Name)
	both := apply("two", three[2])
	if diff := cmp.Diff([]string{"q0", "q1", "q2"}, ids(both)); diff != "" {
		t.Errorf("queries of both owners (-want +got):\n%s", diff)
	}
	fewer := apply("one", three[0])
	if diff := cmp.Diff([]string{"q0", "q2"}, ids(fewer)); diff != "" {
		t.Errorf("queries after one owner dropped q1 (-want +got):\n%s", diff)
	}
}

func status() v1alpha1.ExternalMetricStatus {
	at := metav1.NewTime(time.Date(2026, time.November, 22, 9, 0, 0, 0, time.UTC))
	return v1alpha1.ExternalMetricStatus{
		ObservedGeneration: 1,
		Value:              "95500m",
		ValueTime:          &at,
		HPAs:               []string{"web", "worker"},
		Conditions: []metav1.Condition{
			{
				Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Available",
				Message: "CloudWatch answered", LastTransitionTime: at, ObservedGeneration: 1,
			},
			{
				Type: v1alpha1.ConditionFresh, Status: metav1.ConditionTrue, Reason: "Answered",
				LastTransitionTime: at, ObservedGeneration: 1,
			},
		},
	}
}

// The adapter may write the status and never the spec; whoever writes the spec cannot
// make up a status.
func TestStatusSubresource(t *testing.T) {
	client, _ := metrics(t)
	m := metric()
	m.Status = status()
	created := toTyped(t, create(t, client, toUnstructured(t, m)))
	if diff := cmp.Diff(v1alpha1.ExternalMetricStatus{}, created.Status); diff != "" {
		t.Errorf("status of a new object (-want +got):\n%s", diff)
	}

	created.Status = status()
	created.Spec.Region = "eu-central-1"
	updated, err := client.UpdateStatus(t.Context(), toUnstructured(t, created), metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := toTyped(t, updated)
	if got.Spec.Region != "" || got.Generation != 1 {
		t.Errorf("an update of the status changed the spec: region %q, generation %d", got.Spec.Region, got.Generation)
	}
	if diff := cmp.Diff(status(), got.Status, cmp.Comparer(equalTimes)); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}

	got.Spec.Region = "eu-central-1"
	got.Status.Value = "0"
	updated, err = client.Update(t.Context(), toUnstructured(t, got), metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got = toTyped(t, updated)
	if got.Status.Value != "95500m" || got.Generation != 2 {
		t.Errorf("after an update of the spec: value %q, generation %d; want 95500m, 2", got.Status.Value, got.Generation)
	}
}

func equalTimes(a, b metav1.Time) bool { return a.Equal(&b) }

func TestStatusLimits(t *testing.T) {
	client, _ := metrics(t)
	created := toTyped(t, create(t, client, toUnstructured(t, metric())))
	names := func(n int) []string { return slices.Repeat([]string{"worker"}, n) }

	tests := []struct {
		name string
		set  func(*v1alpha1.ExternalMetricStatus)
		want string // empty when the status is accepted
	}{
		{"most HPAs", func(s *v1alpha1.ExternalMetricStatus) { s.HPAs = names(v1alpha1.MaxHPAs) }, ""},
		{
			"more HPAs", func(s *v1alpha1.ExternalMetricStatus) { s.HPAs = names(v1alpha1.MaxHPAs + 1) },
			"status.hpas: must have at most 100 items",
		},
		{
			"long value", func(s *v1alpha1.ExternalMetricStatus) { s.Value = text(65) },
			"status.value: may not be more than 64",
		},
		{
			"two conditions of one type",
			func(s *v1alpha1.ExternalMetricStatus) { s.Conditions = append(s.Conditions, s.Conditions[0]) },
			"status.conditions[2]: Duplicate value",
		},
		{
			"condition of no known status",
			func(s *v1alpha1.ExternalMetricStatus) { s.Conditions[0].Status = "Yes" },
			`status.conditions[0].status: supported values: "True", "False", "Unknown"`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := created.DeepCopy()
			m.Status = status()
			test.set(&m.Status)
			_, err := client.UpdateStatus(t.Context(), toUnstructured(t, m), metav1.UpdateOptions{DryRun: dryRun.DryRun})
			if test.want != "" {
				checkRefusal(t, err, test.want)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// kubectl get em, as the API server prints it.
func TestPrinterColumns(t *testing.T) {
	client, _ := metrics(t)
	m := toTyped(t, create(t, client, toUnstructured(t, metric())))
	m.Status = status()
	at := metav1.NewTime(m.CreationTimestamp.Add(-90 * time.Second))
	m.Status.ValueTime = &at
	if _, err := client.UpdateStatus(t.Context(), toUnstructured(t, m), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}

	headers, cells := printed(t, m.Name)
	want := []string{"Name", "Ready", "Reason", "Value", "Measured", "HPAs", "Fresh", "Message", "Age"}
	if diff := cmp.Diff(want, headers); diff != "" {
		t.Fatalf("columns (-want +got):\n%s", diff)
	}
	measured, err := time.ParseDuration(cells[4].(string))
	if err != nil || measured < 90*time.Second {
		t.Errorf("Measured is %q (%v), want 90s or somewhat more", cells[4], err)
	}
	cells = slices.Delete(cells, 8, 9) // The object's age depends on the machine.
	cells = slices.Delete(cells, 4, 5)
	row := []any{m.Name, "True", "Available", "95500m", `["web","worker"]`, "True", "CloudWatch answered"}
	if diff := cmp.Diff(row, cells); diff != "" {
		t.Errorf("row (-want +got):\n%s", diff)
	}
}

// printed is the API server's table for an object: the headers, and its row.
func printed(t *testing.T, name string) (headers []string, cells []any) {
	t.Helper()
	body, err := bed.Cluster(t).Client().CoreV1().RESTClient().Get().
		AbsPath("/apis", v1alpha1.GroupVersion.Group, v1alpha1.GroupVersion.Version, "namespaces", namespace, v1alpha1.Resource.Resource, name).
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").
		DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var table metav1.Table
	if err := json.Unmarshal(body, &table); err != nil {
		t.Fatal(err)
	}
	if len(table.Rows) != 1 {
		t.Fatalf("%d rows, want one", len(table.Rows))
	}
	for _, column := range table.ColumnDefinitions {
		headers = append(headers, column.Name)
	}
	return headers, table.Rows[0].Cells
}

package catalog

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/pkg/sources/cloudwatch"
)

const reader = "arn:aws:iam::123456789012:role/metrics-reader"

// readers let the namespace shop use the role.
var readers = cloudwatch.Roles{{Namespaces: []string{"shop"}, ARNs: []string{reader}}}

func TestRoleIsOfTheNamespace(t *testing.T) {
	for _, tc := range []struct {
		name, own, namespace, role string
		roles                      cloudwatch.Roles
		want                       bool
	}{
		{name: "no role", own: "tidegauge-system", namespace: "shop", want: true},
		{name: "no list", own: "tidegauge-system", namespace: "shop", role: reader},
		{name: "listed", own: "tidegauge-system", namespace: "shop", role: reader, roles: readers, want: true},
		{name: "listed for another namespace", own: "tidegauge-system", namespace: "payments", role: reader, roles: readers},
		{name: "another role", own: "tidegauge-system", namespace: "shop", role: reader + "-2", roles: readers},
		{name: "the adapter's own namespace", own: "tidegauge-system", namespace: "tidegauge-system", role: reader, want: true},
		{name: "no namespace is the adapter's own", role: reader},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := &metricsaws.ExternalMetric{ObjectMeta: metav1.ObjectMeta{Namespace: tc.namespace, Name: "orders"}, Spec: queueDepth(60)}
			o.Spec.RoleARN = tc.role
			in := defaults
			in.Roles, in.OwnNamespace = tc.roles, tc.own
			m := newMetric(newRecord(o, nil, nil).definition, in)
			if (m.Err == nil) != tc.want || mayNotUseRole(m) == tc.want {
				t.Fatalf("the error is %v", m.Err)
			}
			if m.Err == nil {
				return
			}
			for _, words := range []string{"spec.roleArn: ", tc.namespace, tc.role, "cloudwatch.roles", "- {namespaces: ["} {
				if !strings.Contains(m.Err.Error(), words) {
					t.Errorf("%q is not in %v", words, m.Err)
				}
			}
			if m.Request.Query != nil {
				t.Error("there is something to ask")
			}
		})
	}
}

// forgets are what is to be forgotten.
type forgets []string

// Forget implements Forgetter.
func (f *forgets) Forget(source string, backends []string) {
	*f = append(*f, fmt.Sprintf("%s: %s", source, strings.Join(backends, ", ")))
}

// TestRolesAreReloaded takes a role away from an object that has a value, and gives it back.
func TestRolesAreReloaded(t *testing.T) {
	b := newBench(t)
	forgets := &forgets{}
	b.watcher.forgetter = forgets
	in := defaults
	in.Roles = readers
	b.watcher.SetDefaults(in)
	b.spec.RoleARN, b.spec.Region = reader, "eu-west-1"
	b.shows(1, "1", metricsaws.ExternalMetricStatus{})
	b.uses("worker")
	b.rebuild()
	b.state.says(answered(7))
	b.report()
	if n := b.state.pins(); n != 1 {
		t.Errorf("%d requests are pinned, want that of the object", n)
	}

	b.watcher.SetDefaults(defaults)
	b.rebuild()
	b.report()
	if m := b.catalog.External(jobs); m == nil || !mayNotUseRole(m) {
		t.Errorf("got %+v, want a metric that says why it cannot be read", m)
	}
	if n, c := b.state.pins(), b.catalog.load().objects.definitions; n != 0 || c != (definitionCounts{invalid: 1}) {
		t.Errorf("%d requests are pinned, and of objects there are %+v", n, c)
	}

	if want := []string{"cloudwatch: eu-west-1 " + reader}; !slices.Equal(*forgets, want) {
		t.Errorf("forgotten is %q, want %q", *forgets, want)
	}

	b.watcher.SetDefaults(in)
	b.rebuild()
	b.report()
	if n := b.state.pins(); n != 1 {
		t.Errorf("%d requests are pinned, want that of the object", n)
	}
	b.wantWrites("True Available 7", "False RoleNotAllowed", "True Available 7")
	close(b.events.Events)
	var got []string
	for e := range b.events.Events {
		got = append(got, strings.Join(strings.Fields(e)[:2], " "))
	}
	if want := []string{"Warning RoleNotAllowed", "Normal Available"}; !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

// What another namespace may still ask is not dropped, whoever lost the role.
func TestRoleOfOthersIsNotForgotten(t *testing.T) {
	b := newBench(t)
	forgets := &forgets{}
	b.watcher.forgetter = forgets
	for _, namespace := range []string{"shop", "payments"} {
		for _, role := range []string{reader, "", reader + "-" + namespace} {
			o := &metricsaws.ExternalMetric{ObjectMeta: metav1.ObjectMeta{
				Namespace: namespace, Name: "of" + role[strings.LastIndex(role, "/")+1:], UID: types.UID(namespace + role), Generation: 1,
			}, Spec: queueDepth(60)}
			o.Spec.RoleARN = role
			if err := b.watcher.objects.GetStore().Add(newRecord(o, nil, nil)); err != nil {
				t.Fatal(err)
			}
		}
	}
	in := defaults
	in.Roles = cloudwatch.Roles{{Namespaces: []string{"*"}, ARNs: []string{reader + "*"}}}
	b.watcher.SetDefaults(in)
	b.rebuild()
	in.Roles = readers
	b.watcher.SetDefaults(in)
	b.rebuild()
	var got []string
	for name, m := range b.catalog.load().objects.external.all() {
		if m.Err == nil {
			got = append(got, name.String())
		}
	}
	slices.Sort(got)
	if want := []string{"payments/of", "shop/of", "shop/ofmetrics-reader"}; !slices.Equal(got, want) {
		t.Errorf("%q can be asked, want %q", got, want)
	}
	if len(*forgets) != 1 || strings.Contains((*forgets)[0], reader+",") || strings.HasSuffix((*forgets)[0], reader) ||
		!strings.Contains((*forgets)[0], reader+"-shop") || !strings.Contains((*forgets)[0], reader+"-payments") {
		t.Errorf("forgotten is %q, want the roles that nobody may use any more", *forgets)
	}
}

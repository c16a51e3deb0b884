// Package objects tests pkg/objects on a real API server: what discovery says while
// resources come and go, and what RBAC and field selectors do.
package objects

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/tidegauge/tidegauge/pkg/objects"
	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/testcluster"
	"github.com/tidegauge/tidegauge/test/until"
)

// patience is how long a test waits for what must come.
const patience = 2 * time.Minute

var (
	bed = testcluster.Shared{Options: env.Options{Nodes: 1}}

	pods   = schema.GroupResource{Resource: "pods"}
	squids = schema.GroupResource{Group: "sea.example.com", Resource: "squids"}
)

func TestMain(m *testing.M) { os.Exit(bed.Run(m)) }

// open makes a mapper and a store that runs until the test ends.
func open(t *testing.T, config *rest.Config) (*objects.Mapper, *objects.Store) {
	t.Helper()
	d, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	client, err := metadata.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	m := objects.NewMapper(d)
	if err := m.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := objects.NewStore(client, m)
	go s.Run(t.Context())
	return m, s
}

// account makes a ServiceAccount with the rules, and gives its configuration.
func account(t *testing.T, name, rules string) *rest.Config {
	t.Helper()
	apply(t, `{apiVersion: v1, kind: ServiceAccount, metadata: {namespace: default, name: `+name+`}}`)
	grant(t, name, rules)
	apply(t, `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: `+name+`},
		roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: `+name+`},
		subjects: [{kind: ServiceAccount, namespace: default, name: `+name+`}]}`)
	config, err := bed.Cluster(t).ServiceAccountConfig(t.Context(), "default", name)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func grant(t *testing.T, name, rules string) {
	t.Helper()
	apply(t, `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: `+name+`}, rules: [`+rules+`]}`)
}

func apply(t *testing.T, object string) {
	t.Helper()
	if err := bed.Cluster(t).Apply(t.Context(), []byte(object)); err != nil {
		t.Fatal(err)
	}
}

// names are the objects of a namespace, or why there are none to be had.
func names(t *testing.T, s *objects.Store, r schema.GroupResource, namespace string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	found, err := s.Select(ctx, r, namespace, labels.Everything())
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(found)
}

// eventually waits until what it is given says what it should.
func eventually(t *testing.T, want string, say func() string) {
	t.Helper()
	until.Holds(t, "it says what it should", patience, func(context.Context) error {
		if got := say(); got != want {
			return fmt.Errorf("got %s, want %s", got, want)
		}
		return nil
	})
}

// TestResourceComesAndGoes installs a CRD beside a mapper and a store that run.
func TestResourceComesAndGoes(t *testing.T) {
	t.Parallel()
	m, s := open(t, bed.Cluster(t).Config())
	normalized := func() string {
		if err := m.Learn(t.Context()); err != nil {
			return err.Error()
		}
		r, namespaced, ok := m.Normalize(schema.GroupResource{Resource: "squid"})
		if !ok {
			return "unknown"
		}
		kind, _ := m.KindOf(r)
		return fmt.Sprint(r, " ", kind, " namespaced=", namespaced)
	}
	if got := normalized(); got != "unknown" {
		t.Fatalf("before the CRD: %s", got)
	}

	apply(t, `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: squids.sea.example.com},
		spec: {group: sea.example.com, scope: Namespaced, names: {plural: squids, singular: squid, kind: Squid},
			versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}}`)
	eventually(t, "squids.sea.example.com sea.example.com/v1, Kind=Squid namespaced=true", normalized)
	if got := names(t, s, squids, "default"); got != "[]" {
		t.Errorf("there are squids: %s", got)
	}
	apply(t, `{apiVersion: sea.example.com/v1, kind: Squid, metadata: {namespace: default, name: ten}}`)
	eventually(t, "[ten]", func() string { return names(t, s, squids, "default") })

	crds := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	if err := bed.Cluster(t).Dynamic().Resource(crds).Delete(t.Context(), "squids.sea.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "unknown", normalized)
	want := "cannot read squids.sea.example.com from the API server: it has no such resource"
	if got := names(t, s, squids, "default"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestRightIsNamedAndThenGranted reads pods without the right, and then with it.
func TestRightIsNamedAndThenGranted(t *testing.T) {
	t.Parallel()
	_, s := open(t, account(t, "stranger", ""))
	began := time.Now()
	want := `cannot read pods from the API server: pods is forbidden: User "system:serviceaccount:default:stranger" ` +
		`cannot list resource "pods" in API group "" at the cluster scope; ` +
		`the adapter's ClusterRole needs the rule {apiGroups: [""], resources: ["pods"], verbs: [list, watch]}`
	if got := names(t, s, pods, "kube-public"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if waited := time.Since(began); waited > patience/2 {
		t.Errorf("it took %v to say so", waited)
	}
	grant(t, "stranger", `{apiGroups: [""], resources: [pods], verbs: [list, watch]}`)
	eventually(t, "[]", func() string { return names(t, s, pods, "kube-public") })
}

// TestPodsThatEndedAreLeftOut has a pod succeed while it is watched, and one before.
func TestPodsThatEndedAreLeftOut(t *testing.T) {
	t.Parallel()
	create := func(name string) {
		apply(t, `{apiVersion: v1, kind: Pod, metadata: {namespace: default, name: `+name+`, labels: {app: squid}},
			spec: {schedulerName: nobody, containers: [{name: app, image: app}]}}`)
	}
	end := func(name, phase string) {
		_, err := bed.Cluster(t).Client().CoreV1().Pods("default").Patch(t.Context(), name, types.MergePatchType,
			[]byte(`{"status": {"phase": "`+phase+`"}}`), metav1.PatchOptions{}, "status")
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"before", "during", "running"} {
		create(name)
	}
	end("before", "Failed")

	_, s := open(t, account(t, "reader", `{apiGroups: [""], resources: [pods], verbs: [list, watch]}`))
	eventually(t, "[during running]", func() string { return names(t, s, pods, "default") })
	end("during", "Succeeded")
	eventually(t, "[running]", func() string { return names(t, s, pods, "default") })
	create("after")
	eventually(t, "[after running]", func() string { return names(t, s, pods, "default") })
	if n, ok := s.Count(pods, "default"); n != 2 || !ok {
		t.Errorf("%d pods, want 2", n)
	}
	for _, name := range []string{"before", "during", "running", "after"} {
		if err := bed.Cluster(t).Client().CoreV1().Pods("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "[]", func() string { return names(t, s, pods, "default") })
}

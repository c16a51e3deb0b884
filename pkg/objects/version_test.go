package objects

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Of two states of the objects no version is the same, in whichever memory, and zero is
// that of none.
func TestAVersionIsThatOfOneState(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	states := map[uint64]string{}
	kept := 0
	for range 20 {
		m := newMemory(func() {})
		for range 500 {
			before := map[string]uint64{}
			for _, in := range []string{"", "a", "b"} {
				before[in] = m.versionOf(in)
			}
			o := Object{Namespace: []string{"a", "b"}[random.IntN(2)], Name: strconv.Itoa(random.IntN(4)), Labels: labels.Set{"app": strconv.Itoa(random.IntN(2))}}
			change(t, m, o, random.IntN(20))
			for in, version := range before {
				state, now := stateOf(m, in), m.versionOf(in)
				if was, ok := states[now]; ok && now != 0 && was != in+state {
					t.Fatalf("version %d is %s, and was %s", now, in+state, was)
				}
				if now == 0 && state != "" {
					t.Fatalf("version 0 is %s", state)
				}
				states[now] = in + state
				if now == version {
					kept++
				}
			}
		}
	}
	if kept < 1000 {
		t.Errorf("versions stayed the same %d times only", kept)
	}
}

// change changes an object, or reads all of them anew.
func change(t *testing.T, m *memory, o Object, how int) {
	t.Helper()
	var err error
	switch {
	case how == 0:
		err = m.Replace([]any{o, Object{Namespace: o.Namespace, Name: "other"}}, "")
	case how == 1:
		err = m.Replace(nil, "")
	case how < 8:
		err = m.Delete(o)
	default:
		err = m.Add(o)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func stateOf(m *memory, in string) string {
	var lines []string
	for _, o := range m.list(in, labels.Everything()) {
		lines = append(lines, fmt.Sprint(" ", o.Namespace, "/", o.Name, o.Labels))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func TestVersionFollowsTheNamespace(t *testing.T) {
	client := fakeClient()
	s := started(t, client)
	version := func(r schema.GroupResource, namespace string) uint64 {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		v, err := s.Version(ctx, r, namespace)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	shop, bank, all := version(pods, "shop"), version(pods, "bank"), version(pods, "")
	if shop == 0 || bank == 0 || all == 0 || version(pods, "none") != 0 {
		t.Errorf("got %d, %d, %d and %d, want 0 for no objects only", shop, bank, all, version(pods, "none"))
	}
	if version(nodes, "") == 0 || version(nodes, "shop") != version(nodes, "") {
		t.Error("objects without namespaces have versions by namespace")
	}
	if err := s.watches[pods].objects.Add(pod("shop/web-3 app=web")); err != nil {
		t.Fatal(err)
	}
	if version(pods, "shop") == shop || version(pods, "") == all || version(pods, "bank") != bank {
		t.Error("the version of a namespace is another one if its objects change, and only then")
	}
	_, err := s.Version(t.Context(), schema.GroupResource{Resource: "widgets"}, "shop")
	if want := selected(t, s, schema.GroupResource{Resource: "widgets"}, "shop", ""); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s, as Select says it", err, want)
	}
}

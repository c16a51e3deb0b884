package sources

import (
	"fmt"
	"maps"
	"testing"

	"k8s.io/apimachinery/pkg/labels"
)

var _ labels.Labels = Labels{}

func TestLabels(t *testing.T) {
	none, one, three := Labels{}, NewLabels("pod", "a"), NewLabels("pod", "a", "code", "", "zone", `e"u`)
	for _, tc := range []struct {
		labels Labels
		want   string
	}{{none, "{}"}, {NewLabels(), "{}"}, {one, `{pod=a}`}, {three, `{code=,pod=a,zone=e"u}`}} {
		if got := tc.labels.String(); got != tc.want {
			t.Errorf("got %s, want %s", got, tc.want)
		}
	}
	if !three.Equal(NewLabels("zone", `e"u`, "pod", "a", "code", "")) || three.Equal(one) || !none.Equal(NewLabels()) {
		t.Error("labels are equal whatever their order, and only then")
	}
	for name, want := range map[string]string{"code": " true", "pod": "a true", "zone": `e"u true`, "a": " false", "pop": " false", "zz": " false"} {
		value, has := three.Lookup(name)
		if got := fmt.Sprint(value, " ", has); got != want || three.Has(name) != has || three.Get(name) != value {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
		if none.Has(name) || none.Get(name) != "" {
			t.Errorf("none have %s", name)
		}
	}
	if got, want := three.Map(), (map[string]string{"code": "", "pod": "a", "zone": `e"u`}); !maps.Equal(got, want) || !maps.Equal(maps.Collect(three.All()), want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if none.Map() != nil || none.Len() != 0 || three.Len() != 3 {
		t.Error("none are none, and three are three")
	}
	if selector, _ := labels.Parse("pod=a,!x,code"); !selector.Matches(three) || selector.Matches(one) {
		t.Error("a selector reads them otherwise")
	}
}

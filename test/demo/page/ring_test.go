package page

import (
	"slices"
	"testing"
)

func TestRingKeepsTheNewestInOrder(t *testing.T) {
	for _, tc := range []struct {
		added int
		want  []int
	}{
		{0, []int{}},
		{1, []int{1}},
		{3, []int{1, 2, 3}},
		{4, []int{2, 3, 4}},
		{11, []int{9, 10, 11}},
	} {
		r := newRing[int](3)
		for i := range tc.added {
			r.add(i + 1)
		}
		got := r.all()
		if !slices.Equal(got, tc.want) {
			t.Errorf("after %d: got %v, want %v", tc.added, got, tc.want)
		}
		r.add(100)
		if !slices.Equal(got, tc.want) {
			t.Errorf("after %d: what was given out has changed to %v", tc.added, got)
		}
	}
}

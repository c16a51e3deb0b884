package spelling

import "testing"

func TestDistance(t *testing.T) {
	for _, tc := range []struct {
		a, b        string
		limit, want int
	}{
		{"depth", "depth", 3, 0},
		{"depht", "depth", 3, 2},
		{"dpth", "depth", 3, 1},
		{"depths", "depth", 3, 1},
		{"", "up", 3, 2},
		{"depth", "width", 2, 2},
		{"depth", "requests", 3, 3},
	} {
		if got, back := Distance(tc.a, tc.b, tc.limit), Distance(tc.b, tc.a, tc.limit); got != tc.want || back != tc.want {
			t.Errorf("from %q to %q %d and back %d, want %d", tc.a, tc.b, got, back, tc.want)
		}
	}
}

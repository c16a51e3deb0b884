package catalog

import (
	"slices"
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	known := slices.Values([]string{"http_requests", "http_request_errors", "queue_depth", "up"})
	for name, want := range map[string]string{
		"http_reqests":           "http_requests",
		"http_requests_":         "http_requests",
		"queue_dpeth":            "queue_depth",
		"upp":                    "",
		"memory":                 "",
		"":                       "",
		strings.Repeat("x", 999): "",
	} {
		if got := Nearest(name, known); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

package provider

import (
	"slices"
	"strings"
	"testing"
)

func TestNearestNameIsSuggested(t *testing.T) {
	known := slices.Values([]string{"http_requests", "http_request_errors", "queue_depth", "up"})
	for name, want := range map[string]string{
		"http_reqests":           " (is it http_requests that is meant?)",
		"http_requests_":         " (is it http_requests that is meant?)",
		"queue_dpeth":            " (is it queue_depth that is meant?)",
		"upp":                    "",
		"memory":                 "",
		"":                       "",
		strings.Repeat("x", 999): "",
	} {
		if got := suggest(name, known); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

package echo

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// asked is the answer to a request with headers.
func asked(t *testing.T, method, target string, headers http.Header) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, http.NoBody)
	r.Header = headers
	r.RemoteAddr = "10.0.0.9:4711"
	w := httptest.NewRecorder()
	Handler("echo-1").ServeHTTP(w, r)
	return w
}

func TestAnswersWithWhatItWasAsked(t *testing.T) {
	headers := http.Header{
		"X-Forwarded-For":   {"203.0.113.7, 10.0.0.1"},
		"X-Forwarded-Proto": {"https"},
		"X-Forwarded-Port":  {"443"},
		"X-Amzn-Trace-Id":   {"Root=1-67891233"},
		"Authorization":     {"Bearer secret"},
		"Cookie":            {"session=secret"},
	}
	const target = "http://web-pr-1234.example.com/any/where%0Apod:%20x?a=1"
	text := asked(t, http.MethodGet, target, headers)
	want := `pod: echo-1
method: GET
host: web-pr-1234.example.com
path: /any/where%0Apod:%20x?a=1
client: 10.0.0.9:4711
x-amzn-trace-id: Root=1-67891233
x-forwarded-for: 203.0.113.7, 10.0.0.1
x-forwarded-port: 443
x-forwarded-proto: https
`
	if got := text.Body.String(); text.Code != http.StatusOK || got != want {
		t.Errorf("%d\n%s\nwant\n%s", text.Code, got, want)
	}
	headers.Set("Accept", "application/json")
	var got Answer
	if err := json.Unmarshal(asked(t, http.MethodGet, target, headers).Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	wanted := Answer{
		Pod: "echo-1", Method: "GET", Host: "web-pr-1234.example.com", Path: "/any/where%0Apod:%20x?a=1", Client: "10.0.0.9:4711",
		Forwarded: map[string][]string{
			"X-Forwarded-For": {"203.0.113.7, 10.0.0.1"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Port": {"443"},
			"X-Amzn-Trace-Id": {"Root=1-67891233"},
		},
	}
	if !reflect.DeepEqual(got, wanted) {
		t.Errorf("%+v, want %+v", got, wanted)
	}
}

func TestNothingOfARequestBecomesHTML(t *testing.T) {
	for _, accept := range []string{"", "text/html", "application/json", "*/*"} {
		w := asked(t, http.MethodGet, "/?%3Cscript%3E<script>", http.Header{"X-Forwarded-For": {"<script>alert(1)</script>\xff"}, "Accept": {accept}})
		kind := w.Header().Get("Content-Type")
		if !strings.HasPrefix(kind, "text/plain") && kind != "application/json" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", accept, w.Header())
		}
		if kind == "application/json" && strings.Contains(w.Body.String(), "<") {
			t.Errorf("%s: %s", accept, w.Body)
		}
		if !utf8.Valid(w.Body.Bytes()) {
			t.Errorf("%s: %q is not UTF-8", accept, w.Body)
		}
	}
}

func TestWhatIsSentBackIsBounded(t *testing.T) {
	headers := http.Header{}
	for i := range 100 {
		for range 100 {
			headers.Add(fmt.Sprintf("X-Forwarded-%d", i), strings.Repeat("x", 2000))
		}
	}
	for _, accept := range []string{"text/plain", "application/json"} {
		headers.Set("Accept", accept)
		w := asked(t, http.MethodGet, "/"+strings.Repeat("y", 10_000), headers)
		if n := w.Body.Len(); w.Code != http.StatusOK || n > (maxValues*maxValues+3)*(maxBytes+100) {
			t.Errorf("%s: %d with %d bytes", accept, w.Code, n)
		}
	}
}

func TestHealthAndMethods(t *testing.T) {
	for _, test := range []struct {
		method, path string
		want         int
	}{
		{http.MethodGet, "/healthz", http.StatusOK},
		{http.MethodHead, "/any", http.StatusOK},
		{http.MethodPost, "/any", http.StatusMethodNotAllowed},
		{http.MethodDelete, "/healthz", http.StatusMethodNotAllowed},
	} {
		if w := asked(t, test.method, test.path, http.Header{}); w.Code != test.want {
			t.Errorf("%s %s: %d, want %d", test.method, test.path, w.Code, test.want)
		}
	}
}

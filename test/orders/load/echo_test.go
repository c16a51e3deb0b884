package load

import (
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tidegauge/tidegauge/test/orders/program"
)

// Row B14: three of them behind one entry point, each of which says who it is and what the
// proxy has added.
func TestThreeEchoes(t *testing.T) {
	var pods []*url.URL
	var echoes []*program.Process
	for _, name := range []string{"echo-a", "echo-b", "echo-c"} {
		p := start(t, nil, []string{"POD_NAME=" + name}, "echo")
		u, err := url.Parse(p.URL("echo"))
		if err != nil {
			t.Fatal(err)
		}
		if status, _ := get(t.Context(), t, u.String()+"/healthz"); status != 200 {
			t.Errorf("%s: health is %d", name, status)
		}
		pods, echoes = append(pods, u), append(echoes, p)
	}
	var turn atomic.Int64
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(pods[int(turn.Add(1))%len(pods)])
		r.SetXForwarded()
		r.Out.Host = r.In.Host
	}})
	t.Cleanup(proxy.Close)
	host := strings.TrimPrefix(proxy.URL, "http://")
	seen := map[string]int{}
	for range 6 {
		_, text := get(t.Context(), t, proxy.URL+"/a/b?c=d")
		name, rest, _ := strings.Cut(text, "\n")
		seen[name]++
		for _, want := range []string{"host: " + host, "path: /a/b?c=d", "x-forwarded-for: 127.0.0.1", "x-forwarded-host: " + host, "x-forwarded-proto: http"} {
			if !strings.Contains(rest, want+"\n") {
				t.Errorf("no %q in %s", want, text)
			}
		}
	}
	if len(seen) != 3 || seen["pod: echo-a"] != 2 {
		t.Errorf("the answers were of %v, want two of each", seen)
	}
	if _, text := get(t.Context(), t, proxy.URL+"/", "Accept", "application/json"); !strings.Contains(text, `"X-Forwarded-Proto":["http"]`) {
		t.Errorf("no JSON: %s", text)
	}
	if status, _ := get(t.Context(), t, pods[0].String()+"/", "X-Forwarded-For", strings.Repeat("x", 64<<10)); status != 431 {
		t.Errorf("headers without end are answered with %d, want 431", status)
	}
	for _, p := range echoes {
		if code := p.Stop(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
}

package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// emptyCluster is the kubeconfig of an API server without objects, whose watches never end
// and never tell.
func emptyCluster(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("watch") == "true" {
			if r.URL.Query().Get("sendInitialEvents") == "true" {
				http.Error(w, "not here", http.StatusNotFound)
				return
			}
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return
		}
		_, _ = io.WriteString(w, map[string]string{
			"services":       `{"kind":"ServiceList","apiVersion":"v1",`,
			"pods":           `{"kind":"PodList","apiVersion":"v1",`,
			"nodes":          `{"kind":"NodeList","apiVersion":"v1",`,
			"endpointslices": `{"kind":"EndpointSliceList","apiVersion":"discovery.k8s.io/v1",`,
		}[path.Base(r.URL.Path)]+`"metadata":{"resourceVersion":"1"},"items":[]}`)
	}))
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
clusters: [{name: c, cluster: {server: "` + server.URL + `"}}], users: [{name: u}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestRun(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, in := io.Pipe()
	ended := make(chan error, 1)
	args := []string{"--kubeconfig", emptyCluster(t), "--service", "web"}
	go func() {
		err := run(ctx, args, in)
		_ = in.CloseWithError(err)
		ended <- err
	}()
	lines := bufio.NewReader(out)
	for _, test := range []struct {
		path string
		want int
	}{{"", http.StatusServiceUnavailable}, {"/metrics", http.StatusOK}} {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSpace(line)+test.path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != test.want {
			t.Errorf("%s%s is answered by %s, want %d", strings.TrimSpace(line), test.path, resp.Status, test.want)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

func TestRunRefuses(t *testing.T) {
	config := emptyCluster(t)
	for args, words := range map[string]string{
		"--nothing":                          "not defined: -nothing",
		"extra":                              `unexpected argument "extra"`,
		"--kubeconfig nowhere --service web": `reading kubeconfig "nowhere"`,
		"--kubeconfig " + config:             "namespace and Service are missing",
		"--kubeconfig " + config + " --service web --listen x:y":         "listening on x:y",
		"--kubeconfig " + config + " --service web --target-type lambda": `target type "lambda"`,
	} {
		err := run(t.Context(), strings.Fields(args), io.Discard)
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: error is %v, want %q", args, err, words)
		}
	}
	if err := run(t.Context(), []string{"--help"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("--help: error is %v", err)
	}
}

func TestTargetsFile(t *testing.T) {
	server := httptest.NewServer(nil)
	defer server.Close()
	listens := server.Listener.Addr().String()
	file := filepath.Join(t.TempDir(), "targets")
	opts, _, err := parse([]string{"--targets-file", file})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := opts.Dial(t.Context(), "tcp", "10.0.0.1:80"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the file: %v", err)
	}
	if err := os.WriteFile(file, []byte("10.0.0.1 "+listens+"\n10.0.0.2:80 "+listens+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]error{
		"10.0.0.1:80": nil, "10.0.0.1:81": nil, "10.0.0.2:80": nil, "10.0.0.2:81": syscall.ECONNREFUSED, "10.0.0.3:80": syscall.ECONNREFUSED,
	} {
		var c net.Conn
		c, err := opts.Dial(t.Context(), "tcp", addr)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", addr, err, want)
		}
		if err == nil {
			_ = c.Close()
		}
	}
}

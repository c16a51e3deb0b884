package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const wellRules = `externalRules:
- seriesQuery: jobs_waiting
  resources: {namespaced: false}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>})
`

// called is what a command line prints to standard output, and how it ends.
func called(t *testing.T, args ...string) (out string, code int, text string) {
	t.Helper()
	return calledWith(t, wellRules, args...)
}

// calledWith is called with that on standard input.
func calledWith(t *testing.T, in string, args ...string) (out string, code int, text string) {
	t.Helper()
	var printed, errors bytes.Buffer
	c := newCommand()
	c.SetOut(&printed)
	c.SetErr(&errors)
	c.SetIn(strings.NewReader(in))
	c.SetArgs(args)
	err := c.ExecuteContext(t.Context())
	if err == nil {
		return printed.String(), 0, errors.String()
	}
	return printed.String(), exitCode(err), errors.String() + err.Error()
}

func TestExitCodes(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	well, wrong := file(t, "well.yaml", wellRules), file(t, "wrong.yaml", "rules: 1\n")
	warned := file(t, "warned.yaml", "rules:\n- seriesQuery: up\n  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)\n")
	twice := file(t, "twice.yaml", "rules: []\n---\nrules: []\n")
	missing, empty := filepath.Join(t.TempDir(), "missing.yaml"), file(t, "empty.yaml", "\n")
	for name, test := range map[string]struct {
		args []string
		code int
		text string
	}{
		"well":                  {[]string{"check", well}, 0, ""},
		"standard input":        {[]string{"check", "-"}, 0, ""},
		"the flag config":       {[]string{"check", "--config", well}, 0, ""},
		"a warning":             {[]string{"check", warned}, 0, ""},
		"a warning, strictly":   {[]string{"check", "--strict", warned}, 1, ""},
		"nothing":               {[]string{"check", empty}, 0, ""},
		"nothing, strictly":     {[]string{"check", "--strict", empty}, 1, ""},
		"an empty config":       {[]string{"check", "--config", empty}, 1, ""},
		"wrong":                 {[]string{"check", well, wrong}, 1, ""},
		"no file":               {[]string{"check"}, 2, "no FILE to check"},
		"missing file":          {[]string{"check", missing}, 2, missing},
		"unknown flag":          {[]string{"check", "--no-such-flag", well}, 2, "--no-such-flag"},
		"unknown format":        {[]string{"check", "-o", "xml", well}, 2, `"xml" is none of table, json, yaml`},
		"bad namespace":         {[]string{"check", "-n", "A b", well}, 2, "--namespace"},
		"no time":               {[]string{"check", "--timeout", "0s", well}, 2, "--timeout"},
		"bad header":            {[]string{"check", "--prometheus-header", "Authorization: Bearer secret", well}, 2, "--prometheus-header"},
		"two configurations":    {[]string{"check", "--live", well, warned}, 2, "--live asks the backends of one"},
		"two in a file":         {[]string{"check", twice}, 1, ""},
		"two in that of config": {[]string{"check", "--config", twice}, 1, ""},
		"two in a file, live":   {[]string{"check", "--live", twice}, 1, ""},
		"two in query's":        {[]string{"query", "external", "m", "--config", twice}, 1, "twice.yaml:3: configuration: more than one YAML document"},
		"two in query's files":  {[]string{"query", "external", "m", "-f", twice}, 1, "twice.yaml:3: configuration: more than one configuration"},
		"a port in the path":    {[]string{"check", "--prometheus-url=http://p/:9090", well}, 2, "--prometheus-url: has a port in its path: it goes right after the host, as in http://p:9090"},
		"served, outside a pod": {[]string{"check", "--served=external.metrics.k8s.io/v1beta1"}, 2, "outside of a pod give --kubeconfig"},
		"served, no version":    {[]string{"check", "--served=external.metrics.k8s.io", well}, 2, `"external.metrics.k8s.io" is no GROUP/VERSION`},
		"served, no group":      {[]string{"check", "--served=v1", well}, 2, `"v1" is no GROUP/VERSION`},
		"served by whom":        {[]string{"check", "--served=a.b/v1", "--kubeconfig", missing}, 2, "--kubeconfig: cannot use"},
		"short memory":          {[]string{"check", "--metrics-relist-interval=10s", "--metrics-max-age=30s", well}, 0, ""},
		"missing kubeconfig":    {[]string{"check", "--kubeconfig", missing, well}, 2, "--kubeconfig"},
		"query of no API":       {[]string{"query"}, 2, "query external or query custom"},
		"query without files":   {[]string{"query", "external", "jobs_waiting"}, 2, "nothing defines the metric"},
		"query of which metric": {[]string{"query", "external", "--config", well}, 2, "which METRIC?"},
		"bad selector":          {[]string{"query", "external", "jobs_waiting", "--config", well, "-l", "a in"}, 2, "--selector"},
		"no object":             {[]string{"query", "custom", "pods", "m", "--config", well}, 2, "not RESOURCE/NAME"},
		"all without a cluster": {[]string{"query", "custom", "pods/*", "m", "--config", well}, 2, "only a cluster knows which pods there are"},
		"selector of one":       {[]string{"query", "custom", "pods/a", "m", "-l", "a=b", "--config", well}, 2, "--selector is for *"},
		"one argument":          {[]string{"query", "custom", "pods/a", "--config", well}, 2, "accepts 2 arg(s)"},
		"wrong configuration":   {[]string{"query", "external", "m", "--config", wrong}, 1, "rules: "},
	} {
		t.Run(name, func(t *testing.T) {
			_, code, text := called(t, test.args...)
			if code != test.code || !strings.Contains(text, test.text) {
				t.Errorf("ended with %d and %q, want %d and %q", code, text, test.code, test.text)
			}
			if strings.Contains(text, "secret") {
				t.Errorf("the secret of a flag is told: %q", text)
			}
		})
	}
}

// As in helm template … | adapter check -, when helm fails.
func TestEmptyStandardInputFails(t *testing.T) {
	const want = "error     -      -       standard input has no YAML document (see whether the command before the pipe failed)"
	for _, in := range []string{"", "# Source: a.yaml\n---\n"} {
		if out, code, text := calledWith(t, in, "check", "-"); code != exitWrong || !strings.Contains(out, want) {
			t.Errorf("check of %q ended with %d and %q: %s", in, code, text, out)
		}
	}
}

// The context that main gives ends with a signal, and one that has ended reads nothing more:
// not even standard input that never ends.
func TestASignalEndsTheReading(t *testing.T) {
	in, writer := io.Pipe()
	defer writer.Close()
	for _, args := range [][]string{{"check", "-"}, {"query", "external", "m", "-f", "-"}} {
		ctx, signal := context.WithCancel(t.Context())
		c := newCommand()
		c.SetIn(in)
		c.SetArgs(args)
		ended := make(chan error, 1)
		go func() { ended <- c.ExecuteContext(ctx) }()
		signal()
		select {
		case err := <-ended:
			if exitCode(err) != exitUsage || !strings.Contains(err.Error(), "-: not read to its end") {
				t.Errorf("%v ended with %d: %v", args, exitCode(err), err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%v still reads", args)
		}
	}
}

// What writes to a pipe may take longer than backends.
func TestTheTimeoutBeginsOnceTheFilesAreRead(t *testing.T) {
	l := newLook()
	reading, err := l.begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if end, limited := reading.Deadline(); limited {
		t.Errorf("files are read until %v", end)
	}
	asking, cancel := l.within(reading)
	defer cancel()
	if end, limited := asking.Deadline(); !limited || time.Until(end) > l.timeout {
		t.Errorf("backends are asked until %v", end)
	}
}

// Serving ends with 1, whatever the cause, as it did before there were other commands.
func TestServingEndsWithOne(t *testing.T) {
	for _, args := range [][]string{{"--no-such-flag"}, {"serve", "--no-such-flag"}, {"no-such-command"}} {
		if _, code, text := called(t, args...); code != 1 {
			t.Errorf("%v ended with %d: %s", args, code, text)
		}
	}
}

func TestCheckPrintsForPrograms(t *testing.T) {
	out, code, _ := called(t, "check", "-o", "json", file(t, "wrong.yaml", "rules: 1\n"))
	var report struct {
		Findings []struct{ Severity, File, Message string }
		Checked  struct{ Errors int }
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if code != 1 || report.Checked.Errors != 1 || len(report.Findings) != 1 || !strings.HasSuffix(report.Findings[0].File, "wrong.yaml") {
		t.Errorf("ended with %d: %s", code, out)
	}
}

// What is shipped and shown must pass.
func TestCheckOfTheRepositorysOwnFiles(t *testing.T) {
	for _, folder := range []string{"deploy/demo/queue", "deploy/demo/requests"} {
		path := filepath.Join("..", "..", filepath.FromSlash(folder))
		if _, err := os.Stat(path); err != nil {
			t.Fatal(err)
		}
		if out, code, text := called(t, "check", path); code != 0 {
			t.Errorf("check of %s ended with %d: %s%s", folder, code, out, text)
		}
	}
}

func TestHelpHasExamplesAndExitCodes(t *testing.T) {
	for _, command := range []string{"check", "query", "query external", "query custom"} {
		out, code, _ := called(t, append(strings.Fields(command), "--help")...)
		if code != 0 || !strings.Contains(out, "Examples:\n  # ") {
			t.Errorf("the help of %s has no example: %s", command, out)
		}
		if !strings.Contains(command, " ") && !strings.Contains(out, "Exit codes: ") {
			t.Errorf("the help of %s does not tell the exit codes", command)
		}
	}
}

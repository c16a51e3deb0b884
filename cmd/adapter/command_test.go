package main

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

// output is what the command line prints.
func output(t *testing.T, args ...string) string {
	t.Helper()
	var printed bytes.Buffer
	c := newCommand()
	c.SetOut(&printed)
	c.SetArgs(args)
	if err := c.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return printed.String()
}

func TestVersionIsTheSameByFlagAndCommand(t *testing.T) {
	command, flag := output(t, "version"), output(t, "--version")
	if command != flag || !strings.HasPrefix(command, "tidegauge ") {
		t.Errorf("version prints %q, and --version %q", command, flag)
	}
}

func TestWithoutAClusterTheErrorNamesTheCure(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	t.Setenv("KUBERNETES_SERVICE_PORT", "")
	for want, args := range map[string][]string{
		"no Kubernetes cluster: outside of a pod give --lister-kubeconfig ": nil,
		"--lister-kubeconfig: cannot use ":                                  {"--lister-kubeconfig=" + filepath.Join(t.TempDir(), "missing")},
	} {
		o, _ := parsed(t, "", args...)
		_, err := newClients(o.base)
		if got := o.withCure(err); got == nil || !errors.Is(got, err) || !strings.HasPrefix(got.Error(), want) {
			t.Errorf("got %v, want %s", got, want)
		}
		if other := errors.New("other"); !errors.Is(other, o.withCure(other)) {
			t.Error("another error is changed")
		}
	}
}

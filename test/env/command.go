package env

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Output runs a command and returns what it prints. An error also has what it complained of.
func Output(cmd *exec.Cmd) (string, error) {
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		words := append([]string{filepath.Base(cmd.Path)}, cmd.Args[1:]...)
		return out.String(), fmt.Errorf("%s: %w: %s%s", strings.Join(words, " "), err, complaint.String(), out.String())
	}
	return out.String(), nil
}

// Run runs a program that `make build kube` builds, as Output does.
func Run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	path, err := Program(name)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	return Output(cmd)
}

// Kubectl runs kubectl as an administrator, as Output does.
func (c *Cluster) Kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	path, err := c.binary("kubectl")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig(), "KUBECACHEDIR="+c.path("kubectl"))
	cmd.Stdin = strings.NewReader(stdin)
	return Output(cmd)
}

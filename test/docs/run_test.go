package docs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"

	"github.com/tidegauge/tidegauge/test/env"
)

// guide follows a page.
type guide struct {
	*bed

	blocks []block
	// backs are called when a way back was gone, by its name. They return once all is as
	// it was before.
	backs map[string]func(t *testing.T)
	// again are the sections to go through again behind a way back, by its name; the one
	// that it is in if there are none.
	again map[string][]string
	// before are called before the steps of a section.
	before map[string]func(t *testing.T)
}

// follow goes through the page from top to bottom.
func (g *guide) follow(t *testing.T) {
	t.Helper()
	section := ""
	for i, b := range g.blocks {
		if b.heading != section {
			section = b.heading
			if before := g.before[section]; before != nil {
				before(t)
			}
		}
		name, isBack := b.is("back")
		if !isBack {
			g.do(t, b)
			continue
		}
		g.do(t, b)
		back := g.backs[name]
		if back == nil {
			t.Fatalf("%s: no test knows the way back %q", b, name)
		}
		back(t)
		g.redo(t, g.blocks[:i], b)
	}
}

// redo goes the way again that was gone back.
func (g *guide) redo(t *testing.T, done []block, back block) {
	t.Helper()
	name, _ := back.is("back")
	sections := g.again[name]
	if sections == nil {
		sections = []string{back.heading}
	}
	for _, b := range done {
		if _, ok := b.is("step"); ok && slices.Contains(sections, b.heading) {
			g.do(t, b)
		}
	}
}

func (g *guide) do(t *testing.T, b block) {
	t.Helper()
	if name, ok := b.is("file"); ok {
		if err := os.WriteFile(filepath.Join(g.dir, name), []byte(b.text), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	rest, ok := b.is("step")
	if !ok {
		if _, ok = b.is("back"); !ok {
			return
		}
	}
	if rest != "until printed" {
		t.Logf("%s:\n%s", b, b.text)
		out, err := g.try(t.Context(), b)
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if out != "" {
			t.Log(out)
		}
		// The pods that kubectl waits for are kwok's: they are ready at once.
		eventually(t, g.node.ready)
		return
	}
	eventually(t, func(ctx context.Context) error {
		_, err := g.try(ctx, b)
		return err
	})
}

// try runs a block and returns what it prints, or an error if it fails or prints something
// else.
func (g *guide) try(ctx context.Context, b block) (string, error) {
	text := strings.ReplaceAll(b.text, "127.0.0.1:6443", fmt.Sprintf("127.0.0.1:%d", g.port))
	out, err := g.shell(ctx, "", "bash", "-c", "set -euo pipefail\n"+text)
	if err != nil {
		return out, err
	}
	return out, printed(out, b.prints)
}

// shell runs a command in the working directory and returns what it prints.
func (b *bed) shell(ctx context.Context, stdin, command string, args ...string) (string, error) {
	if own := filepath.Join(b.dir, ".bin", command); isFile(own) {
		command = own
	}
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Dir = b.dir
	cmd.Env = []string{
		"HOME=" + b.dir, "KUBECONFIG=" + b.Kubeconfig(),
		"PATH=" + filepath.Join(b.dir, ".bin") + string(os.PathListSeparator) + os.Getenv("PATH"),
	}
	if b.prometheus != nil {
		cmd.Env = append(cmd.Env, "BED_PROMETHEUS="+b.prometheus.URL())
	}
	cmd.Stdin = strings.NewReader(stdin)
	return env.Output(cmd)
}

func isFile(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// inactive is why an HPA has no metric, or empty.
func inactive(conditions []autoscalingv2.HorizontalPodAutoscalerCondition) string {
	for _, c := range conditions {
		if c.Type == autoscalingv2.ScalingActive && c.Status != corev1.ConditionTrue {
			return c.Reason + ": " + c.Message
		}
	}
	return ""
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidegauge/tidegauge/test/env"
)

func upCommand(dir *string) *cobra.Command {
	var publish time.Duration
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start everything, leave it running and write the shell variables that lead to it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return up(cmd.Context(), cmd.OutOrStdout(), *dir, publish)
		},
	}
	cmd.Flags().DurationVar(&publish, "publish-interval", time.Minute, "how often the depths of queues become metrics; AWS takes a minute")
	return cmd
}

func up(ctx context.Context, out io.Writer, dir string, publish time.Duration) error {
	release, err := lock(dir)
	if err != nil {
		return err
	}
	defer release()
	s, err := load(dir)
	if err != nil {
		return err
	}
	if s.up() {
		fmt.Fprintf(out, "already up: . %s\n", envFile(dir))
		return nil
	}
	if n := s.alive(); n > 0 {
		fmt.Fprintf(out, "stopping %s of an earlier test bed\n", processes(n))
	}
	if err := s.stop(ctx); err != nil {
		return err
	}
	b := &bed{out: out, start: time.Now(), state: &state{dir: dir}}
	if err := b.up(ctx, publish); err != nil {
		return err
	}
	fmt.Fprintf(out, "up: . %s\n", envFile(dir))
	return nil
}

// bed is a test bed on its way up.
type bed struct {
	out     io.Writer
	start   time.Time
	state   *state
	saveErr error
	cluster *env.Cluster
}

// up starts everything. When something fails, nothing is left running.
func (b *bed) up(ctx context.Context, publish time.Duration) error {
	clusterDir := filepath.Join(b.state.dir, "cluster")
	if err := os.RemoveAll(clusterDir); err != nil {
		return err
	}
	var err error
	b.cluster, err = env.Start(ctx, env.Options{
		Dir: clusterDir, Detach: true, Started: b.started, Progress: b.progress,
	})
	if err != nil {
		return errors.Join(err, remove(b.state.file()))
	}
	if err := b.fill(ctx, publish); err != nil {
		return errors.Join(err, b.cluster.Stop(), remove(b.state.file()), remove(envFile(b.state.dir)))
	}
	return nil
}

// fill starts what belongs to the cluster.
func (b *bed) fill(ctx context.Context, publish time.Duration) error {
	aws, err := b.cluster.StartAWS(ctx, env.AWSOptions{PublishInterval: publish})
	if err != nil {
		return err
	}
	player, err := b.cluster.StartPlayer(ctx, env.PlayerOptions{})
	if err != nil {
		return err
	}
	prometheus, err := b.cluster.StartPrometheus(ctx, env.PrometheusOptions{PlayerURL: player.URL})
	if err != nil {
		return err
	}
	root, err := env.Root()
	if err != nil {
		return err
	}
	adapter, err := b.cluster.StartAdapter(ctx, env.AdapterOptions{
		Args: []string{
			"--config=" + filepath.Join(root, "deploy", "demo", "prometheus", "adapter.yaml"),
			"--prometheus-url=" + prometheus.URL,
		},
		Env:             aws.Env(),
		ResourceMetrics: true,
	})
	if err != nil {
		return err
	}
	variables := slices.Concat([]string{"KUBECONFIG=" + b.cluster.Kubeconfig()}, aws.Env(), []string{
		"PLAYER_URL=" + player.URL, "PROMETHEUS_URL=" + prometheus.URL, "ADAPTER_URL=" + adapter.URL,
	})
	if err := writeEnv(b.state.dir, variables, b.cluster.Binaries()); err != nil {
		return err
	}
	b.state.Complete, b.state.Kubeconfig = true, b.cluster.Kubeconfig()
	return errors.Join(b.saveErr, b.state.save())
}

func (b *bed) started(p *env.Process) {
	b.state.Components = append(b.state.Components, component{ProcessID: p.ID(), Health: p.Health()})
	b.saveErr = errors.Join(b.saveErr, b.state.save())
}

func (b *bed) progress(step string) {
	fmt.Fprintf(b.out, "%6.1fs  %s\n", time.Since(b.start).Seconds(), step)
}

func envFile(dir string) string { return filepath.Join(dir, "env") }

// writeEnv writes the shell exports that lead to the test bed: variables as KEY=value,
// and a PATH with a folder in front.
func writeEnv(dir string, variables []string, binaries string) error {
	var text strings.Builder
	for _, variable := range variables {
		name, value, _ := strings.Cut(variable, "=")
		fmt.Fprintf(&text, "export %s=%s\n", name, quote(value))
	}
	fmt.Fprintf(&text, "export PATH=%s:\"$PATH\"\n", quote(binaries))
	return os.WriteFile(envFile(dir), []byte(text.String()), 0o600)
}

// quote makes one word of a POSIX shell.
func quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

package main

import (
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
)

// version is set by the linker for a release.
var version string

// newCommand is the command line. Without a subcommand it serves, as the adapters
// that this one takes over from do, so that their manifests' arguments work.
func newCommand() *cobra.Command {
	o := newOptions()
	run := func(cmd *cobra.Command, _ []string) error {
		if err := logsapi.ValidateAndApply(o.logging, nil); err != nil {
			return err
		}
		defer logs.FlushLogs()
		return o.withCure(serve(cmd.Context(), o))
	}
	root := &cobra.Command{
		Use: "adapter",
		Example: `  # Serve, in a pod.
  adapter --secure-port=6443 --config=/etc/adapter/config.yaml --prometheus-url=http://prometheus.monitoring:9090

  # Is the configuration right, and what would it expose?
  adapter check --live config.yaml --prometheus-url=http://127.0.0.1:9090

  # What is one metric now, and why?
  adapter query external --filename queue-depth.yaml --explain`,
		Short: "The metrics adapter for Kubernetes autoscaling",
		Long: `Serves custom.metrics.k8s.io, external.metrics.k8s.io and metrics.k8s.io as an
aggregated API server.

Rules in the configuration file, which are prometheus-adapter's, make metrics of the
series of Prometheus. ExternalMetric objects make them of Amazon CloudWatch; AWS
credentials, region and endpoint come from the SDK's default chain (IRSA, EKS Pod
Identity, instance metadata, AWS_* variables).`,
		Version:       buildVersion(),
		Args:          cobra.NoArgs,
		RunE:          run,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate(versionLine())
	o.addFlags(root.Flags())
	root.Flags().SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	verbs := []cobra.Completion{http.MethodGet, http.MethodPost}
	utilruntime.Must(root.RegisterFlagCompletionFunc(flagVerb, cobra.FixedCompletions(verbs, cobra.ShellCompDirectiveNoFileComp)))

	serve := &cobra.Command{Use: "serve", Short: "Serve the metrics APIs (what adapter does without a command)", Args: cobra.NoArgs, RunE: run}
	serve.Flags().AddFlagSet(root.Flags())
	root.AddCommand(serve, checkCommand(), queryCommand(), versionCommand())
	return root
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprint(cmd.OutOrStdout(), versionLine())
		},
	}
}

// versionLine is what both the command and the flag print.
func versionLine() string {
	return fmt.Sprintf("tidegauge %s %s %s/%s\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// oneLine keeps an error that ends the program to the one line that log
// collectors and `kubectl get pods` show.
func oneLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}

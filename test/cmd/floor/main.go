// Command floor serves constants by the library that the adapter is made with, and does
// nothing else. What a read costs here is the least that it can cost any adapter, which is
// what the benchmarks compare with.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/component-base/logs"
	basecmd "sigs.k8s.io/custom-metrics-apiserver/pkg/cmd"
)

func main() {
	if err := newCommand().ExecuteContext(genericapiserver.SetupSignalContext()); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

// newCommand has the library's flags, and its defaults of everything.
func newCommand() *cobra.Command {
	base := &basecmd.AdapterBase{Name: "floor"}
	cmd := &cobra.Command{
		Use:   "floor",
		Short: "Serve constants by the bare custom-metrics-apiserver",
		Long: `Serves one constant item for every external metric, and for a metric of pods whose
label selector ends with -N the constant items of N pods. The kubeconfigs are for
authentication and authorization; nothing is read from the cluster.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			defer logs.FlushLogs()
			c := newConstants()
			base.WithExternalMetrics(c)
			base.WithCustomMetrics(c)
			return base.Run(cmd.Context())
		},
	}
	base.FlagSet = cmd.Flags()
	base.InstallFlags()
	return cmd
}

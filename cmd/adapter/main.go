// Command adapter serves external.metrics.k8s.io to HorizontalPodAutoscalers,
// with values from Amazon CloudWatch.
package main

import (
	"fmt"
	"os"

	genericapiserver "k8s.io/apiserver/pkg/server"
)

func main() {
	// The first SIGTERM or SIGINT ends the context, a second one the process.
	ctx := genericapiserver.SetupSignalContext()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		if text := oneLine(err); text != "" {
			fmt.Fprintln(os.Stderr, "adapter:", text)
		}
		os.Exit(exitCode(err))
	}
}

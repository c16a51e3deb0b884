package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tidegauge/tidegauge/cmd/adapter/internal/check"
)

// checker is the command check.
type checker struct {
	*look

	live, strict bool
	served       []string
}

func checkCommand() *cobra.Command {
	c := &checker{look: newLook()}
	cmd := &cobra.Command{
		Use:   "check FILE...",
		Short: "Judge configurations and objects before they are served",
		Long: `Judges configuration files and Kubernetes objects by the code that serves them, and needs
no cluster.

A FILE is a file, a folder (its *.yaml, *.yml and *.json) or - for standard input, with
any number of YAML documents. A document without apiVersion and kind is a configuration,
of which a file may have one, as is the key config.yaml of a ConfigMap. ExternalMetrics are judged by the schema and
the rules of their CRD, as an API server does, and by what the adapter makes of them.
HorizontalPodAutoscalers are judged as the API server of Kubernetes 1.37 does it, and the
metrics that they name are looked for in the files. Other objects are left alone. Standard
input and a file of --config that are empty are errors, and files with nothing to judge a
warning.

With --live the backends are asked too: which metrics the rules make of the series that
there are, and what external metrics are now.

With --served the API server of --kubeconfig, or in a pod that of its cluster, is asked
whether it serves these versions of APIs, again and again until --timeout. That needs no
FILE.

Exit codes: 0 if nothing is wrong, although there may be warnings; 1 if something is, and
with --strict if there is a warning; 2 if the command line is wrong or a file cannot be
read.`,
		Example: `  # Judge a configuration and some objects.
  adapter check rules.yaml deploy/

  # In a pipeline, where warnings fail too.
  helm template tidegauge charts/tidegauge -f values.yaml | adapter check --strict -

  # What would the rules expose now?
  adapter check --live rules.yaml --prometheus-url=http://127.0.0.1:9090

  # Does the cluster serve the adapter's metrics?
  adapter check --served=external.metrics.k8s.io/v1beta1 --kubeconfig="$HOME/.kube/config"

  # What is wrong, for a program.
  adapter check -o json rules.yaml | jq '.findings[] | select(.severity == "error")'`,
		RunE: c.run,
	}
	c.addFlags(cmd)
	cmd.Flags().BoolVar(&c.live, "live", c.live, "ask the backends too, and say what rules and ExternalMetrics would expose now")
	cmd.Flags().StringSliceVar(&c.served, "served", c.served, "versions of APIs that the API server has to serve, as `GROUP/VERSION,...`; it is that of --kubeconfig, or in a pod that of its cluster")
	cmd.Flags().BoolVar(&c.strict, "strict", c.strict, "make errors of warnings")
	return cmd
}

func (c *checker) run(cmd *cobra.Command, files []string) error {
	served, err := groupVersions(c.served)
	if err != nil {
		return usage(err)
	}
	if len(files) == 0 && c.configFile == "" && len(served) == 0 {
		return usage(errors.New("no FILE to check: name files or folders, or - for standard input"))
	}
	ctx, err := c.begin(cmd.Context())
	if err != nil {
		return err
	}
	texts, err := check.Read(ctx, files, c.configFile, cmd.InOrStdin())
	if err != nil {
		return usage(err)
	}
	ctx, cancel := c.within(ctx)
	defer cancel()
	report, err := check.Run(ctx, check.Options{
		Texts: texts, Overlay: c.overlay, Namespace: c.namespace, Kubeconfig: c.kubeconfig,
		NoDataIsZero: c.cloudWatchEmptyAsZero, MaxAge: c.discoveryMaxAge(), Live: c.live, Served: served,
		Progress: func(text string) { fmt.Fprintln(cmd.ErrOrStderr(), "adapter check:", text) },
	})
	if err != nil {
		return usage(err)
	}
	if c.strict {
		report.Strict()
	}
	if err := report.Print(cmd.OutOrStdout(), c.format); err != nil {
		return err
	}
	if !report.OK() {
		return &exitError{code: exitWrong}
	}
	return nil
}

// groupVersions are the versions of APIs that --served names, each once.
func groupVersions(names []string) ([]schema.GroupVersion, error) {
	var all []schema.GroupVersion
	for _, name := range names {
		api, err := schema.ParseGroupVersion(name)
		if err != nil || len(validation.IsDNS1123Subdomain(api.Group)) > 0 || len(validation.IsDNS1035Label(api.Version)) > 0 {
			return nil, fmt.Errorf("--served: %q is no GROUP/VERSION, such as external.metrics.k8s.io/v1beta1", name)
		}
		if !slices.Contains(all, api) {
			all = append(all, api)
		}
	}
	return all, nil
}

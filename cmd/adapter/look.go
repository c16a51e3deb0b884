package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/cmd/adapter/internal/check"
)

// lookTimeout is how long check and query ask backends by default.
const lookTimeout = 30 * time.Second

// look are the flags that check and query have in common: those of serving that say how
// backends are asked, with the same meaning, and how to print.
type look struct {
	*options

	format     string
	namespace  string
	kubeconfig string
	timeout    time.Duration
}

func newLook() *look {
	return &look{options: newOptions(), format: check.Formats[0], namespace: "default", timeout: lookTimeout}
}

func (l *look) addFlags(c *cobra.Command) {
	fs := c.Flags()
	fs.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	fs.StringVarP(&l.format, "output", "o", l.format, "format of the output: "+strings.Join(check.Formats, ", "))
	fs.StringVarP(&l.namespace, "namespace", "n", l.namespace, "namespace of objects that name none, and of whoever reads")
	fs.StringVar(&l.kubeconfig, "kubeconfig", l.kubeconfig, "kubeconfig file of a cluster whose resources and objects count; without it resources are Kubernetes' own, and nobody is asked")
	fs.DurationVar(&l.timeout, "timeout", l.timeout, "how long all backends together may take to answer")
	l.addMetricFlags(fs)
	utilruntime.Must(c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(check.Formats, cobra.ShellCompDirectiveNoFileComp)))
	utilruntime.Must(cobra.MarkFlagFilename(fs, "kubeconfig"))
	usageErrors(c)
}

// begin checks the flags, and gives a context to read files in, which ends with a signal.
func (l *look) begin(ctx context.Context) (context.Context, error) {
	if !slices.Contains(check.Formats, l.format) {
		return nil, usage(fmt.Errorf("--output: %q is none of %s", l.format, strings.Join(check.Formats, ", ")))
	}
	if problems := validation.IsDNS1123Label(l.namespace); len(problems) > 0 {
		return nil, usage(fmt.Errorf("--namespace: %q: %s", l.namespace, problems[0]))
	}
	if l.timeout <= 0 {
		return nil, usage(fmt.Errorf("--timeout: %v is not longer than 0s", l.timeout))
	}
	if faults := l.check(); len(faults) > 0 {
		return nil, usage(faults)
	}
	// What the parts log, the output says.
	quiet := klog.New(nil)
	klog.SetLogger(quiet)
	return klog.NewContext(ctx, quiet), nil
}

// within gives a context of the time that backends have. It begins once the files are read:
// what writes to a pipe may take longer.
func (l *look) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, l.timeout)
}

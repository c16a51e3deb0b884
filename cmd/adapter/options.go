package main

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"
	basecmd "sigs.k8s.io/custom-metrics-apiserver/pkg/cmd"
	baseoptions "sigs.k8s.io/custom-metrics-apiserver/pkg/cmd/options"

	"github.com/tidegauge/tidegauge/pkg/config"
	"github.com/tidegauge/tidegauge/pkg/rules"
)

// namespaceFile is where a pod finds the namespace it runs in.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

const (
	// defaultRelist is a tenth of prometheus-adapter's: a listing is cheap here.
	defaultRelist = time.Minute
	leastRelist   = time.Second
	// leastDiscoveryMaxAge keeps metrics known over gaps in their series, where nothing
	// else is said.
	leastDiscoveryMaxAge = 10 * time.Minute
)

// options are the flags of serve.
type options struct {
	base                  *basecmd.AdapterBase
	logging               *logsapi.LoggingConfiguration
	configFile            string
	prometheus            prometheusFlags
	relist                time.Duration
	metricsMaxAge         time.Duration
	maxAge                time.Duration
	cloudWatchEmptyAsZero bool
	shutdownDelay         time.Duration
	explain               sync.Once
}

func newOptions() *options {
	base := &basecmd.AdapterBase{
		Name:                              "tidegauge",
		CustomMetricsAdapterServerOptions: baseoptions.NewCustomMetricsAdapterServerOptions(),
		DiscoveryInterval:                 10 * time.Minute,
	}
	// Without a given certificate one is made in memory: the file system of a
	// well-kept pod is read-only.
	base.SecureServing.ServerCert.CertDirectory = ""
	return &options{
		base: base, logging: logs.NewOptions(), relist: defaultRelist,
		prometheus: prometheusFlags{url: config.DefaultPrometheusURL, verb: http.MethodGet},
	}
}

func (o *options) addFlags(fs *pflag.FlagSet) {
	o.base.FlagSet = fs
	o.base.InstallFlags()
	setDefault(fs, "client-qps", "50")
	setDefault(fs, "client-burst", "100")
	logsapi.AddFlags(o.logging, fs)
	o.addMetricFlags(fs)
	fs.DurationVar(&o.shutdownDelay, "shutdown-delay-duration", o.shutdownDelay, "how long to go on serving, while not ready, after the signal to stop, so that clients find another replica")
	fs.BoolVar(&o.base.SecureServing.DisableHTTP2Serving, "disable-http2", o.base.SecureServing.DisableHTTP2Serving, "serve HTTP/1.1 only; the same as --disable-http2-serving")
	addIgnoredFlags(fs)
	utilruntime.Must(cobra.MarkFlagDirname(fs, "cert-dir"))
}

// addMetricFlags adds the flags of what metrics there are and how they are read, which check
// and query have too.
func (o *options) addMetricFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.configFile, "config", o.configFile, "configuration file, as prometheus-adapter's or with more in it; it is read again when it changes, and flags win over it")
	o.prometheus.addFlags(fs)
	fs.DurationVar(&o.relist, "metrics-relist-interval", o.relist, "how often to list the series of Prometheus, and so how soon a new metric is known; shorter than prometheus-adapter's 10m, as a listing keeps names only")
	fs.DurationVar(&o.metricsMaxAge, "metrics-max-age", o.metricsMaxAge, "how long a metric stays known without a series of it; not less than --metrics-relist-interval, and 0 is the longer of that and 10m")
	fs.DurationVar(&o.maxAge, "max-age", o.maxAge, "how long the last good value of a metric serves while its backend cannot be asked, for objects that do not say; 0 leaves it to the configuration file")
	fs.BoolVar(&o.cloudWatchEmptyAsZero, "cloudwatch-empty-as-zero", o.cloudWatchEmptyAsZero, "serve 0 for a CloudWatch metric without datapoints, for objects that do not say; by default that is an error, so that an HPA keeps its replicas")
	utilruntime.Must(cobra.MarkFlagFilename(fs, "config", "yaml", "yml", "json"))
}

// ignoredFlags are those of klog's older versions that have had no effect in Kubernetes'
// own components since 1.26. Manifests of the adapters that this one takes over from
// still give them. True is for those that need no value.
var ignoredFlags = map[string]bool{
	"add-dir-header":    true,
	"alsologtostderr":   true,
	"log-backtrace-at":  false,
	"log-dir":           false,
	"log-file":          false,
	"log-file-max-size": false,
	"logtostderr":       true,
	"one-output":        true,
	"skip-headers":      true,
	"skip-log-headers":  true,
	"stderrthreshold":   false,
}

func addIgnoredFlags(fs *pflag.FlagSet) {
	for _, name := range slices.Sorted(maps.Keys(ignoredFlags)) {
		f := fs.VarPF(new(ignoredValue), name, "", "ignored")
		if ignoredFlags[name] {
			f.NoOptDefVal = "true"
		}
		utilruntime.Must(fs.MarkDeprecated(name, "it has no effect: logs go to stderr"))
	}
}

// ignoredValue takes any value.
type ignoredValue struct{}

func (ignoredValue) Set(string) error { return nil }

func (ignoredValue) String() string { return "" }

func (ignoredValue) Type() string { return "string" }

// setDefault gives a flag of the library another default. The library's own
// 5 requests a second would hold up the status of a few hundred objects for minutes.
func setDefault(fs *pflag.FlagSet, name, value string) {
	f := fs.Lookup(name)
	utilruntime.Must(f.Value.Set(value))
	f.DefValue = value
}

// load reads the configuration and lays the flags over it. It is called again whenever
// the file changes.
func (o *options) load() (*config.Config, error) {
	if faults := o.check(); len(faults) > 0 {
		return nil, faults
	}
	o.explain.Do(func() {
		for _, note := range o.prometheus.notes() {
			klog.Background().Info(note)
		}
	})
	return config.Load(o.configFile, o.overlay)
}

// check says which flags are wrong, whatever the file has.
func (o *options) check() config.FaultsError {
	_, faults := o.prometheus.server()
	fault := func(flag, format string, args ...any) {
		faults = append(faults, config.Fault{Path: "--" + flag, Text: fmt.Sprintf(format, args...)})
	}
	if o.relist < leastRelist {
		fault("metrics-relist-interval", "%v is less than %v", o.relist, leastRelist)
	}
	if o.metricsMaxAge != 0 && o.metricsMaxAge < o.relist {
		fault("metrics-max-age", "%v is less than --metrics-relist-interval, which is %v: metrics would vanish between two listings", o.metricsMaxAge, o.relist)
	}
	if o.maxAge != 0 {
		if err := rules.CheckMaxAge(o.maxAge); err != nil {
			fault("max-age", "%v", err)
		}
	}
	if o.shutdownDelay < 0 {
		fault("shutdown-delay-duration", "%v is negative", o.shutdownDelay)
	}
	// The library ends the process on this one, with a stack in place of a sentence.
	if o.base.SecureServing.BindPort == 0 {
		fault("secure-port", "0 is no port to serve on")
	}
	return faults
}

// overlay lets the flags win over the file.
func (o *options) overlay(c *config.Config) error {
	if o.maxAge != 0 {
		c.MaxAge = o.maxAge
	}
	return o.prometheus.overlay(c)
}

// discoveryMaxAge is how long a metric stays known without a series.
func (o *options) discoveryMaxAge() time.Duration {
	if o.metricsMaxAge != 0 {
		return o.metricsMaxAge
	}
	return max(o.relist, leastDiscoveryMaxAge)
}

// withCure adds to the library's error of a process that finds no cluster what to do about
// it. Other errors stay as they are.
func (o *options) withCure(err error) error {
	if err == nil {
		return nil
	}
	_, cause := o.base.ClientConfig()
	switch {
	case cause == nil || cause.Error() != err.Error():
		return err
	case o.base.RemoteKubeConfigFile != "":
		return fmt.Errorf("--lister-kubeconfig: cannot use %s: %w", o.base.RemoteKubeConfigFile, err)
	default:
		return fmt.Errorf("no Kubernetes cluster: outside of a pod give --lister-kubeconfig (and --authentication-kubeconfig and --authorization-kubeconfig): %w", err)
	}
}

// podNamespace is the namespace whose Lease decides which replica writes status.
func podNamespace() (string, error) {
	if ns := os.Getenv("POD_NAMESPACE"); ns != "" {
		return ns, nil
	}
	text, err := os.ReadFile(namespaceFile)
	if errors.Is(err, os.ErrNotExist) {
		return "", errors.New("the adapter's own namespace is not known: set POD_NAMESPACE")
	}
	return strings.TrimSpace(string(text)), err
}

// podName is the name of the pod that this process runs in, if it runs in one.
func podName() string {
	if name := os.Getenv("POD_NAME"); name != "" {
		return name
	}
	// A pod's host name is its name, unless it has the network of its node.
	host, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return host
}

// identity tells this process from every other that may hold the Lease.
func identity() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + "_" + string(uuid.NewUUID())
}

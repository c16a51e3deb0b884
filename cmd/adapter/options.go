package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	basecmd "sigs.k8s.io/custom-metrics-apiserver/pkg/cmd"
	baseoptions "sigs.k8s.io/custom-metrics-apiserver/pkg/cmd/options"

	"github.com/tidegauge/tidegauge/pkg/config"
)

// namespaceFile is where a pod finds the namespace it runs in.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// options are the flags of serve.
type options struct {
	base                  *basecmd.AdapterBase
	logging               *logsapi.LoggingConfiguration
	configFile            string
	maxAge                time.Duration
	cloudWatchEmptyAsZero bool
	shutdownDelay         time.Duration
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
	return &options{base: base, logging: logs.NewOptions()}
}

func (o *options) addFlags(fs *pflag.FlagSet) {
	o.base.FlagSet = fs
	o.base.InstallFlags()
	setDefault(fs, "client-qps", "50")
	setDefault(fs, "client-burst", "100")
	logsapi.AddFlags(o.logging, fs)
	fs.StringVar(&o.configFile, "config", o.configFile, "configuration file; the flags win over it")
	fs.DurationVar(&o.maxAge, "max-age", o.maxAge, "how long the last good value of a metric serves while its backend cannot be asked, for objects that do not say; 0 leaves it to the configuration file")
	fs.BoolVar(&o.cloudWatchEmptyAsZero, "cloudwatch-empty-as-zero", o.cloudWatchEmptyAsZero, "serve 0 for a CloudWatch metric without datapoints, for objects that do not say; by default that is an error, so that an HPA keeps its replicas")
	fs.DurationVar(&o.shutdownDelay, "shutdown-delay-duration", o.shutdownDelay, "how long to go on serving, while not ready, after the signal to stop, so that clients find another replica")
}

// setDefault gives a flag of the library another default. The library's own
// 5 requests a second would hold up the status of a few hundred objects for minutes.
func setDefault(fs *pflag.FlagSet, name, value string) {
	f := fs.Lookup(name)
	utilruntime.Must(f.Value.Set(value))
	f.DefValue = value
}

// load reads the configuration and lays the flags over it.
func (o *options) load() (*config.Config, error) {
	c, err := config.Load(o.configFile)
	if err != nil {
		return nil, err
	}
	if o.maxAge != 0 {
		c.MaxAge = o.maxAge
		if err := c.Validate(); err != nil {
			return nil, fmt.Errorf("--max-age: %w", err)
		}
	}
	if o.shutdownDelay < 0 {
		return nil, fmt.Errorf("--shutdown-delay-duration: %v is negative", o.shutdownDelay)
	}
	// The library ends the process on this one, with a stack in place of a sentence.
	if o.base.SecureServing.BindPort == 0 {
		return nil, errors.New("--secure-port: 0 is no port to serve on")
	}
	return c, nil
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

// identity tells this process from every other that may hold the Lease.
func identity() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + "_" + string(uuid.NewUUID())
}

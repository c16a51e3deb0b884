// Package config holds the adapter's configuration file: its shape, its defaults, its
// strict loader, and the watch for its changes.
package config

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources/cloudwatch"
	"github.com/tidegauge/tidegauge/pkg/sources/prometheus"
)

// Defaults of a configuration that says nothing.
const (
	// DefaultMaxAge rides out a short outage of a backend, and is short enough
	// that an HPA does not act for long on a load that has passed.
	DefaultMaxAge = 5 * time.Minute
	// DefaultFetchTimeout is well under the 30 seconds after which clients of the
	// Kubernetes API usually give up.
	DefaultFetchTimeout = 10 * time.Second
	// DefaultPrometheusURL is the address of the Prometheus server where none is
	// configured, as in prometheus-adapter.
	DefaultPrometheusURL = "https://localhost"
)

// leastFetchTimeout is the least that a FetchTimeout, and so a call's limit, may be.
const leastFetchTimeout = time.Second

// maxFileBytes is the size of the largest ConfigMap that Kubernetes stores.
const maxFileBytes = 1 << 20

// Config is the content of the configuration file.
type Config struct {
	// MaxAge is how long the last good value of a metric serves while its backend cannot be
	// asked, for rules and objects that do not say. The flag --max-age wins over it.
	MaxAge time.Duration `yaml:"maxAge"`
	// FetchTimeout is how long one question to a backend may take in all.
	FetchTimeout time.Duration `yaml:"fetchTimeout"`
	// CloudWatch is how CloudWatch is asked.
	CloudWatch cloudwatch.Config `yaml:"cloudwatch"`
	// Prometheus is which Prometheus servers there are. Once loaded there is at least one.
	Prometheus prometheus.Config `yaml:"prometheus"`
	// File are the rules, at the top level as in the file of prometheus-adapter.
	rules.File `yaml:",inline"`

	// Compiled is what the rules compile to.
	Compiled *rules.Set `yaml:"-"`
	// Roles are those of CloudWatch, which has none once it is loaded: the source knows
	// nothing of namespaces, and is not to be made anew when they change.
	Roles cloudwatch.Roles `yaml:"-"`

	digest string
}

// Default is the configuration that holds where a file is silent.
func Default() *Config {
	return &Config{
		MaxAge:       DefaultMaxAge,
		FetchTimeout: DefaultFetchTimeout,
		CloudWatch:   cloudwatch.DefaultConfig(),
	}
}

// Overlay changes a configuration before it is checked, as flags do that win over the
// file. Its error may be FaultsError.
type Overlay func(*Config) error

// Load reads the file at path, strictly: an unknown or repeated field is an error,
// as is a value out of its bounds or a rule that does not compile. The error names the
// file, and wraps the FaultsError, which name line and field. An empty path is an empty file.
func Load(path string, overlays ...Overlay) (*Config, error) {
	if path == "" {
		return Parse(nil, overlays...)
	}
	text, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	c, err := Parse(text, overlays...)
	if err != nil {
		return nil, fmt.Errorf("configuration file %s: %w", path, err)
	}
	return c, nil
}

// Parse is Load for a text that is already at hand. Its error is FaultsError.
func Parse(text []byte, overlays ...Overlay) (*Config, error) {
	document, err := parse(text)
	if err != nil {
		return nil, FaultsError{{Text: err.Error()}}
	}
	c := Default()
	c.digest = digestOf(text)
	found := inspect(document, reflect.TypeFor[Config]())
	faults := found.faults
	if found.aliased > maxAliased {
		return nil, faults.orNil()
	}
	if err := document.Decode(c); err != nil && len(faults) == 0 {
		// The inspection knows all that the decoder minds, but for what the decoder
		// alone can.
		return nil, FaultsError{{Text: reason(err)}}
	}
	for _, overlay := range overlays {
		faults = append(faults, faultsOf(overlay(c), "")...)
	}
	checked := c.check(found.line)
	faults = append(faults, checked.unlessFrom(faults)...)
	if err := faults.orNil(); err != nil {
		return nil, err
	}
	return c, nil
}

// check compiles the rules, and gives what is wrong with the content of the fields.
func (c *Config) check(line rules.Positions) FaultsError {
	if len(c.Prometheus.Servers) == 0 {
		c.Prometheus.Servers = map[string]prometheus.Server{
			prometheus.DefaultServer: {URL: DefaultPrometheusURL},
		}
	}
	c.boundDefaults()
	c.raiseIntervals()
	faults := slices.Concat(c.bounds(),
		faultsOf(c.CloudWatch.Validate(), "cloudwatch"),
		faultsOf(c.Prometheus.Validate(), "prometheus"),
		c.unknownServers())
	c.Roles, c.CloudWatch.Roles = c.CloudWatch.Roles, nil
	for i := range faults {
		faults[i].Line = line(faults[i].Path)
	}
	set, err := c.Compile(line)
	c.Compiled = set
	return append(faults, faultsOf(err, "")...)
}

func (c *Config) bounds() FaultsError {
	var faults FaultsError
	if err := rules.CheckMaxAge(c.MaxAge); err != nil {
		faults = append(faults, Fault{Path: "maxAge", Text: err.Error()})
	}
	if c.FetchTimeout < leastFetchTimeout || c.FetchTimeout > time.Minute {
		faults = append(faults, Fault{Path: "fetchTimeout", Text: fmt.Sprintf("%v is not between 1s and 1m", c.FetchTimeout)})
	}
	return append(faults, c.longCalls()...)
}

// longCalls are the servers whose calls a Fetch would give up before their own time is
// over.
func (c *Config) longCalls() FaultsError {
	var faults FaultsError
	for _, name := range slices.Sorted(maps.Keys(c.Prometheus.Servers)) {
		if limit := c.Prometheus.Servers[name].CallTimeout; limit > c.FetchTimeout && c.FetchTimeout >= leastFetchTimeout {
			faults = append(faults, Fault{
				Path: "prometheus.servers." + name + ".callTimeout",
				Text: fmt.Sprintf("%v is longer than fetchTimeout, which is %v: raise that, or lower this", limit, c.FetchTimeout),
			})
		}
	}
	return faults
}

// boundDefaults keeps the callTimeout of servers that have none within fetchTimeout.
func (c *Config) boundDefaults() {
	if c.FetchTimeout >= prometheus.DefaultCallTimeout || c.FetchTimeout < leastFetchTimeout {
		return
	}
	for name, server := range c.Prometheus.Servers {
		server.CallTimeout = cmp.Or(server.CallTimeout, c.FetchTimeout)
		c.Prometheus.Servers[name] = server
	}
}

// raiseIntervals has no rule asked more often than its server scrapes.
func (c *Config) raiseIntervals() {
	raise := func(o *rules.Options) {
		scraped := c.Prometheus.Servers[cmp.Or(o.Server, prometheus.DefaultServer)].ScrapeInterval
		if interval := cmp.Or(o.Interval, rules.DefaultInterval); rules.CheckInterval(interval) == nil && interval < scraped {
			o.Interval = scraped
		}
	}
	for _, list := range [][]rules.Rule{c.Rules, c.ExternalRules} {
		for i := range list {
			raise(&list[i].Options)
		}
	}
	if c.ResourceRules != nil {
		raise(&c.ResourceRules.Options)
	}
}

// unknownServers are the rules whose server is not configured.
func (c *Config) unknownServers() FaultsError {
	var faults FaultsError
	check := func(rule, name string) {
		server := name
		if server == "" {
			server = prometheus.DefaultServer
		}
		if _, ok := c.Prometheus.Servers[server]; ok {
			return
		}
		text := fmt.Sprintf("there is no server %s; prometheus.servers has %s",
			shown(server), strings.Join(slices.Sorted(maps.Keys(c.Prometheus.Servers)), ", "))
		if name == "" {
			text = "the rule names no server, and " + text
		}
		faults = append(faults, Fault{Path: rule + ".server", Text: text})
	}
	for i, r := range c.Rules {
		check(fmt.Sprintf("rules[%d]", i), r.Server)
	}
	for i, r := range c.ExternalRules {
		check(fmt.Sprintf("externalRules[%d]", i), r.Server)
	}
	if c.ResourceRules != nil {
		check("resourceRules", c.ResourceRules.Server)
	}
	return faults
}

// Digest tells texts of the file apart. It is empty where there is no file.
func (c *Config) Digest() string { return c.digest }

// Summary says in a few words what is configured, for people.
func (c *Config) Summary() string {
	text := fmt.Sprintf("%d in rules, %d in externalRules, ", len(c.Rules), len(c.ExternalRules))
	if c.ResourceRules != nil {
		text += "resourceRules, "
	}
	if len(c.Roles) > 0 {
		text += fmt.Sprintf("%d in cloudwatch.roles, ", len(c.Roles))
	}
	text += "Prometheus servers " + strings.Join(slices.Sorted(maps.Keys(c.Prometheus.Servers)), ", ")
	if c.digest != "" {
		text += ", digest " + c.digest
	}
	return text
}

func digestOf(text []byte) string {
	if text == nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:6])
}

// parse gives the only document of a text; one without content if the text has none.
func parse(text []byte) (*yaml.Node, error) {
	document := &yaml.Node{Kind: yaml.DocumentNode}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(document); err != nil && !errors.Is(err, io.EOF) {
		return nil, notYAML(err)
	}
	for {
		var next yaml.Node
		err := decoder.Decode(&next)
		switch {
		case errors.Is(err, io.EOF):
			return document, nil
		case err != nil:
			return nil, notYAML(err)
		case len(next.Content) > 0 && !isNull(next.Content[0]):
			return nil, fmt.Errorf("more than one YAML document: another begins on line %d", next.Content[0].Line)
		}
	}
}

func notYAML(err error) error {
	return fmt.Errorf("not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // The file that whoever starts the program names.
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFileBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFileBytes)
	}
	return text, nil
}

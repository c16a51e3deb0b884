// Package config holds the adapter's configuration file: its shape, its defaults
// and its strict loader.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tidegauge/tidegauge/pkg/sources/cloudwatch"
)

// Defaults of a configuration that says nothing.
const (
	// DefaultMaxAge rides out a short outage of a backend, and is short enough
	// that an HPA does not act for long on a load that has passed.
	DefaultMaxAge = 5 * time.Minute
	// DefaultFetchTimeout is well under the 30 seconds after which clients of the
	// Kubernetes API usually give up.
	DefaultFetchTimeout = 10 * time.Second
)

// maxFileBytes is the size of the largest ConfigMap that Kubernetes stores.
const maxFileBytes = 1 << 20

// Config is the content of the configuration file.
type Config struct {
	// MaxAge is how long the last good value of a metric serves while its backend
	// cannot be asked, unless the metric says otherwise.
	MaxAge time.Duration `yaml:"maxAge"`
	// FetchTimeout is how long one question to a backend may take.
	FetchTimeout time.Duration `yaml:"fetchTimeout"`
	// CloudWatch configures the CloudWatch source.
	CloudWatch cloudwatch.Config `yaml:"cloudwatch"`
}

// Default is the configuration that holds where a file is silent.
func Default() *Config {
	return &Config{
		MaxAge:       DefaultMaxAge,
		FetchTimeout: DefaultFetchTimeout,
		CloudWatch:   cloudwatch.DefaultConfig(),
	}
}

// Load reads the file at path, strictly: an unknown or repeated field is an error,
// as is a value out of its bounds. Errors name the file, and the line where there
// is one. An empty path gives the defaults.
func Load(path string) (*Config, error) {
	if path == "" {
		return Default(), nil
	}
	text, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	c, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("configuration file %s: %w", path, err)
	}
	return c, nil
}

// Parse is Load for a text that is already at hand.
func Parse(text []byte) (*Config, error) {
	c := Default()
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return nil, oneLine(err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one YAML document")
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return c, nil
}

// Validate says which field is out of its bounds.
func (c *Config) Validate() error {
	switch {
	case c.MaxAge < 2*time.Second || c.MaxAge > 24*time.Hour:
		return fmt.Errorf("maxAge: %v is not between 2s and 24h", c.MaxAge)
	case c.FetchTimeout < time.Second || c.FetchTimeout > time.Minute:
		return fmt.Errorf("fetchTimeout: %v is not between 1s and 1m", c.FetchTimeout)
	}
	if err := c.CloudWatch.Validate(); err != nil {
		return fmt.Errorf("cloudwatch.%w", err)
	}
	return nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
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

// goType is how the decoder ends its sentence about an unknown field.
var goType = regexp.MustCompile(` not found in type \S+`)

// oneLine joins the decoder's findings, which it lists one a line.
func oneLine(err error) error {
	var list *yaml.TypeError
	if !errors.As(err, &list) {
		return err
	}
	text := goType.ReplaceAllString(strings.Join(list.Errors, "; "), " is not known")
	return errors.New(strings.ReplaceAll(text, " into time.Duration", " into a duration such as 30s"))
}

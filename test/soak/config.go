package soak

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const (
	// shortAge is the maxAge of metrics that most faults outlast, and longAge that of
	// metrics that outlast most faults.
	shortAge = 10 * time.Second
	longAge  = 40 * time.Second

	// reloadLimit is how long a change of the file may take to be seen.
	reloadLimit = 45 * time.Second
)

// configuration is the adapter's file. Every metric says how old it may get.
var configuration = "# Of a soak.\nmaxAge: 1m\nrules:\n" + objectRule("short", shortAge) + objectRule("long", longAge) +
	"externalRules:\n" + externalRule("short", shortAge) + externalRule("long", longAge)

// objectRule makes the metric <age>_<what> of the series soak_<age>_<what>.
func objectRule(age string, maxAge time.Duration) string {
	return fmt.Sprintf(`- seriesQuery: '{__name__=~"^soak_%s_.*"}'
  resources: {template: <<.Resource>>}
  name: {matches: ^soak_(.*)$}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)
  interval: 1s
  maxAge: %s
`, age, maxAge)
}

// externalRule makes the metric <age>_<what> of the series external_<age>_<what>.
func externalRule(age string, maxAge time.Duration) string {
	return fmt.Sprintf(`- seriesQuery: '{__name__=~"^external_%s_.*",namespace!=""}'
  resources: {overrides: {namespace: {resource: namespace}}}
  name: {matches: ^external_(.*)$}
  metricsQuery: <<.Series>>{<<.LabelMatchers>>}
  interval: 1s
  maxAge: %s
`, age, maxAge)
}

// mount is a folder as kubelet makes it of a ConfigMap: a new content comes as a new
// folder, to which a symbolic link goes over at once.
type mount struct {
	dir  string
	last string // the folder of the content
}

func newMount(dir, text string) (*mount, error) {
	m := &mount{dir: dir}
	return m, errors.Join(os.MkdirAll(dir, 0o700), m.set(text), os.Symlink(filepath.Join("..data", "config.yaml"), m.file()))
}

func (m *mount) file() string { return filepath.Join(m.dir, "config.yaml") }

// set changes the content.
func (m *mount) set(text string) error {
	next, err := os.MkdirTemp(m.dir, "..")
	if err != nil {
		return err
	}
	link, before := filepath.Join(m.dir, "..data_tmp"), m.last
	m.last = next
	err = errors.Join(
		os.WriteFile(filepath.Join(next, "config.yaml"), []byte(text), 0o600),
		os.Symlink(filepath.Base(next), link),
		os.Rename(link, filepath.Join(m.dir, "..data")),
	)
	if err != nil || before == "" {
		return err
	}
	return os.RemoveAll(before)
}

// reload changes the file, and waits until the adapter has taken it, or refused it.
func (b *bed) reload(ctx context.Context, text, result string) error {
	before, err := b.selfMetrics(ctx)
	if err != nil {
		return err
	}
	if err := b.config.set(text); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	counter := `tidegauge_config_reloads_total{result="` + result + `"}`
	return await(ctx, "the configuration", reloadLimit, func(ctx context.Context) error {
		now, err := b.selfMetrics(ctx)
		if err == nil && now[counter] <= before[counter] {
			err = fmt.Errorf("%s is %v as before the change", counter, now[counter])
		}
		return err
	})
}

// Results of a reload.
const (
	taken   = "ok"
	refused = "failed"
)

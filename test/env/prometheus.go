package env

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"sigs.k8s.io/yaml"

	"github.com/tidegauge/tidegauge/test/until"
)

const (
	prometheusDir = "deploy/demo/prometheus"
	// prometheusNamespace and prometheusServiceAccount are those of prometheusDir.
	prometheusNamespace      = "monitoring"
	prometheusServiceAccount = "prometheus"

	defaultScrapeInterval = 5 * time.Second
	// discoveryInterval is how long Prometheus collects what it discovers before it
	// scrapes it: 5 s, if nobody says otherwise.
	discoveryInterval = 500 * time.Millisecond
	// timestampTolerance is by how much a scrape may be late, on a machine that has much
	// to do, and still be written down as in time. Prometheus takes 1% of the interval at most.
	timestampTolerance = 50 * time.Millisecond
	// maxAnswer is the longest answer of Prometheus that is read, in bytes.
	maxAnswer = 64 << 20
)

// prometheusYAML is what the test bed adds to the configuration of prometheusDir.
//
//go:embed prometheus.yaml
var prometheusYAML string

// PrometheusOptions say what Prometheus scrapes, and how.
type PrometheusOptions struct {
	// Binary is the program's path, by default .bin/prometheus.
	Binary string
	// PlayerURL leads to what plays the pods: Cluster.StartPlayer, or player.Start in
	// the caller's own process.
	PlayerURL string
	// ScrapeInterval is 5 s by default.
	ScrapeInterval time.Duration
	// Args follow the arguments that StartPrometheus gives.
	Args []string
}

// Prometheus is a running Prometheus, which scrapes the cluster's pods.
type Prometheus struct {
	*Process
	URL string
}

// StartPrometheus starts a Prometheus with the configuration and the rights of
// deploy/demo/prometheus, and returns when it answers queries, which is before it has
// scraped anything. It finds pods through the API server and scrapes the player in
// their place. Restart keeps its port and its data.
func (c *Cluster) StartPrometheus(ctx context.Context, opts PrometheusOptions) (*Prometheus, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()

	p := &Prometheus{}
	cmd, err := c.prometheusCommand(ctx, p, opts)
	if err != nil {
		return nil, fmt.Errorf("prometheus: %w", err)
	}
	p.Process, err = c.run(ctx, cmd)
	return p, err
}

// prometheusCommand completes p with its URL.
func (c *Cluster) prometheusCommand(ctx context.Context, p *Prometheus, opts PrometheusOptions) (command, error) {
	kubeconfig, err := c.prometheusKubeconfig(ctx)
	if err != nil {
		return command{}, err
	}
	config, err := c.prometheusConfig(opts, kubeconfig)
	if err != nil {
		return command{}, err
	}
	if opts.Binary == "" {
		if opts.Binary, err = c.binary("prometheus"); err != nil {
			return command{}, err
		}
	}
	port, err := FreePort()
	if err != nil {
		return command{}, err
	}
	p.URL = "http://" + address(port)
	dir := c.path("prometheus", strconv.Itoa(port))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return command{}, err
	}
	file := filepath.Join(dir, "prometheus.yaml")
	return command{
		name: "prometheus", path: opts.Binary,
		args: append([]string{
			"--config.file=" + file,
			"--storage.tsdb.path=" + filepath.Join(dir, "data"),
			"--web.listen-address=" + address(port),
			fmt.Sprintf("--scrape.discovery-reload-interval=%s", discoveryInterval),
			fmt.Sprintf("--scrape.timestamp-tolerance=%s", timestampTolerance),
			"--log.level=warn",
		}, opts.Args...),
		health: Health{URL: p.URL + "/-/ready"},
	}, os.WriteFile(file, config, 0o600)
}

// prometheusKubeconfig gives Prometheus the rights of deploy/demo/prometheus.
func (c *Cluster) prometheusKubeconfig(ctx context.Context) (string, error) {
	text, err := os.ReadFile(filepath.Join(c.root, prometheusDir, "rbac.yaml"))
	if err != nil {
		return "", err
	}
	if err := c.Apply(ctx, text); err != nil {
		return "", err
	}
	return c.ServiceAccountKubeconfig(ctx, prometheusNamespace, prometheusServiceAccount)
}

// scrapes is a configuration of Prometheus, as far as the test bed knows of it.
type scrapes struct {
	Global  map[string]any   `json:"global,omitempty"`
	Storage map[string]any   `json:"storage,omitempty"`
	Jobs    []map[string]any `json:"scrape_configs"`
	// Relabel is in prometheusYAML only.
	Relabel []any `json:"relabel_configs,omitempty"`
}

// prometheusConfig is the configuration of deploy/demo/prometheus, changed so that it
// leads to the API server and the player.
func (c *Cluster) prometheusConfig(opts PrometheusOptions, kubeconfig string) ([]byte, error) {
	player, err := url.Parse(opts.PlayerURL)
	if err != nil {
		return nil, fmt.Errorf("PlayerURL: %w", err)
	}
	if player.Host == "" {
		return nil, fmt.Errorf("PlayerURL %q names no host", opts.PlayerURL)
	}
	file := filepath.Join(c.root, prometheusDir, "prometheus.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var config, added scrapes
	if err := yaml.UnmarshalStrict(text, &config); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(prometheusYAML, "PLAYER", player.Host)), &added); err != nil {
		return nil, fmt.Errorf("additions to %s: %w", file, err)
	}
	config.add(added)
	config.ask(kubeconfig)
	config.Global["scrape_interval"] = model.Duration(cmp.Or(opts.ScrapeInterval, defaultScrapeInterval)).String()
	return yaml.Marshal(config)
}

func (s *scrapes) add(other scrapes) {
	for _, job := range s.Jobs {
		rules, _ := job["relabel_configs"].([]any)
		job["relabel_configs"] = slices.Concat(rules, other.Relabel)
	}
	s.Jobs = append(s.Jobs, other.Jobs...)
}

// ask leads discovery to the API server of a kubeconfig.
func (s *scrapes) ask(kubeconfig string) {
	for _, job := range s.Jobs {
		discoveries, _ := job["kubernetes_sd_configs"].([]any)
		for _, d := range discoveries {
			if discovery, ok := d.(map[string]any); ok {
				discovery["kubeconfig_file"] = kubeconfig
			}
		}
	}
}

// Query asks for the vector of an expression as of now.
func (p *Prometheus) Query(ctx context.Context, expression string) (model.Vector, error) {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	u := p.URL + "/api/v1/query?" + url.Values{"query": {expression}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("prometheus: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("prometheus: %w", err)
	}
	defer resp.Body.Close()
	var answer struct {
		Error string `json:"error"`
		Data  struct {
			Result model.Vector `json:"result"`
		} `json:"data"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&answer); err != nil {
		return nil, fmt.Errorf("prometheus: %s to %s: %w", resp.Status, expression, err)
	}
	if answer.Error != "" {
		return nil, fmt.Errorf("prometheus: %s: %s", expression, answer.Error)
	}
	return answer.Data.Result, nil
}

// Await asks an expression again and again until check returns nil for its vector, or
// ctx ends: then the error has what check said last.
func (p *Prometheus) Await(ctx context.Context, expression string, check func(model.Vector) error) error {
	err := until.Nil(ctx, func(ctx context.Context) error {
		vector, err := p.Query(ctx, expression)
		if err != nil {
			return err
		}
		return check(vector)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", expression, err)
	}
	return nil
}

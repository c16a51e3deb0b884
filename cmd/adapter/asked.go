package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/tidegauge/tidegauge/pkg/config"
	"github.com/tidegauge/tidegauge/pkg/sources"
	"github.com/tidegauge/tidegauge/pkg/sources/builtin"
)

// ask is what a backend was asked.
type ask struct {
	// Backend is who was asked.
	Backend string `json:"backend"`
	// PromQL is what a Prometheus server was asked, and Input what CloudWatch was, as
	// `aws cloudwatch get-metric-data --cli-input-json` takes it.
	PromQL string          `json:"promQL,omitempty"`
	Input  json.RawMessage `json:"getMetricData,omitempty"`
}

// lines are the ask for people.
func (a ask) lines() []string {
	if a.PromQL != "" {
		return []string{"Asked " + a.Backend + ":", "  " + a.PromQL}
	}
	return []string{"Asked " + a.Backend + " by GetMetricData:", "  " + strings.ReplaceAll(string(a.Input), "\n", "\n  ")}
}

// recorder keeps what sources are asked.
type recorder struct {
	config *config.Config

	mu    sync.Mutex
	asked []ask
}

// take is what was asked, in its order.
func (r *recorder) take() []ask {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// note keeps the queries of a Fetch.
func (r *recorder) note(source string, queries []sources.Query) {
	asked := r.ofCloudWatch(queries)
	if source == builtin.Prometheus {
		asked = r.ofPrometheus(queries)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, asked...)
}

func (r *recorder) ofPrometheus(queries []sources.Query) []ask {
	asked := make([]ask, len(queries))
	for i, q := range queries {
		server := q.Backend()
		asked[i] = ask{Backend: "Prometheus server " + server, PromQL: strings.TrimSuffix(fmt.Sprint(q), " at "+server)}
		if u, err := url.Parse(r.config.Prometheus.Servers[server].URL); err == nil {
			asked[i].Backend += " at " + u.Redacted()
		}
	}
	return asked
}

func (r *recorder) ofCloudWatch(queries []sources.Query) []ask {
	var asked []ask
	for _, in := range r.config.CloudWatch.Inputs(queries, time.Now()) {
		a := ask{Backend: "CloudWatch"}
		if in.Region != "" {
			a.Backend += " in " + in.Region
		}
		if in.RoleARN != "" {
			a.Backend += " as " + in.RoleARN
		}
		a.Input = inputText(in.GetMetricDataInput)
		asked = append(asked, a)
	}
	return asked
}

// inputText is an input of an AWS call without the fields that are not set.
func inputText(input any) json.RawMessage {
	text, err := json.Marshal(input)
	if err != nil {
		return nil
	}
	var fields any
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil
	}
	text, err = json.MarshalIndent(withoutEmpty(fields), "", "  ")
	if err != nil {
		return nil
	}
	return text
}

// withoutEmpty is a JSON value without the fields that are null, empty texts or empty lists.
func withoutEmpty(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, field := range v {
			if list, ok := field.([]any); field == nil || field == "" || ok && len(list) == 0 {
				delete(v, name)
				continue
			}
			v[name] = withoutEmpty(field)
		}
	case []any:
		for i := range v {
			v[i] = withoutEmpty(v[i])
		}
	}
	return v
}

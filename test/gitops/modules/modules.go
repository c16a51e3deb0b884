// Package modules reads the CRDs and charts of projects that deploy builds on, from their Go
// modules.
//
// Nothing of these modules is compiled, so no go.mod requires them: their dependencies would
// be hundreds. The versions and the hashes are here in place of go.mod and go.sum.
package modules

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// Module is a version of a Go module.
type Module struct {
	Path, Version string
	// Sum is the hash that go.sum would have.
	Sum string
	// Folder has the CRDs, or the chart.
	Folder string
}

// The newest versions that the module proxy has and that this repository's Go reads.
var (
	GatewayAPI = Module{
		"sigs.k8s.io/gateway-api", "v1.6.3", "h1:lKpJa5bGlraC/QeACvCpsHLdmO6y0iKfzVl6gzaFEYc=", "config/crd/standard",
	}
	SourceController = Module{
		"github.com/fluxcd/source-controller", "v1.9.6", "h1:nG534/bI6nVpyHra7ONAk6xDB3xPsVT+EOLHZHXPrrc=", "config/crd/bases",
	}
	KustomizeController = Module{
		"github.com/fluxcd/kustomize-controller", "v1.9.6", "h1:XB+G3A0mky0j5uVHZWv4oSlS2RvZBoNIUhstIvY0JKE=", "config/crd/bases",
	}
	HelmController = Module{
		"github.com/fluxcd/helm-controller", "v1.4.0", "h1:rkm8rmB6Na7eNc4pJOnvtXEaJ19iKluRtayHKjBxcUM=", "config/crd/bases",
	}
	// EnvoyGateway has a chart of its CRDs, and another of its controller.
	EnvoyGateway = Module{
		"github.com/envoyproxy/gateway", "v1.9.1", "h1:vAVp6/AlBXJ1aOhp1mxL7fNEzVEfjADUguUhm2wzxQY=", "charts",
	}
	// MetricsServer has its chart, and no CRDs.
	MetricsServer = Module{
		"sigs.k8s.io/metrics-server", "v0.9.0", "h1:nlqqZ2H0Xfko8eJC/1qaNVVT17hu4rxndkOi22KTZ4w=", "charts/metrics-server",
	}
)

// CRDs are the texts of the files that define kinds, each by the plural of one, such as
// "httproutes". The module is downloaded if the module cache has not got it.
func (m Module) CRDs(ctx context.Context, kinds ...string) ([][]byte, error) {
	dir, err := m.Dir(ctx)
	if err != nil {
		return nil, err
	}
	var texts [][]byte
	for _, kind := range kinds {
		files, err := filepath.Glob(filepath.Join(dir, "*_"+kind+".yaml"))
		if err != nil {
			return nil, err
		}
		if len(files) != 1 {
			return nil, fmt.Errorf("module %s@%s has %d CRDs of %s in %s, want 1", m.Path, m.Version, len(files), kind, m.Folder)
		}
		text, err := os.ReadFile(files[0])
		if err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	return texts, nil
}

// Dir is the folder, in the module cache, of the CRDs or the chart.
func (m Module) Dir(ctx context.Context) (string, error) {
	dir, err := m.download(ctx)
	if err != nil {
		return "", fmt.Errorf("module %s@%s: %w", m.Path, m.Version, err)
	}
	return filepath.Join(dir, filepath.FromSlash(m.Folder)), nil
}

func (m Module) download(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", m.Path+"@"+m.Version)
	// In no module, so that no go.mod or go.sum is changed.
	cmd.Dir = os.TempDir()
	cmd.Env = append(slices.Clone(os.Environ()), "GOFLAGS=", "GOWORK=off")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	var answer struct{ Dir, Sum, Error string }
	if json.Unmarshal(out, &answer) == nil && answer.Error != "" {
		return "", fmt.Errorf("go mod download: %s", answer.Error)
	}
	if err != nil {
		return "", fmt.Errorf("go mod download: %w: %s", err, complaint.String())
	}
	if answer.Sum != m.Sum {
		return "", fmt.Errorf("its hash is %s, want %s", answer.Sum, m.Sum)
	}
	return answer.Dir, nil
}

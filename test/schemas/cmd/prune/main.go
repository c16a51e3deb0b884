// Prune writes the schemas of this module anew from the releases of Kubernetes that the
// command line names, such as v1.30.14. It asks the Go module proxy for them, which is a
// download of some 40 MB each, and leaves them in the module cache unless --forget is given.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/tidegauge/tidegauge/test/schemas"
)

func main() {
	var p pruner
	flag.StringVar(&p.out, "out", ".", "the folder of the schemas")
	flag.BoolVar(&p.forget, "forget", false, "remove the releases that were not there before from the module cache, but for their archives")
	flag.Parse()
	if err := p.run(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "prune:", err)
		os.Exit(1)
	}
}

type pruner struct {
	out    string
	forget bool
}

func (p pruner) run(versions []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	for _, version := range versions {
		if err := p.prune(ctx, version); err != nil {
			return fmt.Errorf("%s: %w", version, err)
		}
	}
	return nil
}

func (p pruner) prune(ctx context.Context, version string) error {
	if strings.Count(version, ".") != 2 {
		return errors.New("it is no release, such as v1.37.1")
	}
	minor := version[:strings.LastIndex(version, ".")]
	dir, fresh, err := download(ctx, version)
	if err != nil {
		return err
	}
	if p.forget && fresh {
		defer remove(dir)
	}
	swagger, err := os.ReadFile(filepath.Join(dir, "api", "openapi-spec", "swagger.json"))
	if err != nil {
		return err
	}
	text, err := schemas.Prune(version, swagger)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(p.out, minor+".json"), text, 0o600) //nolint:gosec // The developer names the folder and the version.
}

// download returns the folder of a release, and whether it was not there before.
func download(ctx context.Context, version string) (dir string, fresh bool, err error) {
	cache, err := exec.CommandContext(ctx, "go", "env", "GOMODCACHE").Output()
	if err != nil {
		return "", false, err
	}
	_, err = os.Stat(filepath.Join(strings.TrimSpace(string(cache)), "k8s.io", "kubernetes@"+version))
	fresh = errors.Is(err, fs.ErrNotExist)
	var complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", "k8s.io/kubernetes@"+version)
	cmd.Stderr = &complaint
	text, err := cmd.Output()
	var module struct{ Dir, Error string }
	if parseErr := json.Unmarshal(text, &module); parseErr == nil && module.Error != "" {
		return "", false, errors.New(module.Error)
	}
	if err != nil {
		return "", false, fmt.Errorf("go mod download: %w: %s", err, complaint.String())
	}
	return module.Dir, fresh, nil
}

// remove removes a folder of the module cache, whose folders are read-only.
func remove(dir string) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o700) //nolint:gosec // A folder cannot be emptied without.
	})
	if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
		fmt.Fprintf(os.Stderr, "prune: %v\n", err)
	}
}

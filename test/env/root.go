package env

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const module = "module github.com/tidegauge/tidegauge\n"

// BinVariable is the environment variable that names the folder of the binaries,
// in place of .bin in the repository's root.
const BinVariable = "TIDEGAUGE_BIN"

// Root is the repository's root: the closest folder, from the working directory
// upwards, that holds the product's go.mod.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), module) {
			return dir, nil
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not inside the repository of tidegauge", start)
		}
	}
}

// Program is the path of a program that `make build kube` builds.
func Program(name string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	return lookBinary(binaries(root), name)
}

func binaries(root string) string {
	if dir := os.Getenv(BinVariable); dir != "" {
		return dir
	}
	return filepath.Join(root, ".bin")
}

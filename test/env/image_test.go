package env

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Every blob of an image around a program has the name and the size that others call it by,
// and the program is found from the index on.
func TestImageOfProgram(t *testing.T) {
	program := filepath.Join(t.TempDir(), "pause")
	if err := os.WriteFile(program, []byte("the program"), 0o700); err != nil {
		t.Fatal(err)
	}
	files := layoutOf(t, program)
	for name, text := range files {
		if sum, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && sum != fmt.Sprintf("%x", sha256.Sum256(text)) {
			t.Errorf("%s is not the sum of its content", name)
		}
	}
	blob := func(d descriptor) []byte {
		text := files["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")]
		if len(text) != d.Size {
			t.Errorf("%s %s has %d bytes, want %d", d.MediaType, d.Digest, len(text), d.Size)
		}
		return text
	}
	var index struct{ Manifests []descriptor }
	unmarshal(t, files["index.json"], &index)
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	unmarshal(t, blob(index.Manifests[0]), &manifest)
	var config struct {
		Config struct{ Entrypoint []string }
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	unmarshal(t, blob(manifest.Config), &config)
	if want := []string{"/pause"}; !slices.Equal(config.Config.Entrypoint, want) {
		t.Errorf("the image runs %v, want %v", config.Config.Entrypoint, want)
	}
	if want := []string{manifest.Layers[0].Digest}; !slices.Equal(config.RootFS.DiffIDs, want) {
		t.Errorf("the configuration names the layers %v, want %v", config.RootFS.DiffIDs, want)
	}
	layer := untar(t, blob(manifest.Layers[0]))
	if string(layer["pause"]) != "the program" || len(layer) != 1 {
		t.Errorf("the layer has %v, want the program only", slices.Collect(maps.Keys(layer)))
	}
}

// Of the layout of a folder the first image gets the name.
func TestImageOfLayout(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"index.json":     `{"manifests":[{"digest":"sha256:0","annotations":{"io.containerd.image.name":"other"}},{"digest":"sha256:1"}]}`,
		"oci-layout":     `{"imageLayoutVersion":"1.0.0"}`,
		"blobs/sha256/0": "image",
		"blobs/sha256/1": "SBOM",
	} {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	files := layoutOf(t, dir)
	if text := string(files["blobs/sha256/0"]); text != "image" {
		t.Errorf("the blob is %q, want %q", text, "image")
	}
	var index struct{ Manifests []descriptor }
	unmarshal(t, files["index.json"], &index)
	if len(index.Manifests) != 1 || index.Manifests[0].Digest != "sha256:0" || index.Manifests[0].Annotations[nameAnnotation] != "example.com/image:1" {
		t.Errorf("the index names %v, want the first image", index.Manifests)
	}
}

// A program that Apart does not call has the machine's network and mounts, which a real
// node has to leave alone.
func TestRealNodeNeedsNamespaces(t *testing.T) {
	_, err := Start(t.Context(), Options{RealNode: true})
	if _, ok := errors.AsType[*NoNodeError](err); !ok {
		t.Errorf("got %v, want that there is no real node", err)
	}
}

func layoutOf(t *testing.T, path string) map[string][]byte {
	t.Helper()
	var archive bytes.Buffer
	if err := writeImage(&archive, "example.com/image:1", path); err != nil {
		t.Fatal(err)
	}
	return untar(t, archive.Bytes())
}

func untar(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	reader := tar.NewReader(bytes.NewReader(archive))
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = text
	}
}

func unmarshal(t *testing.T, text []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

// Package image tests what `make image` writes: it opens the OCI layout without the library
// that has written it, runs the program in it, and pushes it to a registry.
package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tidegauge/tidegauge/test/env"
)

const (
	repository = "ghcr.io/tidegauge/tidegauge"
	version    = "v1.2.3"
	tag        = "1.2.3"
	revision   = "0123456789abcdef0123456789abcdef01234567"
	// created is epoch in words.
	created = "2026-02-03T04:05:06Z"
	epoch   = 1770091506
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if folder, err = os.MkdirTemp("", "tidegauge-image-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	return m.Run()
}

// folder is removed when the tests are over.
var folder string

// build is `make image` in the repository, which is the same for all tests.
var build = sync.OnceValues(func() (made, error) {
	root, err := env.Root()
	if err != nil {
		return made{}, err
	}
	return makeImage(root, filepath.Join(folder, "here"))
})

// made is what `make image` leaves.
type made struct {
	bin    string // folder of the programs
	output string // folder of the layout
}

// makeImage runs `make image` in a source tree, and writes nothing into it.
func makeImage(root, dir string, more ...string) (made, error) {
	m := made{bin: filepath.Join(dir, "bin"), output: filepath.Join(dir, "image")}
	args := append([]string{
		"-C", root, "image", "BIN=" + m.bin, "IMAGE_DIR=" + m.output, "IMAGE=" + repository,
		"VERSION=" + version, "REVISION=" + revision, fmt.Sprintf("SOURCE_DATE_EPOCH=%d", epoch),
	}, more...)
	cmd := exec.Command("make", args...)
	// What a make that runs the tests was told is no affair of this one.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "MAKE") || strings.HasPrefix(v, "MFLAGS=")
	})
	if out, err := cmd.CombinedOutput(); err != nil {
		return made{}, fmt.Errorf("make image: %w\n%s", err, out)
	}
	return m, nil
}

func image(t *testing.T) made {
	t.Helper()
	if testing.Short() {
		t.Skip("it builds the image")
	}
	m, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// descriptor and the types below are those of https://github.com/opencontainers/image-spec.
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	Platform     *platform         `json:"platform"`
	Annotations  map[string]string `json:"annotations"`
}

type platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
}

// manifest is an index or an image.
type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Manifests     []descriptor      `json:"manifests"`
	Config        *descriptor       `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Subject       *descriptor       `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
}

const (
	indexType    = "application/vnd.oci.image.index.v1+json"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar+gzip"
	emptyType    = "application/vnd.oci.empty.v1+json"
	spdxType     = "application/spdx+json"
	refName      = "org.opencontainers.image.ref.name"
)

// blob is the content that a descriptor describes.
func (m made) blob(t *testing.T, d descriptor) []byte {
	t.Helper()
	content := read(t, m.output, "blobs", strings.Replace(d.Digest, ":", "/", 1))
	if got := digest(content); got != d.Digest || int64(len(content)) != d.Size {
		t.Errorf("%s of %d bytes is %s of %d bytes", d.Digest, d.Size, got, len(content))
	}
	return content
}

func (m made) manifest(t *testing.T, d descriptor) manifest {
	t.Helper()
	return decode[manifest](t, m.blob(t, d))
}

// listed is what the layout lists: the image, which has a name, and what refers to it.
func (m made) listed(t *testing.T) (named descriptor, others []descriptor) {
	t.Helper()
	var found []descriptor
	for _, d := range decode[manifest](t, read(t, m.output, "index.json")).Manifests {
		if d.Annotations[refName] != "" {
			found = append(found, d)
		} else {
			others = append(others, d)
		}
	}
	if len(found) != 1 {
		t.Fatalf("the layout names %d images, want 1", len(found))
	}
	return found[0], others
}

// platforms are the images by architecture.
func (m made) platforms(t *testing.T) map[string]descriptor {
	t.Helper()
	named, _ := m.listed(t)
	images := map[string]descriptor{}
	for _, d := range m.manifest(t, named).Manifests {
		if d.Platform == nil || d.Platform.OS != "linux" || d.MediaType != manifestType {
			t.Fatalf("the index has %+v, want images for linux", d)
		}
		images[d.Platform.Architecture] = d
	}
	return images
}

// program is the file in an image's layer, written where it can be run.
func (m made) program(t *testing.T, architecture string) string {
	t.Helper()
	layers := m.manifest(t, m.platforms(t)[architecture]).Layers
	if len(layers) != 1 {
		t.Fatalf("%s has %d layers, want 1", architecture, len(layers))
	}
	entries := untar(t, gunzip(t, m.blob(t, layers[0])))
	file := filepath.Join(t.TempDir(), "adapter")
	if err := os.WriteFile(file, entries["adapter"].content, 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

type entry struct {
	header  *tar.Header
	content []byte
}

func untar(t *testing.T, archive []byte) map[string]entry {
	t.Helper()
	entries := map[string]entry{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := entries[header.Name]; twice {
			t.Errorf("%s is in the archive twice", header.Name)
		}
		entries[header.Name] = entry{header, content}
	}
}

func gunzip(t *testing.T, packed []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func decode[T any](t *testing.T, text []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// files are the contents of all files below a folder.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	root := os.DirFS(dir)
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(root, path)
		all[path] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

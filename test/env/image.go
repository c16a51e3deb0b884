package env

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
)

// Media types of https://github.com/opencontainers/image-spec/blob/main/media-types.md
const (
	indexType    = "application/vnd.oci.image.index.v1+json"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar"
)

// nameAnnotation is by which containerd names what it imports.
const nameAnnotation = "io.containerd.image.name"

// writeImage writes an OCI layout of one image of that name as a tar file: that of a
// folder, or one that is made around a static program.
func writeImage(w io.Writer, name, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(w)
	if info.IsDir() {
		err = addLayout(archive, name, os.DirFS(path))
	} else {
		err = packProgram(archive, name, path)
	}
	if err != nil {
		return err
	}
	return archive.Close()
}

// addLayout adds the blobs of a layout, and an index of its first image only: others in
// there, such as an SBOM, are none that a node runs.
func addLayout(archive *tar.Writer, image string, layout fs.FS) error {
	text, err := fs.ReadFile(layout, "index.json")
	if err != nil {
		return err
	}
	var index struct {
		Manifests []descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return fmt.Errorf("index.json: %w", err)
	}
	if len(index.Manifests) == 0 {
		return errors.New("index.json names no image")
	}
	err = fs.WalkDir(layout, "blobs", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(layout, name)
		if err != nil {
			return err
		}
		return addFile(archive, name, 0o644, text)
	})
	if err != nil {
		return err
	}
	return addIndex(archive, image, index.Manifests[0])
}

// descriptor names a blob of an image.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    map[string]string `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// packProgram makes an image of one file, see
// https://github.com/opencontainers/image-spec/blob/main/image-layout.md
func packProgram(archive *tar.Writer, image, program string) error {
	text, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	name := filepath.Base(program)
	var files bytes.Buffer
	layer := tar.NewWriter(&files)
	if err := addFile(layer, name, 0o755, text); err != nil {
		return err
	}
	if err := layer.Close(); err != nil {
		return err
	}
	layerBlob, err := addBlob(archive, layerType, files.Bytes())
	if err != nil {
		return err
	}
	configBlob, err := addJSON(archive, configType, map[string]any{
		"os": "linux", "architecture": runtime.GOARCH,
		"config": map[string]any{"Entrypoint": []string{"/" + name}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{layerBlob.Digest}},
	})
	if err != nil {
		return err
	}
	manifest, err := addJSON(archive, manifestType, map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "config": configBlob, "layers": []descriptor{layerBlob},
	})
	if err != nil {
		return err
	}
	manifest.Platform = map[string]string{"os": "linux", "architecture": runtime.GOARCH}
	return addIndex(archive, image, manifest)
}

// addIndex ends a layout, which is of one image.
func addIndex(archive *tar.Writer, image string, d descriptor) error {
	d.Annotations = map[string]string{nameAnnotation: image}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": []descriptor{d}})
	if err != nil {
		return err
	}
	if err := addFile(archive, "index.json", 0o644, index); err != nil {
		return err
	}
	return addFile(archive, "oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`))
}

func addJSON(archive *tar.Writer, mediaType string, content map[string]any) (descriptor, error) {
	text, err := json.Marshal(content)
	if err != nil {
		return descriptor{}, err
	}
	return addBlob(archive, mediaType, text)
}

func addBlob(archive *tar.Writer, mediaType string, text []byte) (descriptor, error) {
	sum := fmt.Sprintf("%x", sha256.Sum256(text))
	d := descriptor{MediaType: mediaType, Digest: "sha256:" + sum, Size: len(text)}
	return d, addFile(archive, path.Join("blobs", "sha256", sum), 0o644, text)
}

func addFile(archive *tar.Writer, name string, mode int64, text []byte) error {
	if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(text))}); err != nil {
		return err
	}
	_, err := archive.Write(text)
	return err
}

package main

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/partial"
)

const (
	refName = "org.opencontainers.image.ref.name"
	// containerdName is where containerd and kind look for an image's full name.
	containerdName = "io.containerd.image.name"
)

// write puts the index and all that refers to its images into an OCI layout, the layout into
// a tar, and the SBOMs beside them. What was there before stays until all is there.
func write(output string, ref name.Tag, index v1.ImageIndex, all []packed) error {
	fresh := output + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	defer os.RemoveAll(fresh)
	defer os.Remove(fresh + ".tar")
	if err := writeLayout(fresh, ref, index, all); err != nil {
		return err
	}
	if err := writeTar(fresh+".tar", fresh); err != nil {
		return err
	}
	if err := os.RemoveAll(output); err != nil {
		return err
	}
	if err := os.Rename(fresh, output); err != nil {
		return err
	}
	if err := os.Rename(fresh+".tar", output+".tar"); err != nil {
		return err
	}
	return writeSBOMs(output, all)
}

func writeLayout(dir string, ref name.Tag, index v1.ImageIndex, all []packed) error {
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	names := map[string]string{refName: ref.String(), containerdName: ref.String()}
	if err := path.AppendIndex(index, layout.WithAnnotations(names)); err != nil {
		return err
	}
	for _, p := range all {
		if err := path.WriteImage(p.bill); err != nil {
			return err
		}
		descriptor, err := partial.Descriptor(p.bill)
		if err != nil {
			return err
		}
		descriptor.ArtifactType = string(spdxType)
		if err := path.AppendDescriptor(*descriptor); err != nil {
			return err
		}
	}
	return nil
}

// writeTar writes the files of a folder, in the order of their names.
func writeTar(file, dir string) (err error) {
	f, err := os.Create(file) //nolint:gosec // The same.
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	w := tar.NewWriter(f)
	root := os.DirFS(dir)
	err = fs.WalkDir(root, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		return addFile(w, root, path)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return w.Close()
}

func addFile(w *tar.Writer, root fs.FS, path string) error {
	f, err := root.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	err = w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: path, Mode: 0o644, Size: info.Size(), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
	})
	if err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

func writeSBOMs(output string, all []packed) error {
	old, err := filepath.Glob(output + "-*.spdx.json")
	if err != nil {
		return err
	}
	for _, file := range old {
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	for _, p := range all {
		file := output + "-" + p.platform.OS + "-" + p.platform.Architecture + ".spdx.json"
		if err := os.WriteFile(file, p.sbom, 0o600); err != nil {
			return err
		}
	}
	return nil
}

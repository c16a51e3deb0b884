package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"
)

const (
	source  = "https://github.com/tidegauge/tidegauge"
	license = "Apache-2.0"
	program = "adapter"
	// user is nobody's number: a node that runs the image needs no entry for it.
	user = "65532:65532"
	port = "6443/tcp"
	// roots is the package with the certificates that the image has no file of.
	roots = "golang.org/x/crypto/x509roots/fallback"
)

// release says what to pack. Of equal releases the images are equal, byte by byte.
type release struct {
	binaries  string // folder
	platforms []v1.Platform
	name      string
	version   string
	revision  string
	created   time.Time
}

// tag is the version as charts and registries write it.
func (r release) tag() string { return strings.TrimPrefix(r.version, "v") }

// reference is the image's full name. It is an error if no registry would take it.
func (r release) reference() (name.Tag, error) {
	return name.NewTag(r.name+":"+r.tag(), name.StrictValidation)
}

// annotations are those of
// https://github.com/opencontainers/image-spec/blob/main/annotations.md.
func (r release) annotations() map[string]string {
	const prefix = "org.opencontainers.image."
	return map[string]string{
		prefix + "title":         "tidegauge",
		prefix + "description":   "The metrics adapter for Kubernetes autoscaling, from Prometheus and Amazon CloudWatch",
		prefix + "version":       r.tag(),
		prefix + "revision":      r.revision,
		prefix + "created":       r.created.Format(time.RFC3339),
		prefix + "source":        source,
		prefix + "documentation": source + "/tree/main/docs",
		prefix + "licenses":      license,
	}
}

// packed is the image of one platform.
type packed struct {
	platform v1.Platform
	image    v1.Image
	sbom     []byte
	bill     v1.Image // the SBOM as an artifact that refers to the image
}

func build(out io.Writer, r release, output string) error {
	ref, err := r.reference()
	if err != nil {
		return err
	}
	all := make([]packed, len(r.platforms))
	var group errgroup.Group
	for i, platform := range r.platforms {
		group.Go(func() (err error) {
			if all[i], err = r.pack(platform); err != nil {
				return fmt.Errorf("%s: %w", platform, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	index := r.index(all)
	if err := write(output, ref, index, all); err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s@%s\n", ref, digest)
	return nil
}

func (r release) index(all []packed) v1.ImageIndex {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, p := range all {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: p.image, Descriptor: v1.Descriptor{Platform: &p.platform},
		})
	}
	// Annotations leave the type of what is annotated open.
	return mutate.Annotations(index, r.annotations()).(v1.ImageIndex) //nolint:forcetypeassert // It is what was given.
}

func (r release) pack(platform v1.Platform) (packed, error) {
	file := filepath.Join(r.binaries, platform.OS+"-"+platform.Architecture, program)
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return packed{}, err
	}
	if err := fit(info, platform); err != nil {
		return packed{}, fmt.Errorf("%s: %w", file, err)
	}
	binary, err := os.ReadFile(file) //nolint:gosec // Whoever runs the program names the folder.
	if err != nil {
		return packed{}, err
	}
	layer, err := r.layer(binary)
	if err != nil {
		return packed{}, err
	}
	p := packed{platform: platform}
	if p.image, err = r.image(platform, layer); err != nil {
		return packed{}, err
	}
	subject, err := partial.Descriptor(p.image)
	if err != nil {
		return packed{}, err
	}
	if p.sbom, err = r.sbom(platform, info, binary); err != nil {
		return packed{}, err
	}
	p.bill, err = r.bill(platform, *subject, p.sbom)
	return p, err
}

// fit refuses a binary that is of another platform, that would not run without a base image,
// or that somebody else could not build again.
func fit(info *debug.BuildInfo, platform v1.Platform) error {
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	for _, want := range []debug.BuildSetting{
		{Key: "GOOS", Value: platform.OS},
		{Key: "GOARCH", Value: platform.Architecture},
		{Key: "CGO_ENABLED", Value: "0"},
		{Key: "-trimpath", Value: "true"},
	} {
		if settings[want.Key] != want.Value {
			return fmt.Errorf("built with %s=%s; it has to be %s", want.Key, settings[want.Key], want.Value)
		}
	}
	for _, module := range info.Deps {
		if module.Path == roots {
			return nil
		}
	}
	return errors.New("built without " + roots + ": in an image of nothing else it would trust no server")
}

// layer has one file: the program.
func (r release) layer(binary []byte) (v1.Layer, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	err := w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: program, Mode: 0o755, Size: int64(len(binary)),
		ModTime: r.created, Format: tar.FormatUSTAR,
	})
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(binary); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer),
		tarball.WithCompressionLevel(gzip.DefaultCompression), tarball.WithCompressedCaching)
}

func (r release) image(platform v1.Platform, layer v1.Layer) (v1.Image, error) {
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	base, err := mutate.ConfigFile(base, &v1.ConfigFile{
		OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant,
		Created: v1.Time{Time: r.created},
		RootFS:  v1.RootFS{Type: "layers"},
		Config: v1.Config{
			Entrypoint: []string{"/" + program}, WorkingDir: "/", User: user,
			ExposedPorts: map[string]struct{}{port: {}},
			Labels:       r.annotations(),
		},
	})
	if err != nil {
		return nil, err
	}
	image, err := mutate.Append(base, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: r.created}, CreatedBy: "make image"},
	})
	if err != nil {
		return nil, err
	}
	return mutate.Annotations(image, r.annotations()).(v1.Image), nil //nolint:forcetypeassert // It is what was given.
}

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// https://github.com/opencontainers/image-spec/blob/main/manifest.md#guidelines-for-artifact-usage
const (
	spdxType  = types.MediaType("application/spdx+json")
	emptyType = types.MediaType("application/vnd.oci.empty.v1+json")
	emptyJSON = "{}"
)

// What follows is the part of SPDX 2.3 that is used: https://spdx.github.io/spdx-spec/v2.3.
type (
	spdxDocument struct {
		Version       string             `json:"spdxVersion"`
		DataLicense   string             `json:"dataLicense"`
		ID            string             `json:"SPDXID"`
		Name          string             `json:"name"`
		Namespace     string             `json:"documentNamespace"`
		Creation      spdxCreation       `json:"creationInfo"`
		Packages      []spdxPackage      `json:"packages"`
		Relationships []spdxRelationship `json:"relationships"`
	}
	spdxCreation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	spdxPackage struct {
		ID               string          `json:"SPDXID"`
		Name             string          `json:"name"`
		Version          string          `json:"versionInfo"`
		FileName         string          `json:"packageFileName,omitempty"`
		Purpose          string          `json:"primaryPackagePurpose"`
		DownloadLocation string          `json:"downloadLocation"`
		FilesAnalyzed    bool            `json:"filesAnalyzed"`
		Checksums        []spdxChecksum  `json:"checksums,omitempty"`
		SourceInfo       string          `json:"sourceInfo,omitempty"`
		LicenseConcluded string          `json:"licenseConcluded"`
		LicenseDeclared  string          `json:"licenseDeclared"`
		Copyright        string          `json:"copyrightText"`
		References       []spdxReference `json:"externalRefs"`
	}
	spdxChecksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	spdxReference struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	spdxRelationship struct {
		Element string `json:"spdxElementId"`
		Type    string `json:"relationshipType"`
		Related string `json:"relatedSpdxElement"`
	}
)

const (
	unknown    = "NOASSERTION"
	documentID = "SPDXRef-DOCUMENT"
	programID  = "SPDXRef-Package-adapter"
)

// sbom says what the binary is made of, by what the compiler has written into it: the modules
// of which a package is in it, and Go's own library.
func (r release) sbom(platform v1.Platform, info *debug.BuildInfo, binary []byte) ([]byte, error) {
	sum := sha256.Sum256(binary)
	digest := hex.EncodeToString(sum[:])
	where := platform.OS + "-" + platform.Architecture

	main := spdxModule(programID, info.Main.Path, r.version)
	main.FileName = "/" + program
	main.Purpose = "APPLICATION"
	main.DownloadLocation = "git+" + source + "@" + r.revision
	main.Checksums = []spdxChecksum{{Algorithm: "SHA256", Value: digest}}
	main.LicenseDeclared = license

	library := spdxModule("SPDXRef-Package-go", "stdlib", strings.TrimPrefix(info.GoVersion, "go"))

	doc := spdxDocument{
		Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: documentID,
		Name: "tidegauge-" + r.tag() + "-" + where,
		// It is a name and not an address, and differs whenever the content does.
		Namespace: source + "/spdx/" + where + "-" + digest,
		Creation: spdxCreation{
			Created: r.created.Format(time.RFC3339), Creators: []string{"Organization: tidegauge", "Tool: tidegauge-image-" + r.version},
		},
		Packages:      []spdxPackage{main, library},
		Relationships: []spdxRelationship{{Element: documentID, Type: "DESCRIBES", Related: programID}},
	}
	for i, module := range info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		dependency := spdxModule(fmt.Sprintf("SPDXRef-Package-%d", i+1), module.Path, module.Version)
		if module.Sum != "" {
			// It is no checksum of a file: https://go.dev/ref/mod#go-sum-files.
			dependency.SourceInfo = "go.sum " + module.Sum
		}
		doc.Packages = append(doc.Packages, dependency)
	}
	for _, p := range doc.Packages[1:] {
		doc.Relationships = append(doc.Relationships, spdxRelationship{Element: programID, Type: "DEPENDS_ON", Related: p.ID})
	}
	return json.MarshalIndent(doc, "", "  ")
}

func spdxModule(id, path, version string) spdxPackage {
	// https://github.com/package-url/purl-spec: of the characters of a module's path and
	// version only this one has to be written otherwise.
	locator := "pkg:golang/" + strings.ReplaceAll(path+"@"+version, "+", "%2B")
	return spdxPackage{
		ID: id, Name: path, Version: version, Purpose: "LIBRARY", DownloadLocation: unknown,
		LicenseConcluded: unknown, LicenseDeclared: unknown, Copyright: unknown,
		References: []spdxReference{{Category: "PACKAGE-MANAGER", Type: "purl", Locator: locator}},
	}
}

// bill is the SBOM as an artifact that refers to a platform's image.
func (r release) bill(platform v1.Platform, subject v1.Descriptor, sbom []byte) (v1.Image, error) {
	layer := static.NewLayer(sbom, spdxType)
	blob, err := partial.Descriptor(layer)
	if err != nil {
		return nil, err
	}
	blob.Annotations = map[string]string{
		"org.opencontainers.image.title": "tidegauge-" + platform.OS + "-" + platform.Architecture + ".spdx.json",
	}
	digest, size, err := v1.SHA256(strings.NewReader(emptyJSON))
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: string(spdxType),
		Config: v1.Descriptor{MediaType: emptyType, Digest: digest, Size: size, Data: []byte(emptyJSON)},
		Layers: []v1.Descriptor{*blob},
		// A subject is a digest; the platform is said where the image is listed.
		Subject:     &v1.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
		Annotations: r.annotations(),
	})
	if err != nil {
		return nil, err
	}
	return partial.CompressedToImage(artifact{manifest: manifest, layer: layer})
}

// artifact is a manifest with one blob and no configuration.
type artifact struct {
	manifest []byte
	layer    v1.Layer
}

func (a artifact) RawManifest() ([]byte, error)        { return bytes.Clone(a.manifest), nil }
func (a artifact) RawConfigFile() ([]byte, error)      { return []byte(emptyJSON), nil }
func (a artifact) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

func (a artifact) LayerByDigest(v1.Hash) (partial.CompressedLayer, error) { return a.layer, nil }

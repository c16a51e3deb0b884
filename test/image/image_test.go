package image

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tidegauge/tidegauge/test/env"
)

// Whoever opens the layout finds each thing under its digest, and nothing else.
func TestLayoutIsWhole(t *testing.T) {
	m := image(t)
	if got := decode[map[string]string](t, read(t, m.output, "oci-layout"))["imageLayoutVersion"]; got != "1.0.0" {
		t.Errorf("layout version %q, want 1.0.0", got)
	}
	reached := map[string]bool{"index.json": true, "oci-layout": true}
	var walk func(d descriptor)
	walk = func(d descriptor) {
		reached["blobs/"+strings.Replace(d.Digest, ":", "/", 1)] = true
		content := m.blob(t, d)
		if d.MediaType != indexType && d.MediaType != manifestType {
			return
		}
		inner := decode[manifest](t, content)
		if inner.SchemaVersion != 2 || inner.MediaType != d.MediaType {
			t.Errorf("%s is %s of schema %d, want %s of schema 2", d.Digest, inner.MediaType, inner.SchemaVersion, d.MediaType)
		}
		parts := slices.Concat(inner.Manifests, inner.Layers)
		if inner.Config != nil {
			parts = append(parts, *inner.Config)
		}
		for _, part := range parts {
			walk(part)
		}
	}
	named, others := m.listed(t)
	for _, d := range append(others, named) {
		walk(d)
	}
	for path := range files(t, m.output) {
		if !reached[path] {
			t.Errorf("nothing leads to %s", path)
		}
	}
}

func TestNames(t *testing.T) {
	m := image(t)
	named, _ := m.listed(t)
	if named.MediaType != indexType {
		t.Errorf("the image is %s, want an index", named.MediaType)
	}
	// The second is what containerd's import looks for.
	for _, key := range []string{refName, "io.containerd.image.name"} {
		if got, want := named.Annotations[key], repository+":"+tag; got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	annotations := m.manifest(t, named).Annotations
	for key, want := range map[string]string{
		"title": "tidegauge", "version": tag, "revision": revision, "created": created,
		"source": "https://github.com/tidegauge/tidegauge", "licenses": "Apache-2.0",
	} {
		if got := annotations["org.opencontainers.image."+key]; got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	for architecture, d := range m.platforms(t) {
		if got := m.manifest(t, d).Annotations; !maps.Equal(got, annotations) {
			t.Errorf("%s has other annotations than the index: %v", architecture, got)
		}
	}
}

func TestPlatforms(t *testing.T) {
	m := image(t)
	images := m.platforms(t)
	if got, want := slices.Sorted(maps.Keys(images)), []string{"amd64", "arm64"}; !slices.Equal(got, want) {
		t.Fatalf("the image is for %v, want %v", got, want)
	}
	for architecture, d := range images {
		t.Run(architecture, func(t *testing.T) {
			inner := m.manifest(t, d)
			if len(inner.Layers) != 1 || inner.Layers[0].MediaType != layerType || inner.Config == nil || inner.Config.MediaType != configType {
				t.Fatalf("got %+v, want a configuration and one layer", inner)
			}
			type history struct {
				Created   string `json:"created"`
				CreatedBy string `json:"created_by"`
			}
			type settings struct {
				User         string
				ExposedPorts map[string]struct{}
				Env          []string
				Entrypoint   []string
				Cmd          []string
				WorkingDir   string
				Labels       map[string]string
			}
			type rootFS struct {
				Type    string   `json:"type"`
				DiffIDs []string `json:"diff_ids"`
			}
			type config struct {
				Created      string    `json:"created"`
				Architecture string    `json:"architecture"`
				OS           string    `json:"os"`
				Config       settings  `json:"config"`
				RootFS       rootFS    `json:"rootfs"`
				History      []history `json:"history"`
			}
			want := config{
				Created: created, Architecture: architecture, OS: "linux",
				Config: settings{
					User: "65532:65532", ExposedPorts: map[string]struct{}{"6443/tcp": {}},
					Entrypoint: []string{"/adapter"}, WorkingDir: "/", Labels: inner.Annotations,
				},
				RootFS:  rootFS{Type: "layers", DiffIDs: []string{digest(gunzip(t, m.blob(t, inner.Layers[0])))}},
				History: []history{{Created: created, CreatedBy: "make image"}},
			}
			if got := decode[config](t, m.blob(t, *inner.Config)); !reflect.DeepEqual(got, want) {
				t.Errorf("configuration\n%+v, want\n%+v", got, want)
			}
		})
	}
}

// There is no shell, no library and no user to become: only the program.
func TestLayerIsTheProgram(t *testing.T) {
	m := image(t)
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	for architecture, d := range m.platforms(t) {
		t.Run(architecture, func(t *testing.T) {
			entries := untar(t, gunzip(t, m.blob(t, m.manifest(t, d).Layers[0])))
			if got := slices.Collect(maps.Keys(entries)); !slices.Equal(got, []string{"adapter"}) {
				t.Fatalf("the layer has %v, want adapter only", got)
			}
			h := entries["adapter"].header
			if h.FileInfo().Mode() != 0o755 || h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || h.ModTime.Unix() != epoch {
				t.Errorf("adapter is %v of %d:%d %q:%q at %d, want -rwxr-xr-x of 0:0 at %d",
					h.FileInfo().Mode(), h.Uid, h.Gid, h.Uname, h.Gname, h.ModTime.Unix(), epoch)
			}
			program, err := elf.Open(m.program(t, architecture))
			if err != nil {
				t.Fatal(err)
			}
			defer program.Close()
			if program.Machine != machines[architecture] {
				t.Errorf("the program is for %v, want %v", program.Machine, machines[architecture])
			}
			for _, p := range program.Progs {
				if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
					t.Errorf("the program has a %v: it needs files that the image has not", p.Type)
				}
			}
		})
	}
}

func TestProgramSaysItsVersion(t *testing.T) {
	m := image(t)
	if _, ok := m.platforms(t)[runtime.GOARCH]; !ok || runtime.GOOS != "linux" {
		t.Skipf("there is no image for %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	cmd := exec.CommandContext(t.Context(), m.program(t, runtime.GOARCH), "--version")
	cmd.Env = []string{} // As in a pod of which nothing is said: nil would be the test's own.
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got, want := string(out), "tidegauge "+version+" "; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, " linux/"+runtime.GOARCH+"\n") {
		t.Errorf("--version prints %q, want it to start with %q and to end with the platform", got, want)
	}
}

func TestTarIsTheLayout(t *testing.T) {
	m := image(t)
	packed := map[string]string{}
	for name, e := range untar(t, read(t, m.output+".tar")) {
		packed[name] = string(e.content)
	}
	if !maps.Equal(packed, files(t, m.output)) {
		t.Errorf("the tar has %v, which are not the files of the layout", slices.Sorted(maps.Keys(packed)))
	}
}

// Equal sources make equal images, wherever they lie: whoever builds a release can compare
// its digest.
func TestBuildIsReproducible(t *testing.T) {
	m := image(t)
	root, err := env.Root()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := t.TempDir()
	sources := filepath.Join(elsewhere, "a-folder-of-another-name")
	for _, name := range []string{"cmd", "internal", "pkg", "tools"} {
		if err := os.CopyFS(filepath.Join(sources, name), os.DirFS(filepath.Join(root, name))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"Makefile", "go.mod", "go.sum"} {
		if err := os.WriteFile(filepath.Join(sources, name), read(t, root, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again, err := makeImage(sources, elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	first, second := m.written(t), again.written(t)
	if !slices.Equal(slices.Sorted(maps.Keys(first)), slices.Sorted(maps.Keys(second))) {
		t.Errorf("one build has %v, the other %v", slices.Sorted(maps.Keys(first)), slices.Sorted(maps.Keys(second)))
	}
	for path, content := range first {
		if second[path] != content {
			t.Errorf("%s is not the same in both builds", path)
		}
	}
}

// written are all files that `make image` is for.
func (m made) written(t *testing.T) map[string]string {
	t.Helper()
	all := files(t, m.output)
	beside, err := filepath.Glob(m.output + "?*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range beside {
		all[filepath.Base(file)] = string(read(t, file))
	}
	return all
}

// The next image is in the place of the one before, with nothing of that left.
func TestOnePlatform(t *testing.T) {
	m := image(t)
	root, err := env.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	before := filepath.Join(dir, "image")
	if err := os.CopyFS(before, os.DirFS(m.output)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(before+"-linux-arm64.spdx.json", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	one, err := makeImage(root, dir, "BIN="+m.bin, "PLATFORMS=linux/amd64")
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Collect(maps.Keys(one.platforms(t))); !slices.Equal(got, []string{"amd64"}) {
		t.Errorf("the image is for %v, want amd64 only", got)
	}
	if got, want := one.platforms(t)["amd64"].Digest, m.platforms(t)["amd64"].Digest; got != want {
		t.Errorf("amd64 alone is %s, and with arm64 %s", got, want)
	}
	// An index, an image, its configuration and its layer; an SBOM, its manifest, and its
	// configuration, which is empty.
	if got := len(files(t, filepath.Join(one.output, "blobs"))); got != 7 {
		t.Errorf("the layout has %d blobs, want 7", got)
	}
	if _, err := os.Stat(before + "-linux-arm64.spdx.json"); !os.IsNotExist(err) {
		t.Errorf("the SBOM of a platform that the image is not for: %v", err)
	}
}

func TestUnfitBinariesAreRefused(t *testing.T) {
	m := image(t)
	amd64 := m.program(t, "amd64")
	tests, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ binary, platform, version, want string }{
		"of another platform":    {amd64, "linux/arm64", version, "linux/arm64: BINARY: built with GOARCH=amd64; it has to be arm64"},
		"without roots":          {filepath.Join(m.bin, "packimage"), runtime.GOOS + "/" + runtime.GOARCH, version, "it would trust no server"},
		"not of Go":              {"/dev/null", "linux/amd64", version, "linux/amd64: "},
		"not to be built again":  {tests, runtime.GOOS + "/" + runtime.GOARCH, version, "built with"},
		"version that is no tag": {amd64, "linux/amd64", "v1.2.3+4", "1.2.3+4"},
		"platform of no machine": {amd64, "amd64", version, `"amd64" is not like linux/amd64`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			binary := filepath.Join(dir, strings.ReplaceAll(test.platform, "/", "-"), "adapter")
			if err := os.MkdirAll(filepath.Dir(binary), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(test.binary, binary); err != nil {
				t.Fatal(err)
			}
			out, err := m.pack(t, "build", "--binaries", dir, "--platforms", test.platform, "--name", repository,
				"--version", test.version, "--revision", revision, "--created", strconv.Itoa(epoch), "--output", filepath.Join(dir, "image"))
			if want := strings.ReplaceAll(test.want, "BINARY", binary); err == nil || !strings.Contains(out, want) {
				t.Errorf("got %v\n%s, want %q", err, out, want)
			}
			if _, err := os.Stat(filepath.Join(dir, "image")); !os.IsNotExist(err) {
				t.Errorf("there is an image all the same: %v", err)
			}
		})
	}
}

// pack runs the program that packs and pushes.
func (m made) pack(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(m.bin, "packimage"), args...)
	// No credentials of whoever runs the tests.
	cmd.Env = []string{"HOME=" + t.TempDir()}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// module is a line of `go version -m`.
type module struct{ path, version, sum string }

// modules are those that the compiler has written into a program, by what Go's own command
// reads of it.
func modules(t *testing.T, program string) []module {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "version", "-m", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []module
	for line := range strings.Lines(string(out)) {
		words := append(strings.Fields(line), "", "", "")
		switch words[0] {
		case "dep":
			all = append(all, module{words[1], words[2], words[3]})
		case "=>": // In place of the one before.
			all[len(all)-1] = module{words[1], words[2], words[3]}
		}
	}
	return all
}

type spdx struct {
	Version   string `json:"spdxVersion"`
	License   string `json:"dataLicense"`
	ID        string `json:"SPDXID"`
	Name      string `json:"name"`
	Namespace string `json:"documentNamespace"`
	Creation  struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	} `json:"creationInfo"`
	Packages []struct {
		ID               string `json:"SPDXID"`
		Name             string `json:"name"`
		Version          string `json:"versionInfo"`
		DownloadLocation string `json:"downloadLocation"`
		FilesAnalyzed    *bool  `json:"filesAnalyzed"`
		SourceInfo       string `json:"sourceInfo"`
		LicenseConcluded string `json:"licenseConcluded"`
		LicenseDeclared  string `json:"licenseDeclared"`
		Copyright        string `json:"copyrightText"`
		Checksums        []struct {
			Algorithm string `json:"algorithm"`
			Value     string `json:"checksumValue"`
		} `json:"checksums"`
		References []struct {
			Category string `json:"referenceCategory"`
			Type     string `json:"referenceType"`
			Locator  string `json:"referenceLocator"`
		} `json:"externalRefs"`
	} `json:"packages"`
	Relationships []struct {
		Element string `json:"spdxElementId"`
		Type    string `json:"relationshipType"`
		Related string `json:"relatedSpdxElement"`
	} `json:"relationships"`
}

// Each platform's image has an artifact that refers to it, of the type that scanners ask a
// registry for.
func TestSBOMRefersToTheImage(t *testing.T) {
	m := image(t)
	_, others := m.listed(t)
	images := m.platforms(t)
	if len(others) != len(images) {
		t.Errorf("%d artifacts for %d images", len(others), len(images))
	}
	for architecture, d := range images {
		bill := m.bill(t, d)
		if bill.ArtifactType != spdxType || bill.Config.MediaType != emptyType || string(m.blob(t, *bill.Config)) != "{}" {
			t.Errorf("%s: %+v, want an artifact of SPDX without a configuration", architecture, bill)
		}
		if bill.Subject.MediaType != d.MediaType || bill.Subject.Size != d.Size {
			t.Errorf("%s: subject %+v, want %+v", architecture, bill.Subject, d)
		}
		beside := read(t, m.output+"-linux-"+architecture+".spdx.json")
		if len(bill.Layers) != 1 || bill.Layers[0].MediaType != spdxType || !bytes.Equal(m.blob(t, bill.Layers[0]), beside) {
			t.Errorf("%s: the artifact's SBOM is not the one beside the layout", architecture)
		}
	}
}

// bill is the artifact that refers to an image.
func (m made) bill(t *testing.T, image descriptor) manifest {
	t.Helper()
	_, others := m.listed(t)
	for _, d := range others {
		if bill := m.manifest(t, d); bill.Subject != nil && bill.Subject.Digest == image.Digest && d.ArtifactType == spdxType {
			return bill
		}
	}
	t.Fatalf("nothing refers to %s", image.Digest)
	return manifest{}
}

func TestSBOM(t *testing.T) {
	m := image(t)
	for architecture := range m.platforms(t) {
		t.Run(architecture, func(t *testing.T) {
			program := m.program(t, architecture)
			text := read(t, m.output+"-linux-"+architecture+".spdx.json")
			if !json.Valid(text) {
				t.Fatal("it is no JSON")
			}
			doc := decode[spdx](t, text)
			checkDocument(t, doc)
			if got, want := doc.Packages[0].Checksums[0].Value, strings.TrimPrefix(digest(read(t, program)), "sha256:"); got != want {
				t.Errorf("the program's checksum is %s, want %s", got, want)
			}
			listed := map[module]bool{}
			for _, p := range doc.Packages {
				listed[module{p.Name, p.Version, strings.TrimPrefix(p.SourceInfo, "go.sum ")}] = true
				if got, want := p.References[0].Locator, "pkg:golang/"+p.Name+"@"+strings.ReplaceAll(p.Version, "+", "%2B"); got != want {
					t.Errorf("%s: locator %s, want %s", p.Name, got, want)
				}
			}
			compiled := modules(t, program)
			for _, want := range compiled {
				if !listed[want] {
					t.Errorf("%v is in the program, and not in the SBOM", want)
				}
			}
			// The program itself and Go's library are no modules that it depends on.
			if got, want := len(doc.Packages), len(compiled)+2; got != want || len(compiled) < 50 {
				t.Errorf("the SBOM has %d packages, want %d", got, want)
			}
			if p := doc.Packages[1]; p.Name != "stdlib" || !strings.HasPrefix(p.Version, "1.") {
				t.Errorf("the second package is %s %s, want Go's library", p.Name, p.Version)
			}
		})
	}
}

// checkDocument holds an SBOM to what https://spdx.github.io/spdx-spec/v2.3 asks of every one.
func checkDocument(t *testing.T, doc spdx) {
	t.Helper()
	if doc.Version != "SPDX-2.3" || doc.License != "CC0-1.0" || doc.ID != "SPDXRef-DOCUMENT" || doc.Name == "" ||
		!strings.HasPrefix(doc.Namespace, "https://") || strings.Contains(doc.Namespace, "#") {
		t.Errorf("document %s %s %s %q %s is no SPDX 2.3", doc.Version, doc.License, doc.ID, doc.Name, doc.Namespace)
	}
	if doc.Creation.Created != created || len(doc.Creation.Creators) == 0 {
		t.Errorf("created by %v at %s, want it at %s", doc.Creation.Creators, doc.Creation.Created, created)
	}
	ids := map[string]bool{doc.ID: true}
	for _, p := range doc.Packages {
		if ids[p.ID] || !strings.HasPrefix(p.ID, "SPDXRef-") {
			t.Errorf("%s: identifier %q is taken or wrong", p.Name, p.ID)
		}
		ids[p.ID] = true
		if p.Name == "" || p.Version == "" || p.DownloadLocation == "" || p.FilesAnalyzed == nil || *p.FilesAnalyzed ||
			p.LicenseConcluded == "" || p.LicenseDeclared == "" || p.Copyright == "" {
			t.Errorf("package %+v lacks something", p)
		}
		if len(p.References) != 1 || p.References[0].Category != "PACKAGE-MANAGER" || p.References[0].Type != "purl" {
			t.Fatalf("%s: references %+v, want one purl", p.Name, p.References)
		}
	}
	related := map[string]bool{}
	for _, r := range doc.Relationships {
		if !ids[r.Element] || !ids[r.Related] {
			t.Errorf("%+v: there is no such element", r)
		}
		related[r.Related] = true
	}
	if first := doc.Relationships[0]; first.Element != doc.ID || first.Type != "DESCRIBES" || first.Related != doc.Packages[0].ID {
		t.Errorf("%+v, want that the document describes the program", first)
	}
	if got, want := len(related), len(doc.Packages); got != want {
		t.Errorf("%d packages are related to anything, want all %d", got, want)
	}
}

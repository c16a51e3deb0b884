package image

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/tidegauge/tidegauge/test/env"
)

// registry is as much of https://github.com/opencontainers/distribution-spec as a push needs,
// without the listing of referrers, as ghcr.io.
type registry struct {
	mu        sync.Mutex
	blobs     map[string][]byte
	manifests map[string][]byte // by tag and by digest
	types     map[string]string
	faults    []string
}

func newRegistry(t *testing.T) (r *registry, host string) {
	t.Helper()
	r = &registry{blobs: map[string][]byte{}, manifests: map[string][]byte{}, types: map[string]string{}}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	return r, strings.TrimPrefix(server.URL, "http://")
}

const (
	blobsPath     = "/v2/mirror/tidegauge/blobs/"
	manifestsPath = "/v2/mirror/tidegauge/manifests/"
)

func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	body, _ := io.ReadAll(req.Body)
	switch path := req.URL.Path; {
	case path == "/v2/":
	case req.Method == http.MethodPost && path == blobsPath+"uploads/":
		w.Header().Set("Location", blobsPath+"uploads/"+strconv.Itoa(len(r.blobs)))
		w.WriteHeader(http.StatusAccepted)
	case req.Method == http.MethodPatch && strings.HasPrefix(path, blobsPath+"uploads/"):
		r.blobs[digest(body)] = body
		w.Header().Set("Location", path)
		w.WriteHeader(http.StatusAccepted)
	case req.Method == http.MethodPut && strings.HasPrefix(path, blobsPath+"uploads/"):
		r.commit(w, req.URL.Query().Get("digest"))
	case strings.HasPrefix(path, blobsPath):
		answer(w, r.blobs[strings.TrimPrefix(path, blobsPath)], "application/octet-stream")
	case req.Method == http.MethodPut && strings.HasPrefix(path, manifestsPath):
		r.put(strings.TrimPrefix(path, manifestsPath), body, req.Header.Get("Content-Type"))
		w.WriteHeader(http.StatusCreated)
	case strings.HasPrefix(path, manifestsPath):
		reference := strings.TrimPrefix(path, manifestsPath)
		answer(w, r.manifests[reference], r.types[reference])
	default:
		http.NotFound(w, req)
	}
}

func (r *registry) commit(w http.ResponseWriter, digest string) {
	if r.blobs[digest] == nil {
		r.faults = append(r.faults, "blob "+digest+" came as something else")
	}
	w.WriteHeader(http.StatusCreated)
}

// put takes a manifest, and finds fault with one that leads to what is not there yet.
func (r *registry) put(reference string, body []byte, mediaType string) {
	if strings.Contains(reference, ":") && reference != digest(body) {
		r.faults = append(r.faults, "manifest "+reference+" is "+digest(body))
	}
	var m manifest
	if err := json.Unmarshal(body, &m); err != nil {
		r.faults = append(r.faults, "manifest "+reference+": "+err.Error())
	}
	for _, d := range m.Manifests {
		if r.manifests[d.Digest] == nil {
			r.faults = append(r.faults, "manifest "+reference+" came before "+d.Digest)
		}
	}
	for _, d := range m.Layers {
		if r.blobs[d.Digest] == nil {
			r.faults = append(r.faults, "manifest "+reference+" came before its layer "+d.Digest)
		}
	}
	for _, key := range []string{reference, digest(body)} {
		r.manifests[key], r.types[key] = body, mediaType
	}
}

func answer(w http.ResponseWriter, content []byte, mediaType string) {
	if content == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", digest(content))
	_, _ = w.Write(content)
}

func TestPush(t *testing.T) {
	m := image(t)
	r, host := newRegistry(t)
	to := host + "/mirror/tidegauge"
	named, others := m.listed(t)
	// The second push finds all there.
	for range 2 {
		out, err := m.pack(t, "push", "--layout", m.output, "--to", to)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if want := to + "@" + named.Digest + "\n"; out != want {
			t.Errorf("push prints %q, want %q", out, want)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, fault := range r.faults {
		t.Error(fault)
	}
	if got := digest(r.manifests[tag]); got != named.Digest {
		t.Errorf("%s is %s, want %s", tag, got, named.Digest)
	}
	for path, content := range files(t, filepath.Join(m.output, "blobs", "sha256")) {
		if key := "sha256:" + path; string(r.blobs[key]) != content && string(r.manifests[key]) != content {
			t.Errorf("%s is not in the registry", key)
		}
	}
	// https://github.com/opencontainers/distribution-spec/blob/main/spec.md#referrers-tag-schema
	for _, d := range others {
		subject := m.manifest(t, d).Subject.Digest
		listed := decode[manifest](t, r.manifests[strings.Replace(subject, ":", "-", 1)])
		if len(listed.Manifests) != 1 || listed.Manifests[0].Digest != d.Digest || listed.Manifests[0].ArtifactType != spdxType {
			t.Errorf("%s is referred to by %+v, want %s", subject, listed.Manifests, d.Digest)
		}
	}
}

// Who has pulled a version gets the same the next time.
func TestPushReplacesNoOtherImage(t *testing.T) {
	m := image(t)
	root, err := env.Root()
	if err != nil {
		t.Fatal(err)
	}
	other, err := makeImage(root, t.TempDir(), "BIN="+m.bin, "PLATFORMS=linux/amd64")
	if err != nil {
		t.Fatal(err)
	}
	r, host := newRegistry(t)
	to := host + "/mirror/tidegauge"
	if out, err := m.pack(t, "push", "--layout", m.output, "--to", to); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	before := maps.Clone(r.manifests)
	named, _ := m.listed(t)
	out, err := m.pack(t, "push", "--layout", other.output, "--to", to)
	if want := to + ":" + tag + " is " + named.Digest + " already, which is another image"; err == nil || !strings.Contains(out, want) {
		t.Errorf("got %v\n%s, want %q", err, out, want)
	}
	if got, want := slices.Sorted(maps.Keys(r.manifests)), slices.Sorted(maps.Keys(before)); !slices.Equal(got, want) {
		t.Errorf("the registry has %v, want %v", got, want)
	}
}

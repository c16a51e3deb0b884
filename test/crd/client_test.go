package crd

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"

	"github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/test/until"
)

const (
	namespace = metav1.NamespaceDefault
	// await bounds every wait for the API server to take up a change.
	await = time.Minute
)

// warnings collects what the API server warns of, as kubectl prints it.
type warnings struct {
	mu    sync.Mutex
	texts []string
}

func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, text)
}

// take returns the warnings since the last call.
func (w *warnings) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	texts := w.texts
	w.texts = nil
	return texts
}

// metrics is a client for ExternalMetrics, and the warnings that it gets.
func metrics(t *testing.T) (dynamic.ResourceInterface, *warnings) {
	t.Helper()
	warned := &warnings{}
	config := bed.Cluster(t).Config()
	config.WarningHandler = warned
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client.Resource(v1alpha1.Resource).Namespace(namespace), warned
}

// dryRun asks for all checks of a creation, as strict as kubectl asks for them, and
// for no object.
var dryRun = metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict}

// create creates an object and deletes it when the test ends.
func create(t *testing.T, client dynamic.ResourceInterface, o *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	created, err := client.Create(t.Context(), o, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	if err != nil {
		t.Fatal(err)
	}
	deleteLater(t, client, o.GetName())
	return created
}

// deleteLater deletes an object when the test ends.
func deleteLater(t *testing.T, client dynamic.ResourceInterface, name string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // The test's context ends before its cleanup.
	t.Cleanup(func() {
		if err := client.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// eventually waits until check finds that the API server has taken up a change.
func eventually(t *testing.T, check func(context.Context) error) {
	t.Helper()
	until.Holds(t, "the change", await, check)
}

// manifest is a file of testdata: objects, and the comments above the first of them.
type manifest struct {
	comments []string
	objects  []*unstructured.Unstructured
}

func readManifest(t *testing.T, file string) manifest {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var m manifest
	for line := range strings.Lines(string(text)) {
		comment, ok := strings.CutPrefix(line, "# ")
		if !ok {
			break
		}
		m.comments = append(m.comments, strings.TrimSpace(comment))
	}
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(string(text)), len(text))
	for {
		o := &unstructured.Unstructured{}
		err := decoder.Decode(o)
		if errors.Is(err, io.EOF) {
			return m
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		m.objects = append(m.objects, o)
	}
}

// object is the only object of a file of testdata.
func object(t *testing.T, file string) *unstructured.Unstructured {
	t.Helper()
	m := readManifest(t, filepath.Join("testdata", file))
	if len(m.objects) != 1 {
		t.Fatalf("%s holds %d objects, want one", file, len(m.objects))
	}
	return m.objects[0]
}

// manifests are the files of a folder of testdata by their names.
func manifests(t *testing.T, folder string) map[string]manifest {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", folder, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("testdata/%s has no manifest", folder)
	}
	all := make(map[string]manifest, len(files))
	for _, file := range files {
		all[strings.TrimSuffix(filepath.Base(file), ".yaml")] = readManifest(t, file)
	}
	return all
}

// toUnstructured is what a client that uses the Go types sends.
func toUnstructured(t *testing.T, metric *v1alpha1.ExternalMetric) *unstructured.Unstructured {
	t.Helper()
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(metric)
	if err != nil {
		t.Fatal(err)
	}
	return &unstructured.Unstructured{Object: fields}
}

// causes are the fields and reasons that a refusal names, in order. The API server's
// remark that it left some rules unchecked names no field, and is left out.
func causes(details *metav1.StatusDetails) []metav1.StatusCause {
	if details == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(details.Causes), func(c metav1.StatusCause) bool { return c.Field == "<nil>" })
}

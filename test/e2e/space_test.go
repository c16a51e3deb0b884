package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegauge/tidegauge/test/until"
)

const (
	// await bounds every wait for something that should take seconds, on a machine that
	// is busy with other tests.
	await = 90 * time.Second
	// pause is between two looks.
	pause = 100 * time.Millisecond
	// logTail is how much of a log a failing test shows, in bytes.
	logTail = 20_000
)

// space is the part of a bed that one test has for itself.
type space struct {
	*bed

	t         *testing.T
	namespace string
	region    string               // of AWS
	measured  map[string]time.Time // when the newest value of a metric was, see put
}

var spaces atomic.Int32

// newSpace makes a namespace, which is deleted when the test ends.
func (b *bed) newSpace(t *testing.T) *space {
	t.Helper()
	id := letters(int(spaces.Add(1)))
	s := &space{bed: b, t: t, namespace: "e2e-" + id, region: "eu-" + id + "-1", measured: map[string]time.Time{}}
	t.Logf("namespace %s, region %s", s.namespace, s.region)
	namespaces := b.Client().CoreV1().Namespaces()
	_, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.WithoutCancel(t.Context()) // The test's context ends before its cleanup.
	t.Cleanup(func() {
		if t.Failed() {
			s.describe(ctx)
		}
		if err := namespaces.Delete(ctx, s.namespace, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return s
}

// letters writes n with letters only, as regions have no other number than their last.
func letters(n int) string {
	var text []byte
	for ; n > 0; n = (n - 1) / 26 {
		text = append(text, 'a'+byte((n-1)%26))
	}
	return string(text)
}

// describe logs what a user would look at.
func (s *space) describe(ctx context.Context) {
	for _, args := range [][]string{
		{"get", "externalmetrics,hpa,deployments", "-o", "wide"},
		{"describe", "externalmetrics,hpa"},
	} {
		text, err := s.runKubectl(ctx, args...)
		if err != nil {
			text += err.Error()
		}
		s.t.Logf("kubectl %s:\n%s", strings.Join(args, " "), tail(text))
	}
}

// kubectl runs the real kubectl as an administrator in the namespace of the space and
// returns what it writes to stdout.
func (s *space) kubectl(args ...string) string {
	s.t.Helper()
	text, err := s.runKubectl(s.t.Context(), args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

// runKubectl is kubectl for a command that may fail: the error has what it wrote to stderr.
func (s *space) runKubectl(ctx context.Context, args ...string) (string, error) {
	return s.Kubectl(ctx, "", append([]string{"--namespace=" + s.namespace}, args...)...)
}

// eventually waits until check returns nil, and fails the test when it never does.
func (s *space) eventually(what string, check func(ctx context.Context) error) {
	s.t.Helper()
	if err := eventually(s.t.Context(), check); err != nil {
		s.t.Fatalf("%s: %v", what, err)
	}
}

func eventually(ctx context.Context, check func(ctx context.Context) error) error {
	return until.Within(ctx, await, check)
}

// mentions is an error unless text has all of the words.
func mentions(text string, words ...string) error {
	for _, word := range words {
		if !strings.Contains(text, word) {
			return fmt.Errorf("%q is not in:\n%s", word, text)
		}
	}
	return nil
}

func tail(text string) string {
	if len(text) > logTail {
		_, text, _ = strings.Cut(text[len(text)-logTail:], "\n")
	}
	return text
}

package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/test/env"
)

var apiServices = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}

// TestChartRuns shows that the chart with its defaults runs its own image as its own pods in
// a namespace that enforces Pod Security restricted, that its APIs are available by verified
// TLS, and that a real HPA scales by them, from zero too.
func TestChartRuns(t *testing.T) {
	b := sharedBed(t)
	for _, pod := range b.awaitPods(t) {
		status := pod.Status.ContainerStatuses[0]
		if pod.Spec.NodeName != env.RealNode || !strings.HasPrefix(status.ContainerID, "containerd://") || status.RestartCount != 0 {
			t.Errorf("%s runs on %s as container %q after %d restarts", pod.Name, pod.Spec.NodeName, status.ContainerID, status.RestartCount)
		}
		if !strings.HasPrefix(pod.Spec.Containers[0].Image, image+":") {
			t.Errorf("%s runs the image %s", pod.Name, pod.Spec.Containers[0].Image)
		}
	}
	want := []string{"v1beta1.custom.metrics.k8s.io", "v1beta1.external.metrics.k8s.io", "v1beta2.custom.metrics.k8s.io"}
	if got := b.verifiedAPIs(t); !slices.Equal(got, want) {
		t.Errorf("the APIs with a verified certificate are %v, want %v", got, want)
	}
	b.awaitReplicas(t, needed)
	b.purge(t)
	b.awaitReplicas(t, 0)
	if err := b.send(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.awaitReplicas(t, needed)
}

// verifiedAPIs are the APIServices that lead to the release, whose certificate is verified.
func (b *bed) verifiedAPIs(t *testing.T) []string {
	t.Helper()
	list, err := b.Dynamic().Resource(apiServices).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, o := range list.Items {
		service, _, _ := unstructured.NestedString(o.Object, "spec", "service", "namespace")
		bundle, _, _ := unstructured.NestedString(o.Object, "spec", "caBundle")
		skip, _, _ := unstructured.NestedBool(o.Object, "spec", "insecureSkipTLSVerify")
		if service == namespace && bundle != "" && !skip {
			names = append(names, o.GetName())
		}
	}
	slices.Sort(names)
	return names
}

// TestHelmTest runs the chart's own test, as its user does after an install.
func TestHelmTest(t *testing.T) {
	b := sharedBed(t)
	out, err := b.helm(t.Context(), "test", release, "--timeout", deadline.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Log(out)
}

// TestConfigurationChangesWithoutRestart shows that the pods take what an upgrade has in the
// ConfigMap once the kubelet has written it.
func TestConfigurationChangesWithoutRestart(t *testing.T) {
	b := sharedBed(t)
	before := b.awaitPods(t)
	b.upgrade(t, "--set", "rules.custom[0].name.as=requests_now")
	path := "/apis/custom.metrics.k8s.io/v1beta2/namespaces/" + workloads + "/metrics/requests_now"
	client := b.reader(t)
	eventually(t, path, func(ctx context.Context) error { return client.read(ctx, path, `"value":"17"`) })
	if after := b.awaitPods(t); names(after) != names(before) {
		t.Errorf("the pods are %s, want those from before: %s", names(after), names(before))
	}
	b.upgrade(t)
	b.awaitServing(t)
}

func names(pods []corev1.Pod) string {
	var all []string
	for _, pod := range pods {
		all = append(all, pod.Name)
	}
	return strings.Join(all, " ")
}

// awaitNew waits until the release has two ready pods, of which none, or all but the one
// that stays, was there before.
func (b *bed) awaitNew(t *testing.T, before []corev1.Pod, stays int) {
	t.Helper()
	old := map[string]bool{}
	for _, pod := range before {
		old[pod.Name] = true
	}
	eventually(t, "new pods", func(ctx context.Context) error {
		pods, err := b.pods(ctx)
		if err != nil {
			return err
		}
		kept := 0
		for _, pod := range pods {
			if !isReady(pod) {
				return fmt.Errorf("%s is not ready", pod.Name)
			}
			if old[pod.Name] {
				kept++
			}
		}
		if len(pods) != 2 || kept != stays {
			return errors.New("the pods are " + names(pods))
		}
		return nil
	})
	b.awaitPods(t)
}

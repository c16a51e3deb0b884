package scale

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/fakeaws"
	"github.com/tidegauge/tidegauge/test/promproxy"
	"github.com/tidegauge/tidegauge/test/testcluster"
	"github.com/tidegauge/tidegauge/test/until"
)

const (
	// adapterVariable is the path of the adapter, in place of .bin/adapter.
	adapterVariable = "TIDEGAUGE_ADAPTER"
	// hpaSync is how often the HPA controller looks at each HPA.
	hpaSync = 2 * time.Second
	// stepLimit bounds every wait for something that should take seconds, on a machine that
	// is busy with other tests.
	stepLimit = 90 * time.Second
	// lookInterval is between two looks.
	lookInterval = 200 * time.Millisecond
	// logTail is how much of a log a failing test shows, in bytes.
	logTail = 20_000
)

// startCluster starts a control plane with so many simulated nodes for one test.
func startCluster(t *testing.T, nodes int) *env.Cluster {
	t.Helper()
	return testcluster.Start(t, env.Options{Nodes: nodes, HPASync: hpaSync})
}

// bed is a cluster with an adapter between its HPAs and what plays their metrics.
type bed struct {
	*env.Cluster

	t          *testing.T
	aws        *fakeaws.Server
	prometheus *promproxy.Server
	load       *load // what prometheus has scraped
	adapter    *env.Adapter
}

func startBed(t *testing.T, nodes int) *bed {
	t.Helper()
	b := &bed{t: t, Cluster: startCluster(t, nodes)}
	ctx := context.WithoutCancel(t.Context()) // The test's context ends before its cleanup.
	var err error
	if b.aws, err = fakeaws.Start(ctx, fakeaws.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.aws.Close)
	if b.prometheus, err = promproxy.Start(ctx, promproxy.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.prometheus.Close)
	b.load = b.startLoad()
	b.prometheus.Play(b.load.play)
	b.startAdapter()
	return b
}

// startLoad follows the pods of the cluster, which share what comes.
func (b *bed) startLoad() *load {
	b.t.Helper()
	factory := informers.NewSharedInformerFactory(b.Client(), 0)
	pods := factory.Core().V1().Pods()
	l := newLoad(pods.Lister())
	pods.Informer() // Asking for it is what makes the factory start it.
	factory.Start(b.t.Context().Done())
	b.t.Cleanup(factory.Shutdown)
	for kind, synced := range factory.WaitForCacheSync(b.t.Context().Done()) {
		if !synced {
			b.t.Fatalf("%v were not listed", kind)
		}
	}
	return l
}

func (b *bed) startAdapter() {
	b.t.Helper()
	rules, err := filepath.Abs(filepath.Join("testdata", "rules.yaml")) // The adapter has a folder of its own.
	if err != nil {
		b.t.Fatal(err)
	}
	b.adapter, err = b.StartAdapter(b.t.Context(), env.AdapterOptions{
		Binary: os.Getenv(adapterVariable),
		Args:   []string{"--config=" + rules, "--prometheus-url=" + b.prometheus.URL(), "--metrics-relist-interval=2s"},
		Env: []string{
			"AWS_ENDPOINT_URL=" + b.aws.URL(), "AWS_REGION=" + fakeaws.DefaultRegion,
			"AWS_ACCESS_KEY_ID=" + b.aws.AccessKeyID(), "AWS_SECRET_ACCESS_KEY=" + b.aws.SecretAccessKey(),
		},
		ResourceMetrics: true,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if b.t.Failed() {
			log := b.adapter.Logs()
			b.t.Logf("the adapter's log ends with:\n%s", log[max(0, len(log)-logTail):])
		}
	})
}

// tier is a Deployment with the HPA of the same name.
type tier struct{ namespace, name string }

// scaled is what a tier is at the moment.
type scaled struct {
	desired         int32 // by the HPA
	replicas, ready int32
}

// look says what a tier is, or why its HPA knows no number.
func (b *bed) look(ctx context.Context, of tier) (scaled, error) {
	hpa, err := b.Client().AutoscalingV2().HorizontalPodAutoscalers(of.namespace).Get(ctx, of.name, metav1.GetOptions{})
	if err != nil {
		return scaled{}, err
	}
	d, err := b.Client().AppsV1().Deployments(of.namespace).Get(ctx, of.name, metav1.GetOptions{})
	if err != nil {
		return scaled{}, err
	}
	s := scaled{hpa.Status.DesiredReplicas, d.Status.Replicas, d.Status.ReadyReplicas}
	return s, errors.Join(scalingActive(hpa), observed(d))
}

// scalingActive is nil if the HPA could compute the replicas when it last looked.
func scalingActive(hpa *autoscalingv2.HorizontalPodAutoscaler) error {
	for _, c := range hpa.Status.Conditions {
		if c.Type == autoscalingv2.ScalingActive && c.Status != corev1.ConditionTrue {
			return fmt.Errorf("HPA %s: %s is %s: %s: %s", hpa.Name, c.Type, c.Status, c.Reason, c.Message)
		}
		if c.Type == autoscalingv2.ScalingActive {
			return nil
		}
	}
	return fmt.Errorf("HPA %s has no condition %s yet", hpa.Name, autoscalingv2.ScalingActive)
}

// observed is nil if the status of a Deployment is of its newest spec.
func observed(d *appsv1.Deployment) error {
	if d.Status.ObservedGeneration < d.Generation {
		return fmt.Errorf("deployment %s is being changed", d.Name)
	}
	return nil
}

// is nil if all of a tier is as large as that.
func (s scaled) is(want int32) error {
	if s.desired != want || s.replicas != want || s.ready != want {
		return fmt.Errorf("the HPA wants %d, there are %d pods, ready %d; want %d", s.desired, s.replicas, s.ready, want)
	}
	return nil
}

// awaitSize waits until a tier is as large as that.
func (b *bed) awaitSize(of tier, want int32) {
	b.t.Helper()
	eventually(b.t, fmt.Sprintf("%s: %d replicas", of.name, want), func(ctx context.Context) error {
		s, err := b.look(ctx, of)
		if err != nil {
			return err
		}
		return s.is(want)
	})
}

// eventually waits until check returns nil, and fails the test when it never does.
func eventually(t *testing.T, what string, check func(ctx context.Context) error) {
	t.Helper()
	until.Holds(t, what, stepLimit, check)
}

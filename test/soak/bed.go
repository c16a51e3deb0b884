package soak

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/fakeaws"
	"github.com/tidegauge/tidegauge/test/promproxy"
	"github.com/tidegauge/tidegauge/test/until"
)

const (
	// readyLimit is how long everything may take to begin.
	readyLimit = 2 * time.Minute
	// lookPause is between two looks at something that is awaited.
	lookPause = 100 * time.Millisecond
	// remembersCalls is how many calls the stand-in for Prometheus remembers.
	remembersCalls = 100
)

// bed is the adapter between a cluster and backends whose data is known.
type bed struct {
	*env.Cluster

	tally     *tally
	aws       *fakeaws.Server
	proxy     *promproxy.Server
	adapter   *env.Adapter
	config    *mount
	self      *http.Client // reads the adapter's own metrics
	workloads []*workload
	noNumber  atomic.Bool // Prometheus has NaN
	lastPut   time.Time   // see put

	truth    *truth
	demands  *demands
	replicas *replicas
	pods     *pods
	fresh    *freshness
	episodes *episodes
	away     absence
	rests    []sample
	// residentPart is by which part the adapter's resident memory may grow.
	residentPart float64
	log          logReader

	passingMu sync.Mutex
	passing   []*workload // objects that come and go

	running sync.WaitGroup
	cancel  context.CancelFunc // ends what is running
}

// startBed starts everything, and returns once every HPA has computed its number.
func startBed(ctx context.Context, o Options, t *tally) (*bed, error) {
	b := &bed{
		tally: t, workloads: newWorkloads(), truth: newTruth(), demands: &demands{number: map[string]int32{}},
		replicas: newReplicas(), pods: &pods{runs: map[string]map[string]time.Time{}},
		fresh: &freshness{last: map[string]time.Time{}}, episodes: &episodes{}, cancel: func() {},
	}
	if err := b.start(ctx, o); err != nil {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
		defer cancel()
		if b.adapter != nil {
			err = fmt.Errorf("%w\nthe adapter's log ends with:\n%s", err, tail(b.adapter.Logs()))
		}
		return nil, errors.Join(err, b.stop(stop))
	}
	return b, nil
}

func (b *bed) start(ctx context.Context, o Options) error {
	for _, w := range b.workloads {
		b.demands.set(w.name, firstDemand)
	}
	if err := b.startBackends(ctx); err != nil {
		return err
	}
	var err error
	if b.Cluster, err = env.Start(ctx, env.Options{Nodes: 1}); err != nil {
		return err
	}
	if b.config, err = newMount(filepath.Join(b.Dir(), "config"), configuration); err != nil {
		return err
	}
	if err := b.deploy(ctx); err != nil {
		return err
	}
	binary := cmp.Or(o.Adapter, filepath.Join(b.Binaries(), "adapter"))
	if b.residentPart, err = residentPart(binary); err != nil {
		return err
	}
	b.adapter, err = b.StartAdapter(ctx, env.AdapterOptions{
		Binary: binary,
		Args: []string{
			"--config=" + b.config.file(), "--prometheus-url=" + b.proxy.URL(),
			"--metrics-relist-interval=5s", "--metrics-max-age=10m",
		},
		Env: []string{
			"AWS_ENDPOINT_URL=" + b.aws.URL(), "AWS_REGION=" + regions[0],
			"AWS_ACCESS_KEY_ID=" + b.aws.AccessKeyID(), "AWS_SECRET_ACCESS_KEY=" + b.aws.SecretAccessKey(),
		},
	})
	if err != nil {
		return err
	}
	if b.self, err = rest.HTTPClientFor(b.adapter.Config(b.Config())); err != nil {
		return err
	}
	return b.scale(ctx)
}

// startBackends starts what stands for AWS and Prometheus, and the new values.
func (b *bed) startBackends(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx) // They outlive an interrupt until they are stopped.
	ctx, b.cancel = context.WithCancel(ctx)
	var err error
	if b.aws, err = fakeaws.Start(ctx, fakeaws.Options{}); err != nil {
		return err
	}
	if b.proxy, err = promproxy.Start(ctx, promproxy.Options{Recent: remembersCalls}); err != nil {
		return err
	}
	b.proxy.Play(b.play)
	b.running.Go(func() {
		tick := time.NewTicker(lookPause)
		defer tick.Stop()
		for ctx.Err() == nil {
			b.put(time.Now())
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	return nil
}

// stop ends everything that was started.
func (b *bed) stop(ctx context.Context) error {
	b.cancel()
	b.running.Wait()
	var errs []error
	if b.adapter != nil {
		_, err := b.adapter.Stop(ctx)
		errs = append(errs, err)
		b.readLog()
		b.log.kept = b.adapter.Logs()
	}
	if b.Cluster != nil {
		errs = append(errs, b.Stop())
	}
	if b.aws != nil {
		b.aws.Close()
	}
	if b.proxy != nil {
		b.proxy.Close()
	}
	return errors.Join(errs...)
}

// deploy creates the Deployments and ExternalMetrics, and the reader.
func (b *bed) deploy(ctx context.Context) error {
	_, err := b.Client().CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	for _, w := range b.workloads {
		if err := b.create(ctx, w); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return b.createReader(ctx)
}

// create creates the Deployment of a workload, and its ExternalMetric if it has one.
func (b *bed) create(ctx context.Context, w *workload) error {
	if _, err := b.Client().AppsV1().Deployments(namespace).Create(ctx, w.deployment(), metav1.CreateOptions{}); err != nil {
		return err
	}
	if w.kind != cloudWatch {
		return nil
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(w.object())
	if err != nil {
		return err
	}
	objects := b.Dynamic().Resource(metricsaws.Resource).Namespace(namespace)
	_, err = objects.Create(ctx, &unstructured.Unstructured{Object: content}, metav1.CreateOptions{})
	return err
}

const readerName = "reader"

// createReader makes the ServiceAccount that reads.
func (b *bed) createReader(ctx context.Context) error {
	meta := metav1.ObjectMeta{Name: readerName}
	_, err := b.Client().CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = b.Client().RbacV1().Roles(namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{"external.metrics.k8s.io", "custom.metrics.k8s.io"}, Resources: []string{"*"}, Verbs: []string{"get", "list"},
	}}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = b.Client().RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: readerName},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: readerName, Namespace: namespace}},
	}, metav1.CreateOptions{})
	return err
}

// scale creates the HPAs once every metric can be read, and waits until each has computed
// the number that its Deployment has.
func (b *bed) scale(ctx context.Context) error {
	// The watch goes on as long as the backends.
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	backends := b.cancel
	b.cancel = func() {
		cancel()
		backends()
	}
	for _, w := range b.workloads {
		b.replicas.hold(w.name, firstDemand)
	}
	if err := b.watch(watching); err != nil {
		return err
	}
	first, err := newReader(b.adapter.Config(b.Config()), false)
	if err != nil {
		return err
	}
	defer first.client.CloseIdleConnections()
	for _, w := range b.workloads {
		err := await(ctx, w.metric, readyLimit, func(ctx context.Context) error { return complete(first.read(ctx, w)) })
		if err != nil {
			return err
		}
	}
	for _, w := range b.workloads {
		if _, err := b.Client().AutoscalingV2().HorizontalPodAutoscalers(namespace).Create(ctx, w.hpa(), metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	for _, w := range b.workloads {
		err := await(ctx, w.name, readyLimit, func(context.Context) error { return b.replicas.reached(w.name, firstDemand) })
		if err != nil {
			return err
		}
	}
	return nil
}

// complete is nil if an answer has all that it should at the start.
func complete(one read) error {
	if one.err != nil {
		return one.err
	}
	if one.status != http.StatusOK {
		return fmt.Errorf("%d: %s", one.status, shown(one.body))
	}
	items, err := parse(one.workload, one.body)
	want := 1
	if one.workload.kind == ofPods {
		want = firstDemand
	}
	if err == nil && len(items) != want {
		err = fmt.Errorf("%d items, want %d", len(items), want)
	}
	return err
}

// published are the workloads whose metric is in CloudWatch.
func (b *bed) published() []*workload {
	b.passingMu.Lock()
	defer b.passingMu.Unlock()
	all := slices.Clone(b.passing)
	for _, w := range b.workloads {
		if w.kind == cloudWatch {
			all = append(all, w)
		}
	}
	return all
}

func (b *bed) setPassing(workloads ...*workload) {
	b.passingMu.Lock()
	defer b.passingMu.Unlock()
	b.passing = workloads
}

// workloadNames are those that stay.
func (b *bed) workloadNames() []string {
	names := make([]string, len(b.workloads))
	for i, w := range b.workloads {
		names[i] = w.name
	}
	return names
}

// await looks until there is nothing to object to.
func await(ctx context.Context, what string, limit time.Duration, look func(context.Context) error) error {
	if err := until.Within(ctx, limit, look); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

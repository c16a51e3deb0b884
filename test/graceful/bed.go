package graceful

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/test/balancer"
	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/fakeaws"
	"github.com/tidegauge/tidegauge/test/until"
)

const (
	// deadline is how long anything is waited for, however loaded the machine is.
	deadline = 3 * time.Minute
	interval = 200 * time.Millisecond
	// requeue is how late a gate opens. It is before the load, so that it need not be as in AWS.
	requeue = time.Second

	// region and queueName are those of the demo's ConfigMap.
	region    = "eu-central-1"
	queueName = "orders"
)

// bed is a cluster with a real node that has the image of the demo.
type bed struct {
	*env.Cluster

	opts Options
	aws  *fakeaws.Server
	root string
}

func startBed(ctx context.Context, o Options) (*bed, error) {
	root, err := env.Root()
	if err != nil {
		return nil, err
	}
	cluster, err := env.Start(ctx, env.Options{Nodes: 1, RealNode: true, Progress: func(step string) { fmt.Fprintln(o.Progress, step) }})
	if err != nil {
		return nil, err
	}
	b := &bed{Cluster: cluster, opts: o, root: root}
	if err := b.prepare(ctx); err != nil {
		return nil, errors.Join(err, b.stop())
	}
	return b, nil
}

func (b *bed) stop() error {
	err := b.Stop()
	if b.aws != nil {
		b.aws.Close()
	}
	return err
}

// prepare starts what web needs besides the cluster. That is no database: each pod keeps orders
// of its own, so that nothing but the pods can fail a request.
func (b *bed) prepare(ctx context.Context) (err error) {
	b.aws, err = fakeaws.Start(ctx, fakeaws.Options{Addr: env.NodeAddress + ":0"})
	if err != nil {
		return err
	}
	client := sqs.NewFromConfig(aws.Config{
		Region: region, BaseEndpoint: aws.String(b.aws.URL()),
		Credentials: credentials.NewStaticCredentialsProvider(b.aws.AccessKeyID(), b.aws.SecretAccessKey(), ""),
	})
	if _, err := client.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: aws.String(queueName)}); err != nil {
		return err
	}
	t, err := b.render(ctx, overlays[0])
	if err != nil {
		return err
	}
	return b.LoadImage(ctx, t.container().Image, b.orders())
}

// awsVariables lead pods to the stand-in.
func (b *bed) awsVariables() []corev1.EnvVar {
	return []corev1.EnvVar{
		{Name: "AWS_ENDPOINT_URL", Value: b.aws.URL()},
		{Name: "AWS_ACCESS_KEY_ID", Value: b.aws.AccessKeyID()},
		{Name: "AWS_SECRET_ACCESS_KEY", Value: b.aws.SecretAccessKey()},
	}
}

// orders is the demo's program, which `make build` built.
func (b *bed) orders() string { return filepath.Join(b.Binaries(), "orders") }

// overlay makes a folder with the kustomization of an overlay whose pods keep orders for themselves.
// kustomize takes no absolute paths, so links lead there.
func (b *bed) overlay(name string) (dir string, err error) {
	demo, dir := filepath.Join(b.root, "deploy", "demo"), filepath.Join(b.Dir(), "overlay-"+name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	for link, to := range map[string]string{"overlay": filepath.Join(demo, "overlays", name), "sqlite": filepath.Join(demo, "components", "sqlite")} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
	return dir, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte("resources: [overlay]\ncomponents: [sqlite]\n"), 0o600)
}

func (b *bed) say(format string, args ...any) { fmt.Fprintf(b.opts.Progress, format+"\n", args...) }

// shop is the web tier in the cluster, with its load balancer.
type shop struct {
	*bed

	balancer *balancer.Balancer
}

// open starts a tier and returns when its few pods serve.
func (b *bed) open(ctx context.Context, v Variant) (*shop, error) {
	t, err := b.render(ctx, v)
	if err != nil {
		return nil, err
	}
	text, err := t.text()
	if err != nil {
		return nil, err
	}
	if err := b.Apply(ctx, text); err != nil {
		return nil, err
	}
	s := &shop{bed: b}
	// Before the pods, as a gate is only opened by a load balancer that knows of it.
	if s.balancer, err = balancer.Start(ctx, t.balancing); err != nil {
		return nil, err
	}
	if _, err = b.Client().AppsV1().Deployments(namespace).Create(ctx, t.deployment, metav1.CreateOptions{}); err == nil {
		err = s.await(ctx, left)
	}
	if err != nil {
		return nil, errors.Join(err, s.close(ctx))
	}
	return s, nil
}

// close ends the load balancer and the pods, without waiting for a drain.
func (s *shop) close(ctx context.Context) error {
	s.balancer.Close() //nolint:contextcheck // The balancer has its own, and ends it.
	// After a failure, too, nothing shall be in the way of the next.
	ctx = context.WithoutCancel(ctx)
	err := s.Client().AppsV1().Deployments(namespace).Delete(ctx, web, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationForeground)})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return until.Within(ctx, deadline, func(ctx context.Context) error {
		_, err := s.Client().AppsV1().Deployments(namespace).Get(ctx, web, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		gone := err != nil
		pods, err := s.pods(ctx)
		if err != nil || gone && len(pods) == 0 {
			return err
		}
		for _, pod := range pods {
			err := s.Client().CoreV1().Pods(namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(1))})
			if err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
		return fmt.Errorf("the Deployment of the last variant is still there, or some of its pods: %d", len(pods))
	})
}

func (s *shop) pods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := s.Client().CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + web})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// scale sets how many pods there shall be.
func (s *shop) scale(ctx context.Context, replicas int) error {
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
	_, err := s.Client().AppsV1().Deployments(namespace).Patch(ctx, web, types.MergePatchType, patch, metav1.PatchOptions{}, "scale")
	return err
}

// await waits until there are so many pods and no others, all ready and all healthy targets.
func (s *shop) await(ctx context.Context, want int) error {
	return until.Within(ctx, deadline, func(ctx context.Context) error {
		pods, err := s.pods(ctx)
		if err != nil {
			return err
		}
		ready := 0
		var others []string
		for _, pod := range pods {
			if slices.ContainsFunc(pod.Status.Conditions, isReady) {
				ready++
			} else {
				others = append(others, stateOf(pod))
			}
		}
		snapshot := s.balancer.Snapshot()
		healthy := snapshot.Hosts(balancer.Healthy)
		if len(pods) == want && ready == want && healthy == want && snapshot.Hosts(balancer.Unhealthy) == 0 {
			return nil
		}
		return fmt.Errorf("of %d pods %d are ready and %d targets are healthy, want %d of each; the load balancer's problem: %q; %s",
			len(pods), ready, healthy, want, snapshot.Problem, strings.Join(others, "; "))
	})
}

func isReady(c corev1.PodCondition) bool {
	return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
}

// stateOf says why a pod is not ready. The pod is gone when somebody could ask.
func stateOf(pod corev1.Pod) string {
	state := []string{fmt.Sprintf("%s is %s", pod.Name, pod.Status.Phase)}
	for _, c := range pod.Status.Conditions {
		if c.Status != corev1.ConditionTrue && c.Message != "" {
			state = append(state, fmt.Sprintf("%s: %s", c.Type, c.Message))
		}
	}
	for _, c := range pod.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil {
			state = append(state, fmt.Sprintf("waits: %s %s", w.Reason, w.Message))
		}
		if e := c.LastTerminationState.Terminated; e != nil {
			state = append(state, fmt.Sprintf("ended before: %d %s %s", e.ExitCode, e.Reason, e.Message))
		}
	}
	return strings.Join(state, ", ")
}

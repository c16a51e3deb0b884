package bench

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/test/promproxy"
)

const (
	// writers are how many requests create objects at a time.
	writers  = 20
	podLimit = 5 * time.Minute
)

// deployment is one whose pods have the label app with its name.
type deployment struct {
	namespace, name string
	replicas        int32
}

// deployments creates Deployments with their namespaces, and gives their pods once all
// run.
func (b *bed) deployments(ctx context.Context, wanted []deployment) ([]types.NamespacedName, error) {
	pods, namespaces := 0, map[string]bool{}
	for _, d := range wanted {
		pods += int(d.replicas)
		if !namespaces[d.namespace] {
			namespaces[d.namespace] = true
			if err := b.namespace(ctx, d.namespace); err != nil {
				return nil, err
			}
		}
	}
	err := b.createMany(ctx, "Deployments", len(wanted), func(ctx context.Context, i int) error {
		d := wanted[i]
		_, err := b.Client().AppsV1().Deployments(d.namespace).Create(ctx, d.object(), metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return nil, err
	}
	var running []types.NamespacedName
	err = b.await(ctx, "pods", podLimit, func(ctx context.Context) (string, bool, error) {
		running = running[:0]
		list, err := b.Client().CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "status.phase=Running", ResourceVersion: "0"})
		if err != nil {
			return "", false, err
		}
		for _, p := range list.Items {
			if namespaces[p.Namespace] {
				running = append(running, types.NamespacedName{Namespace: p.Namespace, Name: p.Name})
			}
		}
		return fmt.Sprintf("%d of %d run", len(running), pods), len(running) == pods, nil
	})
	return running, err
}

func (b *bed) namespace(ctx context.Context, name string) error {
	_, err := b.Client().CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// createMany creates n objects, and says from time to time how many there are.
func (b *bed) createMany(ctx context.Context, what string, n int, create func(ctx context.Context, i int) error) error {
	var created atomic.Int64
	g, creating := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	done := make(chan error, 1)
	go func() {
		for i := range n {
			g.Go(func() error {
				if err := create(creating, i); err != nil {
					return fmt.Errorf("creating %s: %w", what, err)
				}
				created.Add(1)
				return nil
			})
		}
		done <- g.Wait()
	}()
	tick := time.NewTicker(sayInterval)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			b.say("%s: %d of %d created", what, created.Load(), n)
		}
	}
}

func (d deployment) object() *appsv1.Deployment {
	labels := map[string]string{"app": d.name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: d.namespace, Name: d.name, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(d.replicas),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app:1.0"}}},
			},
		},
	}
}

// requests is http_requests_total of the pods, each with a value of its own that no
// HPA with the target 100 acts on.
func requests(pods []types.NamespacedName) promproxy.Data {
	var data promproxy.Data
	for i, p := range pods {
		data = append(data, promproxy.Sample{
			Labels: map[string]string{"__name__": "http_requests_total", "namespace": p.Namespace, "pod": p.Name},
			Value:  strconv.Itoa(requestsOf(i)),
		})
	}
	return data
}

// requestsOf is within the tolerance of HPAs, which is a tenth.
func requestsOf(pod int) int { return requestsTarget - 5 + pod%11 }

const requestsTarget = 100

package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
)

const (
	// leastUptime is how long a process must have run before memory may end it: one that
	// comes near its limit sooner would do so again.
	leastUptime = time.Minute
	// backOffReset is the same after a restart. The kubelet restarts a container at once the
	// first time, and then waits longer each time, up to 5 minutes, until one has run for 10
	// (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy).
	backOffReset = 10 * time.Minute
	// turn is how long a replica lets each of those go first that come before it: longer
	// than probes take to find that one is not ready. Two that come near their limits at once
	// would take each other for the one that answers meanwhile.
	turn = 20 * time.Second
	// podCallTimeout is how long one look at the pods may take.
	podCallTimeout = 5 * time.Second
	// maxReplicas is how many pods are looked at.
	maxReplicas = 100
)

// standing is how this replica is among those of its Deployment.
type standing struct {
	// ready says whether the kubelet has found this one to be ready.
	ready bool
	// restarted says whether a container of its pod has ended before.
	restarted bool
	// others are how many others are ready, and before how many of them come first by name.
	others, before int
}

// reasonToStay says why a replica that has run for up, and has been near its limit for full,
// had better wait for the kernel; "" if it may stop. A stop takes the replica out of the
// Service for longer than a kill does. It loses nothing if another answers meanwhile, and
// only then.
func (s standing) reasonToStay(up, full time.Duration) string {
	switch {
	case s.others == 0:
		return "no other replica is ready, which could answer meanwhile"
	case up < leastUptime:
		return fmt.Sprintf("it has run for less than %v, and would come as far again", leastUptime)
	case s.restarted && up < backOffReset:
		return fmt.Sprintf("it has been restarted less than %v ago, and the kubelet would make it wait now", backOffReset)
	case full < time.Duration(s.before)*turn:
		return "another replica would go first"
	}
	return ""
}

// replicas are the pods of the ReplicaSet that a pod is of.
type replicas struct {
	kube           kubernetes.Interface
	namespace, pod string
}

// look asks the API server, for what it knows of endpoints is what counts.
func (r replicas) look(ctx context.Context) (standing, error) {
	ctx, cancel := context.WithTimeout(ctx, podCallTimeout)
	defer cancel()
	pods := r.kube.CoreV1().Pods(r.namespace)
	own, err := pods.Get(ctx, r.pod, metav1.GetOptions{})
	if err != nil {
		return standing{}, fmt.Errorf("pod %s/%s: %w", r.namespace, r.pod, err)
	}
	s := standing{
		ready: podReady(own),
		restarted: slices.ContainsFunc(own.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
			return c.RestartCount > 0
		}),
	}
	set, hash := metav1.GetControllerOf(own), own.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
	if set == nil || hash == "" {
		return s, nil
	}
	list, err := pods.List(ctx, metav1.ListOptions{
		LabelSelector: labels.Set{appsv1.DefaultDeploymentUniqueLabelKey: hash}.String(), Limit: maxReplicas,
	})
	if err != nil {
		return standing{}, fmt.Errorf("pods of %s/%s: %w", r.namespace, set.Name, err)
	}
	for i := range list.Items {
		p := &list.Items[i]
		of := metav1.GetControllerOf(p)
		if p.Name == own.Name || of == nil || of.UID != set.UID || p.DeletionTimestamp != nil || !podReady(p) {
			continue
		}
		s.others++
		if p.Name < own.Name {
			s.before++
		}
	}
	return s, nil
}

func podReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

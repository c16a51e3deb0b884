package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

const (
	// NodeLabel marks the runner's nodes, and is the key of the taint that keeps all pods off
	// them which do not ask for them.
	NodeLabel = "tidegauge.dev/runner"

	nodePrefix = "runner-"
	// leaseSeconds is how long a node counts as alive without a sign of life.
	leaseSeconds = 40
	renewEvery   = 5 * time.Second
)

// Place has the pods of a workload run on the runner's nodes, whose template is where a
// Deployment, StatefulSet, ReplicaSet, DaemonSet or Job has it. Other objects stay as they
// are.
func Place(o *unstructured.Unstructured) error {
	if !slices.Contains([]string{"DaemonSet", "Deployment", "Job", "ReplicaSet", "StatefulSet"}, o.GetKind()) {
		return nil
	}
	spec := []string{"spec", "template", "spec"}
	if err := unstructured.SetNestedField(o.Object, "true", append(spec, "nodeSelector", NodeLabel)...); err != nil {
		return fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err)
	}
	tolerations, _, err := unstructured.NestedSlice(o.Object, append(spec, "tolerations")...)
	if err != nil {
		return fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err)
	}
	tolerations = append(tolerations, map[string]any{"key": NodeLabel, "operator": string(corev1.TolerationOpExists)})
	return unstructured.SetNestedSlice(o.Object, tolerations, append(spec, "tolerations")...)
}

// ours says whether a node is the runner's.
func (r *Runner) ours(node string) bool {
	text, ok := strings.CutPrefix(node, nodePrefix)
	n, err := strconv.Atoi(text)
	return ok && err == nil && n >= 0 && n < r.opts.Nodes
}

// register makes the nodes, or takes over those that are there, and has them live.
func (r *Runner) register(ctx context.Context) error {
	for n := range r.opts.Nodes {
		node := r.node(n)
		_, err := r.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("node %s: %w", node.Name, err)
		}
		if err := r.renew(ctx, node.Name); err != nil {
			return fmt.Errorf("node %s: %w", node.Name, err)
		}
		patch, err := json.Marshal(map[string]any{"status": node.Status})
		if err != nil {
			return err
		}
		if _, err := r.client.CoreV1().Nodes().PatchStatus(ctx, node.Name, patch); err != nil {
			return fmt.Errorf("node %s: %w", node.Name, err)
		}
		r.running.Go(func() { r.keepAlive(ctx, node.Name) })
	}
	return nil
}

// node is a node as a kubelet would register it.
func (r *Runner) node(n int) *corev1.Node {
	name := nodePrefix + strconv.Itoa(n)
	pods := r.opts.Pods / r.opts.Nodes
	if n < r.opts.Pods%r.opts.Nodes {
		pods++
	}
	capacity := corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("500"),
		corev1.ResourceMemory: resource.MustParse("1Ti"),
		corev1.ResourcePods:   *resource.NewQuantity(int64(pods), resource.DecimalSI),
	}
	now := metav1.Now()
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			NodeLabel: "true", corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: runtime.GOARCH,
		}},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: NodeLabel, Effect: corev1.TaintEffectNoSchedule}}},
		Status: corev1.NodeStatus{
			Capacity:    capacity,
			Allocatable: capacity,
			Addresses:   []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeIP(n)}, {Type: corev1.NodeHostName, Address: name}},
			Conditions: []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Runs", Message: "pods of this node are processes",
				LastHeartbeatTime: now, LastTransitionTime: now,
			}},
		},
	}
}

func nodeIP(n int) string { return fmt.Sprintf("10.62.%d.%d", n/250, n%250+1) }

// hostIP is that of the node that a pod is on.
func hostIP(node string) string {
	n, err := strconv.Atoi(strings.TrimPrefix(node, nodePrefix))
	if err != nil {
		return ""
	}
	return nodeIP(n)
}

// keepAlive renews a node's lease until ctx is done.
func (r *Runner) keepAlive(ctx context.Context, node string) {
	ticker := time.NewTicker(renewEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := r.renew(ctx, node); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "The lease of a node was not renewed", "node", node)
		}
	}
}

func (r *Runner) renew(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, renewEvery)
	defer cancel()
	leases := r.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	now := metav1.NowMicro()
	patch, err := json.Marshal(map[string]any{"spec": coordinationv1.LeaseSpec{
		HolderIdentity: &node, LeaseDurationSeconds: new(int32(leaseSeconds)), RenewTime: &now,
	}})
	if err != nil {
		return err
	}
	_, err = leases.Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{})
	if !apierrors.IsNotFound(err) {
		return err
	}
	_, err = leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: coordinationv1.LeaseSpec{
		HolderIdentity: &node, LeaseDurationSeconds: new(int32(leaseSeconds)), RenewTime: &now,
	}}, metav1.CreateOptions{})
	return err
}

// errNotPlayed is what the runner has no means for.
var errNotPlayed = errors.New("the runner does not play that")

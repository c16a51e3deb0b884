package env

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tidegauge/tidegauge/test/until"
)

// nodeLabel marks the nodes that kwok plays.
var nodeLabel = labels.Set{"tidegauge.dev/node": "simulated"}

const (
	nodePods = "500"
	// leaseSeconds is how long a node counts as alive without a sign of life.
	leaseSeconds = 40
)

// stages say what kwok does to nodes and pods, see https://kwok.sigs.k8s.io/docs/user/stages-configuration/.
//
//go:embed stages.yaml
var stages []byte

// startNodes starts kwok and returns when all nodes are ready.
func (c *Cluster) startNodes(ctx context.Context) error {
	for n := range c.opts.Nodes {
		node := newNode(n)
		if c.opts.RealNode {
			node.Spec.Taints = []corev1.Taint{{Key: SimulatedTaint, Effect: corev1.TaintEffectNoSchedule}}
		}
		if _, err := c.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("node %d: %w", n, err)
		}
	}
	if err := c.startKwok(ctx); err != nil {
		return err
	}
	if err := until.Nil(ctx, c.nodesReady); err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	c.progress(fmt.Sprintf("%d nodes are ready", c.opts.Nodes))
	return nil
}

func (c *Cluster) startKwok(ctx context.Context) error {
	// It plays every kubelet.
	kubeconfig, err := c.componentKubeconfig("kwok", admins)
	if err != nil {
		return err
	}
	config := c.path("kwok.yaml")
	if err := os.WriteFile(config, stages, 0o600); err != nil {
		return err
	}
	port, err := FreePort()
	if err != nil {
		return err
	}
	return c.component(ctx, "kwok", "http://"+address(port)+"/healthz",
		"--kubeconfig="+kubeconfig,
		"--config="+config,
		"--server-address="+address(port),
		"--manage-nodes-with-label-selector="+nodeLabel.String(),
		fmt.Sprintf("--node-lease-duration-seconds=%d", leaseSeconds),
		"--cidr=10.64.0.0/16",
	)
}

// newNode is a node as a kubelet would register it. kwok adds the conditions.
func newNode(n int) *corev1.Node {
	name := fmt.Sprintf("node-%d", n)
	capacity := corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("500"),
		corev1.ResourceMemory: resource.MustParse("1Ti"),
		corev1.ResourcePods:   resource.MustParse(nodePods),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name:   name,
			Labels: labels.Merge(nodeLabel, labels.Set{corev1.LabelHostname: name, corev1.LabelOSStable: "linux"}),
		},
		Status: corev1.NodeStatus{
			Capacity:    capacity,
			Allocatable: capacity,
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("10.63.%d.%d", n/250, n%250+1)},
				{Type: corev1.NodeHostName, Address: name},
			},
		},
	}
}

func (c *Cluster) nodesReady(ctx context.Context) error {
	nodes, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: nodeLabel.String()})
	if err != nil {
		return err
	}
	for _, node := range nodes.Items {
		if !nodeReady(&node) {
			return fmt.Errorf("%s is not ready", node.Name)
		}
	}
	return nil
}

// nodeReady says whether pods can be scheduled there: the taint of a node that was
// not ready goes a moment after its condition.
func nodeReady(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue && !slices.ContainsFunc(node.Spec.Taints, passing)
		}
	}
	return false
}

// passing says whether a taint goes by itself.
func passing(taint corev1.Taint) bool { return taint.Key != SimulatedTaint }

package env

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegauge/tidegauge/test/until"
)

const (
	// RealNode is the name of the node that runs containers.
	RealNode = "real"
	// NodeAddress is the real node's own, by which its pods reach what listens there: the
	// API server, and a stand-in that is told to.
	NodeAddress = "10.66.0.1"
	// SimulatedTaint keeps pods that do not tolerate it off the nodes that kwok plays,
	// where there is a real node.
	SimulatedTaint = "tidegauge.dev/simulated"
	// RequireNodeVariable is the environment variable that makes it a failure, if it is not
	// empty, that a machine cannot have a real node.
	RequireNodeVariable = "TIDEGAUGE_REQUIRE_NODE"

	podNetwork = "10.65.0.0/24"
	// apiAddress is that of the Service kubernetes.
	apiAddress = "10.96.0.1"
	pauseImage = "tidegauge.dev/pause:1"
	// criNamespace is where containerd keeps what kubelets ask for.
	criNamespace = "k8s.io"
)

// NoNodeError says why there can be no real node.
type NoNodeError struct{ Reason string }

func (e *NoNodeError) Error() string { return "no real node: " + e.Reason }

var (
	// containerdConfig is described in containerd-config.toml(5).
	//
	//go:embed containerd.toml
	containerdConfig string
	// networkConfig is described at https://www.cni.dev/plugins/current/main/bridge/.
	//
	//go:embed network.json
	networkConfig string
	// kubeletConfig is described at https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/.
	//
	//go:embed kubelet.yaml
	kubeletConfig string
	// proxyConfig is described at https://kubernetes.io/docs/reference/config-api/kube-proxy-config.v1alpha1/.
	//
	//go:embed kube-proxy.yaml
	proxyConfig string
)

// checkRealNode says why a real node cannot be started here.
func (c *Cluster) checkRealNode() error {
	switch {
	case !c.opts.RealNode:
		return nil
	case c.opts.Detach:
		return errors.New("a real node ends with the one that starts it: it cannot be detached")
	}
	if err := CanRunNode(); err != nil {
		return err
	}
	if !isApart() {
		return &NoNodeError{Reason: "the program is not called by env.Apart"}
	}
	for _, name := range []string{"kubelet", "kube-proxy", "pause"} {
		if _, err := c.binary(name); err != nil {
			return fmt.Errorf("%w; and `make node`", err)
		}
	}
	return nil
}

// reach are the arguments that say where kube-apiserver listens, and how it finds the
// servers of aggregated APIs.
func (c *Cluster) reach() ([]string, error) {
	if c.opts.RealNode {
		return c.reachRealNode()
	}
	return []string{
		"--bind-address=127.0.0.1",
		// Routing to endpoints does not know Services of type ExternalName, which the adapter's is.
		"--enable-aggregator-routing=false",
		"--authorization-mode=RBAC",
		// A loopback address cannot be an endpoint of the Service "kubernetes".
		"--endpoint-reconciler-type=none",
	}, nil
}

// reachRealNode are those arguments where adapters run in pods and pods have logs.
func (c *Cluster) reachRealNode() ([]string, error) {
	const user = "kube-apiserver-kubelet-client"
	cert, err := c.pki.cluster.client(user, admins)
	if err != nil {
		return nil, err
	}
	files, err := cert.write(c.pki.cluster.dir, user)
	if err != nil {
		return nil, err
	}
	return []string{
		// The network has nothing but the test bed.
		"--bind-address=0.0.0.0", "--advertise-address=" + NodeAddress,
		"--enable-aggregator-routing=true",
		"--authorization-mode=Node,RBAC",
		"--kubelet-client-certificate=" + files.cert, "--kubelet-client-key=" + files.key,
		"--kubelet-certificate-authority=" + c.pki.cluster.file(),
		"--kubelet-preferred-address-types=InternalIP",
	}, nil
}

// apiNames are the names and addresses of kube-apiserver, besides localhost.
func (c *Cluster) apiNames() []string {
	names := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc"}
	if c.opts.RealNode {
		names = append(names, NodeAddress, apiAddress)
	}
	return names
}

// startRealNode starts a node with real containers and returns when it is ready.
func (c *Cluster) startRealNode(ctx context.Context) error {
	if !c.opts.RealNode {
		return nil
	}
	if err := c.startContainerd(ctx); err != nil {
		return err
	}
	pause, err := c.binary("pause")
	if err != nil {
		return err
	}
	if err := c.LoadImage(ctx, pauseImage, pause); err != nil {
		return err
	}
	if err := c.startKubelet(ctx); err != nil {
		return err
	}
	err = until.Nil(ctx, func(ctx context.Context) error {
		node, err := c.client.CoreV1().Nodes().Get(ctx, RealNode, metav1.GetOptions{})
		if err == nil && !nodeReady(node) {
			err = fmt.Errorf("its conditions are %s", conditionsOf(node))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("node %s: %w", RealNode, err)
	}
	if err := c.startProxy(ctx); err != nil {
		return err
	}
	c.progress("the real node is ready")
	return nil
}

func conditionsOf(node *corev1.Node) string {
	var all []string
	for _, c := range node.Status.Conditions {
		all = append(all, fmt.Sprintf("%s=%s (%s)", c.Type, c.Status, c.Message))
	}
	return strings.Join(all, ", ")
}

func (c *Cluster) startContainerd(ctx context.Context) error {
	path, err := exec.LookPath("containerd")
	if err != nil {
		return err
	}
	plugins, err := pluginDir()
	if err != nil {
		return err
	}
	port, err := FreePort()
	if err != nil {
		return err
	}
	err = c.writeNodeFiles(map[string]string{"containerd.toml": containerdConfig, "cni/network.conflist": networkConfig}, map[string]string{
		"METRICS": address(port), "PLUGINS": plugins, "PAUSE": pauseImage, "POD_NETWORK": podNetwork,
	})
	if err != nil {
		return err
	}
	_, err = c.run(ctx, command{
		name: "containerd", path: path, args: []string{"--config", c.path("node", "containerd.toml")},
		health: Health{URL: "http://" + address(port) + "/v1/metrics"},
	})
	return err
}

func (c *Cluster) startKubelet(ctx context.Context) error {
	kubeconfig, err := c.componentKubeconfig("system:node:"+RealNode, "system:nodes")
	if err != nil {
		return err
	}
	serving, err := c.pki.cluster.serving("kubelet", RealNode, NodeAddress)
	if err != nil {
		return err
	}
	port, err := FreePort()
	if err != nil {
		return err
	}
	healthPort, err := FreePort()
	if err != nil {
		return err
	}
	err = c.writeNodeFiles(map[string]string{"kubelet.yaml": kubeletConfig}, map[string]string{
		"ADDRESS": NodeAddress, "HEALTH_PORT": strconv.Itoa(healthPort), "PORT": strconv.Itoa(port),
		"CGROUP": "/" + cgroupName(), "CLUSTER_CA": c.pki.cluster.file(),
		"SERVING_CERT": serving.cert, "SERVING_KEY": serving.key,
	})
	if err != nil {
		return err
	}
	return c.component(ctx, "kubelet", "http://"+address(healthPort)+"/healthz",
		"--config="+c.path("node", "kubelet.yaml"),
		"--kubeconfig="+kubeconfig,
		"--hostname-override="+RealNode, "--node-ip="+NodeAddress,
		"--node-labels=tidegauge.dev/node="+RealNode,
		"--root-dir="+c.path("node", "kubelet"),
		"--cert-dir="+c.path("node", "kubelet", "pki"),
	)
}

func (c *Cluster) startProxy(ctx context.Context) error {
	kubeconfig, err := c.componentKubeconfig("system:kube-proxy")
	if err != nil {
		return err
	}
	health, err := FreePort()
	if err != nil {
		return err
	}
	metrics, err := FreePort()
	if err != nil {
		return err
	}
	err = c.writeNodeFiles(map[string]string{"kube-proxy.yaml": proxyConfig}, map[string]string{
		"KUBECONFIG": kubeconfig, "HEALTH": address(health), "METRICS": address(metrics),
		"NODE": RealNode, "POD_NETWORK": podNetwork,
	})
	if err != nil {
		return err
	}
	return c.component(ctx, "kube-proxy", "http://"+address(health)+"/healthz", "--config="+c.path("node", "kube-proxy.yaml"))
}

// writeNodeFiles writes files of the node's folder, with what the words in capital letters
// between @ stand for. @DIR@ is that folder.
func (c *Cluster) writeNodeFiles(files, words map[string]string) error {
	pairs := []string{"@DIR@", c.path("node")}
	for word, text := range words {
		pairs = append(pairs, "@"+word+"@", text)
	}
	replacer := strings.NewReplacer(pairs...)
	for name, text := range files {
		path := c.path("node", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(replacer.Replace(text)), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// LoadImage gives the real node an image, by the name that pods ask for. The path is that
// of a folder with an OCI layout, or of a static program, which becomes the only file of
// the image.
func (c *Cluster) LoadImage(ctx context.Context, name, path string) error {
	file, err := os.CreateTemp(c.path("node"), "image-*.tar")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if err := errors.Join(writeImage(file, name, path), file.Close()); err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	out, err := exec.CommandContext(ctx, "ctr", "--address", c.path("node", "containerd.sock"), "--namespace", criNamespace,
		"images", "import", "--snapshotter", "native", file.Name()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("image %s: %w: %s", name, err, out)
	}
	return nil
}

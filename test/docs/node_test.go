package docs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/test/env"
)

// node does for the release's Deployment what kubelet and kube-proxy would do: it runs the
// container as a process of this machine, with the rendered arguments, environment, files and
// ServiceAccount, brings it changed files, and leads the Service to it.
type node struct {
	*bed

	dir string // what the volumes hold

	mu      sync.Mutex
	process *process
	faults  []string
}

// process is a container that runs.
type process struct {
	cmd  *exec.Cmd
	key  string
	log  *bytes.Buffer
	done chan struct{}
}

func (b *bed) startNode() {
	b.node = &node{bed: b, dir: b.t.TempDir()}
	b.t.Cleanup(func() {
		b.node.stop()
		for _, fault := range b.node.faults {
			b.t.Log(fault)
		}
	})
	b.beside(func(ctx context.Context) {
		every(ctx, 50*time.Millisecond, func() {
			if err := b.node.look(ctx); err != nil && ctx.Err() == nil {
				b.node.fault(err.Error())
			}
		})
	})
}

// fault remembers what went wrong, once, for whoever reads the log of a test that failed.
func (n *node) fault(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.faults) < 100 && !slices.Contains(n.faults, text) {
		n.faults = append(n.faults, text)
	}
}

// look brings about what the API server has.
func (n *node) look(ctx context.Context) error {
	d, err := n.Client().AppsV1().Deployments(namespace).Get(ctx, release, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		n.stop()
		return nil
	}
	if err != nil {
		return err
	}
	if err := n.route(ctx); err != nil {
		return err
	}
	files, err := n.files(ctx, d)
	if err != nil {
		return err
	}
	if err := n.write(files); err != nil {
		return err
	}
	if n.running(keyOf(d)) {
		return nil
	}
	pod, err := n.pod(ctx, d)
	if err != nil {
		return err
	}
	n.stop()
	return n.run(ctx, d, pod)
}

// keyOf changes when the pods do.
func keyOf(d *appsv1.Deployment) string {
	text, err := d.Spec.Template.Marshal()
	if err != nil {
		panic(err) // What was read can be written.
	}
	return string(d.UID) + string(text)
}

func (n *node) running(key string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.process == nil || n.process.key != key {
		return false
	}
	select {
	case <-n.process.done:
		return false
	default:
		return true
	}
}

// stop ends the process as the kubelet does, at the end without patience.
func (n *node) stop() {
	n.mu.Lock()
	p := n.process
	n.process = nil
	n.mu.Unlock()
	if p == nil {
		return
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		n.fault(err.Error())
	}
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		if err := p.cmd.Process.Kill(); err != nil {
			n.fault(err.Error())
		}
		<-p.done
	}
	if !p.cmd.ProcessState.Success() {
		n.fault(fmt.Sprintf("the adapter ended with %s:\n%s", p.cmd.ProcessState, p.log))
	}
}

// ready returns nil if the adapter passes its readiness probe, or is not to run.
func (n *node) ready(ctx context.Context) error {
	_, err := n.Client().AppsV1().Deployments(namespace).Get(ctx, release, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	s, err := n.Client().CoreV1().Secrets(namespace).Get(ctx, release+"-tls", metav1.GetOptions{})
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.Data["ca.crt"])
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: release + "." + namespace + ".svc"}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/readyz", n.port), http.NoBody)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz answers %s", resp.Status)
	}
	return nil
}

func (n *node) run(ctx context.Context, d *appsv1.Deployment, pod string) error {
	kubeconfig, err := n.ServiceAccountKubeconfig(ctx, namespace, d.Spec.Template.Spec.ServiceAccountName)
	if err != nil {
		return err
	}
	container := d.Spec.Template.Spec.Containers[0]
	args := slices.Clone(container.Args)
	for _, mount := range container.VolumeMounts {
		for i := range args {
			args[i] = strings.Replace(args[i], "="+mount.MountPath+"/", "="+filepath.Join(n.dir, mount.Name)+"/", 1)
		}
	}
	// What a process outside of a pod has to be told.
	args = append(args, "--lister-kubeconfig="+kubeconfig, "--authentication-kubeconfig="+kubeconfig,
		"--authorization-kubeconfig="+kubeconfig, "--bind-address=127.0.0.1")
	p := &process{cmd: exec.Command(n.adapterBinary(), args...), key: keyOf(d), log: &bytes.Buffer{}, done: make(chan struct{})}
	p.cmd.Env = n.environment(container, pod)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // ProcessState has it.
	}()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.process = p
	return nil
}

// environment is the container's, and what leads it to the AWS of the test.
func (n *node) environment(container corev1.Container, pod string) []string {
	fields := map[string]string{"metadata.name": pod, "metadata.namespace": namespace}
	vars := []string{
		"PATH=" + os.Getenv("PATH"), "AWS_EC2_METADATA_DISABLED=true", "AWS_REGION=" + region,
		"AWS_ENDPOINT_URL=" + n.aws.URL(), "AWS_ENDPOINT_URL_STS=" + n.aws.URL(),
		"AWS_ACCESS_KEY_ID=" + n.aws.AccessKeyID(), "AWS_SECRET_ACCESS_KEY=" + n.aws.SecretAccessKey(),
	}
	for _, v := range container.Env {
		text := v.Value
		if v.ValueFrom != nil && v.ValueFrom.FieldRef != nil {
			text = fields[v.ValueFrom.FieldRef.FieldPath]
		}
		vars = append(vars, v.Name+"="+text)
	}
	return vars
}

// pod is the name of a pod of the Deployment that kwok plays.
func (n *node) pod(ctx context.Context, d *appsv1.Deployment) (string, error) {
	pods, err := n.Client().CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(d.Spec.Selector)})
	if err != nil {
		return "", err
	}
	for _, pod := range pods.Items {
		if pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning {
			return pod.Name, nil
		}
	}
	return "", fmt.Errorf("none of %d pods runs", len(pods.Items))
}

// files are what the volumes hold, by volume and name.
func (n *node) files(ctx context.Context, d *appsv1.Deployment) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, v := range d.Spec.Template.Spec.Volumes {
		switch {
		case v.Secret != nil:
			s, err := n.Client().CoreV1().Secrets(namespace).Get(ctx, v.Secret.SecretName, metav1.GetOptions{})
			if err != nil {
				return nil, err
			}
			for name, text := range s.Data {
				files[filepath.Join(v.Name, name)] = text
			}
		case v.ConfigMap != nil:
			m, err := n.Client().CoreV1().ConfigMaps(namespace).Get(ctx, v.ConfigMap.Name, metav1.GetOptions{})
			if err != nil {
				return nil, err
			}
			for name, text := range m.Data {
				files[filepath.Join(v.Name, name)] = []byte(text)
			}
		}
	}
	return files, nil
}

// write puts the files that have changed in the place of the old ones.
func (n *node) write(files map[string][]byte) error {
	for name, text := range files {
		path := filepath.Join(n.dir, name)
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path+".new", text, 0o600); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	}
	return nil
}

// route leads the release's Service to this machine: nothing serves the cluster's own
// addresses here. The API server verifies the certificate for the Service's name all the same.
func (n *node) route(ctx context.Context) error {
	s, err := n.Client().CoreV1().Services(namespace).Get(ctx, release, metav1.GetOptions{})
	if err != nil || s.Spec.Type == corev1.ServiceTypeExternalName {
		return err
	}
	patch := []byte(`{"spec":{"type":"ExternalName","externalName":"localhost","clusterIP":null,"clusterIPs":null,"ipFamilies":null,"ipFamilyPolicy":null,"internalTrafficPolicy":null}}`)
	_, err = n.Client().CoreV1().Services(namespace).Patch(ctx, release, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

func freePort(t *testing.T) int {
	t.Helper()
	port, err := env.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

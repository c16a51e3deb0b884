// Package reviewapp tests deploy/review-app as it is used: the program itself, with the
// rights that deploy/review-app/gateway/rbac.yaml gives, against the real API server with the
// CRDs of the Gateway API. Pods are processes, AWS is the stand-in, and what the tests have in
// the place of a gateway serves the routes over TLS with a wildcard certificate.
package reviewapp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/gitops/modules"
	"github.com/tidegauge/tidegauge/test/runner"
	"github.com/tidegauge/tidegauge/test/until"
)

const (
	// deadline is how long a test waits, however loaded the machine is.
	deadline = 3 * time.Minute
	// group is what rbac.yaml gives rights to.
	group = "review-app"
	// label is on every namespace that the program made.
	label = "tidegauge.dev/review-app"
	// enforce is the label by which Pod Security knows what pods of a namespace may have.
	enforce = "pod-security.kubernetes.io/enforce"
)

// TestMain is also what the program finds in its PATH as aws and gh.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "aws":
		os.Exit(told(playAWS(context.Background(), os.Args[1:])))
	case "gh":
		os.Exit(told(playGH(os.Args[1:])))
	}
	os.Exit(run(m))
}

func told(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, err)
	return 254 // The AWS CLI's code for an error of the service.
}

func run(m *testing.M) (code int) {
	defer func() {
		if bed.front != nil {
			bed.front.close()
		}
		if bed.runner != nil {
			bed.runner.Close()
		}
		var err error
		if bed.cluster != nil {
			err = bed.cluster.Stop()
		}
		if bed.dir != "" {
			err = errors.Join(err, os.RemoveAll(bed.dir))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}

// testbed is a cluster whose pods are processes, with the entry point that all review apps
// share.
type testbed struct {
	cluster *env.Cluster
	runner  *runner.Runner
	aws     *env.AWS
	front   *front
	dir     string
	vars    []string // environment of the program
}

// bed is what the tests share that need a cluster.
var (
	bed     testbed
	started = sync.OnceValue(func() error { return bed.start(context.Background()) })
)

func running(t *testing.T) *testbed {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts a cluster")
	}
	if err := started(); err != nil {
		t.Fatal(err)
	}
	return &bed
}

func (b *testbed) start(ctx context.Context) (err error) {
	if b.dir, err = os.MkdirTemp("", "tidegauge-reviewapp-"); err != nil {
		return err
	}
	if b.cluster, err = env.Start(ctx, env.Options{Nodes: 1}); err != nil {
		return err
	}
	if b.aws, err = b.cluster.StartAWS(ctx, env.AWSOptions{PublishInterval: time.Second}); err != nil {
		return err
	}
	b.runner, err = runner.Start(ctx, runner.Options{
		Config: b.cluster.Config(), Program: filepath.Join(b.cluster.Binaries(), "orders"), Dir: filepath.Join(b.dir, "pods"), Env: b.awsEnv(),
	})
	if err != nil {
		return err
	}
	if err := b.installGateway(ctx); err != nil {
		return err
	}
	if b.front, err = startFront(ctx, b.cluster, b.runner); err != nil {
		return err
	}
	return b.prepare()
}

func (b *testbed) awsEnv() []string {
	return []string{
		"AWS_ENDPOINT_URL=" + b.aws.URL, "AWS_REGION=" + b.aws.Region, "AWS_EC2_METADATA_DISABLED=true",
		"AWS_ACCESS_KEY_ID=" + b.aws.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + b.aws.SecretAccessKey,
	}
}

// installGateway does what README.md says is to be done once per cluster. kubectl has the API
// server refuse fields that a kind has not.
func (b *testbed) installGateway(ctx context.Context) error {
	crds, err := modules.GatewayAPI.CRDs(ctx, "gatewayclasses", "gateways", "httproutes")
	if err != nil {
		return err
	}
	aws, err := os.ReadFile(filepath.Join("testdata", "gateway.k8s.aws.yaml"))
	if err != nil {
		return err
	}
	for _, text := range append(crds, aws) {
		if err := b.cluster.Apply(ctx, text); err != nil {
			return err
		}
	}
	folder, err := folder("gateway")
	if err != nil {
		return err
	}
	return until.Within(ctx, deadline, func(ctx context.Context) error {
		_, err := b.cluster.Kubectl(ctx, "", "apply", "--server-side", "-k", folder)
		return err
	})
}

// prepare makes the environment that the program is called in.
func (b *testbed) prepare() error {
	config, err := b.cluster.UserConfig("deployer", group)
	if err != nil {
		return err
	}
	kubeconfig := filepath.Join(b.dir, "kubeconfig")
	if err := writeKubeconfig(kubeconfig, config); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	tools := filepath.Join(b.dir, "tools")
	if err := errors.Join(os.Mkdir(tools, 0o700), os.Mkdir(b.pulls(), 0o700)); err != nil {
		return err
	}
	for name, to := range map[string]string{"aws": self, "gh": self, "kubectl": filepath.Join(b.cluster.Binaries(), "kubectl")} {
		if err := os.Symlink(to, filepath.Join(tools, name)); err != nil {
			return err
		}
	}
	b.vars = append(b.awsEnv(), "PATH="+tools+":/usr/bin:/bin", "HOME="+b.dir, "TMPDIR="+b.dir, "KUBECONFIG="+kubeconfig, pullsVariable+"="+b.pulls())
	return b.writeComponent()
}

// pulls is the folder of the states of pull requests, a file each.
func (b *testbed) pulls() string { return filepath.Join(b.dir, "pulls") }

func writeKubeconfig(path string, config *rest.Config) error {
	text, err := clientcmd.Write(clientcmdapi.Config{
		CurrentContext: "c",
		Contexts:       map[string]*clientcmdapi.Context{"c": {Cluster: "c", AuthInfo: "c"}},
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: config.Host, CertificateAuthorityData: config.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"c": {ClientCertificateData: config.CertData, ClientKeyData: config.KeyData}},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// component is a user's, as --component takes it: here it places the pods on the nodes whose
// pods are processes, and ends them sooner.
func (b *testbed) component() string { return filepath.Join(b.dir, "component") }

func (b *testbed) writeComponent() error {
	if err := os.Mkdir(b.component(), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.component(), "kustomization.yaml"), []byte(`
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
patches:
- target: {kind: Deployment}
  patch: |
    - {op: add, path: /spec/template/spec/nodeSelector, value: {`+runner.NodeLabel+`: "true"}}
    - {op: add, path: /spec/template/spec/tolerations, value: [{key: `+runner.NodeLabel+`, operator: Exists}]}
- target: {kind: Deployment, name: web}
  patch: |
    - {op: replace, path: /spec/template/spec/containers/0/args/4, value: --drain-idle=1s}
`), 0o600)
}

// call is a call of the program.
type call struct {
	out, complaint string
	code           int
}

// reviewApp calls the program in the bed's environment.
func (b *testbed) reviewApp(t *testing.T, args ...string) call {
	t.Helper()
	return reviewApp(t, b.vars, args...)
}

func reviewApp(t *testing.T, vars []string, args ...string) call {
	t.Helper()
	path, err := folder("review-app")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", append([]string{path}, args...)...)
	cmd.Env = vars
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return call{out.String(), complaint.String(), cmd.ProcessState.ExitCode()}
}

// well fails the test unless the program ended well, and returns what it said.
func (c call) well(t *testing.T) string {
	t.Helper()
	if c.code != 0 {
		t.Fatalf("review-app ended with %d: %s%s", c.code, c.complaint, c.out)
	}
	return c.out
}

// create makes a review app and removes it in the end, if it is still there.
func (b *testbed) create(t *testing.T, number string) string {
	t.Helper()
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if _, err := b.cluster.Kubectl(ctx, "", "delete", "namespace", "web-pr-"+number, "--ignore-not-found", "--wait=false"); err != nil {
			t.Error(err)
		}
	})
	return b.reviewApp(t, "create", number, "--component", b.component(), "--timeout", "150s").well(t)
}

// folder is the path of something in deploy/review-app.
func folder(name string) (string, error) {
	root, err := env.Root()
	return filepath.Join(root, "deploy", "review-app", name), err
}

func read(t *testing.T, elements ...string) string {
	t.Helper()
	root, err := env.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(append([]string{root}, elements...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// eventually waits until check returns nil.
func eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	until.Holds(t, what, deadline, check)
}

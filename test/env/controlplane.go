package env

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

const (
	// proxyUser is the name in the certificate with which kube-apiserver proves to
	// aggregated servers that it speaks for its users.
	proxyUser = "front-proxy-client"
	admins    = "system:masters"
	// hpaSettle is how long the HPA controller takes a pod's start for unsettled;
	// simulated pods are ready at once.
	hpaSettle = time.Second
)

// pki is what the components trust and prove themselves with. An authority vouches
// for one thing only: a client certificate of the cluster's authority is worth
// nothing where a front proxy is asked for.
type pki struct {
	cluster    *authority // API server, components, users
	frontProxy *authority // the aggregator, towards aggregated servers
	adapter    *authority // the adapter, towards the aggregator

	tokenKey, tokenPublicKey string // files
}

func newPKI(dir string) (*pki, error) {
	var p pki
	var errs [4]error
	p.cluster, errs[0] = newAuthority(dir, "cluster")
	p.frontProxy, errs[1] = newAuthority(dir, "front-proxy")
	p.adapter, errs[2] = newAuthority(dir, "adapter")
	p.tokenKey, p.tokenPublicKey, errs[3] = newSigningKey(dir)
	return &p, errors.Join(errs[:]...)
}

// startAPI starts what answers API requests, and makes the clients for it.
func (c *Cluster) startAPI(ctx context.Context) error {
	var err error
	if c.pki, err = newPKI(c.path("pki")); err != nil {
		return err
	}
	etcd, err := c.startEtcd(ctx)
	if err != nil {
		return err
	}
	port, err := FreePort()
	if err != nil {
		return err
	}
	if err := c.newClients("https://" + address(port)); err != nil {
		return err
	}
	return c.startAPIServer(ctx, etcd, port)
}

// newClients makes the administrator's kubeconfig and clients.
func (c *Cluster) newClients(url string) error {
	c.config = &rest.Config{Host: url, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: c.pki.cluster.pem()}}
	admin, err := c.UserConfig("admin", admins)
	if err != nil {
		return err
	}
	c.config = admin
	if err := writeKubeconfig(c.Kubeconfig(), admin); err != nil {
		return err
	}
	if c.client, err = kubernetes.NewForConfig(admin); err != nil {
		return err
	}
	if c.dynamic, err = dynamic.NewForConfig(admin); err != nil {
		return err
	}
	c.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.client.Discovery()))
	return nil
}

// startEtcd returns etcd's URL. It is plain HTTP: only this machine can reach it.
func (c *Cluster) startEtcd(ctx context.Context) (string, error) {
	client, err := FreePort()
	if err != nil {
		return "", err
	}
	peer, err := FreePort()
	if err != nil {
		return "", err
	}
	url, peerURL := "http://"+address(client), "http://"+address(peer)
	return url, c.component(ctx, "etcd", url+"/health",
		"--data-dir="+c.path("etcd"),
		"--listen-client-urls="+url, "--advertise-client-urls="+url,
		"--listen-peer-urls="+peerURL, "--initial-advertise-peer-urls="+peerURL, "--initial-cluster=default="+peerURL,
		// The data need not survive the machine.
		"--unsafe-no-fsync",
		"--log-level=warn",
	)
}

func (c *Cluster) startAPIServer(ctx context.Context, etcd string, port int) error {
	serving, err := c.pki.cluster.serving("kube-apiserver", c.apiNames()...)
	if err != nil {
		return err
	}
	proxy, err := c.pki.frontProxy.client(proxyUser)
	if err != nil {
		return err
	}
	proxyFiles, err := proxy.write(c.pki.frontProxy.dir, proxyUser)
	if err != nil {
		return err
	}
	path, err := c.binary("kube-apiserver")
	if err != nil {
		return err
	}
	reach, err := c.reach()
	if err != nil {
		return err
	}
	c.apiserver, err = c.run(ctx, command{
		name: "kube-apiserver", path: path, health: c.health("https://" + address(port) + "/readyz"),
		args: append(reach,
			fmt.Sprintf("--secure-port=%d", port),
			"--tls-cert-file="+serving.cert, "--tls-private-key-file="+serving.key,
			"--etcd-servers="+etcd,
			"--client-ca-file="+c.pki.cluster.file(),
			"--requestheader-client-ca-file="+c.pki.frontProxy.file(),
			"--requestheader-allowed-names="+proxyUser,
			"--requestheader-username-headers=X-Remote-User",
			"--requestheader-uid-headers=X-Remote-Uid",
			"--requestheader-group-headers=X-Remote-Group",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--proxy-client-cert-file="+proxyFiles.cert, "--proxy-client-key-file="+proxyFiles.key,
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-signing-key-file="+c.pki.tokenKey,
			"--service-account-key-file="+c.pki.tokenPublicKey,
			"--service-cluster-ip-range=10.96.0.0/16",
			// Without it a stop waits a minute for the watches to end by themselves.
			"--shutdown-watch-termination-grace-period=1s",
		),
	})
	return err
}

func (c *Cluster) startControllerManager(ctx context.Context) error {
	args, health, err := c.controllerArgs("kube-controller-manager")
	if err != nil {
		return err
	}
	return c.component(ctx, "kube-controller-manager", health, append(args,
		// Each controller has its own ServiceAccount, so the HPA controller has the rights that it has in real clusters.
		"--use-service-account-credentials",
		"--service-account-private-key-file="+c.pki.tokenKey,
		"--root-ca-file="+c.pki.cluster.file(),
		// Each of those ServiceAccounts takes requests, so the default limit is seconds of waiting at the start.
		"--kube-api-qps=500", "--kube-api-burst=1000",
		fmt.Sprintf("--horizontal-pod-autoscaler-sync-period=%s", c.opts.HPASync),
		fmt.Sprintf("--horizontal-pod-autoscaler-initial-readiness-delay=%s", hpaSettle),
		fmt.Sprintf("--horizontal-pod-autoscaler-cpu-initialization-period=%s", hpaSettle),
	)...)
}

func (c *Cluster) startScheduler(ctx context.Context) error {
	args, health, err := c.controllerArgs("kube-scheduler")
	if err != nil {
		return err
	}
	return c.component(ctx, "kube-scheduler", health, args...)
}

// controllerArgs are the arguments that kube-controller-manager and kube-scheduler
// share, and the URL of the component's health.
func (c *Cluster) controllerArgs(name string) (args []string, health string, err error) {
	kubeconfig, err := c.componentKubeconfig("system:" + name)
	if err != nil {
		return nil, "", err
	}
	serving, err := c.pki.cluster.serving(name)
	if err != nil {
		return nil, "", err
	}
	port, err := FreePort()
	if err != nil {
		return nil, "", err
	}
	return []string{
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port),
		"--tls-cert-file=" + serving.cert, "--tls-private-key-file=" + serving.key,
		"--leader-elect=false",
	}, "https://" + address(port) + "/healthz", nil
}

// componentKubeconfig writes a kubeconfig for a user of the control plane.
func (c *Cluster) componentKubeconfig(user string, groups ...string) (string, error) {
	config, err := c.UserConfig(user, groups...)
	if err != nil {
		return "", err
	}
	path := c.path("pki", strings.TrimPrefix(user, "system:")+".kubeconfig")
	return path, writeKubeconfig(path, config)
}

// component runs a program of .bin that is ready when its health URL says so.
func (c *Cluster) component(ctx context.Context, name, health string, args ...string) error {
	path, err := c.binary(name)
	if err != nil {
		return err
	}
	_, err = c.run(ctx, command{name: name, path: path, args: args, health: c.health(health)})
	return err
}

// health is of a server that the cluster's authority vouches for.
func (c *Cluster) health(url string) Health {
	return Health{URL: url, CA: string(c.pki.cluster.pem())}
}

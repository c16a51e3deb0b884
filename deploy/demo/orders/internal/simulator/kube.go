package simulator

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// Where a pod finds its ServiceAccount, see
// https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/
const (
	accountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token" //nolint:gosec // A path.
	accountCA    = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
)

// kubeTimeout is how long the API server may take to answer.
const kubeTimeout = 5 * time.Second

// kube asks the API server. Three requests are no reason for a client library.
type kube struct {
	base      string
	tokenFile string
	client    *http.Client
}

// newKube returns one for the API server at base; empty is that of the cluster it runs in.
func newKube(base, tokenFile, caFile string) (*kube, error) {
	if base == "" {
		host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
		if host == "" {
			return nil, errors.New("this is no pod of a cluster: KUBERNETES_SERVICE_HOST is not set; name the API server by --kube-api")
		}
		base = "https://" + net.JoinHostPort(host, port)
	}
	ca, err := os.ReadFile(caFile) //nolint:gosec // Whoever starts the program says which.
	if err != nil {
		return nil, fmt.Errorf("reading the certificate of the API server's authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("no certificate in %s", caFile)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	return &kube{
		base:      strings.TrimSuffix(base, "/"),
		tokenFile: tokenFile,
		client:    &http.Client{Timeout: kubeTimeout, Transport: transport},
	}, nil
}

// deployment is the name of one.
type deployment struct {
	namespace, name string
}

// parseDeployment reads namespace/name.
func parseDeployment(text string) (deployment, error) {
	namespace, name, ok := strings.Cut(text, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return deployment{}, fmt.Errorf("%q is not NAMESPACE/NAME", text)
	}
	return deployment{namespace, name}, nil
}

func (d deployment) String() string { return d.namespace + "/" + d.name }

func (k *kube) ask(ctx context.Context, method, path string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, k.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	// The token is read each time, as it is another one every hour.
	token, err := os.ReadFile(k.tokenFile)
	if err != nil {
		return fmt.Errorf("reading the ServiceAccount's token: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	return send(k.client, req, into)
}

func apps(d deployment) string {
	return "/apis/apps/v1/namespaces/" + url.PathEscape(d.namespace) + "/deployments/" + url.PathEscape(d.name)
}

// ready is how many pods of a Deployment are.
func (k *kube) ready(ctx context.Context, d deployment) (int, error) {
	var got struct {
		Status struct {
			ReadyReplicas int `json:"readyReplicas"`
		} `json:"status"`
	}
	if err := k.ask(ctx, http.MethodGet, apps(d), nil, &got); err != nil {
		return 0, fmt.Errorf("reading Deployment %v: %w", d, err)
	}
	return got.Status.ReadyReplicas, nil
}

// scale sets the replicas of a Deployment that no HPA owns.
func (k *kube) scale(ctx context.Context, d deployment, replicas int) error {
	var hpas struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct {
				ScaleTargetRef struct{ Kind, Name string }
			}
		}
	}
	path := "/apis/autoscaling/v2/namespaces/" + url.PathEscape(d.namespace) + "/horizontalpodautoscalers"
	if err := k.ask(ctx, http.MethodGet, path, nil, &hpas); err != nil {
		return fmt.Errorf("looking whether an HPA owns Deployment %v, for which the simulator has to be allowed to list them: %w", d, err)
	}
	for _, hpa := range hpas.Items {
		if target := hpa.Spec.ScaleTargetRef; target.Kind == "Deployment" && target.Name == d.name {
			return fmt.Errorf("HPA %s owns Deployment %v, which is left alone; name that of a loader by --deployment", hpa.Metadata.Name, d)
		}
	}
	body := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
	if err := k.ask(ctx, http.MethodPatch, apps(d)+"/scale", body, nil); err != nil {
		return fmt.Errorf("scaling Deployment %v: %w", d, err)
	}
	return nil
}

// scaled are loaders that are driven by their number.
type scaled struct {
	kube       *kube
	deployment deployment
	failing    atomic.Bool
}

func (s *scaled) drive(ctx context.Context, value float64) {
	err := s.kube.scale(ctx, s.deployment, int(math.Round(value)))
	if s.failing.Swap(err != nil) != (err != nil) {
		if err != nil {
			slog.Warn("the loaders stay as many as they are", "error", err)
		} else {
			slog.Info("the loaders are scaled again", "deployment", s.deployment.String())
		}
	}
}

func (s *scaled) workers(ctx context.Context) (int, error) { return s.kube.ready(ctx, s.deployment) }

package prometheus

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"sync"

	"github.com/prometheus/common/config"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// newKubeTransport has the credentials and the certificates of a kubeconfig or of the
// pod, for another address than the API server's.
func newKubeTransport(c Server, h config.HTTPClientConfig) (http.RoundTripper, error) {
	t := &kubeTransport{kubeconfig: c.Kubeconfig}
	if c.HTTP != nil {
		t.proxy = proxyOf(h)
	}
	if err := t.renew(); err != nil {
		return nil, err
	}
	if h.Authorization == nil {
		return t, nil
	}
	// Calls that are authorized already are left as they are by the kubeconfig.
	a := h.Authorization
	var credentials config.SecretReader = config.NewInlineSecret(string(a.Credentials))
	if a.CredentialsFile != "" {
		credentials = config.NewFileSecret(a.CredentialsFile)
	}
	return config.NewAuthorizationCredentialsRoundTripper(a.Type, credentials, t), nil
}

// kubeTransport makes calls with the credentials of a kubeconfig or of the pod, and reads
// their files again when they change. Those of tokens are read again by client-go, some
// time later.
type kubeTransport struct {
	// kubeconfig is the file; empty for the pod's own credentials.
	kubeconfig string
	// proxy takes the place of the kubeconfig's if it is not nil.
	proxy func(*http.Request) (*url.URL, error)

	mu   sync.Mutex
	made http.RoundTripper
	// files are what it was made of, and digest what they were like then.
	files  []string
	digest [sha256.Size]byte
}

// RoundTrip implements http.RoundTripper.
func (t *kubeTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.current(r.Context()).RoundTrip(r)
}

// CloseIdleConnections is called by http.Client's.
func (t *kubeTransport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	utilnet.CloseIdleConnectionsFor(t.made)
}

// current is the transport of the files as they are. While they are half written or
// away, it stays the one before.
func (t *kubeTransport) current(ctx context.Context) http.RoundTripper {
	t.mu.Lock()
	defer t.mu.Unlock()
	if look(t.files) == t.digest {
		return t.made
	}
	before := t.made
	if err := t.renew(); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot read credentials that have changed: those before stay in use", "files", t.files)
		return before
	}
	utilnet.CloseIdleConnectionsFor(before)
	return t.made
}

// renew makes the transport. The error starts with the field's path.
func (t *kubeTransport) renew() error {
	t.files = nil
	if t.kubeconfig != "" {
		t.files = []string{t.kubeconfig}
	}
	t.digest = look(t.files)
	r, err := t.load()
	if err != nil {
		return err
	}
	for _, name := range []string{r.CAFile, r.CertFile, r.KeyFile} {
		if name != "" {
			t.files = append(t.files, name)
		}
	}
	// What changes after this look is not what it was at the next one.
	t.digest = look(t.files)
	if r, err = t.load(); err != nil {
		return err
	}
	made, err := t.transport(r)
	if err != nil {
		return fmt.Errorf("%s: %w", t.field(), err)
	}
	t.made = made
	return nil
}

func (t *kubeTransport) field() string {
	if t.kubeconfig == "" {
		return "inCluster"
	}
	return "kubeconfig"
}

func (t *kubeTransport) load() (*rest.Config, error) {
	load := rest.InClusterConfig
	if t.kubeconfig != "" {
		load = func() (*rest.Config, error) { return clientcmd.BuildConfigFromFlags("", t.kubeconfig) }
	}
	r, err := load()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.field(), err)
	}
	return r, nil
}

func (t *kubeTransport) transport(r *rest.Config) (http.RoundTripper, error) {
	r.DisableCompression = true
	if t.proxy != nil {
		r.Proxy = t.proxy
	}
	if r.Proxy == nil {
		// As without one, but that client-go shares the connections of no transport with a
		// proxy, so that they can be closed.
		r.Proxy = http.ProxyFromEnvironment
	}
	// For the content of files client-go keeps no goroutine that reads them again.
	if err := rest.LoadTLSFiles(r); err != nil {
		return nil, err
	}
	return rest.TransportFor(r)
}

// look is a digest of the files' contents, or of why they cannot be read.
func look(files []string) (digest [sha256.Size]byte) {
	all := sha256.New()
	for _, file := range files {
		content, err := os.ReadFile(file) //nolint:gosec // The configuration names it.
		fmt.Fprintf(all, "%d %v\n%s", len(content), err, content)
	}
	all.Sum(digest[:0])
	return digest
}

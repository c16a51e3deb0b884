package env

import (
	"context"
	"fmt"
	"os"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Kubeconfig is the path of an administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return c.path("kubeconfig") }

// UserConfig is for a user with a client certificate of the cluster's authority. The
// user has the rights that RBAC gives to its name and groups, which may be none.
func (c *Cluster) UserConfig(name string, groups ...string) (*rest.Config, error) {
	cert, err := c.pki.cluster.client(name, groups...)
	if err != nil {
		return nil, err
	}
	config := c.anonymousConfig()
	config.CertData, config.KeyData = cert.cert, cert.key
	return config, nil
}

// ServiceAccountConfig is for a ServiceAccount, with a token of its own.
func (c *Cluster) ServiceAccountConfig(ctx context.Context, namespace, name string) (*rest.Config, error) {
	token, err := c.Token(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	config := c.anonymousConfig()
	config.BearerToken = token
	return config, nil
}

// ServiceAccountKubeconfig writes a kubeconfig with a token of a ServiceAccount and
// returns its path.
func (c *Cluster) ServiceAccountKubeconfig(ctx context.Context, namespace, name string) (string, error) {
	config, err := c.ServiceAccountConfig(ctx, namespace, name)
	if err != nil {
		return "", err
	}
	path := c.path(fmt.Sprintf("%s.%s.kubeconfig", namespace, name))
	return path, writeKubeconfig(path, config)
}

// Token asks the API server for a token of a ServiceAccount, valid as long as the
// test bed may live. Without audiences it is for the API server itself.
func (c *Cluster) Token(ctx context.Context, namespace, name string, audiences ...string) (string, error) {
	seconds := int64(validity.Seconds())
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: audiences, ExpirationSeconds: &seconds,
	}}
	answer, err := c.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, request, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("token of ServiceAccount %s/%s: %w", namespace, name, err)
	}
	return answer.Status.Token, nil
}

func (c *Cluster) anonymousConfig() *rest.Config {
	config := rest.AnonymousClientConfig(c.config)
	config.QPS = c.config.QPS
	return config
}

func writeKubeconfig(path string, config *rest.Config) error {
	const name = "tidegauge"
	text, err := clientcmd.Write(clientcmdapi.Config{
		CurrentContext: name,
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: name}},
		Clusters: map[string]*clientcmdapi.Cluster{name: {
			Server: config.Host, CertificateAuthorityData: config.CAData,
		}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{name: {
			Token: config.BearerToken, ClientCertificateData: config.CertData, ClientKeyData: config.KeyData,
		}},
	})
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, text, 0o600)
}

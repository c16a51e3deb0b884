package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	secretName = "renewed"
	host       = release + "." + namespace + ".svc"
)

// TestCertificateRenewed shows that the pods go over to a certificate that is renewed in its
// Secret, as cert-manager does it, and that no read is lost meanwhile.
func TestCertificateRenewed(t *testing.T) {
	b := sharedBed(t)
	ca := newCA(t)
	secrets := b.Client().CoreV1().Secrets(namespace)
	secret, err := secrets.Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: secretName}, Type: corev1.SecretTypeTLS, Data: ca.issue(t, 1),
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b.upgrade(t, "--set", "tls.existingSecret="+secretName)
	defer b.upgrade(t)
	b.awaitServing(t)
	pods := b.awaitPods(t)
	for _, pod := range pods {
		if err := ca.serves(t.Context(), pod, 1); err != nil {
			t.Fatal(err)
		}
	}

	l := b.startLoad(t)
	secret.Data = ca.issue(t, 2)
	if _, err := secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods {
		eventually(t, "renewed certificate", func(ctx context.Context) error { return ca.serves(ctx, pod, 2) })
	}
	l.endWithNoneLost(t)
	if after := b.awaitPods(t); names(after) != names(pods) {
		t.Errorf("the pods are %s, want those from before: %s", names(after), names(pods))
	}
}

// ca is an authority.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T) *ca {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	key, cert := signed(t, template, template, nil)
	return &ca{cert: cert, key: key}
}

// signed is a new key with a certificate, which the key itself signs if there is no other.
func signed(t *testing.T, template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

// issue is the content of a Secret with a certificate of that number.
func (c *ca) issue(t *testing.T, serial int64) map[string][]byte {
	t.Helper()
	key, cert := signed(t, &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, c.cert, c.key)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	return map[string][]byte{
		"ca.crt":  encode("CERTIFICATE", c.cert.Raw),
		"tls.crt": encode("CERTIFICATE", cert.Raw),
		"tls.key": encode("PRIVATE KEY", private),
	}
}

// serves returns nil if a new connection to the pod gets the certificate of that number.
func (c *ca) serves(ctx context.Context, pod corev1.Pod, serial int64) error {
	roots := x509.NewCertPool()
	roots.AddCert(c.cert)
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: host}}
	conn, err := dialer.DialContext(ctx, "tcp", podAddress(pod))
	if err != nil {
		return err
	}
	defer conn.Close()
	got := conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber
	if got.Cmp(big.NewInt(serial)) != 0 {
		return fmt.Errorf("%s serves the certificate %v, want %d", pod.Name, got, serial)
	}
	return nil
}

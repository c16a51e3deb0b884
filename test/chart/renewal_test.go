package chart

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/test/env"
)

const (
	// renewals is how often the certificate is renewed, and renewalReaders how many read
	// meanwhile, each renewalPause after the answer before.
	renewals       = 3
	renewalReaders = 4
	renewalPause   = 20 * time.Millisecond
)

// TestCertificateIsRenewed renews the adapter's certificate as cert-manager does, by another
// one of the same authority in the mounted Secret, while API server and clients read. Each
// certificate comes to be served, and no read fails.
func TestCertificateIsRenewed(t *testing.T) {
	c := bed.Cluster(t)
	h := newHelm(t, "helm").on(c)
	port := freePort(t)
	ca := newAuthority(t)
	first := ca.issue(t)
	installed(t, h, append(first.values(t), "--set", fmt.Sprintf("listenPort=%d,service.port=%d,shutdownDelaySeconds=1", port, port))...)
	a := startAdapter(t, c, port)
	route(t, c)
	for _, api := range ownAPIs(t, c) {
		eventually(t, func(ctx context.Context) error { return a.available(ctx, c, api) })
	}
	served := func(want *x509.Certificate) {
		t.Helper()
		eventually(t, func(ctx context.Context) error { return ca.serves(ctx, port, want) })
	}
	served(first.cert)

	stop := readOn(t, c, port, ca)
	folder := filepath.Dir(flagValue(a.cmd.Args, "tls-cert-file"))
	for range renewals {
		next := ca.issue(t)
		next.mount(t, folder)
		served(next.cert)
	}
	stop()
	a.stop(t)
}

// readOn reads by way of the API server and on new connections to the adapter, until the
// function that it returns is called. A read without an answer is an error of the test.
func readOn(t *testing.T, c *env.Cluster, port int, ca *authority) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	var reads atomic.Int64
	reader := func(what string, read func(context.Context) error) {
		readers.Go(func() {
			for ctx.Err() == nil {
				if err := read(ctx); err != nil && ctx.Err() == nil {
					t.Errorf("%s, while certificates change: %v", what, err)
					return
				}
				reads.Add(1)
				select {
				case <-ctx.Done():
				case <-time.After(renewalPause):
				}
			}
		})
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: ca.trust(), DisableKeepAlives: true}, Timeout: deadline}
	for range renewalReaders {
		reader("by way of the API server", func(ctx context.Context) error {
			return c.Client().Discovery().RESTClient().Get().AbsPath("/apis/external.metrics.k8s.io/v1beta1").Do(ctx).Error()
		})
		reader("directly", func(ctx context.Context) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/readyz", port), http.NoBody)
			if err != nil {
				return err
			}
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return errors.New(resp.Status)
			}
			return nil
		})
	}
	stop = sync.OnceFunc(func() {
		cancel()
		readers.Wait()
		if reads.Load() < 2*renewalReaders {
			t.Errorf("there were %d reads only", reads.Load())
		}
	})
	t.Cleanup(stop)
	return stop
}

// authority signs the adapter's certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	last int64 // serial number
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(0), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	a.cert, a.key = sign(t, template, nil)
	return a
}

// issued is a certificate for the release's Service.
type issued struct {
	cert *x509.Certificate
	ca   *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (a *authority) issue(t *testing.T) issued {
	t.Helper()
	a.last++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.last), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{release + "." + namespace + ".svc"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	cert, key := sign(t, template, a)
	return issued{cert: cert, ca: a.cert, key: key}
}

// sign makes a certificate and its key; without an authority it signs itself.
func sign(t *testing.T, template *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(cryptorand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) trust() *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	return &tls.Config{RootCAs: roots, ServerName: release + "." + namespace + ".svc", MinVersion: tls.VersionTLS13}
}

// serves returns nil if the adapter serves that certificate.
func (a *authority) serves(ctx context.Context, port int, want *x509.Certificate) error {
	conn, err := (&tls.Dialer{Config: a.trust()}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer conn.Close()
	state := conn.(*tls.Conn).ConnectionState()
	if got := state.PeerCertificates[0]; !got.Equal(want) {
		return fmt.Errorf("the certificate served has the number %v, want %v", got.SerialNumber, want.SerialNumber)
	}
	return nil
}

// files are the certificate and its key as PEM, by the names that they have in a Secret.
func (i issued) files(t *testing.T) map[string]string {
	t.Helper()
	private, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"tls.crt": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.cert.Raw})),
		"tls.key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		"ca.crt":  string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.ca.Raw})),
	}
}

// values give the certificate to the chart.
func (i issued) values(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range i.files(t) {
		write(t, filepath.Join(dir, name), text)
	}
	return []string{"--set", "tls.enable=true", "--set-file", fmt.Sprintf("tls.certificate=%[1]s/tls.crt,tls.key=%[1]s/tls.key,tls.ca=%[1]s/ca.crt", dir)}
}

// mount puts the certificate into a folder one file after the other, which is less kind than
// the kubelet, who puts them all there at once.
func (i issued) mount(t *testing.T, folder string) {
	t.Helper()
	for name, text := range i.files(t) {
		next := filepath.Join(folder, "..next")
		write(t, next, text)
		if err := os.Rename(next, filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
}

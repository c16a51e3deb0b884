package main

import (
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// childVariable says to TestRootsAreInTheProgram that it is the process without a system's
// certificates.
const childVariable = "TIDEGAUGE_TEST_WITHOUT_ROOTS"

// In an image without files AWS and other public servers are trusted.
func TestRootsAreInTheProgram(t *testing.T) {
	if os.Getenv(childVariable) != "" {
		trustsAmazon(t)
		return
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The system's certificates are looked for once, when a process starts.
	missing := filepath.Join(t.TempDir(), "missing")
	cmd := exec.CommandContext(t.Context(), program, "-test.run=^"+t.Name()+"$", "-test.count=1")
	cmd.Env = []string{childVariable + "=1", "SSL_CERT_FILE=" + missing, "SSL_CERT_DIR=" + missing}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("without the system's certificates: %v\n%s", err, out)
	}
}

// trustsAmazon fails unless the roots in use have those that AWS's certificates lead to.
func trustsAmazon(t *testing.T) {
	t.Helper()
	for _, name := range []string{"Amazon Root CA 1", "Starfield Services Root Certificate Authority - G2"} {
		root := bundled(t, name)
		// Roots of nil are those of the system, or the fallback's.
		if _, err := root.Verify(x509.VerifyOptions{KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func bundled(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	for root := range bundle.Roots() {
		cert, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		if cert.Subject.CommonName == name {
			return cert
		}
	}
	t.Fatalf("the bundle has no %s", name)
	return nil
}

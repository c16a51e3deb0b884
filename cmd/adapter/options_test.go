package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	promconfig "github.com/prometheus/common/config"
	"github.com/spf13/pflag"
	cliflag "k8s.io/component-base/cli/flag"

	"github.com/tidegauge/tidegauge/pkg/config"
	"github.com/tidegauge/tidegauge/pkg/sources/prometheus"
)

// parsed are the options of a command line, whose file has that text if there is one.
// What parsing prints is in the second result.
func parsed(t *testing.T, text string, args ...string) (*options, string) {
	t.Helper()
	if text != "" {
		args = append(args, "--config="+file(t, "config.yaml", text))
	}
	o, fs := newOptions(), pflag.NewFlagSet("adapter", pflag.ContinueOnError)
	var printed bytes.Buffer
	fs.SetOutput(&printed)
	o.addFlags(fs)
	fs.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return o, printed.String()
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// keyPair are files with a certificate and its key.
func keyPair(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return file(t, "tls.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		file(t, "tls.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
}

const kubeconfig = `{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: c, user: u}}],
clusters: [{name: c, cluster: {server: "https://api:6443"}}], users: [{name: u, user: {token: secret}}]}`

// TestPrometheusFlags compares what the flags make of the server default.
func TestPrometheusFlags(t *testing.T) {
	token := file(t, "token", "secret")
	cert, key := keyPair(t)
	kube := file(t, "kubeconfig", kubeconfig)
	server := func(change func(s *prometheus.Server)) prometheus.Server {
		s := prometheus.Server{URL: "https://localhost", Verb: "GET", HTTP: prometheus.DefaultHTTP()}
		change(&s)
		return s
	}
	for name, test := range map[string]struct {
		args []string
		want prometheus.Server
	}{
		"none": {nil, server(func(*prometheus.Server) {})},
		"an address and a verb": {
			[]string{"--prometheus-url=http://prometheus.monitoring.svc:9090/prom/", "--prometheus-verb=POST"},
			server(func(s *prometheus.Server) {
				s.URL, s.Verb = "http://prometheus.monitoring.svc:9090/prom/", "POST"
			}),
		},
		"headers are split at the first =": {
			[]string{
				"--prometheus-header=X-Scope-OrgID=a=b", "--prometheus-header=x-empty", "--prometheus-header=X-Two=1", "--prometheus-header=x-two=2,3",
				"--prometheus-header=Authorization=Bearer secret",
			},
			server(func(s *prometheus.Server) {
				s.Headers = map[string]promconfig.Secret{
					"X-Scope-Orgid": "a=b", "X-Empty": "", "X-Two": "1, 2,3", "Authorization": "Bearer secret",
				}
			}),
		},
		"a user in the address": {
			[]string{"--prometheus-url=http://me:my%40secret@prometheus:9090"},
			server(func(s *prometheus.Server) {
				s.URL = "http://prometheus:9090"
				s.Headers = map[string]promconfig.Secret{"Authorization": "Basic bWU6bXlAc2VjcmV0"}
			}),
		},
		"a token": {
			[]string{"--prometheus-token-file=" + token},
			server(func(s *prometheus.Server) {
				s.HTTP.Authorization = &promconfig.Authorization{Type: "Bearer", CredentialsFile: token}
			}),
		},
		"an authority and a token": {
			[]string{"--prometheus-token-file=" + token, "--prometheus-ca-file=" + cert},
			server(func(s *prometheus.Server) {
				s.HTTP.Authorization = &promconfig.Authorization{Type: "Bearer", CredentialsFile: token}
				s.HTTP.TLSConfig.CAFile = cert
				s.HTTP.ProxyFromEnvironment = false
			}),
		},
		"a client certificate without an authority": {
			[]string{"--prometheus-client-tls-cert-file=" + cert, "--prometheus-client-tls-key-file=" + key},
			server(func(s *prometheus.Server) {
				s.HTTP.TLSConfig.CertFile, s.HTTP.TLSConfig.KeyFile = cert, key
			}),
		},
		"a kubeconfig": {
			[]string{"--prometheus-auth-config=" + kube},
			server(func(s *prometheus.Server) { s.Kubeconfig = kube }),
		},
		"a kubeconfig and a token": {
			[]string{"--prometheus-auth-config=" + kube, "--prometheus-token-file=" + token},
			server(func(s *prometheus.Server) {
				s.Kubeconfig = kube
				s.HTTP.Authorization = &promconfig.Authorization{Type: "Bearer", CredentialsFile: token}
			}),
		},
		"an authority wins over a kubeconfig": {
			[]string{"--prometheus-auth-config=" + kube, "--prometheus-ca-file=" + cert, "--prometheus-auth-incluster"},
			server(func(s *prometheus.Server) {
				s.HTTP.TLSConfig.CAFile = cert
				s.HTTP.ProxyFromEnvironment = false
			}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			o, _ := parsed(t, "", test.args...)
			c, err := o.load()
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Prometheus.Servers; len(got) != 1 || !reflect.DeepEqual(got["default"], test.want) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			// What is the same is not opened again.
			again, err := o.load()
			if err != nil || !reflect.DeepEqual(c.Prometheus, again.Prometheus) {
				t.Errorf("the second time: %+v, %v", again, err)
			}
		})
	}
}

func TestInClusterFlag(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	o, _ := parsed(t, "", "--prometheus-auth-incluster")
	_, err := o.load()
	if err == nil || !strings.HasPrefix(err.Error(), "--prometheus-auth-incluster: ") {
		t.Errorf("outside of a cluster: %v", err)
	}
	if s, _ := o.prometheus.server(); !s.InCluster {
		t.Errorf("got %+v", s)
	}
}

// TestFileAndFlags lays flags over files with servers.
func TestFileAndFlags(t *testing.T) {
	const (
		defaultInFile = "prometheus: {servers: {default: {url: http://file:9090}}}\n"
		otherInFile   = "prometheus: {servers: {eu: {url: http://eu:9090}}}\n"
		rule          = "externalRules: [{seriesQuery: queue_depth, metricsQuery: \"sum(<<.Series>>{<<.LabelMatchers>>})\"}]\n"
	)
	for name, test := range map[string]struct {
		text string
		args []string
		want map[string]string
		err  string
	}{
		"neither":                      {rule, nil, map[string]string{"default": "https://localhost"}, ""},
		"a flag":                       {rule, []string{"--prometheus-url=http://flag:9090"}, map[string]string{"default": "http://flag:9090"}, ""},
		"the file":                     {defaultInFile + rule, nil, map[string]string{"default": "http://file:9090"}, ""},
		"another server in the file":   {otherInFile, nil, map[string]string{"eu": "http://eu:9090"}, ""},
		"another server and a flag":    {otherInFile + rule, []string{"--prometheus-url=http://flag:9090"}, map[string]string{"eu": "http://eu:9090", "default": "http://flag:9090"}, ""},
		"a rule that finds no server":  {otherInFile + rule, nil, nil, "line 2: externalRules[0].server: the rule names no server, and there is no server default; prometheus.servers has eu"},
		"both":                         {defaultInFile, []string{"--prometheus-verb=POST"}, nil, "--prometheus-verb: the file has prometheus.servers.default, which is the server of this flag: leave out one of the two"},
		"both, of which the flag says": {defaultInFile, []string{"--prometheus-url=https://localhost"}, nil, "--prometheus-url: the file has"},
	} {
		t.Run(name, func(t *testing.T) {
			o, _ := parsed(t, test.text, test.args...)
			c, err := o.load()
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) || !strings.Contains(err.Error(), "configuration file "+o.configFile) {
					t.Errorf("the error is %v, want the file and %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for name, s := range c.Prometheus.Servers {
				got[name] = s.URL
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestBadFlags(t *testing.T) {
	garbage := file(t, "garbage", "garbage")
	token := file(t, "token", "secret")
	cert, key := keyPair(t)
	missing := filepath.Join(t.TempDir(), "missing")
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--prometheus-url="}, "--prometheus-url: must be set"},
		{[]string{"--prometheus-url=prometheus:9090"}, "--prometheus-url: is not an address such as http://prometheus.monitoring:9090"},
		{[]string{"--prometheus-url=ftp://prometheus:9090"}, "--prometheus-url: starts with ftp"},
		{[]string{"--prometheus-url=http://me:secret@"}, "--prometheus-url: "},
		{[]string{"--prometheus-verb=PUT"}, `--prometheus-verb: "PUT" is neither GET nor POST`},
		{[]string{"--prometheus-verb=get"}, `--prometheus-verb: "get" is neither GET nor POST`},
		{[]string{"--prometheus-header=Authorization: secret"}, "--prometheus-header: a header has no =, and is no name: write name=value"},
		{[]string{"--prometheus-header==secret"}, `--prometheus-header: "" is no name of a header`},
		{[]string{"--prometheus-header=A B=secret"}, `--prometheus-header: "A B" is no name of a header`},
		{[]string{"--prometheus-header=A=secret\nB: c"}, "--prometheus-header: the value of A has a line break"},
		{[]string{"--prometheus-token-file=" + missing}, "--prometheus-token-file: open " + missing},
		{[]string{"--prometheus-ca-file=" + missing}, "--prometheus-ca-file: open " + missing},
		{[]string{"--prometheus-ca-file=" + garbage}, "--prometheus-ca-file: "},
		{[]string{"--prometheus-client-tls-cert-file=" + cert}, "--prometheus-client-tls-cert-file: needs --prometheus-client-tls-key-file too"},
		{[]string{"--prometheus-client-tls-key-file=" + key}, "--prometheus-client-tls-key-file: needs --prometheus-client-tls-cert-file too"},
		{[]string{"--prometheus-client-tls-cert-file=" + garbage, "--prometheus-client-tls-key-file=" + key}, "--prometheus-client-tls-cert-file: "},
		{[]string{"--prometheus-ca-file=" + cert, "--prometheus-client-tls-cert-file=" + cert, "--prometheus-client-tls-key-file=" + garbage}, "--prometheus-client-tls-cert-file: "},
		{[]string{"--prometheus-auth-config=" + missing}, "--prometheus-auth-config: open " + missing},
		{[]string{"--prometheus-auth-config=" + garbage}, "--prometheus-auth-config: "},
		{[]string{"--prometheus-auth-config=" + token, "--prometheus-auth-incluster"}, "--prometheus-auth-config: cannot be together with --prometheus-auth-incluster"},
		{[]string{"--metrics-relist-interval=0"}, "--metrics-relist-interval: 0s is less than 1s"},
		{[]string{"--metrics-max-age=59s"}, "--metrics-max-age: 59s is less than --metrics-relist-interval, which is 1m0s"},
		{[]string{"--metrics-max-age=-1m"}, "--metrics-max-age: -1m0s is less than"},
		{[]string{"--max-age=1s"}, "--max-age: 1s is not between 2s and 24h"},
		{[]string{"--shutdown-delay-duration=-1s"}, "--shutdown-delay-duration: -1s is negative"},
		{[]string{"--secure-port=0"}, "--secure-port: 0 is no port to serve on"},
		{
			[]string{"--prometheus-url=x", "--prometheus-verb=x", "--prometheus-header==", "--metrics-relist-interval=1ms", "--secure-port=0"},
			"--prometheus-url: is not an address such as http://prometheus.monitoring:9090; --prometheus-verb: \"x\" is neither GET nor POST; " +
				"--prometheus-header: \"\" is no name of a header; --metrics-relist-interval: 1ms is less than 1s; --secure-port: 0 is no port to serve on",
		},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			o, _ := parsed(t, "", test.args...)
			_, err := o.load()
			if err == nil || !strings.HasPrefix(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line that starts with %q", err, test.want)
			}
			faults, ok := errors.AsType[config.FaultsError](err)
			if want := 1 + strings.Count(test.want, "; --"); !ok || len(faults) != want {
				t.Errorf("%d faults, want %d: %v", len(faults), want, err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("got %q, which has a secret in it", err)
			}
		})
	}
}

func TestDiscoveryMaxAge(t *testing.T) {
	for _, test := range []struct {
		args         []string
		relist, want time.Duration
	}{
		{nil, time.Minute, 10 * time.Minute},
		{[]string{"--metrics-relist-interval=10m"}, 10 * time.Minute, 10 * time.Minute},
		{[]string{"--metrics-relist-interval=1h"}, time.Hour, time.Hour},
		{[]string{"--metrics-max-age=1m"}, time.Minute, time.Minute},
		{[]string{"--metrics-relist-interval=30s", "--metrics-max-age=2h"}, 30 * time.Second, 2 * time.Hour},
	} {
		o, _ := parsed(t, "", test.args...)
		if _, err := o.load(); err != nil {
			t.Errorf("%q: %v", test.args, err)
		}
		if got := o.discoveryMaxAge(); o.relist != test.relist || got != test.want {
			t.Errorf("%q: relist %v and max age %v, want %v and %v", test.args, o.relist, got, test.relist, test.want)
		}
	}
}

// TestArgumentsOfTheOldAdapters starts with what manifests and charts of the adapters
// give that this one takes over from.
func TestArgumentsOfTheOldAdapters(t *testing.T) {
	rules := "rules: [{seriesQuery: http_requests_total, resources: {template: <<.Resource>>}, metricsQuery: \"sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)\"}]\n"
	for name, args := range map[string][]string{
		"manifests of prometheus-adapter": {
			"--cert-dir=/var/run/serving-cert", "--metrics-relist-interval=1m", "--prometheus-url=https://prometheus.monitoring.svc:9090/",
			"--secure-port=6443", "--tls-cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
		},
		"chart of prometheus-adapter": {
			"--secure-port=6443", "--cert-dir=/tmp/cert", "--prometheus-url=http://prometheus.default.svc:9090", "--metrics-relist-interval=1m", "--v=4",
		},
		"older manifests": {
			"--secure-port=6443", "--logtostderr=true", "--stderrthreshold=2", "--alsologtostderr", "--log-dir=/tmp", "--log_file=x", "--v=10",
			"--vmodule=a=1", "--skip_headers", "--prometheus-url=http://prometheus:9090", "--disable-http2", "--discovery-interval=10m",
			"--lister-kubeconfig=/etc/kubeconfig",
		},
		"k8s-cloudwatch-adapter": {"--cert-dir=/tmp", "--secure-port=6443", "--logtostderr=true", "--v=2"},
	} {
		t.Run(name, func(t *testing.T) {
			o, printed := parsed(t, rules, args...)
			if _, err := o.load(); err != nil {
				t.Fatal(err)
			}
			if o.base.SecureServing.BindPort != 6443 {
				t.Errorf("port %d", o.base.SecureServing.BindPort)
			}
			if strings.Contains(strings.Join(args, " "), "--logtostderr") != strings.Contains(printed, "--logtostderr has been deprecated, it has no effect") {
				t.Errorf("printed %q", printed)
			}
			if want := name == "older manifests"; o.base.SecureServing.DisableHTTP2Serving != want {
				t.Errorf("HTTP/2 disabled: %v, want %v", !want, want)
			}
		})
	}
}

func TestNotes(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--prometheus-ca-file=a", "--prometheus-token-file=b"}, ""},
		{[]string{"--prometheus-ca-file=a", "--prometheus-auth-incluster"}, "--prometheus-auth-incluster has no effect together with --prometheus-ca-file"},
		{[]string{"--prometheus-ca-file=a", "--prometheus-auth-config=b"}, "--prometheus-auth-config has no effect together with --prometheus-ca-file"},
		{[]string{"--prometheus-auth-incluster", "--prometheus-client-tls-cert-file=a"}, "--prometheus-client-tls-cert-file has no effect together with --prometheus-auth-incluster"},
	} {
		o, _ := parsed(t, "", test.args...)
		if got := strings.Join(o.prometheus.notes(), "\n"); got != test.want {
			t.Errorf("%q: got %q, want %q", test.args, got, test.want)
		}
	}
}

// TestLoadAgain is what happens when the file changes.
func TestLoadAgain(t *testing.T) {
	o, _ := parsed(t, "maxAge: 10s\n", "--prometheus-url=http://flag:9090", "--max-age=20s")
	for _, text := range []string{"maxAge: 30s\n", "fetchTimeout: 3s\n"} {
		if err := os.WriteFile(o.configFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := o.load()
		if err != nil || c.MaxAge != 20*time.Second || c.Prometheus.Servers["default"].URL != "http://flag:9090" {
			t.Errorf("%q: %+v, %v", text, c, err)
		}
	}
}

func TestPodName(t *testing.T) {
	t.Setenv("POD_NAME", "tidegauge-0")
	if got := podName(); got != "tidegauge-0" {
		t.Errorf("got %q", got)
	}
	t.Setenv("POD_NAME", "")
	host, err := os.Hostname()
	if got := podName(); err == nil && got != host {
		t.Errorf("got %q, want the host's name %q", got, host)
	}
}

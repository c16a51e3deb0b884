package prometheus

import (
	"bytes"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/config"
	"github.com/prometheus/sigv4"
	"go.yaml.in/yaml/v3"
)

// parse reads a configuration as the adapter's file is read.
func parse(text string) (Config, error) {
	var c Config
	decoder := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	decoder.KnownFields(true)
	err := decoder.Decode(&c)
	return c, err
}

func TestConfigYAML(t *testing.T) {
	c, err := parse(`
servers:
  default:
    url: https://prometheus.example.com/team-a/
    verb: POST
    callTimeout: 1500ms
    maxCalls: 2
    headers:
      X-Scope-OrgID: team-a
    http:
      basic_auth:
        username: reader
        password_file: /secrets/password
      tls_config:
        ca_file: /secrets/ca.crt
      follow_redirects: false
      proxy_url: http://proxy.example.com:3128
      http_headers:
        X-Other:
          secrets: [hidden]
  amazon:
    url: https://aps-workspaces.eu-west-1.amazonaws.com/workspaces/ws-1
    sigv4:
      region: eu-west-1
      role_arn: arn:aws:iam::123456789012:role/reader
    http: {}
  cluster:
    url: https://prometheus.monitoring
    inCluster: true
  file:
    url: https://prometheus.monitoring
    kubeconfig: /secrets/kubeconfig
    http:
`)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	d := c.Servers["default"]
	if d.Verb != http.MethodPost || d.CallTimeout != 1500*time.Millisecond || d.MaxCalls != 2 || d.Headers["X-Scope-OrgID"] != "team-a" {
		t.Errorf("got %+v", d)
	}
	if d.HTTP.FollowRedirects || !d.HTTP.EnableHTTP2 || d.HTTP.BasicAuth.Username != "reader" || d.HTTP.TLSConfig.CAFile != "/secrets/ca.crt" {
		t.Errorf("http is %+v", d.HTTP)
	}
	a := c.Servers["amazon"]
	if a.SigV4.Region != "eu-west-1" || !a.HTTP.FollowRedirects || !a.HTTP.EnableHTTP2 || a.HTTP.ProxyFromEnvironment {
		t.Errorf("got %+v with http %+v", a, a.HTTP)
	}
	if f := c.Servers["file"]; f.HTTP != nil || f.Kubeconfig != "/secrets/kubeconfig" {
		t.Errorf("got %+v", f)
	}
	if h := DefaultHTTP(); !h.FollowRedirects || !h.EnableHTTP2 || !h.ProxyFromEnvironment || config.DefaultHTTPClientConfig.ProxyFromEnvironment {
		t.Errorf("without http it is %+v", h)
	}
}

func TestConfigYAMLErrors(t *testing.T) {
	for _, test := range []struct{ server, want string }{
		{"host: x", "field host not found"},
		{"http: {basic: {}}", "field basic not found"},
		{"http: {tls_config: {cafile: x}}", "field cafile not found"},
		{"http: {basic_auth: {user: x}}", "field user not found"},
		{"sigv4: {role: x}", "field role not found"},
		{"callTimeout: soon", "into time.Duration"},
		{"http: {basic_auth: {username: u}, bearer_token: t}", "at most one of"},
		{"sigv4: {access_key: x}", "Secret Key"},
	} {
		_, err := parse("servers: {default: {url: 'http://p', " + test.server + "}}")
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: the error is %v, want one with %q", test.server, err, test.want)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	for _, good := range []Config{
		{},
		{Servers: map[string]Server{"default": {URL: "http://prometheus:9090"}, "a.b-c_1": {URL: "https://[::1]:9090/x/"}, "colon": {URL: "http://p/x/:9090/:x"}}},
	} {
		if err := good.Validate(); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	basic := &config.HTTPClientConfig{BasicAuth: &config.BasicAuth{Username: "u"}}
	for _, test := range []struct {
		change func(*Server)
		want   string
	}{
		{func(s *Server) { s.URL = "" }, "url: must be set"},
		{func(s *Server) { s.URL = "prometheus:9090" }, "url: is not an address such as http://"},
		{func(s *Server) { s.URL = "prometheus" }, "url: is not an address such as http://"},
		{func(s *Server) { s.URL = "http://" }, "url: is not an address"},
		{func(s *Server) { s.URL = "http://:9090" }, "url: is not an address"},
		{func(s *Server) { s.URL = "ftp://p" }, "url: starts with ftp"},
		{func(s *Server) { s.URL = "http://p/?x=1" }, "url: must end with its path"},
		{func(s *Server) { s.URL = "http://p?" }, "url: must end with its path"},
		{func(s *Server) { s.URL = "http://p/#a" }, "url: must end with its path"},
		{func(s *Server) { s.URL = "http://u:hunter2@p" }, "url: must not have a user or a password in it: use http.basic_auth"},
		{func(s *Server) { s.URL = "http://u:hunter2/x@p" }, "url: is not an address"},
		{func(s *Server) { s.URL = "http://u:hunter2%zz@p" }, "url: is not an address"},
		{func(s *Server) { s.URL = "http://p/:9090" }, "url: has a port in its path: it goes right after the host, as in http://p:9090"},
		{func(s *Server) { s.URL = "https://[::1]/:9090/x" }, "url: has a port in its path: it goes right after the host, as in https://[::1]:9090"},
		{func(s *Server) { s.URL = "http://p:80/%3a9090/hunter2" }, "url: has a port in its path: it goes right after the host, as in http://p:9090"},
		{func(s *Server) { s.Verb = "get" }, `verb: "get" is neither`},
		{func(s *Server) { s.CallTimeout = time.Millisecond }, "callTimeout: 1ms is not"},
		{func(s *Server) { s.CallTimeout = 2 * time.Minute }, "callTimeout: 2m0s is not"},
		{func(s *Server) { s.MaxCalls = -1 }, "maxCalls: -1 is not"},
		{func(s *Server) { s.MaxCalls = 51 }, "maxCalls: 51 is not"},
		{func(s *Server) { s.ScrapeInterval = time.Millisecond }, "scrapeInterval: 1ms is not"},
		{func(s *Server) { s.ScrapeInterval = time.Hour }, "scrapeInterval: 1h0m0s is not"},
		{func(s *Server) { s.MaxCallsPerSecond = -1 }, "maxCallsPerSecond: -1 is not"},
		{func(s *Server) { s.MaxCallsPerSecond = 10_001 }, "maxCallsPerSecond: 10001 is not"},
		{func(s *Server) { s.Headers = map[string]config.Secret{"a b": "hunter2"} }, `headers: "a b" is no name`},
		{func(s *Server) { s.Headers = map[string]config.Secret{"x-a": "hunter2\r\nb"} }, "headers: the value of X-A has a line break"},
		{func(s *Server) { s.Headers = map[string]config.Secret{"content-length": "7"} }, "headers: Content-Length cannot be set"},
		{func(s *Server) {
			s.Headers = map[string]config.Secret{"authorization": "hunter2"}
			s.SigV4 = new(sigv4.SigV4Config)
		}, "headers: Authorization cannot be set together with sigv4"},
		{func(s *Server) {
			s.HTTP = &config.HTTPClientConfig{BasicAuth: basic.BasicAuth, BearerToken: "hunter2"}
		}, "http: at most one of"},
		{func(s *Server) { s.Kubeconfig, s.InCluster = "x", true }, "kubeconfig: must be empty"},
		{func(s *Server) { s.Kubeconfig, s.SigV4 = "x", new(sigv4.SigV4Config) }, "sigv4: must be empty where kubeconfig"},
		{func(s *Server) { s.SigV4, s.HTTP = new(sigv4.SigV4Config), basic }, "sigv4: must be empty where http"},
		{func(s *Server) { s.SigV4 = &sigv4.SigV4Config{ExternalID: "x"} }, "sigv4: external_id"},
		{func(s *Server) { s.Kubeconfig, s.HTTP = "x", basic }, "http: may have only"},
		{func(s *Server) {
			s.InCluster, s.HTTP = true, DefaultHTTP()
			s.HTTP.TLSConfig.CAFile = "x"
		}, "http: may have only"},
		{func(s *Server) {
			s.InCluster, s.HTTP = true, DefaultHTTP()
			s.HTTP.Authorization = &config.Authorization{CredentialsRef: "x"}
		}, "http: may have only"},
	} {
		s := Server{URL: "http://prometheus:9090"}
		test.change(&s)
		err := Config{Servers: map[string]Server{"default": s}}.Validate()
		if err == nil || !strings.HasPrefix(err.Error(), "servers.default."+test.want) {
			t.Errorf("the error is %v, want one that starts with servers.default.%s", err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error has a secret in it: %v", err)
		}
	}
	for _, name := range []string{"", "a b", "-a", "ü", strings.Repeat("a", 64)} {
		err := Config{Servers: map[string]Server{name: {URL: "http://p"}}}.Validate()
		if err == nil || !strings.HasPrefix(err.Error(), fmt.Sprintf("servers: the name %q", name)) {
			t.Errorf("the name %q: the error is %v", name, err)
		}
	}
}

func TestKubeconfigFitsAuthorization(t *testing.T) {
	h := DefaultHTTP()
	h.BearerTokenFile = "/secrets/token"
	c := Config{Servers: map[string]Server{"default": {URL: "http://p", InCluster: true, HTTP: h}}}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if h.BearerTokenFile == "" || h.Authorization != nil {
		t.Error("Validate changed the configuration")
	}
}

func TestNewErrors(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	for _, test := range []struct {
		server Server
		want   string
	}{
		{Server{}, "servers.default.url: must be set"},
		{Server{URL: "http://p", HTTP: &config.HTTPClientConfig{TLSConfig: config.TLSConfig{CAFile: none}}}, "servers.default.http: "},
		{Server{URL: "http://p", Kubeconfig: none}, "servers.default.kubeconfig: "},
		{Server{URL: "http://p", InCluster: true}, "servers.default.inCluster: "},
	} {
		if _, err := New(Config{Servers: map[string]Server{"default": test.server}}); err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("the error is %v, want one that starts with %q", err, test.want)
		}
	}
}

package prometheus

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log" //nolint:depguard // what net/http takes
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/config"
	"github.com/prometheus/sigv4"
	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// write makes a file with that content.
func write(t *testing.T, path, content string) string {
	t.Helper()
	if !filepath.IsAbs(path) {
		path = filepath.Join(t.TempDir(), path)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// staticAWS has the SDK find static keys, or none if they are empty.
func staticAWS(t *testing.T, id, secret, token string) {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID":           id,
		"AWS_SECRET_ACCESS_KEY":       secret,
		"AWS_SESSION_TOKEN":           token,
		"AWS_REGION":                  "",
		"AWS_PROFILE":                 "",
		"AWS_CONFIG_FILE":             filepath.Join(t.TempDir(), "none"),
		"AWS_SHARED_CREDENTIALS_FILE": filepath.Join(t.TempDir(), "none"),
		"AWS_EC2_METADATA_DISABLED":   "true",
	} {
		t.Setenv(name, value)
	}
}

func kubeconfig(t *testing.T, user string) string {
	t.Helper()
	return write(t, "kubeconfig", `
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {`+user+`}}]
`)
}

// authTests are ways to authorize calls.
var authTests = []struct {
	name   string
	change func(t *testing.T, s *Server)
	// header is that of the call, and what it must match.
	header, want string
	// hint is a part of the error of a server that denies access.
	hint    string
	secrets []string
}{
	{"none", func(*testing.T, *Server) {}, "Authorization", `^$`, "set http, sigv4, kubeconfig or inCluster", nil},
	{"no credentials in http", func(_ *testing.T, s *Server) { s.HTTP = DefaultHTTP() }, "Authorization", `^$`, "set http.authorization", nil},
	{"basic", func(_ *testing.T, s *Server) {
		s.HTTP = DefaultHTTP()
		s.HTTP.BasicAuth = &config.BasicAuth{Username: "reader", Password: "hunter2"}
	}, "Authorization", "^Basic " + base64.StdEncoding.EncodeToString([]byte("reader:hunter2")) + "$", "check http.basic_auth", []string{"hunter2", base64.StdEncoding.EncodeToString([]byte("reader:hunter2"))}},
	{"basic by file", func(t *testing.T, s *Server) {
		t.Helper()
		s.HTTP = DefaultHTTP()
		s.HTTP.BasicAuth = &config.BasicAuth{Username: "reader", PasswordFile: write(t, "password", "hunter3\n")}
	}, "Authorization", "^Basic " + base64.StdEncoding.EncodeToString([]byte("reader:hunter3")) + "$", "check http.basic_auth", []string{"hunter3", base64.StdEncoding.EncodeToString([]byte("reader:hunter3"))}},
	{"bearer", func(_ *testing.T, s *Server) {
		s.HTTP = DefaultHTTP()
		s.HTTP.BearerToken = "tok.en"
	}, "Authorization", `^Bearer tok\.en$`, "check http.authorization", []string{"tok.en"}},
	{"authorization", func(_ *testing.T, s *Server) {
		s.HTTP = DefaultHTTP()
		s.HTTP.Authorization = &config.Authorization{Type: "Token", Credentials: "tok.en"}
	}, "Authorization", `^Token tok\.en$`, "check http.authorization", []string{"tok.en"}},
	{"token file", func(t *testing.T, s *Server) {
		t.Helper()
		s.HTTP = DefaultHTTP()
		s.HTTP.BearerTokenFile = write(t, "token", strings.Repeat("token", 2000)+"\n")
	}, "Authorization", `^Bearer (token)+$`, "check http.authorization", []string{"tokentoken"}},
	{"headers", func(_ *testing.T, s *Server) {
		s.Headers = map[string]config.Secret{"x-scope-orgid": "team-a", "X-Token": "hunter2", "Host": "prometheus.internal"}
	}, "X-Scope-Orgid", `^team-a$`, "set http, sigv4", []string{"hunter2"}},
	{"cookies", func(_ *testing.T, s *Server) {
		s.Headers = map[string]config.Secret{"Cookie": `session=hunter2; other="hunter3"`}
	}, "Cookie", `^session=hunter2; other="hunter3"$`, "set http, sigv4", []string{"hunter2", "hunter3"}},
	{"headers of http", func(_ *testing.T, s *Server) {
		s.HTTP = DefaultHTTP()
		s.HTTP.HTTPHeaders = &config.Headers{Headers: map[string]config.Header{"X-Token": {Secrets: []config.Secret{"hunter2"}}}}
	}, "X-Token", `^hunter2$`, "set http.authorization", []string{"hunter2"}},
	{"a header in place of a token", func(_ *testing.T, s *Server) {
		s.Headers = map[string]config.Secret{"authorization": "Custom hunter2"}
		s.HTTP = DefaultHTTP()
		s.HTTP.BearerToken = "tok.en"
	}, "Authorization", `^Custom hunter2$`, "check headers.Authorization", []string{"hunter2", "tok.en"}},
	{"SigV4", func(t *testing.T, s *Server) {
		t.Helper()
		staticAWS(t, "AKIDEXAMPLE", "hunter2secret", "session+token")
		s.SigV4 = &sigv4.SigV4Config{Region: "eu-west-1"}
	}, "Authorization", `^AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/\d{8}/eu-west-1/aps/aws4_request, SignedHeaders=[a-z0-9;-]*host;[a-z0-9;-]*x-amz-date;x-amz-security-token, Signature=[0-9a-f]{64}$`, "check sigv4", []string{"hunter2secret", "session+token", "Signature="}},
	{"SigV4 with keys, headers and a proxy", func(t *testing.T, s *Server) {
		t.Helper()
		staticAWS(t, "", "", "")
		s.SigV4 = &sigv4.SigV4Config{Region: "eu-west-1", AccessKey: "AKIDOTHER", SecretKey: "hunter2secret"}
		s.Headers = map[string]config.Secret{"X-Team": "team-a"}
		s.HTTP = DefaultHTTP()
	}, "Authorization", `^AWS4-HMAC-SHA256 Credential=AKIDOTHER/\d{8}/eu-west-1/aps/aws4_request, SignedHeaders=[a-z0-9;-]*host;[a-z0-9;-]*x-amz-date;x-team, `, "check sigv4", []string{"hunter2secret", "team-a", "Signature="}},
	{"kubeconfig", func(t *testing.T, s *Server) {
		t.Helper()
		s.Kubeconfig = kubeconfig(t, "token: kube-token")
	}, "Authorization", `^Bearer kube-token$`, "check the credentials of kubeconfig", []string{"kube-token"}},
	{"kubeconfig with a file", func(t *testing.T, s *Server) {
		t.Helper()
		s.Kubeconfig = kubeconfig(t, "tokenFile: "+write(t, "token", "file-token\n"))
	}, "Authorization", `^Bearer file-token$`, "check the credentials of kubeconfig", []string{"file-token"}},
	{"kubeconfig with another token", func(t *testing.T, s *Server) {
		t.Helper()
		s.Kubeconfig = kubeconfig(t, "token: kube-token")
		s.HTTP = DefaultHTTP()
		s.HTTP.BearerTokenFile = write(t, "token", "tok.en")
	}, "Authorization", `^Bearer tok\.en$`, "check the credentials of kubeconfig", []string{"kube-token", "tok.en"}},
	{"kubeconfig with headers", func(t *testing.T, s *Server) {
		t.Helper()
		s.Kubeconfig = kubeconfig(t, "username: reader, password: hunter2")
		s.Headers = map[string]config.Secret{"X-Team": "team-a"}
	}, "X-Team", `^team-a$`, "check the credentials of kubeconfig", []string{"hunter2"}},
}

func TestAuth(t *testing.T) {
	for _, test := range authTests {
		for _, verb := range []string{http.MethodGet, http.MethodPost} {
			t.Run(test.name+" "+verb, func(t *testing.T) {
				f := &fakePrometheus{values: map[string]string{"a": "1"}}
				s, _ := start(t, f, func(s *Server) {
					s.Verb = verb
					test.change(t, s)
				})
				if got := fetchOne(t, s, "a"); got.Err != nil {
					t.Fatal(got.Err)
				}
				r := f.asked()[0]
				if got := r.header.Get(test.header); !regexp.MustCompile(test.want).MatchString(got) {
					t.Errorf("%s is %q, want it to match %s", test.header, got, test.want)
				}
				if host := s.servers[DefaultServer].host; host != "" && r.host != host {
					t.Errorf("the host is %s, want %s", r.host, host)
				}
				if len(r.header.Values(test.header)) > 1 || r.header.Get("User-Agent") != userAgent || r.header.Get("Idempotency-Key") != "" {
					t.Errorf("the headers are %v", r.header)
				}
			})
		}
	}
}

// TestErrorsHaveNoSecrets asks servers that give back what they get.
func TestErrorsHaveNoSecrets(t *testing.T) {
	echo := func(r *http.Request) string {
		var b strings.Builder
		r.Header.Write(&b)
		username, password, _ := r.BasicAuth()
		for _, cookie := range r.Cookies() {
			b.WriteString(cookie.Value + "\n")
		}
		return password + "\n" + username + "\n" + b.String() + b.String()
	}
	for _, answer := range []struct {
		name string
		http.HandlerFunc
	}{
		{"denied", func(w http.ResponseWriter, r *http.Request) { http.Error(w, echo(r), http.StatusForbidden) }},
		{"failed", func(w http.ResponseWriter, r *http.Request) { http.Error(w, echo(r), http.StatusInternalServerError) }},
		{"garbage", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, echo(r)) }},
		{"the API's error", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"status":"error","errorType":"bad_data","error":%q}`, echo(r))
		}},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "https://example.com/"+r.Header.Get("Authorization")+"?x="+r.Header.Get("X-Token"))
			w.WriteHeader(http.StatusFound)
		}},
		{"a number", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, vectorOf(fmt.Sprintf(`{"metric":{},"value":[1,%q]}`, r.Header.Get("Authorization"))))
		}},
	} {
		for _, test := range authTests {
			t.Run(answer.name+" "+test.name, func(t *testing.T) {
				s, _ := start(t, answer, func(s *Server) { test.change(t, s) })
				err := fetchOne(t, s, "a").Err
				if err == nil {
					t.Fatal("there is no error")
				}
				for _, secret := range test.secrets {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("the error has the secret %q in it: %v", secret, err)
					}
				}
				if answer.name == "denied" && !strings.Contains(err.Error(), test.hint) {
					t.Errorf("the error is %v, want it to say %q", err, test.hint)
				}
				if len(err.Error()) > 2*maxWords {
					t.Errorf("the error is of %d bytes: %v", len(err.Error()), err)
				}
			})
		}
	}
}

func TestCredentialsAreReadAgain(t *testing.T) {
	f := &fakePrometheus{values: map[string]string{"a": "1"}}
	token := write(t, "token", "first\n")
	s, _ := start(t, f, func(s *Server) {
		s.HTTP = DefaultHTTP()
		s.HTTP.BearerTokenFile = token
	})
	fetchOne(t, s, "a")
	write(t, token, "second\n")
	fetchOne(t, s, "a")
	if err := os.Remove(token); err != nil {
		t.Fatal(err)
	}
	if err := fetchOne(t, s, "a").Err; err == nil || !strings.Contains(err.Error(), "no such file or directory") || !strings.Contains(err.Error(), token) {
		t.Errorf("without the file the error is %v", err)
	}
	write(t, token, "third\n")
	fetchOne(t, s, "a")
	var got []string
	for _, r := range f.asked() {
		got = append(got, r.header.Get("Authorization"))
	}
	if want := "Bearer first,Bearer second,Bearer third"; strings.Join(got, ",") != want {
		t.Errorf("got %q, want %s", got, want)
	}
}

// newCertificate is a key and a certificate of that name, as PEM.
func newCertificate(t *testing.T, name string) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}))
}

func TestClientCertificates(t *testing.T) {
	var names []string
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		names = append(names, r.TLS.PeerCertificates[0].Subject.CommonName)
		io.WriteString(w, vectorOf(`{"metric":{},"value":[1,"1"]}`))
	}))
	web.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}
	web.Config.ErrorLog = discardLog()
	web.EnableHTTP2 = true
	web.StartTLS()
	defer web.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}))
	certificate, key := newCertificate(t, "first")
	certificateFile, keyFile := write(t, "tls.crt", certificate), write(t, "tls.key", key)
	trusting := newSource(t, web.URL, func(s *Server) {
		s.HTTP = DefaultHTTP()
		s.HTTP.TLSConfig = config.TLSConfig{CAFile: write(t, "ca.crt", ca), CertFile: certificateFile, KeyFile: keyFile}
	})
	withoutCA := newSource(t, web.URL, func(s *Server) {
		s.HTTP = DefaultHTTP()
		s.HTTP.TLSConfig = config.TLSConfig{InsecureSkipVerify: true, CertFile: certificateFile, KeyFile: keyFile}
	})
	for _, s := range []*Source{trusting, withoutCA} {
		if got := fetchOne(t, s, "a"); got.Err != nil {
			t.Fatal(got.Err)
		}
	}
	certificate, key = newCertificate(t, "second")
	write(t, certificateFile, certificate)
	write(t, keyFile, key)
	for _, s := range []*Source{trusting, withoutCA} {
		if got := fetchOne(t, s, "a"); got.Err != nil {
			t.Fatal(got.Err)
		}
	}
	if got := strings.Join(names, ","); got != "first,first,second,second" {
		t.Errorf("the certificates were of %s", got)
	}

	none := newSource(t, web.URL, func(s *Server) {
		s.HTTP = DefaultHTTP()
		s.HTTP.TLSConfig = config.TLSConfig{InsecureSkipVerify: true}
	})
	if err := fetchOne(t, none, "a").Err; err == nil || !strings.Contains(err.Error(), "remote error: tls: ") {
		t.Errorf("without a certificate the error is %v", err)
	}
}

func TestOAuth2(t *testing.T) {
	tokens := 0
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tokens++
		if _, secret, _ := r.BasicAuth(); secret != "hunter2" {
			http.Error(w, "wrong secret: "+secret, http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"access_token":"access.token","token_type":"Bearer","expires_in":3600}`)
	}))
	defer issuer.Close()
	f := &fakePrometheus{values: map[string]string{"a": "1"}}
	source := func(secret config.Secret) *Source {
		s, _ := start(t, f, func(s *Server) {
			s.HTTP = DefaultHTTP()
			s.HTTP.OAuth2 = &config.OAuth2{ClientID: "c", ClientSecret: secret, TokenURL: issuer.URL + "/token"}
		})
		return s
	}
	s := source("hunter2")
	for range 2 {
		if got := fetchOne(t, s, "a"); got.Err != nil {
			t.Fatal(got.Err)
		}
	}
	if got := f.asked()[1].header.Get("Authorization"); got != "Bearer access.token" || tokens != 1 {
		t.Errorf("Authorization is %q after %d tokens", got, tokens)
	}
	err := fetchOne(t, source("hunter3"), "a").Err
	if err == nil || !strings.Contains(err.Error(), "oauth2: cannot fetch token: 401 Unauthorized") || strings.Contains(err.Error(), "hunter3") {
		t.Errorf("with a wrong secret the error is %v", err)
	}
}

func TestSigV4WithoutCredentials(t *testing.T) {
	staticAWS(t, "", "", "")
	f := &fakePrometheus{values: map[string]string{"a": "1"}}
	s, _ := start(t, f, func(s *Server) { s.SigV4 = &sigv4.SigV4Config{Region: "eu-west-1"} })
	err := fetchOne(t, s, "a").Err
	if err == nil || !strings.Contains(err.Error(), "): credentials for sigv4: ") || len(f.asked()) != 0 {
		t.Errorf("without credentials the error is %v", err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hunter2secret")
	if got := fetchOne(t, s, "a"); got.Err != nil {
		t.Errorf("when there are credentials, the error is %v", got.Err)
	}
}

func TestSigV4Role(t *testing.T) {
	staticAWS(t, "AKIDEXAMPLE", "hunter2secret", "")
	denied := true
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if denied {
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `<ErrorResponse><Error><Code>AccessDenied</Code><Message>may not sts:AssumeRole</Message></Error><RequestId>b2c9</RequestId></ErrorResponse>`)
			return
		}
		io.WriteString(w, `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials><AccessKeyId>AKIDROLE</AccessKeyId>`+
			`<SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`)
	}))
	defer sts.Close()
	t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)
	f := &fakePrometheus{values: map[string]string{"a": "1"}}
	s, web := start(t, f, func(s *Server) {
		s.SigV4 = &sigv4.SigV4Config{Region: "eu-west-1", RoleARN: "arn:aws:iam::123456789012:role/reader"}
	})
	want := fmt.Sprintf("prometheus server %q (%s): credentials for sigv4: AccessDenied: may not sts:AssumeRole", DefaultServer, web.URL)
	if err := fetchOne(t, s, "a").Err; err == nil || err.Error() != want {
		t.Errorf("the error is %v, want %s", err, want)
	}
	denied = false
	if got := fetchOne(t, s, "a"); got.Err != nil || !strings.Contains(f.asked()[0].header.Get("Authorization"), "AKIDROLE") {
		t.Errorf("got %+v", got)
	}
}

func TestProxy(t *testing.T) {
	var asked []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Host)
		io.WriteString(w, vectorOf(`{"metric":{},"value":[1,"1"]}`))
	}))
	defer proxy.Close()
	c, err := parse("servers: {default: {url: 'http://prometheus.invalid:9090', http: {proxy_url: '" + proxy.URL + "'}}, " +
		"cluster: {url: 'http://cluster.invalid', kubeconfig: '" + kubeconfig(t, "token: x") + "', http: {proxy_url: '" + proxy.URL + "'}}}")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if got := fetchOne(t, s, "a"); got.Err != nil {
		t.Error(got.Err)
	}
	if err := s.Series(t.Context(), "cluster", "up", time.Now(), time.Now(), nil); err == nil {
		t.Error("the proxy's vector was taken for a list")
	}
	if got := strings.Join(asked, ","); got != "prometheus.invalid:9090,cluster.invalid" {
		t.Errorf("the proxy was asked for %s", got)
	}
}

// TestProxySecrets asks through a proxy that gives back what it gets.
func TestProxySecrets(t *testing.T) {
	for _, test := range []struct{ name, server, http string }{
		{"in the clear", "http://prometheus.invalid", ""},
		{"by CONNECT", "https://prometheus.invalid", ", proxy_connect_header: {X-Proxy: [hunter4], Proxy-Other: ['Basic dTpodW50ZXI1']}"},
	} {
		t.Run(test.name, func(t *testing.T) {
			proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				said := []string{"hunter%2F3 hunter/3 hunter5"}
				for _, values := range r.Header {
					said = append(said, values...)
				}
				w.WriteHeader(http.StatusProxyAuthRequired)
				fmt.Fprintf(w, `{"message":%q}`, strings.Join(said, " "))
			}))
			defer proxy.Close()
			c, err := parse("servers: {default: {url: '" + test.server + "', http: {proxy_url: '" + strings.Replace(proxy.URL, "http://", "http://me:hunter%2F3@", 1) + "'" + test.http + "}}}")
			if err != nil {
				t.Fatal(err)
			}
			s, err := New(c)
			if err != nil {
				t.Fatal(err)
			}
			got := fetchOne(t, s, "a").Err
			if got == nil {
				t.Fatal("there is no error")
			}
			secrets := []string{"hunter/3", "hunter%2F3", base64.StdEncoding.EncodeToString([]byte("me:hunter/3"))}
			if test.http != "" {
				secrets = append(secrets, "hunter4", "hunter5", "dTpodW50ZXI1")
			}
			known := &call{server: s.servers[DefaultServer], answer: new(meter)}
			for _, secret := range secrets {
				if strings.Contains(got.Error(), secret) || strings.Contains(known.clean("a "+secret+" b", maxWords), secret) {
					t.Errorf("the secret %q is not concealed: %v", secret, got)
				}
			}
		})
	}
}

// TestKubeconfigIsReadAgain changes a kubeconfig and a file of it in place.
func TestKubeconfigIsReadAgain(t *testing.T) {
	f := &fakePrometheus{values: map[string]string{"a": "1"}}
	var path string
	s, _ := start(t, f, func(s *Server) {
		path = kubeconfig(t, "token: first")
		s.Kubeconfig = path
	})
	ask := func() string {
		t.Helper()
		ctx := klog.NewContext(t.Context(), klog.Logger{})
		if got := s.Fetch(ctx, []sources.Query{NewQuery("", "a", 0)})[0]; got.Err != nil {
			t.Fatal(got.Err)
		}
		asked := f.asked()
		return asked[len(asked)-1].header.Get("Authorization")
	}
	transport, _ := s.servers[DefaultServer].http.Transport.(*kubeTransport)
	made := transport.made
	for range 2 {
		if got := ask(); got != "Bearer first" || transport.made != made {
			t.Errorf("asked with %q by another transport: %v", got, transport.made != made)
		}
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	second := strings.Replace(string(good), "first", "second", 1)
	for _, step := range []struct{ content, want string }{
		{second[:len(second)/2], "Bearer first"},
		{second, "Bearer second"},
		{strings.Replace(second, "token: second", "client-certificate: missing.crt, client-key: missing.key", 1), "Bearer second"},
		{strings.Replace(second, "second", "third", 1), "Bearer third"},
	} {
		write(t, path, step.content)
		if got := ask(); got != step.want {
			t.Errorf("asked with %q, want %q, of\n%s", got, step.want, step.content)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != "Bearer third" {
		t.Errorf("without the file asked with %q", got)
	}
}

// TestKubeconfigCertificates changes the files that a kubeconfig names.
func TestKubeconfigCertificates(t *testing.T) {
	var names []string
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		names = append(names, r.TLS.PeerCertificates[0].Subject.CommonName)
		io.WriteString(w, vectorOf(`{"metric":{},"value":[1,"1"]}`))
	}))
	web.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	web.EnableHTTP2 = true
	web.StartTLS()
	defer web.Close()
	dir := t.TempDir()
	put := func(name string) {
		t.Helper()
		certificate, key := newCertificate(t, name)
		write(t, filepath.Join(dir, "tls.crt"), certificate)
		write(t, filepath.Join(dir, "tls.key"), key)
	}
	put("first")
	write(t, filepath.Join(dir, "ca.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})))
	path := write(t, filepath.Join(dir, "kubeconfig"), `
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: "https://127.0.0.1:1", certificate-authority: ca.crt}}]
users: [{name: u, user: {client-certificate: tls.crt, client-key: tls.key}}]
`)
	s := newSource(t, web.URL, func(s *Server) { s.Kubeconfig = path })
	for _, name := range []string{"", "second"} {
		if name != "" {
			put(name)
		}
		if got := fetchOne(t, s, "a"); got.Err != nil {
			t.Fatal(got.Err)
		}
	}
	if got := strings.Join(names, ","); got != "first,second" {
		t.Errorf("the certificates were of %s", got)
	}
	s.CloseIdleConnections()
}

// discardLog is for servers whose clients are meant to break off.
func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }

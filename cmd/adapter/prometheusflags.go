package main

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"

	promconfig "github.com/prometheus/common/config"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/tidegauge/tidegauge/pkg/config"
	"github.com/tidegauge/tidegauge/pkg/sources/prometheus"
)

// Names of flags that more than one place speaks of.
const (
	flagURL        = "prometheus-url"
	flagVerb       = "prometheus-verb"
	flagHeader     = "prometheus-header"
	flagTokenFile  = "prometheus-token-file"
	flagCAFile     = "prometheus-ca-file"
	flagCertFile   = "prometheus-client-tls-cert-file"
	flagKeyFile    = "prometheus-client-tls-key-file"
	flagInCluster  = "prometheus-auth-incluster"
	flagKubeconfig = "prometheus-auth-config"
)

// prometheusFlags configure one Prometheus server, with the names and the meaning that
// they have in prometheus-adapter. In the file it is prometheus.servers.default.
type prometheusFlags struct {
	set               *pflag.FlagSet
	url, verb         string
	headers           []string
	tokenFile         string
	caFile            string
	certFile, keyFile string
	inCluster         bool
	kubeconfig        string
}

func (f *prometheusFlags) addFlags(fs *pflag.FlagSet) {
	f.set = fs
	fs.StringVar(&f.url, flagURL, f.url, "address of the Prometheus server, with the path below which its API lies; the server named default, of rules that name none")
	fs.StringVar(&f.verb, flagVerb, f.verb, "HTTP method of queries, GET or POST")
	fs.StringArrayVar(&f.headers, flagHeader, f.headers, "header of every request to the Prometheus server, as `name=value`; can be repeated")
	fs.StringVar(&f.tokenFile, flagTokenFile, f.tokenFile, "file with the bearer token for the Prometheus server, which is read again when it changes")
	fs.StringVar(&f.caFile, flagCAFile, f.caFile, "file with the certificates of the authorities that vouch for the Prometheus server, instead of the system's; --prometheus-auth-incluster and --prometheus-auth-config have no effect beside it")
	fs.StringVar(&f.certFile, flagCertFile, f.certFile, "file with the client certificate for the Prometheus server, which is read again when it changes")
	fs.StringVar(&f.keyFile, flagKeyFile, f.keyFile, "file with the key of that certificate")
	fs.BoolVar(&f.inCluster, flagInCluster, f.inCluster, "ask the Prometheus server with the pod's own token and certificates")
	fs.StringVar(&f.kubeconfig, flagKubeconfig, f.kubeconfig, "kubeconfig file with the credentials and certificates for the Prometheus server")
	for _, name := range []string{flagTokenFile, flagCAFile, flagCertFile, flagKeyFile, flagKubeconfig} {
		utilruntime.Must(cobra.MarkFlagFilename(fs, name))
	}
}

// given are the flags that were given.
func (f *prometheusFlags) given() []string {
	var names []string
	for _, name := range []string{
		flagURL, flagVerb, flagHeader, flagTokenFile, flagCAFile, flagCertFile, flagKeyFile, flagInCluster, flagKubeconfig,
	} {
		if f.set.Changed(name) {
			names = append(names, name)
		}
	}
	return names
}

// overlay makes the server default of the flags. If the file has servers, it does so only
// for flags that were given.
func (f *prometheusFlags) overlay(c *config.Config) error {
	given := f.given()
	if _, ok := c.Prometheus.Servers[prometheus.DefaultServer]; ok && len(given) > 0 {
		return config.FaultsError{{
			Path: "--" + given[0],
			Text: fmt.Sprintf("the file has prometheus.servers.%s, which is the server of this flag: leave out one of the two", prometheus.DefaultServer),
		}}
	}
	if len(given) == 0 && len(c.Prometheus.Servers) > 0 {
		return nil
	}
	server, faults := f.server()
	if len(faults) > 0 {
		return faults
	}
	if c.Prometheus.Servers == nil {
		c.Prometheus.Servers = map[string]prometheus.Server{}
	}
	c.Prometheus.Servers[prometheus.DefaultServer] = server
	return nil
}

// kube says that the credentials are those of a kubeconfig or of the pod, which
// prometheus-adapter drops beside a certificate authority.
func (f *prometheusFlags) kube() bool {
	return f.caFile == "" && (f.inCluster || f.kubeconfig != "")
}

// notes are what has no effect, as in prometheus-adapter.
func (f *prometheusFlags) notes() []string {
	var notes []string
	ignored := func(name string, is bool, because string) {
		if is {
			notes = append(notes, fmt.Sprintf("--%s has no effect together with --%s", name, because))
		}
	}
	if f.caFile != "" {
		ignored(flagInCluster, f.inCluster, flagCAFile)
		ignored(flagKubeconfig, f.kubeconfig != "", flagCAFile)
	}
	if f.kube() {
		because := flagInCluster
		if f.kubeconfig != "" {
			because = flagKubeconfig
		}
		ignored(flagCertFile, f.certFile != "", because)
		ignored(flagKeyFile, f.keyFile != "", because)
	}
	return notes
}

// server is the server that the flags describe, or what is wrong with them.
func (f *prometheusFlags) server() (prometheus.Server, config.FaultsError) {
	faults := append(f.checkHeaders(), f.checkFiles()...)
	s := prometheus.Server{URL: f.url, Verb: f.verb, Headers: f.headerValues()}
	s.URL, s.Headers = credentialsOfURL(s.URL, s.Headers)
	if f.kube() {
		s.InCluster, s.Kubeconfig = f.inCluster, f.kubeconfig
	}
	s.HTTP = f.client()
	if len(faults) > 0 {
		return s, faults
	}
	// One error says one fault: each part is tried on its own.
	for _, part := range []prometheus.Server{
		{URL: s.URL},
		{URL: config.DefaultPrometheusURL, Verb: s.Verb},
		{URL: config.DefaultPrometheusURL, Headers: s.Headers},
		{URL: config.DefaultPrometheusURL, HTTP: s.HTTP, InCluster: s.InCluster, Kubeconfig: s.Kubeconfig},
	} {
		_, err := prometheus.New(prometheus.Config{Servers: map[string]prometheus.Server{prometheus.DefaultServer: part}})
		if err != nil {
			faults = append(faults, f.blame(err))
		}
	}
	return s, faults
}

// client is the HTTP client of the flags.
func (f *prometheusFlags) client() *promconfig.HTTPClientConfig {
	h := prometheus.DefaultHTTP()
	if f.tokenFile != "" {
		h.Authorization = &promconfig.Authorization{Type: "Bearer", CredentialsFile: f.tokenFile}
	}
	if f.kube() {
		return h
	}
	h.TLSConfig = promconfig.TLSConfig{CAFile: f.caFile, CertFile: f.certFile, KeyFile: f.keyFile}
	// As in prometheus-adapter.
	h.ProxyFromEnvironment = f.caFile == ""
	return h
}

// checkFiles says which files are not there, and which flags cannot be together.
func (f *prometheusFlags) checkFiles() config.FaultsError {
	var faults config.FaultsError
	fault := func(name, format string, args ...any) {
		faults = append(faults, config.Fault{Path: "--" + name, Text: fmt.Sprintf(format, args...)})
	}
	files := map[string]string{flagTokenFile: f.tokenFile}
	if f.kube() {
		files[flagKubeconfig] = f.kubeconfig
	} else {
		files[flagCAFile], files[flagCertFile], files[flagKeyFile] = f.caFile, f.certFile, f.keyFile
		switch {
		case f.certFile != "" && f.keyFile == "":
			fault(flagCertFile, "needs --%s too", flagKeyFile)
		case f.certFile == "" && f.keyFile != "":
			fault(flagKeyFile, "needs --%s too", flagCertFile)
		}
	}
	for _, name := range []string{flagTokenFile, flagKubeconfig, flagCAFile, flagCertFile, flagKeyFile} {
		if files[name] == "" {
			continue
		}
		if _, err := os.ReadFile(files[name]); err != nil {
			fault(name, "%v", err)
		}
	}
	if f.kube() && f.inCluster && f.kubeconfig != "" {
		fault(flagKubeconfig, "cannot be together with --%s", flagInCluster)
	}
	return faults
}

// checkHeaders says whether a header has no value and is no name either: what it has may be
// a secret, as in "Authorization: Bearer ...". A name alone is an empty value, as with
// prometheus-adapter.
func (f *prometheusFlags) checkHeaders() config.FaultsError {
	for _, h := range f.headers {
		if !strings.Contains(h, "=") && !headerName.MatchString(h) {
			return config.FaultsError{{Path: "--" + flagHeader, Text: "a header has no =, and is no name: write name=value"}}
		}
	}
	return nil
}

// headerName is a token (https://www.rfc-editor.org/rfc/rfc9110#name-field-names).
var headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// headerValues are the headers, split at the first =. Several values of one header are
// one, with commas, which means the same (https://www.rfc-editor.org/rfc/rfc9110#name-field-lines-and-combined-fi).
func (f *prometheusFlags) headerValues() map[string]promconfig.Secret {
	var headers map[string]promconfig.Secret
	for _, h := range f.headers {
		name, value, _ := strings.Cut(h, "=")
		name = http.CanonicalHeaderKey(name)
		if headers == nil {
			headers = map[string]promconfig.Secret{}
		}
		if before, ok := headers[name]; ok {
			value = string(before) + ", " + value
		}
		headers[name] = promconfig.Secret(value)
	}
	return headers
}

// credentialsOfURL takes a user and a password out of an address, into the header that
// Go's client, which prometheus-adapter leaves that to, makes of them.
func credentialsOfURL(address string, headers map[string]promconfig.Secret) (string, map[string]promconfig.Secret) {
	const header = "Authorization"
	u, err := url.Parse(address)
	if err != nil || u.User == nil {
		return address, headers
	}
	if headers == nil {
		headers = map[string]promconfig.Secret{}
	}
	password, _ := u.User.Password()
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password))
	headers[header] = cmp.Or(headers[header], promconfig.Secret(basic))
	u.User = nil
	return u.String(), headers
}

// blame names the flag in place of the field that an error is about.
func (f *prometheusFlags) blame(err error) config.Fault {
	text := strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "servers."+prometheus.DefaultServer+".")), " ")
	field, cause, _ := strings.Cut(text, ": ")
	name, ok := map[string]string{
		"url": flagURL, "verb": flagVerb, "headers": flagHeader, "inCluster": flagInCluster, "kubeconfig": flagKubeconfig,
	}[field]
	switch {
	case ok:
	case f.caFile != "" && !strings.Contains(cause, "client cert"):
		name = flagCAFile
	case f.certFile != "":
		name = flagCertFile
	default:
		return config.Fault{Path: "--" + flagURL, Text: text}
	}
	return config.Fault{Path: "--" + name, Text: cause}
}

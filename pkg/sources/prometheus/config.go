package prometheus

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/config"
	"github.com/prometheus/sigv4"
)

// DefaultServer is the name of the server of rules that name none.
const DefaultServer = "default"

// Defaults of a Server that says nothing.
const (
	DefaultCallTimeout = 8 * time.Second
	defaultMaxCalls    = 8
)

// maxScrapeInterval is as long as a rule may wait between two questions.
const maxScrapeInterval = 10 * time.Minute

// Config is which servers there are, by name.
type Config struct {
	// Servers are the Prometheus servers by their names, which rules give as server. Without
	// any there is one, default, at https://localhost or where flags say.
	Servers map[string]Server `yaml:"servers"`
}

// Server is how one Prometheus server, or what speaks its HTTP API, is asked.
type Server struct {
	// URL is the server's address, with the path below which its API lies.
	URL string `yaml:"url"`
	// Verb is the HTTP method of queries. A query that is too long for an address is posted in
	// any case.
	Verb string `yaml:"verb"`
	// CallTimeout is how long one query may take, which the server is told. It is not longer than fetchTimeout.
	CallTimeout time.Duration `yaml:"callTimeout"`
	// MaxCalls is how many queries may be in flight.
	MaxCalls int `yaml:"maxCalls"`
	// MaxCallsPerSecond is how many queries may be asked in a second; 0 is no limit. After a
	// rest as many may be asked at once. Queries that do not come to be
	// asked are answered later than their interval.
	MaxCallsPerSecond int `yaml:"maxCallsPerSecond"`
	// ScrapeInterval is how often the server scrapes what the rules read. No rule is asked
	// more often, as there would be no other answer; 0 if that is not known.
	ScrapeInterval time.Duration `yaml:"scrapeInterval"`
	// Headers are sent with every call, whatever the credentials are. Unlike http_headers of
	// http they may set Authorization, which then takes the place of that of http or of the
	// kubeconfig. Their values are kept out of logs and errors.
	Headers map[string]config.Secret `yaml:"headers"`
	// HTTP is the client's configuration, as Prometheus itself has it
	// (https://prometheus.io/docs/prometheus/latest/configuration/configuration/#http_config),
	// but for one thing: a redirect is followed only within the server, or from http to
	// https on its host. Any other is an error that names where it leads, as it would
	// take the queries and the credentials elsewhere. Without http the client takes the proxy
	// that the environment names (HTTP_PROXY, HTTPS_PROXY and NO_PROXY).
	HTTP *config.HTTPClientConfig `yaml:"http"`
	// SigV4 signs the calls, for Amazon Managed Service for Prometheus: it has region and,
	// where those are not to come from the environment, access_key, secret_key, profile and
	// role_arn. Then http may have no credentials of its own.
	SigV4 *sigv4.SigV4Config `yaml:"sigv4"`
	// Kubeconfig is a file whose current context's credentials and certificates are used.
	// With it sigv4 must be empty, and http may have nothing but an authorization, a proxy and
	// follow_redirects.
	Kubeconfig string `yaml:"kubeconfig"`
	// InCluster has the credentials and the authority of the pod used, in place of a
	// kubeconfig and on the same terms.
	InCluster bool `yaml:"inCluster"`
}

// DefaultHTTP is the client of a server without a configuration of its own. Unlike one
// with an empty configuration it takes the proxy that the environment names
// (HTTP_PROXY, HTTPS_PROXY and NO_PROXY), which is never used for this machine itself.
func DefaultHTTP() *config.HTTPClientConfig {
	c := config.DefaultHTTPClientConfig
	c.ProxyFromEnvironment = true
	return &c
}

// serverName keeps names short and printable: they are labels of metrics.
var serverName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Validate says which field is out of its bounds; the error starts with the field's path.
// A field that is zero has its default.
func (c Config) Validate() error {
	for _, name := range slices.Sorted(maps.Keys(c.Servers)) {
		if !serverName.MatchString(name) {
			return fmt.Errorf("servers: the name %q must be 1 to 63 letters, digits or any of ._- and start with a letter or digit", name)
		}
		if err := c.Servers[name].validate(); err != nil {
			return fmt.Errorf("servers.%s.%w", name, err)
		}
	}
	return nil
}

// Changed are the names of the servers that are not in the other configuration, or are
// asked otherwise there, so that what they answered may not be what will be answered to
// the same query. How calls are made and bounded is no such difference.
func (c Config) Changed(other Config) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(c.Servers)) {
		next, there := other.Servers[name]
		if !there || !reflect.DeepEqual(c.Servers[name].withoutBounds(), next.withoutBounds()) {
			names = append(names, name)
		}
	}
	return names
}

func (s Server) withoutBounds() Server {
	s.Verb, s.CallTimeout, s.MaxCalls, s.MaxCallsPerSecond, s.ScrapeInterval = "", 0, 0, 0, 0
	return s
}

// withDefaults fills in what is zero.
func (s Server) withDefaults() Server {
	s.Verb = cmp.Or(s.Verb, http.MethodGet)
	s.CallTimeout = cmp.Or(s.CallTimeout, DefaultCallTimeout)
	s.MaxCalls = cmp.Or(s.MaxCalls, defaultMaxCalls)
	return s
}

func (s Server) validate() error {
	s = s.withDefaults()
	if _, err := parseURL(s.URL); err != nil {
		return fmt.Errorf("url: %w", err)
	}
	switch {
	case s.Verb != http.MethodGet && s.Verb != http.MethodPost:
		return fmt.Errorf("verb: %q is neither GET nor POST", s.Verb)
	case s.CallTimeout < time.Second || s.CallTimeout > time.Minute:
		return fmt.Errorf("callTimeout: %v is not between 1s and 1m", s.CallTimeout)
	case s.MaxCalls < 1 || s.MaxCalls > 50:
		return fmt.Errorf("maxCalls: %d is not between 1 and 50", s.MaxCalls)
	case s.MaxCallsPerSecond < 0 || s.MaxCallsPerSecond > 10_000:
		return fmt.Errorf("maxCallsPerSecond: %d is not between 0, which is no limit, and 10000", s.MaxCallsPerSecond)
	case s.ScrapeInterval != 0 && (s.ScrapeInterval < time.Second || s.ScrapeInterval > maxScrapeInterval):
		return fmt.Errorf("scrapeInterval: %v is not between 1s and %v", s.ScrapeInterval, maxScrapeInterval)
	}
	if err := s.validateHeaders(); err != nil {
		return fmt.Errorf("headers: %w", err)
	}
	h, err := s.client()
	if err != nil {
		return fmt.Errorf("http: %w", err)
	}
	return s.validateCredentials(h)
}

// strayPort is the beginning of a path that was meant to be the address's port.
var strayPort = regexp.MustCompile(`^/+:([0-9]+)(?:/|$)`)

// parseURL checks what is needed to put a path and a query behind the URL. Its errors
// never have a password of the URL.
func parseURL(text string) (*url.URL, error) {
	const example = "such as http://prometheus.monitoring:9090"
	if text == "" {
		return nil, fmt.Errorf("must be set, to an address %s", example)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		// The parser's words may quote what it takes for the password.
		return nil, fmt.Errorf("is not an address %s", example)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("starts with %s and must start with http:// or https://, %s", u.Scheme, example)
	case u.User != nil:
		return nil, errors.New("must not have a user or a password in it: use http.basic_auth")
	case strayPort.MatchString(u.Path):
		// The rest of the path may be a secret.
		port := strayPort.FindStringSubmatch(u.Path)[1]
		host := strings.TrimSuffix(u.Host, ":"+u.Port())
		return nil, fmt.Errorf("has a port in its path: it goes right after the host, as in %s://%s:%s", u.Scheme, host, port)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("must end with its path, without ? and #")
	}
	return u, nil
}

// fieldName is RFC 9110's rule for the name of a header
// (https://www.rfc-editor.org/rfc/rfc9110#name-field-names).
var fieldName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// contentHeaders are of the request's body, which is not the user's.
var contentHeaders = []string{"Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Accept-Encoding"}

func (s Server) validateHeaders() error {
	for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case !fieldName.MatchString(name):
			return fmt.Errorf("%q is no name of a header", name)
		case slices.Contains(contentHeaders, canonical):
			return fmt.Errorf("%s cannot be set", canonical)
		case strings.ContainsFunc(string(s.Headers[name]), isControl):
			return fmt.Errorf("the value of %s has a line break or another control character in it", canonical)
		case canonical == "Authorization" && s.SigV4 != nil:
			return errors.New("Authorization cannot be set together with sigv4")
		}
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// client is the configuration of the HTTP client, a copy in which older fields are
// brought into their newer form.
func (s Server) client() (config.HTTPClientConfig, error) {
	h := *DefaultHTTP()
	if s.HTTP != nil {
		h = *s.HTTP
	}
	if h.Authorization != nil {
		h.Authorization = new(*h.Authorization)
	}
	err := h.Validate()
	return h, err
}

// isKube says that the credentials are those for the API server of Kubernetes.
func (s Server) isKube() bool { return s.Kubeconfig != "" || s.InCluster }

func (s Server) validateCredentials(h config.HTTPClientConfig) error {
	kube := s.isKube()
	switch {
	case s.Kubeconfig != "" && s.InCluster:
		return errors.New("kubeconfig: must be empty where inCluster is true")
	case s.SigV4 != nil && kube:
		return errors.New("sigv4: must be empty where kubeconfig or inCluster is set")
	case s.SigV4 != nil && (h.BasicAuth != nil || h.Authorization != nil || h.OAuth2 != nil):
		return errors.New("sigv4: must be empty where http has basic_auth, authorization, oauth2 or a bearer token")
	case kube && !fitsKubeconfig(h):
		return errors.New("http: may have only authorization, a proxy and follow_redirects where kubeconfig or inCluster is set")
	}
	if s.SigV4 != nil {
		if err := s.SigV4.Validate(); err != nil {
			return fmt.Errorf("sigv4: %w", err)
		}
	}
	return nil
}

// fitsKubeconfig says that all of the configuration can be had together with the
// credentials of a kubeconfig.
func fitsKubeconfig(h config.HTTPClientConfig) bool {
	if h.Authorization != nil && h.Authorization.CredentialsRef != "" {
		return false
	}
	h.Authorization, h.FollowRedirects = nil, false
	h.ProxyConfig = config.ProxyConfig{ProxyConnectHeader: h.ProxyConnectHeader}
	return reflect.DeepEqual(h, config.HTTPClientConfig{EnableHTTP2: true})
}

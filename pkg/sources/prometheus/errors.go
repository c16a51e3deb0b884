package prometheus

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/aws/smithy-go"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

const (
	// maxWords is how many bytes of a server's words an error quotes. Conditions and
	// Events, where they end up, hold about a thousand.
	maxWords = 500
	// maxQuote is how many bytes an error quotes of what is no answer of the API.
	maxQuote = 120
)

// kind is what a failure means for the query.
type kind string

const (
	kindRejected  kind = "rejected"
	kindThrottled kind = "throttled"
	kindDenied    kind = "denied"
	kindTimeout   kind = "timeout"
	kindFailed    kind = "failed"
)

// failure is why a call failed. Its text is the same for the same failure at any time,
// so that a condition that shows it does not flap. It never has what a call was
// authorized with.
type failure struct {
	kind kind
	text string
	// cause is for errors.Is and errors.As, and not for printing. It may be nil.
	cause error
}

func (f *failure) Error() string { return f.text }

func (f *failure) Unwrap() []error {
	var causes []error
	if f.kind == kindRejected {
		causes = append(causes, sources.ErrRejected)
	}
	if f.cause != nil {
		causes = append(causes, f.cause)
	}
	return causes
}

func failed(k kind, format string, args ...any) *failure {
	return &failure{kind: k, text: fmt.Sprintf(format, args...)}
}

// tooSlow is the failure of a query that a server took up and did not answer in time. It
// is an ErrTooSlow, so that smaller queries may be tried in its place.
func tooSlow(format string, args ...any) *failure {
	f := failed(kindTimeout, format, args...)
	f.cause = sources.ErrTooSlow
	return f
}

// away is the failure of a query that reached nobody in its time.
func away(format string, args ...any) *failure {
	f := failed(kindTimeout, format, args...)
	f.cause = sources.ErrAway
	return f
}

// notAsked is the failure of a query for which there was no place until its Fetch was over,
// or too late to be answered by then.
func notAsked() *failure {
	f := failed(kindTimeout, "not asked in time: other queries took all the calls that may be in flight")
	f.cause = sources.ErrNotAsked
	return f
}

// wrap has whom was asked in front of the failure.
func (s *server) wrap(f *failure) error {
	err := fmt.Errorf("%s: %w", s, f)
	if f.kind == kindThrottled {
		return &sources.ThrottledError{Err: err}
	}
	return err
}

// errLimit is the cause of a context that a call's own limit ended.
var errLimit = errors.New("the call's time is over")

// diagnose tells why a call, or the reading of its answer, failed. The context is the
// call's own.
func (c *call) diagnose(ctx context.Context, err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return new(*f)
	}
	f := &failure{kind: kindFailed, cause: err}
	_, ofCredentials := errors.AsType[*credentialsError](err)
	switch {
	case errors.Is(context.Cause(ctx), errLimit) && !c.connected.Load():
		// Whatever the query is: neither ErrTooSlow nor context.DeadlineExceeded.
		f.kind, f.text, f.cause = kindTimeout, fmt.Sprintf("no connection within %v", c.limit), errors.Join(errLimit, sources.ErrAway)
	case errors.Is(context.Cause(ctx), errLimit):
		f = tooSlow("no answer within %v", c.limit)
		f.cause = errors.Join(f.cause, err)
	case ctx.Err() == nil && isTimeout(err) && !c.connected.Load() && !ofCredentials:
		// A limit of Go's own, as for a handshake, has come before c.limit.
		f.kind, f.text, f.cause = kindTimeout, "no connection: "+c.words(err), errors.Join(err, sources.ErrAway)
	case errors.Is(ctx.Err(), context.Canceled):
		f.text = ctx.Err().Error()
	case ctx.Err() != nil || isTimeout(err):
		f.kind, f.text = kindTimeout, "no answer in time"
	default:
		f.text = c.words(err)
		if c.answer.from == nil {
			f.cause = errors.Join(err, sources.ErrAway)
		}
	}
	if ofCredentials {
		f.text = "credentials for sigv4: " + f.text
	}
	return f
}

func isTimeout(err error) bool {
	if n, ok := errors.AsType[net.Error](err); ok && n.Timeout() {
		return true
	}
	return errors.Is(err, context.DeadlineExceeded)
}

// streamID is in the errors of HTTP/2, and another in each call.
var streamID = regexp.MustCompile(`stream ID \d+; `)

// words is what failed, without what differs from call to call.
func (c *call) words(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		// Its message may go on with the request, session token and all.
		message, _, _ := strings.Cut(strings.TrimSpace(api.ErrorMessage()), "\n")
		return fmt.Sprintf("%s: %s", api.ErrorCode(), c.clean(message, maxWords))
	}
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return c.syntaxWords(syntax)
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Sprintf("lookup %s: %s", dns.Name, dns.Err)
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		// Its own text has the time.
		return "the server's certificate has expired or is not yet valid"
	}
	if unknown, ok := errors.AsType[x509.UnknownAuthorityError](err); ok && !c.server.config.isKube() {
		return fmt.Sprintf("%v: give the server's CA as http.tls_config.ca_file", unknown)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Addr != nil {
		// Its own text has the local port, which is another each time.
		return fmt.Sprintf("%s %v: %v", op.Op, op.Addr, op.Err)
	}
	if errors.Is(err, io.EOF) && c.answer.from != nil {
		return "the answer is empty"
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return "connection cut before the end of the answer"
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		// Its own text has the query.
		err = u.Err
	}
	text := strings.TrimPrefix(err.Error(), "jsontext: read error: ")
	return streamID.ReplaceAllString(c.clean(text, maxWords), "")
}

// syntaxWords are for an answer that is not JSON, or not to its end.
func (c *call) syntaxWords(err *jsontext.SyntacticError) string {
	switch {
	case errors.Is(err.Err, io.ErrUnexpectedEOF):
		return "connection cut before the end of the answer"
	case !c.answer.startsObject():
		return fmt.Sprintf("not an answer of the Prometheus API: %s", c.quote())
	default:
		return fmt.Sprintf("the answer is malformed: %v", err.Err)
	}
}

// statusFailure is the failure that a status other than 2xx stands for.
func (c *call) statusFailure(r *http.Response) *failure {
	said := c.readWords()
	status := strings.TrimSpace(fmt.Sprintf("%d %s", r.StatusCode, http.StatusText(r.StatusCode)))
	text := said.after(status)
	switch code := r.StatusCode; {
	case code/100 == 3:
		return failed(kindFailed, "%s: a redirect to %s, which is not followed: set url to the server's own address", status, c.location(r))
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return failed(kindDenied, "%s: %s", text, c.server.credentialsHint())
	case code == http.StatusNotFound && !said.isAPI():
		return failed(kindFailed, "%s: no Prometheus API at %s: check the path in url", status, c.url.Path)
	case code == http.StatusMethodNotAllowed:
		return failed(kindFailed, "%s: %s is not allowed: check verb", text, c.method)
	case code == http.StatusTooManyRequests:
		return failed(kindThrottled, "%s", text)
	case code == http.StatusRequestURITooLong || code == http.StatusRequestEntityTooLarge:
		return failed(kindRejected, "%s: the query is too long for the server or for a proxy before it", text)
	case code == http.StatusRequestTimeout || code == http.StatusGatewayTimeout || said.errorType == "timeout":
		return tooSlow("%s", text)
	case said.isAPI() && code == http.StatusBadRequest:
		return failed(kindRejected, "%s", text)
	case said.isAPI() && code == http.StatusUnprocessableEntity:
		return said.execution(text)
	default:
		return failed(kindFailed, "%s", text)
	}
}

// said are the words of a server that answers with an error.
type said struct {
	// errorType is one of the API's; empty if the answer is not the API's.
	errorType, message string
	// ended is how the execution of the query ended, if that is what they are about.
	ended kind
}

// isAPI says that the Prometheus API answered, and not something in its way.
func (w said) isAPI() bool { return w.errorType != "" }

// after puts the words after what they are about.
func (w said) after(what string) string {
	parts := slices.DeleteFunc([]string{what, w.errorType, w.message}, func(part string) bool { return part == "" })
	return strings.Join(parts, ": ")
}

// awsTime is in AWS's words about a signature that is too old.
var awsTime = regexp.MustCompile(`\b\d{8}T\d{6}Z\b`)

// readWords reads an answer that is an error.
func (c *call) readWords() said {
	c.answer.limit = maxErrorBytes
	d := newDecoder(c.answer)
	var e envelope
	if d.envelope(&e, d.skip) != nil || e.message == "" {
		return said{message: c.quote()}
	}
	if e.errorType == "" {
		// AWS goes on with the request that it got.
		e.message, _, _ = strings.Cut(strings.TrimSpace(e.message), "\n")
		e.message = awsTime.ReplaceAllString(e.message, "…")
	}
	return c.said(e)
}

func (c *call) said(e envelope) said {
	return said{errorType: c.clean(e.errorType, maxQuote), message: c.clean(e.message, maxWords), ended: endOf(e.message)}
}

// Words about the execution of a query. Servers give one type of error and one status to
// a query that cannot be executed and to a storage that cannot be read, with the gRPC
// code of a store (https://grpc.io/docs/guides/status-codes/) where there is one.
var (
	// muchWords are of a query that reads or gives too much, of which the storage may
	// be the one to say so.
	muchWords = regexp.MustCompile(`(?i)too many (samples|series|chunks)|exceeded (series|samples?|chunks|bytes) limit|exceeded the (maximum|aggregated)|hit the max number|message larger than max|err-mimir-max-`)
	// slowWords are of a query that took too long.
	slowWords = regexp.MustCompile(`query timed out|timeout exceeded|context deadline exceeded|code = DeadlineExceeded`)
	// storageWords are of a storage that could not be read this time.
	storageWords = regexp.MustCompile(`expanding series: |code = (Unavailable|Aborted|ResourceExhausted|Canceled)\b|context canceled`)
)

// endOf tells by a server's words what the end of an execution means for the query.
func endOf(message string) kind {
	switch {
	case muchWords.MatchString(message):
		return kindRejected
	case slowWords.MatchString(message):
		return kindTimeout
	case storageWords.MatchString(message):
		return kindFailed
	default:
		return kindRejected
	}
}

// execution is the failure of a query that was not executed to its end.
func (w said) execution(text string) *failure {
	if w.ended == kindTimeout {
		return tooSlow("%s", text)
	}
	return failed(w.ended, "%s", text)
}

// check is the failure that an answer with a status of 2xx may yet say.
func (c *call) check(e envelope) error {
	switch {
	case e.status == "success":
		return nil
	case e.status != "error":
		return failed(kindFailed, "not an answer of the Prometheus API: %s", c.quote())
	}
	// https://prometheus.io/docs/prometheus/latest/querying/api/#format-overview
	said := c.said(e)
	text := said.after("the answer is an error")
	switch e.errorType {
	case "bad_data":
		return failed(kindRejected, "%s", text)
	case "execution":
		return said.execution(text)
	case "timeout":
		return tooSlow("%s", text)
	default:
		return failed(kindFailed, "%s", text)
	}
}

// isPartial is for an answer of which nothing more is said.
const isPartial = "the server says isPartial, and not why"

func (e envelope) isIncomplete() bool { return e.partial || e.incomplete != "" }

// whole is the failure of an answer that lacks data: a sum over a part of the data is a
// wrong number, and looks like a good one.
func (c *call) whole(e envelope) error {
	if !e.isIncomplete() {
		return nil
	}
	return failed(kindFailed, "the answer is not complete: %s", c.clean(cmp.Or(e.incomplete, isPartial), maxWords))
}

// location is where a redirect leads.
func (c *call) location(r *http.Response) string {
	u, err := r.Location()
	if err != nil {
		return "nowhere"
	}
	return c.clean(shortURL(u), maxWords)
}

// shortURL is the URL without its query, which may have the call's, and as it is read.
func shortURL(u *url.URL) string { return u.Scheme + "://" + u.Host + u.Path }

// credentialsHint says which setting a server that denies access may ask for.
func (s *server) credentialsHint() string {
	c := s.config
	switch {
	case s.headers.Get("Authorization") != "":
		return "check headers.Authorization"
	case c.InCluster:
		return "check what the adapter's ServiceAccount may do there"
	case c.Kubeconfig != "":
		return "check the credentials of kubeconfig"
	case c.SigV4 != nil:
		return "check sigv4, and the rights of its identity"
	case c.HTTP == nil:
		return "set http, sigv4, kubeconfig or inCluster for credentials"
	case c.HTTP.BasicAuth != nil:
		return "check http.basic_auth"
	case c.HTTP.OAuth2 != nil:
		return "check http.oauth2"
	case c.HTTP.Authorization != nil || c.HTTP.BearerToken != "" || c.HTTP.BearerTokenFile != "":
		return "check http.authorization"
	default:
		return "set http.authorization, http.basic_auth or http.oauth2 for credentials"
	}
}

// plainHeaders are no secrets, and have values that a text may have by chance.
var plainHeaders = map[string]bool{
	"Accept": true, "Accept-Encoding": true, "Content-Length": true, "Content-Type": true, "Host": true, "Referer": true,
	"Thanos-Tenant": true, "User-Agent": true, "X-Amz-Date": true, "X-Scope-Orgid": true,
}

// minSecret is how long a text must be to be taken for a secret.
const minSecret = 4

// clean is a foreign text in one line, of so many bytes at most and without secrets.
func (c *call) clean(text string, n int) string {
	return sources.Shorten(c.conceal(oneLine(text)), n)
}

// conceal takes secrets out of a text that may quote the call.
func (c *call) conceal(text string) string {
	secrets := slices.Clone(c.server.secrets)
	for name, values := range c.sent {
		if plainHeaders[name] {
			continue
		}
		for _, value := range values {
			secrets = append(append(secrets, value), secretsIn(name, value)...)
		}
	}
	for _, secret := range secrets {
		text = hide(text, secret)
	}
	return text
}

// hide replaces the secret in a text, and the beginning of it that the text ends with.
func hide(text, secret string) string {
	const stands = "<secret>"
	if len(secret) < minSecret {
		return text
	}
	text = strings.ReplaceAll(text, secret, stands)
	for n := min(len(secret)-1, len(text)); n >= minSecret; n-- {
		if rest, cut := strings.CutSuffix(text, secret[:n]); cut {
			return rest + stands
		}
	}
	return text
}

// secretsIn are the parts of a header that are secret by themselves.
func secretsIn(name, value string) []string {
	if name != "Cookie" {
		return credentialsIn(value)
	}
	var parts []string
	for pair := range strings.SplitSeq(value, ";") {
		_, value, _ := strings.Cut(pair, "=")
		parts = append(parts, strings.Trim(value, ` "`))
	}
	return parts
}

// credentialsIn are the parts of an Authorization header that are secret by themselves.
func credentialsIn(header string) []string {
	scheme, credentials, found := strings.Cut(header, " ")
	if !found {
		return nil
	}
	parts := []string{strings.TrimSpace(credentials)}
	if text, err := base64.StdEncoding.DecodeString(parts[0]); err == nil && strings.EqualFold(scheme, "Basic") {
		_, password, _ := strings.Cut(string(text), ":")
		parts = append(parts, password)
	}
	return parts
}

// quote is the beginning of an answer that is something unknown, printable and in one
// line.
func (c *call) quote() string {
	c.answer.fill()
	printable := strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, string(c.answer.head))
	return cmp.Or(c.clean(printable, maxQuote), "nothing that can be shown")
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

package prometheus

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/smithy-go"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// answering is a server that gives one answer.
func answering(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func TestAnswersThatAreErrors(t *testing.T) {
	api := func(kind, words string) string {
		return fmt.Sprintf(`{"status":"error","errorType":%q,"error":%q}`, kind, words)
	}
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
		kind   kind
	}{
		{"bad data", answering(400, api("bad_data", "invalid parameter \"query\":\n 1:3: parse error")), `400 Bad Request: bad_data: invalid parameter "query": 1:3: parse error`, kindRejected},
		{"execution", answering(422, api("execution", "multiple matches for labels")), "422 Unprocessable Entity: execution: multiple matches for labels", kindRejected},
		{"a storage that failed", answering(422, api("execution", "expanding series: proxy Series(): rpc error: code = Unavailable desc = EOF")), "422 Unprocessable Entity: execution: expanding series: proxy Series(): rpc error: code = Unavailable desc = EOF", kindFailed},
		{"a storage that was slow", answering(422, api("execution", "expanding series: context deadline exceeded")), "422 Unprocessable Entity: execution: expanding series: context deadline exceeded", kindTimeout},
		{"VictoriaMetrics was slow", answering(422, api("422", "timeout exceeded during query execution: 8.000 seconds")), "422 Unprocessable Entity: 422: timeout exceeded during query execution: 8.000 seconds", kindTimeout},
		{"long words", answering(422, api("execution", strings.Repeat("x", 2000))), "422 Unprocessable Entity: execution: " + strings.Repeat("x", maxWords) + "…", kindRejected},
		{"too long for the server", answering(414, "<html>414 Request-URI Too Large</html>"), "414 Request URI Too Long: <html>414 Request-URI Too Large</html>: the query is too long for the server or for a proxy before it", kindRejected},
		{"400 of something else", answering(400, "Client sent an HTTP request to an HTTPS server.\n"), "400 Bad Request: Client sent an HTTP request to an HTTPS server.", kindFailed},
		{"unauthorized", answering(401, "who are you?\n"), "401 Unauthorized: who are you?: set http, sigv4, kubeconfig or inCluster for credentials", kindDenied},
		{"forbidden", answering(403, `{"message":"User: arn:aws:iam::123456789012:role/r is not authorized"}`), "403 Forbidden: User: arn:aws:iam::123456789012:role/r is not authorized: set http, sigv4, kubeconfig or inCluster for credentials", kindDenied},
		{"a wrong signature", answering(403, `{"message":"The signature does not match.\n\nThe Canonical String was 'GET\nx-amz-security-token:T'"}`), "403 Forbidden: The signature does not match.: set http, sigv4, kubeconfig or inCluster for credentials", kindDenied},
		{"an old signature", answering(403, `{"message":"Signature expired: 20261122T100000Z is now earlier than 20261122T100500Z"}`), "403 Forbidden: Signature expired: … is now earlier than …: set http, sigv4, kubeconfig or inCluster for credentials", kindDenied},
		{"not found", answering(404, "404 page not found\n"), "404 Not Found: no Prometheus API at /prom/api/v1/query: check the path in url", kindFailed},
		{"not found by the API", answering(404, api("not_found", "no such tenant")), "404 Not Found: not_found: no such tenant", kindFailed},
		{"method not allowed", answering(405, ""), "405 Method Not Allowed: nothing that can be shown: GET is not allowed: check verb", kindFailed},
		{"too many requests", answering(429, api("too_many_requests", "slow down")), "429 Too Many Requests: too_many_requests: slow down", kindThrottled},
		{"too many requests of a proxy", answering(429, "slow down"), "429 Too Many Requests: slow down", kindThrottled},
		{"timeout", answering(503, api("timeout", "query timed out in expression evaluation")), "503 Service Unavailable: timeout: query timed out in expression evaluation", kindTimeout},
		{"unavailable", answering(503, "Service Unavailable"), "503 Service Unavailable: Service Unavailable", kindFailed},
		{"unavailable of Kubernetes", answering(503, `{"kind":"Status","metadata":{},"status":"Failure","message":"no endpoints available for service \"p\"","code":503}`), `503 Service Unavailable: no endpoints available for service "p"`, kindFailed},
		{"internal", answering(500, api("internal", "disk full")), "500 Internal Server Error: internal: disk full", kindFailed},
		{"bad gateway", answering(502, "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n"+strings.Repeat("<p>", 100)), "502 Bad Gateway: <html> <head><title>502 Bad Gateway</title></head> " + strings.Repeat("<p>", 23) + "…", kindFailed},
		{"gateway timeout", answering(504, ""), "504 Gateway Timeout: nothing that can be shown", kindTimeout},
		{"a code of its own", answering(599, api("strange", "x")), "599: strange: x", kindFailed},
		{"an endless error", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			for {
				if _, err := io.WriteString(w, strings.Repeat("e", 4096)); err != nil {
					return
				}
			}
		}, "500 Internal Server Error: " + strings.Repeat("e", maxQuote) + "…", kindFailed},
		{"an error and silence", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			io.WriteString(w, "half")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, "500 Internal Server Error: half", kindFailed},
		{"no content", answering(204, ""), "the answer is empty", kindFailed},
		{"garbage", answering(200, "\x7fELF\x00\x01 binary"), "not an answer of the Prometheus API: ELF binary", kindFailed},
		{"a page", answering(200, "<!DOCTYPE html>\n<title>Sign in</title>"), "not an answer of the Prometheus API: <!DOCTYPE html> <title>Sign in</title>", kindFailed},
		{"a matrix", answering(200, resultOf("matrix", "[]")), errMatrix.text, kindRejected},
		{"nothing", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "connection cut before the end of the answer", kindFailed},
		{"half of it", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, `{"status":"suc`)
		}, "connection cut before the end of the answer", kindFailed},
		{"half of its pieces", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"status":"suc`)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, "connection cut before the end of the answer", kindFailed},
		{"silence", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer within 500ms", kindTimeout},
		{"half and silence", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"status":"suc`)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, "no answer within 500ms", kindTimeout},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, web := start(t, test.answer, func(s *Server) { s.URL += "/prom" })
			calls := 2
			if strings.Contains(test.name, "silence") {
				calls = 1
				s.servers[DefaultServer].config.CallTimeout = 500 * time.Millisecond
			}
			prefix := fmt.Sprintf("prometheus server %q (%s/prom): ", DefaultServer, web.URL)
			var texts []string
			for range calls {
				err := fetchOne(t, s, `sum(x{password="hunter2"})`).Err
				if err == nil {
					t.Fatal("there is no error")
				}
				texts = append(texts, err.Error())
				wantKind(t, err, test.kind)
				if errors.Is(err, sources.ErrTooSlow) != (test.kind == kindTimeout) {
					t.Errorf("too slow: %v, want it for a timeout only", errors.Is(err, sources.ErrTooSlow))
				}
			}
			if texts[0] != prefix+test.want {
				t.Errorf("the error is\n%q, want\n%q", texts[0], prefix+test.want)
			}
			if len(slices.Compact(texts)) > 1 {
				t.Errorf("the next error is\n%q after\n%q", texts[1], texts[0])
			}
		})
	}
}

func wantKind(t *testing.T, err error, want kind) {
	t.Helper()
	if got := errors.Is(err, sources.ErrRejected); got != (want == kindRejected) {
		t.Errorf("rejected: %v, want %s", got, want)
	}
	if _, got := errors.AsType[*sources.ThrottledError](err); got != (want == kindThrottled) {
		t.Errorf("throttled: %v, want %s", got, want)
	}
	if got := errors.Is(err, sources.ErrTooSlow); got && want != kindTimeout {
		t.Errorf("too slow, want %s", want)
	}
	if errors.Is(err, sources.ErrNoData) {
		t.Error("a failure is no data")
	}
	if f, ok := errors.AsType[*failure](err); !ok || f.kind != want {
		t.Errorf("the failure is %+v, want it %s", f, want)
	}
}

func TestEndOfExecution(t *testing.T) {
	for words, want := range map[string]kind{
		"multiple matches for labels: many-to-one matching must be explicit":                                                         kindRejected,
		"query processing would load too many samples into memory in query execution":                                                kindRejected,
		"expanding series: exceeded series limit: rpc error: code = ResourceExhausted desc = limit 10 violated":                      kindRejected,
		"expanding series: the query exceeded the maximum number of chunks (limit: 10) (err-mimir-max-chunks-per-query)":             kindRejected,
		"expanding series: rpc error: code = ResourceExhausted desc = grpc: received message larger than max (5 vs. 4)":              kindRejected,
		"expanding series: remote_read: remote server http://lt/read returned http status 503":                                       kindFailed,
		"receive series from Addr: 10.0.0.7:10901: rpc error: code = Unavailable desc = EOF":                                         kindFailed,
		"rpc error: code = Aborted desc = fetch series for block":                                                                    kindFailed,
		"rpc error: code = ResourceExhausted desc = too many outstanding requests":                                                   kindFailed,
		"rpc error: code = Canceled desc = grpc: the client connection is closing":                                                   kindFailed,
		"expanding series: context canceled":                                                                                         kindFailed,
		"expanding series: rpc error: code = DeadlineExceeded desc = stream terminated":                                              kindTimeout,
		"expanding series: context deadline exceeded":                                                                                kindTimeout,
		"query timed out in expression evaluation":                                                                                   kindTimeout,
		`cannot execute query="rate(http_timeout_total[5m])": the number of matching timeseries exceeds 30000`:                       kindRejected,
		`cannot execute query="up": cannot obtain results: timeout exceeded before starting the query processing: 8.000 seconds (1)`: kindTimeout,
	} {
		if got := endOf(words); got != want {
			t.Errorf("%q is %s, want %s", words, got, want)
		}
		// An answer with another status may say the same.
		c := &call{server: new(server), answer: new(meter)}
		err := c.check(envelope{status: "error", errorType: "execution", message: words})
		if f, ok := errors.AsType[*failure](err); !ok || f.kind != want {
			t.Errorf("%q is %v, want it %s", words, err, want)
		}
		if errors.Is(err, sources.ErrTooSlow) != (want == kindTimeout) || errors.Is(err, sources.ErrRejected) != (want == kindRejected) {
			t.Errorf("%q is an error that wraps other than %s", words, want)
		}
	}
}

// TestIncompleteAnswers are the answers of servers that could not read all of the data.
func TestIncompleteAnswers(t *testing.T) {
	with := func(fields string) string {
		return strings.TrimSuffix(vectorOf(`{"metric":{},"value":[1,"3"]}`), "}") + "," + fields + "}"
	}
	const away = "remote_read: remote server http://lt:1/read returned http status 503: unavailable"
	for _, test := range []struct{ name, answer, want string }{
		{"a remote read failed", with(`"warnings":["` + away + `"]`), away},
		{"beside others, in any order", with(`"infos":["x"],"warnings":["PromQL warning: z","` + away + `","PromQL info: z","a store is away"]`), away},
		{"after more than are kept", with(`"warnings":[` + strings.Repeat(`"PromQL warning: z",`, maxWarnings) + `"` + away + `"]`), away},
		{"before the data", `{"warnings":["` + away + `"],` + strings.TrimPrefix(with(`"x":1`), "{"), away},
		{"no samples", strings.TrimSuffix(vectorOf(``), "}") + `,"warnings":["` + away + `"]}`, away},
		{"too many warnings", with(`"warnings":["PromQL warning: z","3 more warning annotations omitted"]`), "3 more warning annotations omitted"},
		{"VictoriaMetrics", with(`"isPartial":true`), "the server says isPartial, and not why"},
		{"both", with(`"isPartial":true,"warnings":["` + away + `"]`), away},
		{"whole", with(`"isPartial":false,"warnings":["PromQL warning: bucket label","PromQL info: metric might not be a counter"],"infos":["PromQL info: x","y"]`), ""},
		{"nothing", with(`"isPartial":null,"warnings":null`), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, web := start(t, answering(200, test.answer), nil)
			got := fetchOne(t, s, "a")
			if test.want == "" {
				if got.Err != nil || got.Samples[0].Value != 3 {
					t.Errorf("got %+v", got)
				}
				return
			}
			want := fmt.Sprintf("prometheus server %q (%s): the answer is not complete: %s", DefaultServer, web.URL, test.want)
			if got.Err == nil || got.Err.Error() != want {
				t.Fatalf("the error is\n%v, want\n%s", got.Err, want)
			}
			wantKind(t, got.Err, kindFailed)
		})
	}
}

func TestIncompleteListIsTaken(t *testing.T) {
	s, _ := start(t, answering(200, `{"status":"success","isPartial":true,"data":[{"__name__":"up"}],"warnings":["a store is away"]}`), nil)
	var log bytes.Buffer
	ctx := klog.NewContext(t.Context(), textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(&log), textlogger.Verbosity(0))))
	for range 3 {
		names := 0
		if err := s.Series(ctx, "default", "up", time.Now(), time.Now(), func(string, []string) { names++ }); err != nil || names != 1 {
			t.Errorf("%d series and the error %v, want 1 and none", names, err)
		}
	}
	if n := strings.Count(log.String(), "a store is away"); n != 1 {
		t.Errorf("that is %d times in the log, want once:\n%s", n, log.String())
	}
}

func TestEndlessAnswer(t *testing.T) {
	s, _ := start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"status":"success","data":{"x":[0`)
		for piece := `,"` + strings.Repeat("x", 60_000) + `"`; ; {
			if _, err := io.WriteString(w, piece); err != nil {
				return
			}
		}
	}), nil)
	s.servers[DefaultServer].config.CallTimeout = time.Minute
	err := fetchOne(t, s, "a").Err
	if want := "the answer is longer than 67108864 bytes: the query must give less, for instance by sum() or topk()"; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Fatalf("the error is %v, want one that ends with %q", err, want)
	}
	wantKind(t, err, kindRejected)
}

func TestServerIsAway(t *testing.T) {
	s, web := start(t, new(fakePrometheus), nil)
	web.Close()
	for range 2 {
		want := fmt.Sprintf("prometheus server %q (%s): dial %s: connect: connection refused", DefaultServer, web.URL, strings.TrimPrefix(web.URL, "http://"))
		if err := fetchOne(t, s, "a").Err; err == nil || err.Error() != want {
			t.Errorf("the error is %v, want %s", err, want)
		}
	}
}

func TestNoConnection(t *testing.T) {
	deaf, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	address := "https://" + deaf.Addr().String()
	s := newSource(t, address, nil)
	s.servers[DefaultServer].config.CallTimeout = 100 * time.Millisecond
	want := fmt.Sprintf("prometheus server %q (%s): no connection within 100ms", DefaultServer, address)
	got := fetchOne(t, s, "a").Err
	if got == nil || got.Error() != want {
		t.Errorf("the error is %v, want %s", got, want)
	}
	wantKind(t, got, kindTimeout)
	if errors.Is(got, sources.ErrTooSlow) || errors.Is(got, context.DeadlineExceeded) {
		t.Error("the query is taken for too slow")
	}
}

func TestTLSErrors(t *testing.T) {
	web := httptest.NewUnstartedServer(new(fakePrometheus))
	web.Config.ErrorLog = discardLog()
	web.StartTLS()
	defer web.Close()
	plain := httptest.NewServer(new(fakePrometheus))
	defer plain.Close()
	for _, test := range []struct {
		name, url, want string
	}{
		{"unknown CA", web.URL, "x509: certificate signed by unknown authority: give the server's CA as http.tls_config.ca_file"},
		{"TLS to HTTP", strings.Replace(plain.URL, "http", "https", 1), "http: server gave HTTP response to HTTPS client"},
		{"HTTP to TLS", strings.Replace(web.URL, "https", "http", 1), "400 Bad Request: Client sent an HTTP request to an HTTPS server."},
	} {
		err := fetchOne(t, newSource(t, test.url, nil), "a").Err
		if want := fmt.Sprintf("prometheus server %q (%s): %s", DefaultServer, test.url, test.want); err == nil || err.Error() != want {
			t.Errorf("%s: the error is %v, want %s", test.name, err, want)
		}
	}
}

func TestTransportWords(t *testing.T) {
	local := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 54321}
	remote := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9090}
	of := func(cause error) error {
		return &url.Error{Op: "Get", URL: "http://p/api/v1/query?query=a", Err: cause}
	}
	for _, test := range []struct {
		name string
		err  error
		want string
		kind kind
	}{
		{"reset", of(&net.OpError{Op: "read", Net: "tcp", Source: local, Addr: remote, Err: os.NewSyscallError("read", syscall.ECONNRESET)}), "read 127.0.0.1:9090: read: connection reset by peer", kindFailed},
		{"alert", of(&net.OpError{Op: "remote error", Err: errors.New("tls: certificate required")}), "remote error: tls: certificate required", kindFailed},
		{"no such host", of(&net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Name: "prometheus.monitoring", Server: "10.0.0.2:53", Err: "no such host", IsNotFound: true}}), "lookup prometheus.monitoring: no such host", kindFailed},
		{"slow connection", of(&net.OpError{Op: "dial", Net: "tcp", Addr: remote, Err: os.ErrDeadlineExceeded}), "no connection: dial 127.0.0.1:9090: i/o timeout", kindTimeout},
		{"expired", of(x509.CertificateInvalidError{Cert: new(x509.Certificate), Reason: x509.Expired, Detail: "current time 2026-11-22T10:00:00Z is after 2026-01-01T00:00:00Z"}), "the server's certificate has expired or is not yet valid", kindFailed},
		{"HTTP/2", of(errors.New("stream error: stream ID 17; INTERNAL_ERROR; received from peer")), "stream error: INTERNAL_ERROR; received from peer", kindFailed},
		{"several lines", of(errors.New("oauth2: cannot fetch token: 401\nResponse: no")), "oauth2: cannot fetch token: 401 Response: no", kindFailed},
		{"AWS denies", of(&credentialsError{fmt.Errorf("x: %w", &smithy.GenericAPIError{Code: "AccessDenied", Message: "may not sts:AssumeRole\n\nSECRET"})}), "credentials for sigv4: AccessDenied: may not sts:AssumeRole", kindFailed},
		{"AWS is slow", of(&credentialsError{context.DeadlineExceeded}), "credentials for sigv4: no answer in time", kindTimeout},
		{"AWS has none", of(&credentialsError{errors.New("no role")}), "credentials for sigv4: AWS credentials: no role", kindFailed},
	} {
		c := &call{server: new(server), answer: new(meter)}
		got := c.diagnose(t.Context(), test.err)
		if got.text != test.want || got.kind != test.kind {
			t.Errorf("%s: got %q, %s; want %q, %s", test.name, got.text, got.kind, test.want, test.kind)
		}
		if !errors.Is(got, test.err) {
			t.Errorf("%s: the error does not wrap its cause", test.name)
		}
	}
}

func TestRedirects(t *testing.T) {
	good := &fakePrometheus{values: map[string]string{"a": "1"}}
	other := httptest.NewServer(good)
	defer other.Close()
	encrypted := httptest.NewTLSServer(good)
	defer encrypted.Close()
	to := func(status int, where string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/moved") && where != "/loop" {
				good.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Location", where+"?"+r.URL.RawQuery)
			w.WriteHeader(status)
		}
	}
	insecure := func(s *Server) {
		s.HTTP = DefaultHTTP()
		s.HTTP.TLSConfig.InsecureSkipVerify = true
	}
	const suffix = ", which is not followed: set url to the server's own address"
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		change func(*Server)
		want   string
	}{
		{"within the server", to(302, "/moved/api/v1/query"), nil, ""},
		{"within the server, posted", to(307, "/moved/api/v1/query"), func(s *Server) { s.Verb = "POST" }, ""},
		{"to https", to(308, encrypted.URL+"/api/v1/query"), insecure, ""},
		{"to another server", to(302, other.URL+"/api/v1/query"), nil, "302 Found: a redirect to " + other.URL + "/api/v1/query" + suffix},
		{"to another server with credentials", to(307, "https://u:hunter2@login.example.com/sign/in"), nil, "307 Temporary Redirect: a redirect to https://login.example.com/sign/in" + suffix},
		{"without the parameters", to(302, "/moved/api/v1/query"), func(s *Server) { s.Verb = "POST" }, "302 Found: a redirect to URL/moved/api/v1/query" + suffix},
		{"in a circle", to(302, "/loop"), nil, "after a redirect to URL/loop: 302 Found: a redirect to URL/loop" + suffix},
		{"to a page", to(302, "/moved/login"), nil, ""},
		{"not wanted", to(302, "/moved/api/v1/query"), func(s *Server) {
			s.HTTP = DefaultHTTP()
			s.HTTP.FollowRedirects = false
		}, "302 Found: a redirect to URL/moved/api/v1/query" + suffix},
		{"nowhere", answering(302, ""), nil, "302 Found: a redirect to nowhere" + suffix},
		{"not modified", answering(304, ""), nil, "304 Not Modified: a redirect to nowhere" + suffix},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, web := start(t, test.answer, test.change)
			got := fetchOne(t, s, "a")
			if test.want == "" {
				if got.Err != nil {
					t.Error(got.Err)
				}
				return
			}
			want := fmt.Sprintf("prometheus server %q (%s): %s", DefaultServer, web.URL, strings.ReplaceAll(test.want, "URL", web.URL))
			if got.Err == nil || got.Err.Error() != want {
				t.Errorf("the error is\n%v, want\n%s", got.Err, want)
			}
		})
	}
	for _, r := range good.asked() {
		if r.form.Get("query") != "a" {
			t.Errorf("a redirect lost the query: %+v", r)
		}
	}
}

func TestRedirectToAPage(t *testing.T) {
	s, web := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/login" {
			http.Redirect(w, r, "/login?next="+url.QueryEscape(r.URL.String()), http.StatusFound)
			return
		}
		io.WriteString(w, "<html>Sign in")
	}), nil)
	want := fmt.Sprintf("prometheus server %q (%s): after a redirect to %s/login: not an answer of the Prometheus API: <html>Sign in", DefaultServer, web.URL, web.URL)
	if got := fetchOne(t, s, "a"); got.Err == nil || got.Err.Error() != want {
		t.Errorf("the error is %v, want %s", got.Err, want)
	}
	if errShape.text != "the answer does not have the form of the Prometheus API" {
		t.Errorf("an error changed the text of others: %s", errShape.text)
	}
}

func TestIsWithin(t *testing.T) {
	for _, test := range []struct {
		next, first string
		want        bool
	}{
		{"http://p:9090/x", "http://p:9090/", true},
		{"http://P:9090/x", "http://p:9090/", true},
		{"https://p/x", "http://p:9090/", true},
		{"http://p/x", "http://p:9090/", false},
		{"http://p:9090/x", "https://p:9090/", false},
		{"https://p.evil/x", "http://p/", false},
		{"https://evil.p/x", "http://p/", false},
		{"ftp://p:9090/x", "http://p:9090/", false},
	} {
		next, _ := url.Parse(test.next)
		first, _ := url.Parse(test.first)
		if got := isWithin(next, first); got != test.want {
			t.Errorf("from %s to %s: %v, want %v", test.first, test.next, got, test.want)
		}
	}
}

func TestHide(t *testing.T) {
	for _, test := range []struct{ text, secret, want string }{
		{"token hunter2 is wrong", "hunter2", "token <secret> is wrong"},
		{"hunter2hunter2", "hunter2", "<secret><secret>"},
		{"cut off: hunt", "hunter2", "cut off: <secret>"},
		{"cut off: hun", "hunter2", "cut off: hun"},
		{"a 1 b", "1", "a 1 b"},
		{"", "hunter2", ""},
		{"a", "", "a"},
	} {
		if got := hide(test.text, test.secret); got != test.want {
			t.Errorf("%q without %q is %q, want %q", test.text, test.secret, got, test.want)
		}
	}
}

func TestShorten(t *testing.T) {
	for _, test := range []struct {
		text string
		n    int
		want string
	}{
		{"short", 5, "short"},
		{"longer", 4, "long…"},
		{"aü", 2, "a…"},
		{strings.Repeat("ü", 3), 1, "…"},
	} {
		if got := sources.Shorten(test.text, test.n); got != test.want {
			t.Errorf("%q in %d bytes is %q, want %q", test.text, test.n, got, test.want)
		}
	}
}

// Behind a load balancer that takes up connections for a server that is away nobody ever
// finishes the TLS handshake, of which Go's client tires after 10 s, before the call's own limit.
func TestServerThatEndsNoHandshakeIsAway(t *testing.T) {
	t.Parallel()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = c.Close() })
		}
	}()
	s := newSource(t, "https://"+l.Addr().String(), func(c *Server) { c.CallTimeout = 13 * time.Second })
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	r := s.Fetch(ctx, []sources.Query{NewQuery(DefaultServer, "up", 0)})[0]
	if !errors.Is(r.Err, sources.ErrAway) {
		t.Errorf("a server that never said anything is not away: %v", r.Err)
	}
}

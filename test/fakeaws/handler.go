package fakeaws

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

// maxBody is the longest body that is read at all, in bytes; the services' own
// limits are below it.
const maxBody = 2 << 20

// service is one service of AWS.
type service struct {
	// name is how counts and faults call the service.
	name string
	// signingName is the service in the scope of a signature.
	signingName string
	operations  map[string]operation
}

// operation is one operation of a service, over the SDK's types of its input and output.
type operation struct {
	newInput func() any
	run      func(c *call, in any) (any, error)
	// maxBody is the longest body that the service takes, in bytes.
	maxBody int
	// unsigned says that the operation works without credentials.
	unsigned bool
}

func newOperation[In, Out any](maxBody int, run func(*call, *In) (*Out, error)) operation {
	return operation{
		newInput: func() any { return new(In) },
		run:      func(c *call, in any) (any, error) { return run(c, in.(*In)) }, //nolint:forcetypeassert // newInput made it.
		maxBody:  maxBody,
	}
}

// call is one request for one operation.
type call struct {
	ctx       context.Context //nolint:containedctx // A call lives as long as its request.
	service   *service
	operation string
	codec     codec
	caller    caller
	// bodyBytes is the length of the body as it was sent, in bytes.
	bodyBytes int
	// faults are those that match the call.
	faults []Fault
}

// name is how counts call the call's operation.
func (c *call) name() string { return c.service.name + "." + c.operation }

// ServeHTTP answers the requests of AWS clients, and those under /_control/.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, controlPath) {
		s.control.ServeHTTP(w, r)
		return
	}
	requestID := newRequestID()
	w.Header().Set("X-Amzn-Requestid", requestID)
	body, bodyErr := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	c, err := s.route(r, body)
	if err != nil {
		writeError(w, cloudWatchJSON, err)
		return
	}
	answer, err := s.answer(c, r, body, bodyErr)
	code := ""
	if err != nil {
		code = toAPIError(err).Code
	}
	s.counts.called(c, code)
	klog.FromContext(r.Context()).V(4).Info("Answered", "operation", c.name(), "caller", c.caller.name(), "region", c.caller.region, "error", code)
	s.write(w, c, answer, err)
}

// answer runs the call and returns the encoded output; bodyErr is why the body is
// not complete.
func (s *Server) answer(c *call, r *http.Request, body []byte, bodyErr error) ([]byte, error) {
	if _, ok := errors.AsType[*http.MaxBytesError](bodyErr); ok {
		return nil, tooLarge(int(max(r.ContentLength, maxBody+1)), maxBody)
	}
	if bodyErr != nil {
		return nil, &apiError{Status: http.StatusBadRequest, Code: "IncompleteBody", Message: bodyErr.Error()}
	}
	op, ok := c.service.operations[c.operation]
	if !ok {
		return nil, &apiError{
			Status: http.StatusBadRequest, Code: "InvalidAction", Shape: "UnknownOperationException",
			Message: fmt.Sprintf("The stand-in does not know the operation %s of %s", c.operation, c.service.name),
		}
	}
	if !op.unsigned {
		var err error
		if c.caller, err = s.keys.authenticate(c.ctx, r, body, c.service.signingName, s.opts.Now()); err != nil {
			return nil, err
		}
	}
	if len(body) > op.maxBody {
		return nil, tooLarge(len(body), op.maxBody)
	}
	in := op.newInput()
	if err := c.decode(r, body, in); err != nil {
		return nil, &apiError{Status: http.StatusBadRequest, Code: "SerializationException", Message: err.Error()}
	}
	c.faults = s.faults.Take(func(f Fault) bool { return f.matchesCall(c, in) })
	if err := s.delay(c); err != nil {
		return nil, err
	}
	if err := faultError(c); err != nil {
		return nil, err
	}
	out, err := op.run(c, in)
	if err != nil {
		return nil, err
	}
	return c.codec.encode(c.ctx, c.operation, out)
}

// decode reads a body that may be compressed, as PutMetricData's are, see
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html
func (c *call) decode(r *http.Request, body []byte, in any) error {
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return fmt.Errorf("decompressing body: %w", err)
		}
		if body, err = io.ReadAll(io.LimitReader(z, 10*maxBody)); err != nil {
			return fmt.Errorf("decompressing body: %w", err)
		}
	}
	return c.codec.decode(body, in)
}

// delay waits as long as the call's faults say.
func (s *Server) delay(c *call) error {
	var total time.Duration
	for _, f := range c.faults {
		total += f.Latency
	}
	if total <= 0 {
		return nil
	}
	select {
	case <-s.opts.After(total):
		return nil
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	}
}

// route tells which service, operation and protocol a request is for.
func (s *Server) route(r *http.Request, body []byte) (*call, error) {
	c := &call{ctx: r.Context(), bodyBytes: len(body)}
	const rpcv2Path = "/service/GraniteServiceVersion20100801/operation/"
	if name, ok := strings.CutPrefix(r.URL.Path, rpcv2Path); ok {
		return s.callFor(c, "cloudwatch", name, cloudWatchCBOR), nil
	}
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		prefix, name, _ := strings.Cut(target, ".")
		switch prefix {
		case "AmazonSQS":
			return s.callFor(c, "sqs", name, sqsJSON), nil
		case "GraniteServiceVersion20100801":
			return s.callFor(c, "cloudwatch", name, cloudWatchJSON), nil
		}
	}
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")) // No media type is none of ours.
	if media == "application/x-www-form-urlencoded" {
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, &apiError{Status: http.StatusBadRequest, Code: "MalformedQueryString", Message: err.Error()}
		}
		switch form.Get("Version") {
		case "2010-08-01":
			return s.callFor(c, "cloudwatch", form.Get("Action"), cloudWatchQuery), nil
		case "2011-06-15":
			return s.callFor(c, "sts", form.Get("Action"), stsQuery), nil
		}
	}
	return nil, &apiError{
		Status: http.StatusNotFound, Code: "UnknownOperationException",
		Message: fmt.Sprintf("%s %s is no request that the stand-in knows", r.Method, r.URL.Path),
	}
}

func (s *Server) callFor(c *call, service, operation string, codec codec) *call {
	for _, svc := range s.services {
		if svc.name == service {
			c.service = svc
		}
	}
	c.operation, c.codec = operation, codec
	return c
}

// write sends an answer or an error, spoiled as the call's faults say.
func (s *Server) write(w http.ResponseWriter, c *call, answer []byte, err error) {
	if err != nil {
		writeError(w, c.codec, err)
		return
	}
	if hasFault(c, func(f Fault) bool { return f.Garbage }) {
		answer = []byte("\xff\xfe<garbage>}{")
	}
	c.codec.header(w.Header())
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	if hasFault(c, func(f Fault) bool { return f.Cut }) {
		_, _ = w.Write(answer[:len(answer)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(answer) // A client that left does not want it.
}

func writeError(w http.ResponseWriter, codec codec, err error) {
	e := toAPIError(err)
	body, err := codec.encodeError(e)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	codec.header(w.Header())
	w.Header().Set("X-Amzn-Query-Error", e.Code+";"+e.blame())
	w.WriteHeader(e.Status)
	_, _ = w.Write(body)
}

// toAPIError makes everything that is not an error of AWS an internal failure.
func toAPIError(err error) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	return &apiError{Status: http.StatusInternalServerError, Code: "InternalFailure", Message: err.Error()}
}

func newRequestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // It never fails.
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

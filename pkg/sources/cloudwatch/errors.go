package cloudwatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// maxWords is how many bytes of AWS's words an error quotes. Conditions and
// Events, where they end up, hold about a thousand.
const maxWords = 500

// callError is why a call failed. Its text is the same for the same failure at
// any time, so that a condition that shows it does not flap: request ids and
// local ports are left out. It never has what a request was signed with.
type callError struct {
	text string
	// causes are for errors.Is and errors.As, and not for printing.
	causes []error
}

func (e *callError) Error() string { return e.text }

func (e *callError) Unwrap() []error { return e.causes }

// kind is what a failure means for the queries of the call.
type kind string

const (
	kindRejected  kind = "rejected"
	kindThrottled kind = "throttled"
	kindDenied    kind = "denied"
	kindTimeout   kind = "timeout"
	kindFailed    kind = "failed"
)

// rejections are the codes of a call that would be refused again
// (https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CommonErrors.html).
var rejections = []string{
	"ValidationError", "ValidationException",
	"InvalidParameterValue", "InvalidParameterValueException",
	"InvalidParameterCombination", "InvalidParameterCombinationException",
	"MissingParameter", "MissingRequiredParameterException",
	"InvalidFormat", "RequestEntityTooLarge",
}

// expired are the codes that new credentials may help against.
var expired = []string{
	"ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException",
}

// denials are the codes of an identity that may not do what it asks.
var denials = []string{
	"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthFailure", "OptInRequired",
	"MissingAuthenticationToken", "SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature",
}

// classify tells what a failed call means.
func classify(err error) kind {
	code := errorCode(err)
	_, throttled := retry.DefaultThrottleErrorCodes[code]
	switch {
	case throttled || code == "LimitExceeded":
		return kindThrottled
	case slices.Contains(rejections, code) && !credentialsFailed(err):
		return kindRejected
	case slices.Contains(denials, code) || slices.Contains(expired, code):
		return kindDenied
	case isTimeout(err):
		return kindTimeout
	default:
		return kindFailed
	}
}

func errorCode(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorCode()
	}
	return ""
}

func isTimeout(err error) bool {
	if n, ok := errors.AsType[net.Error](err); ok && n.Timeout() {
		return true
	}
	return errors.Is(err, context.DeadlineExceeded)
}

// newCallError says in the SDK's and AWS's words why a call of the client failed.
func newCallError(k clientKey, err error) error {
	e := &callError{text: fmt.Sprintf("%s: %s", k, words(err)), causes: []error{err}}
	switch classify(err) {
	case kindRejected:
		e.causes = append(e.causes, sources.ErrRejected)
	case kindThrottled:
		return &sources.ThrottledError{Err: e}
	case kindDenied, kindTimeout, kindFailed:
	}
	return e
}

// notAsked is the failure of queries for which there was no turn until their Fetch was over.
func notAsked(k clientKey) error {
	return &callError{
		text:   fmt.Sprintf("%s: not asked in time: other queries took all the calls that may be made", k),
		causes: []error{sources.ErrNotAsked},
	}
}

// unanswered is the failure of a call to which nobody said anything.
type unanswered struct{ error }

func (e unanswered) Unwrap() []error { return []error{e.error, sources.ErrAway} }

// trace is what is seen of a call on its way.
type trace struct {
	// connected says that there was a connection, and heard that something came back.
	connected, heard atomic.Bool
}

func (t *trace) follow(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:              func(httptrace.GotConnInfo) { t.connected.Store(true) },
		GotFirstResponseByte: func() { t.heard.Store(true) },
	})
}

// diagnose wraps the failure of a call if nobody was there. Whole says that the call had
// all of its time.
func (t *trace) diagnose(err error, whole bool) error {
	_, unsent := errors.AsType[*smithyhttp.RequestSendError](err)
	nobody := unsent && !t.heard.Load()
	if isTimeout(err) {
		nobody = whole && !t.connected.Load()
	}
	if nobody && !errors.Is(err, context.Canceled) {
		return unanswered{err}
	}
	return err
}

// words is what failed, without what differs from call to call.
func words(err error) string {
	if op := innermost(err); op != nil && credentialsFailed(err) {
		return fmt.Sprintf("credentials: %s %s: %s", op.ServiceID, op.OperationName, cause(op.Err))
	}
	return cause(err)
}

// innermost is the operation that the failure began with: a call that has to get
// credentials first fails with the failure of that.
func innermost(err error) *smithy.OperationError {
	var found *smithy.OperationError
	for {
		op, ok := errors.AsType[*smithy.OperationError](err)
		if !ok {
			return found
		}
		found, err = op, op.Err
	}
}

func credentialsFailed(err error) bool {
	op := innermost(err)
	return op != nil && op.OperationName != operation
}

func cause(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return apiWords(api)
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Sprintf("lookup %s: %s", dns.Name, dns.Err)
	}
	if isTimeout(err) {
		return "no answer in time"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		// Its own text has the local port, which is another each time.
		return fmt.Sprintf("%s %v: %v", op.Op, op.Addr, op.Err)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return "connection cut before the end of the answer"
	}
	return sources.Shorten(peel(err).Error(), maxWords)
}

// apiWords are the code and the message of AWS.
func apiWords(err smithy.APIError) string {
	code, message := err.ErrorCode(), strings.TrimSpace(err.ErrorMessage())
	// Of a signature that is wrong AWS quotes the request, with its session
	// token; and the times, of one that is too old.
	if strings.Contains(code, "Signature") {
		for _, end := range []string{"\n", ": ", "Authorization="} {
			message, _, _ = strings.Cut(message, end)
		}
	}
	if message == "" {
		return code
	}
	return code + ": " + sources.Shorten(strings.Join(strings.Fields(message), " "), maxWords)
}

// peel takes off the wrappers whose text has the request's id or the number of
// attempts.
func peel(err error) error {
	for {
		switch e := err.(type) { //nolint:errorlint // each wrapper is taken off by itself
		case unanswered:
			err = e.error
		case *smithy.OperationError:
			err = e.Err
		case *retry.MaxAttemptsError:
			err = e.Err
		case *awshttp.ResponseError:
			err = e.Err
		case *smithyhttp.ResponseError:
			err = e.Err
		default:
			return err
		}
	}
}

// requestID is the id that AWS gave to a failed request, for the log.
func requestID(err error) string {
	if r, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		return r.ServiceRequestID()
	}
	return ""
}

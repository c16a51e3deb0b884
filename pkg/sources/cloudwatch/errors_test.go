package cloudwatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// failed wraps a cause as the SDK does when a call fails with an answer.
func failed(cause error) error {
	return &smithy.OperationError{ServiceID: "CloudWatch", OperationName: operation, Err: &retry.MaxAttemptsError{
		Attempt: 2, Err: &awshttp.ResponseError{RequestID: "b2c9", ResponseError: &smithyhttp.ResponseError{
			Response: &smithyhttp.Response{Response: &http.Response{StatusCode: http.StatusBadRequest}}, Err: cause,
		}},
	}}
}

// unsent wraps a cause as the SDK does when there is no answer.
func unsent(cause error) error {
	return &smithy.OperationError{ServiceID: "CloudWatch", OperationName: operation, Err: &smithyhttp.RequestSendError{
		Err: &url.Error{Op: "Post", URL: "https://monitoring.eu-west-1.amazonaws.com/", Err: cause},
	}}
}

// withoutCredentials wraps a cause as the SDK does when a role is not assumed.
func withoutCredentials(cause error) error {
	return &smithy.OperationError{ServiceID: "CloudWatch", OperationName: operation, Err: fmt.Errorf(
		"get identity: get credentials: failed to refresh cached credentials, %w",
		&smithy.OperationError{ServiceID: "STS", OperationName: "AssumeRole", Err: cause},
	)}
}

func apiError(code, message string) error {
	return &smithy.GenericAPIError{Code: code, Message: message}
}

func TestCallErrors(t *testing.T) {
	local := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 54321}
	remote := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443}
	const canonical = "The signature does not match.\n\nThe Canonical String was 'POST\nx-amz-security-token:SECRET'"
	for _, test := range []struct {
		name string
		err  error
		want string
		kind kind
	}{
		{"validation", failed(apiError("ValidationError", "Error in expression 'e1': bad")), "ValidationError: Error in expression 'e1': bad", kindRejected},
		{"words over lines", failed(apiError("InvalidParameterCombination", " a\n  b ")), "InvalidParameterCombination: a b", kindRejected},
		{"no words", failed(apiError("InternalFailure", "")), "InternalFailure", kindFailed},
		{"throttling", failed(apiError("Throttling", "Rate exceeded")), "Throttling: Rate exceeded", kindThrottled},
		{"throttling by another name", failed(apiError("ThrottlingException", "Rate exceeded")), "ThrottlingException: Rate exceeded", kindThrottled},
		{"too many requests", failed(apiError("RequestLimitExceeded", "slow")), "RequestLimitExceeded: slow", kindThrottled},
		{"limit", failed(apiError("LimitExceeded", "slow")), "LimitExceeded: slow", kindThrottled},
		{"denied", failed(apiError("AccessDenied", "User u is not authorized")), "AccessDenied: User u is not authorized", kindDenied},
		{"expired", failed(apiError("ExpiredToken", "The token is expired")), "ExpiredToken: The token is expired", kindDenied},
		{"signature", failed(apiError("SignatureDoesNotMatch", canonical)), "SignatureDoesNotMatch: The signature does not match.", kindDenied},
		{"old signature", failed(apiError("InvalidSignatureException", "Signature expired: 20260304T120007Z is now earlier")), "InvalidSignatureException: Signature expired", kindDenied},
		{"quoted header", failed(apiError("IncompleteSignature", "no Credential. Authorization=SECRET")), "IncompleteSignature: no Credential.", kindDenied},
		{"refused", unsent(&net.OpError{Op: "dial", Net: "tcp", Addr: remote, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}), "dial 127.0.0.1:443: connect: connection refused", kindFailed},
		{"reset", unsent(&net.OpError{Op: "read", Net: "tcp", Source: local, Addr: remote, Err: os.NewSyscallError("read", syscall.ECONNRESET)}), "read 127.0.0.1:443: read: connection reset by peer", kindFailed},
		{"no such host", unsent(&net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Name: "monitoring.mars-1.amazonaws.com", Server: "10.0.0.2:53", Err: "no such host", IsNotFound: true}}), "lookup monitoring.mars-1.amazonaws.com: no such host", kindFailed},
		{"timeout", &smithy.OperationError{ServiceID: "CloudWatch", OperationName: operation, Err: &aws.RequestCanceledError{Err: context.DeadlineExceeded}}, "no answer in time", kindTimeout},
		{"slow connection", unsent(&net.OpError{Op: "read", Net: "tcp", Source: local, Addr: remote, Err: os.ErrDeadlineExceeded}), "no answer in time", kindTimeout},
		{"cut", failed(&smithy.DeserializationError{Err: fmt.Errorf("read body: %w", io.ErrUnexpectedEOF)}), "connection cut before the end of the answer", kindFailed},
		{"garbage", failed(&smithy.DeserializationError{Err: errors.New("no CBOR")}), "deserialization failed, no CBOR", kindFailed},
		{"role denied", withoutCredentials(apiError("AccessDenied", "may not sts:AssumeRole")), "credentials: STS AssumeRole: AccessDenied: may not sts:AssumeRole", kindDenied},
		{"role malformed", withoutCredentials(apiError("ValidationError", "bad ARN")), "credentials: STS AssumeRole: ValidationError: bad ARN", kindFailed},
		{"STS away", withoutCredentials(&net.OpError{Op: "dial", Net: "tcp", Addr: remote, Err: syscall.ECONNREFUSED}), "credentials: STS AssumeRole: dial 127.0.0.1:443: connection refused", kindFailed},
		{"canceled", context.Canceled, "context canceled", kindFailed},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := newCallError(clientKey{"eu-west-1", "arn:aws:iam::123456789012:role/r"}, test.err)
			if got, want := err.Error(), "cloudwatch in eu-west-1 as arn:aws:iam::123456789012:role/r: "+test.want; got != want {
				t.Errorf("the error is\n%q, want\n%q", got, want)
			}
			if got := classify(test.err); got != test.kind {
				t.Errorf("the kind is %s, want %s", got, test.kind)
			}
			if got, want := errors.Is(err, sources.ErrRejected), test.kind == kindRejected; got != want {
				t.Errorf("rejected: %v, want %v", got, want)
			}
			throttled, ok := errors.AsType[*sources.ThrottledError](err)
			if ok != (test.kind == kindThrottled) {
				t.Errorf("throttled: %v", throttled)
			}
			if !errors.Is(err, test.err) {
				t.Error("the error does not wrap its cause")
			}
		})
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

func TestRetryer(t *testing.T) {
	r := newRetryer()
	if r.MaxAttempts() != maxAttempts {
		t.Errorf("%d attempts, want %d", r.MaxAttempts(), maxAttempts)
	}
	unavailable := func(code string) error {
		return &awshttp.ResponseError{ResponseError: &smithyhttp.ResponseError{
			Response: &smithyhttp.Response{Response: &http.Response{StatusCode: http.StatusServiceUnavailable}}, Err: apiError(code, ""),
		}}
	}
	for _, test := range []struct {
		name string
		err  error
		want bool
	}{
		{"503", unavailable("ServiceUnavailable"), true},
		{"throttling as 503", unavailable("Throttling"), false},
		{"throttling", failed(apiError("Throttling", "")), false},
		{"validation", failed(apiError("ValidationError", "")), false},
		{"refused", unsent(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), true},
	} {
		if got := r.IsErrorRetryable(test.err); got != test.want {
			t.Errorf("%s is retried: %v, want %v", test.name, got, test.want)
		}
	}
}

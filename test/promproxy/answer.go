package promproxy

import (
	"bufio"
	"cmp"
	"encoding/json"
	"net/http"
)

// Answer is what the server says to a call.
type Answer struct {
	// Status is 200 if it is zero.
	Status int
	Header http.Header
	// Body writes the body, as a stream; its error is the writer's. nil writes nothing.
	Body func(w *bufio.Writer) error
}

func (a Answer) status() int { return cmp.Or(a.Status, http.StatusOK) }

// Pointer is the answer for Fault.Answer.
func (a Answer) Pointer() *Answer { return &a }

// Text is an answer with a body of any type.
func Text(status int, contentType, body string) Answer {
	return Answer{
		Status: status,
		Header: http.Header{"Content-Type": {contentType}},
		Body: func(w *bufio.Writer) error {
			_, err := w.WriteString(body)
			return err
		},
	}
}

// JSON is an answer whose body is the text, whatever that is.
func JSON(status int, body string) Answer { return Text(status, "application/json", body) }

// Error is an error as Prometheus writes it, see
// https://prometheus.io/docs/prometheus/latest/querying/api/#format-overview
func Error(status int, errorType, message string) Answer {
	body, err := json.Marshal(struct {
		Status    string `json:"status"`
		ErrorType string `json:"errorType"`
		Error     string `json:"error"`
	}{"error", errorType, message})
	if err != nil {
		panic(err) // Strings are always written.
	}
	return JSON(status, string(body))
}

// TimedOut is what Prometheus says when a query took longer than its timeout.
func TimedOut() Answer {
	return Error(http.StatusServiceUnavailable, "timeout", "query timed out in expression evaluation")
}

// Unavailable is what Prometheus says while it starts.
func Unavailable() Answer {
	return Error(http.StatusServiceUnavailable, "unavailable", "TSDB not ready")
}

// ExecutionError is what Prometheus says to a query that cannot be evaluated.
func ExecutionError() Answer {
	return Error(http.StatusUnprocessableEntity, "execution",
		"found duplicate series for the match group {} on the right hand-side of the operation;"+
			"many-to-many matching not allowed: matching labels must be unique on one side")
}

// BadData is what Prometheus says to a query that is no PromQL.
func BadData() Answer {
	return Error(http.StatusBadRequest, "bad_data", `invalid parameter "query": 1:5: parse error: unexpected end of input`)
}

// TooManyRequests is what gateways of shared servers say to a client that asks too much.
func TooManyRequests() Answer {
	a := Error(http.StatusTooManyRequests, "bad_data", "too many outstanding requests")
	a.Header.Set("Retry-After", "1")
	return a
}

// Unauthorized is what Prometheus says to a client without valid credentials.
func Unauthorized() Answer {
	a := Text(http.StatusUnauthorized, "text/plain; charset=utf-8", "Unauthorized\n")
	a.Header.Set("Www-Authenticate", "Basic")
	return a
}

// HTML is what a proxy that knows nothing of Prometheus says, such as one that wants a login.
func HTML() Answer {
	return Text(http.StatusOK, "text/html", "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body></body></html>\n")
}

// TruncatedJSON is an answer that ends in the middle of its first element. It is whole
// as far as HTTP knows.
func TruncatedJSON() Answer {
	return JSON(http.StatusOK, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"pod":"web`)
}

// OtherJSON is JSON of no shape that Prometheus has.
func OtherJSON() Answer {
	return JSON(http.StatusOK, `[{"message":"hello"},17,null]`)
}

// Redirect sends the client elsewhere.
func Redirect(url string) Answer {
	return Answer{Status: http.StatusFound, Header: http.Header{"Location": {url}}}
}

package fakeaws

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
)

// Fault is something that goes wrong on request. The first group of fields says
// where, and matches everything that it leaves empty; the second says how often,
// and the rest what. Several effects may be combined, and several faults may match
// one call.
type Fault struct {
	Service   string `json:"service,omitempty"` // cloudwatch, sqs or sts
	Operation string `json:"operation,omitempty"`
	Region    string `json:"region,omitempty"`
	// Role is the ARN of the caller's role, or the role that AssumeRole is asked for.
	Role string `json:"role,omitempty"`
	// Metric and QueryID match GetMetricData only. A call matches if one of its
	// queries does; effects on results are for the queries that match.
	Metric  string `json:"metric,omitempty"`
	QueryID string `json:"queryId,omitempty"`

	// Count is how many calls the fault is for; 0 is all of them until it is cleared.
	Count int `json:"count,omitempty"`

	// Latency is how long a call waits before it is answered or fails; in JSON "1.5s".
	Latency time.Duration `json:"-"`
	// ErrorCode fails the call, with the status and the words that AWS has for the
	// code unless ErrorStatus and ErrorMessage say others.
	ErrorCode    string `json:"errorCode,omitempty"`
	ErrorStatus  int    `json:"errorStatus,omitempty"`
	ErrorMessage string `json:"errorMessage,omitempty"`
	// Cut ends the connection in the middle of the answer's body.
	Cut bool `json:"cut,omitempty"`
	// Garbage answers 200 with a body that is nothing.
	Garbage bool `json:"garbage,omitempty"`

	// StatusCode is the result's: Forbidden and InternalError leave it without
	// data, PartialData leaves the data as it is; MaxDatapoints and Empty make less
	// of it. Expressions over the result take the status over.
	StatusCode string `json:"statusCode,omitempty"`
	// Messages go to the results that match, or to the whole answer if neither
	// Metric nor QueryID is set.
	Messages []Message `json:"messages,omitempty"`
	// Value takes the place of every value of the result.
	Value *Float `json:"value,omitempty"`
	// Empty leaves the result without data.
	Empty bool `json:"empty,omitempty"`
	// MaxDatapoints makes GetMetricData page as if the caller had asked for pages
	// of so many datapoints.
	MaxDatapoints int `json:"maxDatapoints,omitempty"`
}

// Message is a message of GetMetricData, such as ArithmeticError.
type Message struct {
	Code  string `json:"code"`
	Value string `json:"value"`
}

// Float is a float64 whose JSON has NaN and the infinities, as the strings "NaN", "+Inf" and "-Inf".
type Float float64

// MarshalJSON writes a number, or a string where JSON has no number.
func (f Float) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(f)) || math.IsInf(float64(f), 0) {
		return strconv.AppendQuote(nil, strconv.FormatFloat(float64(f), 'g', -1, 64)), nil
	}
	return json.Marshal(float64(f))
}

// UnmarshalJSON reads a number, or a string that strconv.ParseFloat takes.
func (f *Float) UnmarshalJSON(data []byte) error {
	v, err := strconv.ParseFloat(strings.Trim(string(data), `"`), 64)
	if err != nil {
		return fmt.Errorf("reading number: %w", err)
	}
	*f = Float(v)
	return nil
}

// faultFields has the fields of a Fault without its methods.
type faultFields Fault

// faultJSON is a Fault whose latency is readable.
type faultJSON struct {
	faultFields
	Latency string `json:"latency,omitempty"`
}

// MarshalJSON writes the latency as a string.
func (f Fault) MarshalJSON() ([]byte, error) {
	wire := faultJSON{faultFields: faultFields(f)}
	if f.Latency != 0 {
		wire.Latency = f.Latency.String()
	}
	return json.Marshal(wire)
}

// UnmarshalJSON refuses fields that do not exist, so that a typing error does not
// become a fault that matches everything.
func (f *Fault) UnmarshalJSON(data []byte) error {
	var wire faultJSON
	if err := decodeStrict(data, &wire); err != nil {
		return err
	}
	*f = Fault(wire.faultFields)
	if wire.Latency == "" {
		return nil
	}
	var err error
	if f.Latency, err = time.ParseDuration(wire.Latency); err != nil {
		return fmt.Errorf("latency: %w", err)
	}
	return nil
}

// onQueries says whether the fault is for certain queries of GetMetricData.
func (f Fault) onQueries() bool { return f.Metric != "" || f.QueryID != "" }

// matchesQuery says whether the fault is for a query; metric is empty for an expression.
func (f Fault) matchesQuery(id, metric string) bool {
	return (f.QueryID == "" || f.QueryID == id) && (f.Metric == "" || f.Metric == metric)
}

func (f Fault) matchesCall(c *call, in any) bool {
	for want, got := range map[string]string{f.Service: c.service.name, f.Operation: c.operation, f.Region: c.caller.region} {
		if want != "" && want != got {
			return false
		}
	}
	if f.Role != "" && f.Role != c.caller.role && f.Role != wantedRole(in) {
		return false
	}
	if !f.onQueries() {
		return true
	}
	get, ok := in.(*cloudwatch.GetMetricDataInput)
	if !ok {
		return false
	}
	for _, q := range get.MetricDataQueries {
		metric := ""
		if q.MetricStat != nil && q.MetricStat.Metric != nil {
			metric = aws.ToString(q.MetricStat.Metric.MetricName)
		}
		if f.matchesQuery(aws.ToString(q.Id), metric) {
			return true
		}
	}
	return false
}

// Fault puts a fault in force until its Count is used up or lift is called.
func (s *Server) Fault(f Fault) (lift func()) {
	id := s.faults.Add(f)
	return func() { s.faults.Remove(id) }
}

// ClearFaults takes every fault out of force.
func (s *Server) ClearFaults() { s.faults.Clear() }

func hasFault(c *call, is func(Fault) bool) bool { return slices.ContainsFunc(c.faults, is) }

// faultError is the error of the first fault that has one, or nil. The words are
// those of https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CommonErrors.html
// where AWS documents them.
func faultError(c *call) error {
	i := slices.IndexFunc(c.faults, func(f Fault) bool { return f.ErrorCode != "" })
	if i < 0 {
		return nil
	}
	f := c.faults[i]
	e := &apiError{Status: http.StatusBadRequest, Code: f.ErrorCode, Message: "This error was asked for."}
	switch f.ErrorCode {
	case "Throttling":
		e.Shape, e.Message = "ThrottlingException", "Rate exceeded"
	case "ThrottlingException":
		e.Message = "Rate exceeded"
	case "InternalFailure":
		e.Status = http.StatusInternalServerError
		e.Message = "The request processing has failed because of an unknown error, exception or failure."
	case "InternalServiceError":
		e.Status, e.Shape = http.StatusInternalServerError, "InternalServiceFault"
		e.Message = "Request processing has failed due to some unknown error, exception, or failure."
	case "ServiceUnavailable":
		e.Status, e.Message = http.StatusServiceUnavailable, "The request has failed due to a temporary failure of the server."
	case "AccessDenied", "AccessDeniedException":
		e.Status, e.Message = http.StatusForbidden, fmt.Sprintf(
			"User: %s is not authorized to perform: %s:%s because no identity-based policy allows the %[2]s:%[3]s action",
			c.caller.arn, c.service.name, c.operation)
	}
	if f.ErrorStatus != 0 {
		e.Status = f.ErrorStatus
	}
	if f.ErrorMessage != "" {
		e.Message = f.ErrorMessage
	}
	return e
}

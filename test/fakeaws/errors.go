package fakeaws

import (
	"fmt"
	"net/http"
)

// apiError is an error as AWS answers it.
type apiError struct {
	Status int
	// Code is the error's code in the AWS Query protocol, which clients of the
	// other protocols get in the header x-amzn-query-error.
	Code string
	// Shape is the error's type in the service's model, if it is not Code.
	Shape   string
	Message string
}

func (e *apiError) Error() string { return e.Code + ": " + e.Message }

// blame says whose fault the error is, in the words of the protocols.
func (e *apiError) blame() string {
	if e.Status < http.StatusInternalServerError {
		return "Sender"
	}
	return "Receiver"
}

func (e *apiError) shape() string {
	if e.Shape != "" {
		return e.Shape
	}
	return e.Code
}

// validationError is how CloudWatch and STS refuse what their constraints forbid.
func validationError(format string, args ...any) *apiError {
	return &apiError{Status: http.StatusBadRequest, Code: "ValidationError", Message: fmt.Sprintf(format, args...)}
}

func invalidParameterValue(format string, args ...any) *apiError {
	return &apiError{
		Status: http.StatusBadRequest, Code: "InvalidParameterValue", Shape: "InvalidParameterValueException",
		Message: fmt.Sprintf(format, args...),
	}
}

func invalidParameterCombination(format string, args ...any) *apiError {
	return &apiError{
		Status: http.StatusBadRequest, Code: "InvalidParameterCombination", Shape: "InvalidParameterCombinationException",
		Message: fmt.Sprintf(format, args...),
	}
}

func missingParameter(name string) *apiError {
	return &apiError{
		Status: http.StatusBadRequest, Code: "MissingParameter", Shape: "MissingRequiredParameterException",
		Message: fmt.Sprintf("The parameter %s is required.", name),
	}
}

func invalidNextToken() *apiError {
	return &apiError{Status: http.StatusBadRequest, Code: "InvalidNextToken", Message: "The next token is invalid for this request."}
}

func tooLarge(size, limit int) *apiError {
	return &apiError{
		Status: http.StatusRequestEntityTooLarge, Code: "RequestEntityTooLarge",
		Message: fmt.Sprintf("Request size %d exceeded %d bytes", size, limit),
	}
}

package provider

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/pkg/catalog"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

func unknownMetric(name types.NamespacedName) error {
	return status(http.StatusNotFound, metav1.StatusReasonNotFound,
		"no external metric %q in namespace %q: no ExternalMetric of that name is there", name.Name, name.Namespace)
}

// notReady is the error of a metric of which nobody can say whether it exists.
func notReady(name types.NamespacedName, err error) error {
	return status(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable,
		"external metric %s: the adapter is not ready: %v", name, err)
}

// failedMetric turns what kept a metric from having a value into the API's error.
// Its text is what the HPA's condition and event will show.
func failedMetric(name types.NamespacedName, err error) error {
	code, reason := int32(http.StatusInternalServerError), metav1.StatusReasonInternalError
	switch {
	case errors.Is(err, sources.ErrNoData):
		code, reason = http.StatusNotFound, metav1.StatusReasonNotFound
	case errors.Is(err, sources.ErrRejected), errors.Is(err, catalog.ErrNotANumber), errors.Is(err, catalog.ErrMisreadByHPA):
	case errors.As(err, new(*engine.UnavailableError)):
		code, reason = http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		code, reason = http.StatusGatewayTimeout, metav1.StatusReasonTimeout
	}
	return status(code, reason, "external metric %s: %v", name, err)
}

func nothingSelected(name types.NamespacedName, selector labels.Selector, items []catalog.Item) error {
	have := make([]string, len(items))
	for i, item := range items {
		have[i] = "{" + labels.Set(item.Labels).String() + "}"
	}
	return status(http.StatusNotFound, metav1.StatusReasonNotFound,
		"external metric %s: no series matches the selector %q; there are %v", name, selector, have)
}

func status(code int32, reason metav1.StatusReason, format string, args ...any) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    code,
		Reason:  reason,
		Message: fmt.Sprintf(format, args...),
	}}
}

package provider

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/apiserver"

	"github.com/tidegauge/tidegauge/pkg/catalog"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/objects"
	"github.com/tidegauge/tidegauge/pkg/plan"
	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

const (
	// maxListed is how many things an error lists of which there may be many.
	maxListed = 10
	// maxUnmapped is how many resources an error names that the API server does not have.
	maxUnmapped = 3
	// maxQuery is how many bytes of a query an error shows. An Event holds 1024
	// (k8s.io/client-go/tools/events), and is for the cause first.
	maxQuery = 300
	// retryAfter is after how many seconds a read may be tried again that was refused. Clients
	// do so by themselves, up to ten times (k8s.io/client-go/rest), and wait meanwhile.
	retryAfter = 1
)

// errSelector is the error of a metric selector that a rule's query cannot express.
var errSelector = errors.New("the metric selector cannot be used")

// unknownMetric is the error of an external metric that there is none of. The suggestion
// may be empty.
func unknownMetric(name types.NamespacedName, suggestion string) error {
	return status(http.StatusNotFound, metav1.StatusReasonNotFound,
		"no external metric %q in namespace %q: no ExternalMetric of that name is there, and no rule of the configuration makes it%s", name.Name, name.Namespace, suggestion)
}

// notReady is the error of a metric that cannot be asked for yet. What names the metric.
func notReady(what string, err error) error {
	return status(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable,
		"%s: the adapter is not ready: %v", what, err)
}

// notKnown is the error of a metric of which nobody can say yet whether it exists, although
// the adapter may be ready for others. What names the metric.
func notKnown(what string, err error) error {
	return status(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable,
		"%s: it is not known yet whether this metric exists: %v", what, err)
}

// failedMetric turns what kept a metric from having a value into the API's error.
// Its text is what the HPA's condition and event will show. What names the metric.
func failedMetric(what string, err error) error {
	code, reason := int32(http.StatusInternalServerError), metav1.StatusReasonInternalError
	switch {
	case errors.Is(err, sources.ErrNoData):
		return noData(status(http.StatusNotFound, metav1.StatusReasonNotFound, "%s: %v", what, err))
	case errors.Is(err, errSelector):
		code, reason = http.StatusBadRequest, metav1.StatusReasonBadRequest
	case errors.Is(err, sources.ErrRejected), errors.Is(err, catalog.ErrNotANumber), errors.Is(err, catalog.ErrMisreadByHPA):
	case errors.Is(err, plan.ErrNotReady):
		return notReady(what, err)
	case errors.As(err, new(*engine.BusyError)):
		return apierrors.NewTooManyRequests(fmt.Sprintf("%s: %v", what, err), retryAfter)
	case errors.As(err, new(*engine.UnavailableError)):
		code, reason = http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		code, reason = http.StatusGatewayTimeout, metav1.StatusReasonTimeout
	case errors.As(err, new(*objects.UnavailableError)):
		code, reason = http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable
	}
	return status(code, reason, "%s: %v", what, err)
}

// inexpressible is the error of a rule that makes no query of what was asked. The
// selector is to blame if there is one, since the rule was checked when it was loaded.
func inexpressible(err error, selector labels.Selector) error {
	if selector.Empty() || errors.Is(err, plan.ErrNotReady) {
		return err
	}
	return fmt.Errorf("%w: %w", errSelector, err)
}

// asAnswerTo adds the query to the error of its answer.
func asAnswerTo(query string, err error) error {
	if len(query) > maxQuery {
		query = strings.ToValidUTF8(query[:maxQuery], "") + "…"
	}
	return fmt.Errorf("%w, in the answer to %s", err, query)
}

// isOfEngine says whether the error of a read is the engine's, and not the rule's.
func isOfEngine(err error) bool {
	return errors.As(err, new(*engine.UnavailableError)) || errors.As(err, new(*engine.BusyError)) || errors.Is(err, sources.ErrNoData) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

func nothingSelected(what string, selector labels.Selector, items []catalog.Item) error {
	have := make([]string, len(items))
	for i, item := range items {
		have[i] = item.Labels.String()
	}
	return noData(status(http.StatusNotFound, metav1.StatusReasonNotFound,
		"%s: no series matches the selector %q; there are [%s]", what, selector, listed(have)))
}

// listed is a list that may be long.
func listed(list []string) string {
	if more := len(list) - maxListed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:maxListed], " "), more)
	}
	return strings.Join(list, " ")
}

// placeOf says where a metric of a rule comes from.
func placeOf(r *rules.Compiled) string {
	parts := slices.DeleteFunc([]string{r.ID, r.Where, "server " + r.Server}, func(s string) bool { return s == "" })
	return "(" + strings.Join(parts, ", ") + ")"
}

// noData marks the API's error of a metric that is there and has no value.
func noData(status *apierrors.StatusError) error { return noDataError{status} }

func status(code int32, reason metav1.StatusReason, format string, args ...any) *apierrors.StatusError {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    code,
		Reason:  reason,
		Message: fmt.Sprintf(format, args...),
	}}
}

// RefuseBadMetricSelectors answers 400 to reads of custom metrics whose
// metricLabelSelector is malformed, and leaves everything else to next. The library
// would answer 500 (sigs.k8s.io/custom-metrics-apiserver/pkg/registry/custom_metrics),
// although it answers 400 to a malformed labelSelector.
func RefuseBadMetricSelectors(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := metricSelectorFault(r.URL); err != nil {
			responsewriters.ErrorNegotiated(err, apiserver.Codecs, v1beta2.SchemeGroupVersion, w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func metricSelectorFault(u *url.URL) error {
	if u.RawQuery == "" || !strings.HasPrefix(u.Path, "/apis/"+v1beta2.GroupName+"/") {
		return nil
	}
	text := u.Query().Get("metricLabelSelector")
	if _, err := labels.Parse(text); err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("metricLabelSelector %q: %v", text, err))
	}
	return nil
}

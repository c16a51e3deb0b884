package provider

import (
	"maps"
	"net/http"
	"strconv"
	"sync"

	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta1"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	external "k8s.io/metrics/pkg/apis/external_metrics/v1beta1"

	"github.com/tidegauge/tidegauge/pkg/catalog"
)

// maxLists is how many lists are kept: one for each version of an API and each text in
// which a client says what it accepts. API servers have the same for all.
const maxLists = 8

// Names are the names that the APIs list. Each gives the same slice until there are others.
type Names interface {
	CustomNames() []catalog.CustomName
	ExternalNames() []string
}

// KeepLists answers requests for the list of an API's metrics with what next answered to the
// first such one since the names changed, and leaves everything else to next. API servers ask
// again and again, several at once, and to write the list takes some kilobytes a metric.
func KeepLists(names Names, next http.Handler) http.Handler {
	l := &lists{next: next, kept: map[listKey]*list{}}
	custom, ofExternal := version(names.CustomNames), version(names.ExternalNames)
	l.versions = map[string]func() any{
		"/apis/" + v1beta1.SchemeGroupVersion.String():  custom,
		"/apis/" + v1beta2.SchemeGroupVersion.String():  custom,
		"/apis/" + external.SchemeGroupVersion.String(): ofExternal,
	}
	return l
}

// version gives something that is equal as long as the names are the same ones.
func version[T any](names func() []T) func() any {
	return func() any {
		if all := names(); len(all) > 0 {
			return &all[0]
		}
		return nil
	}
}

type lists struct {
	next     http.Handler
	versions map[string]func() any // by path

	mu   sync.Mutex
	kept map[listKey]*list
}

type listKey struct{ path, accept string }

// list is an answer whose content is what it is as long as version is.
type list struct {
	version any
	header  http.Header
	code    int
	body    []byte
}

// ServeHTTP implements http.Handler.
func (l *lists) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	version := l.versions[r.URL.Path]
	if version == nil || r.Method != http.MethodGet || r.URL.RawQuery != "" {
		l.next.ServeHTTP(w, r)
		return
	}
	// The names may change after this, so that the list is newer than what it is kept as,
	// and is written once more.
	answer := l.list(r, version())
	maps.Copy(w.Header(), answer.header)
	w.Header().Set("Content-Length", strconv.Itoa(len(answer.body)))
	w.WriteHeader(answer.code)
	_, _ = w.Write(answer.body)
}

// list is the list that is kept, or a new one. Those who ask meanwhile wait for it.
func (l *lists) list(r *http.Request, version any) *list {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := listKey{r.URL.Path, r.Header.Get("Accept")}
	if known := l.kept[key]; known != nil && known.version == version {
		return known
	}
	answer := &list{version: version, header: http.Header{}, code: http.StatusOK}
	l.next.ServeHTTP(answer, r)
	if answer.code == http.StatusOK && (l.kept[key] != nil || len(l.kept) < maxLists) {
		l.kept[key] = answer
	}
	return answer
}

// Header implements http.ResponseWriter.
func (a *list) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *list) WriteHeader(code int) { a.code = code }

// Write implements http.ResponseWriter.
func (a *list) Write(text []byte) (int, error) {
	a.body = append(a.body, text...)
	return len(text), nil
}

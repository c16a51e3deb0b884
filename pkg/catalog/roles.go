package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/pkg/sources/cloudwatch"
)

// Forgetter drops what is known of backends of a source, of which there is at least one. The
// engine does so.
type Forgetter interface {
	Forget(source string, backends []string)
}

// mayAsk is nil if the definition's query may be asked as whom it says.
func (d Defaults) mayAsk(of *definition) error {
	if d.OwnNamespace != "" && of.Namespace == d.OwnNamespace {
		return nil
	}
	if err := d.Roles.Check(of.Namespace, of.query.Role()); err != nil {
		return fmt.Errorf("spec.roleArn: %w", err)
	}
	return nil
}

// mayNotUseRole says whether the metric cannot be asked because of its role.
func mayNotUseRole(m *Metric) bool {
	if m == nil {
		return false
	}
	_, is := errors.AsType[*cloudwatch.RoleError](m.Err)
	return is
}

// maxToldRoles is how many objects the log names whose roles are not allowed.
const maxToldRoles = 5

// takeRoles tells of the ExternalMetrics that may not use their roles and could before, or
// were not there, and has the roles that nobody may use any more not asked either.
func (w *Watcher) takeRoles(ctx context.Context, d *draft, before *snapshot) {
	var names []types.NamespacedName
	taken := map[string]bool{}
	for name := range d.defined {
		m, was := d.external.get(name), before.external.get(name)
		if !mayNotUseRole(m) || mayNotUseRole(was) {
			continue
		}
		names = append(names, name)
		if was != nil && was.Err == nil {
			taken[was.Request.Query.Backend()] = true
		}
	}
	if len(names) == 0 {
		return
	}
	slices.SortFunc(names, func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	klog.FromContext(ctx).Info("ExternalMetrics may not use the roles that they name, and are not served", "count", len(names),
		"externalMetrics", names[:min(len(names), maxToldRoles)], "reason", d.external.get(names[0]).Err)
	w.forget(d, taken)
}

// forget drops what is known of backends, but for those that metrics still ask. What was read
// of a metric would be asked for some minutes more.
func (w *Watcher) forget(d *draft, backends map[string]bool) {
	if w.forgetter == nil || len(backends) == 0 {
		return
	}
	for _, m := range d.external.all() {
		if m.Err == nil {
			delete(backends, m.Request.Query.Backend())
		}
	}
	if len(backends) > 0 {
		w.forgetter.Forget(w.defaults.Source, slices.Collect(maps.Keys(backends)))
	}
}

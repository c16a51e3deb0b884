package catalog

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Ceilings of what people can make grow who may create objects in a namespace. One
// namespace may have half of each.
const (
	// maxDefinitions is how many ExternalMetrics are read, and maxDefinitionBytes how long
	// the texts in them are together.
	maxDefinitions     = 20_000
	maxDefinitionBytes = 64 << 20
	// maxAsks is how many metrics that HPAs name by objects or with selectors are asked for
	// before they are read, as each is a query of its own, and maxAskBytes how long these
	// texts are together. Other metrics are as many as there are definitions.
	maxAsks     = 20_000
	maxAskBytes = 16 << 20
)

// errTooMany is the error of an ExternalMetric beyond the ceiling.
var errTooMany = errors.New("refused, as there are too many ExternalMetrics: 20,000 of 64 MiB are read, half of that in one namespace, the oldest first. " +
	"Delete those that nobody needs, of which `kubectl get em -A` shows no HPAs, and limit namespaces by a ResourceQuota of count/externalmetrics.metrics.aws")

// amount is how much there is of something.
type amount struct{ count, bytes int }

func (a amount) plus(b amount) amount  { return amount{a.count + b.count, a.bytes + b.bytes} }
func (a amount) minus(b amount) amount { return amount{a.count - b.count, a.bytes - b.bytes} }
func (a amount) within(b amount) bool  { return a.count <= b.count && a.bytes <= b.bytes }
func (a amount) half() amount          { return amount{a.count / 2, a.bytes / 2} }

// tally is how much there is, in all and in each namespace.
type tally struct {
	all amount
	in  map[string]amount
}

func newTally() tally { return tally{in: map[string]amount{}} }

// change counts a namespace's amount as another one than before.
func (t *tally) change(namespace string, before, now amount) {
	if before == now {
		return
	}
	t.all = t.all.plus(now).minus(before)
	t.in[namespace] = t.in[namespace].plus(now).minus(before)
	if t.in[namespace] == (amount{}) {
		delete(t.in, namespace)
	}
}

func (t *tally) within(ceiling amount) bool {
	if !t.all.within(ceiling) {
		return false
	}
	for _, of := range t.in {
		if !of.within(ceiling.half()) {
			return false
		}
	}
	return true
}

// claim is an object that needs room below a ceiling.
type claim struct {
	name    types.NamespacedName
	created time.Time
	amount  amount
}

// refused are those of the claims for which there is no room: the youngest, so that what
// works goes on to work, whatever is created later.
func refused(claims []claim, ceiling amount) map[types.NamespacedName]bool {
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.name.Namespace, b.name.Namespace), cmp.Compare(a.name.Name, b.name.Name))
	})
	out, taken := map[types.NamespacedName]bool{}, newTally()
	for _, c := range claims {
		if !taken.all.plus(c.amount).within(ceiling) || !taken.in[c.name.Namespace].plus(c.amount).within(ceiling.half()) {
			out[c.name] = true
			continue
		}
		taken.change(c.name.Namespace, amount{}, c.amount)
	}
	return out
}

package plan

import (
	"crypto/sha256"
	"slices"
	"strings"
	"sync"
)

// maxNames is from how many bytes on a list of names is known by its hash.
const maxNames = 128

// Names are the names of objects, sorted, each once. Who reads the same ones again and
// again makes them once. They are never changed.
type Names struct {
	list []string
	// joined is made when first asked for: shared queries need none.
	joining sync.Once
	joined  string
}

// NewNames may keep the list, which must not be written to any more.
func NewNames(list ...string) *Names {
	for i := 1; i < len(list); i++ {
		if list[i-1] >= list[i] {
			return &Names{list: slices.Compact(slices.Sorted(slices.Values(list)))}
		}
	}
	return &Names{list: list}
}

// List must not be written to. It is empty for nil.
func (n *Names) List() []string {
	if n == nil {
		return nil
	}
	return n.list
}

// text tells names apart, which have no newlines: themselves, one a line, or a hash of
// many. It is empty for nil.
func (n *Names) text() string {
	if n == nil {
		return ""
	}
	n.joining.Do(func() { n.joined = join(n.list) })
	return n.joined
}

func join(names []string) string {
	text := strings.Join(names, "\n")
	if len(text) <= maxNames {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return "\n" + string(sum[:])
}

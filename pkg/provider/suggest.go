package provider

import (
	"fmt"
	"iter"

	"github.com/tidegauge/tidegauge/pkg/catalog"
)

// suggest asks whether the nearest of the known names was meant; it is empty if none is
// near.
func suggest(name string, known iter.Seq[string]) string {
	nearest := catalog.Nearest(name, known)
	if nearest == "" {
		return ""
	}
	return fmt.Sprintf(" (is it %s that is meant?)", nearest)
}

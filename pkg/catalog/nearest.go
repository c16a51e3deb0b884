package catalog

import "iter"

const (
	// maxEdits is how many letters a name that is suggested may have other than the one
	// that was asked for, which has to have lettersPerEdit letters for each.
	maxEdits       = 3
	lettersPerEdit = 4
	// maxSuggested is how long a name may be of which another one is looked for.
	maxSuggested = 256
)

// Nearest is the one of the known names that was meant by a name that is none of them;
// empty if none is near.
func Nearest(name string, known iter.Seq[string]) string {
	if len(name) > maxSuggested {
		return ""
	}
	nearest, least := "", min(maxEdits, len(name)/lettersPerEdit)+1
	for k := range known {
		if edits := distance(name, k, least); edits < least {
			nearest, least = k, edits
		}
	}
	return nearest
}

// distance is how many bytes are to be put in, left out or replaced to make b of a; limit
// if that is no fewer.
func distance(a, b string, limit int) int {
	if max(len(a), len(b))-min(len(a), len(b)) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal, least := row[0], i+1
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
			least = min(least, row[j+1])
		}
		if least >= limit {
			return limit
		}
	}
	return min(row[len(b)], limit)
}

package sources

import "unicode/utf8"

// Shorten is the first n bytes of s at most, without half a character, and says by a mark
// that something is missing. Sources bound a backend's words by it.
func Shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

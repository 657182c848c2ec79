package refusals

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of texts, most of which senders choose.
const (
	maxNameBytes = 128
	maxTextBytes = 512
)

// printable is a copy of s of at most so many bytes, in which control characters and what else is not printed are blanks. A copy: a header's text would
// keep all of the request's headers in memory.
func printable(s string, maxBytes int) string {
	clipped := len(s) > maxBytes
	if clipped {
		cut := maxBytes
		for cut > maxBytes-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut]
	}
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
	if clipped {
		return s + "..."
	}
	return strings.Clone(s)
}

// quoted is a quoted text, whole or cut off; with brackets around it, it is a key in a path, such as attributes["key"].
var quoted = regexp.MustCompile(`\["(?:[^"\\]|\\.)*"\]|"(?:[^"\\]|\\.)*(?:"|\\?$)`)

// withoutValues leaves out what an error quotes of events. Whoever may read logs need not be allowed to read events.
func withoutValues(s string) string {
	return quoted.ReplaceAllStringFunc(s, func(q string) string {
		if q[0] == '[' {
			return q
		}
		return `"..."`
	})
}

// Package runbook reads pages of docs/runbooks as their reader does: a section by its link, and the commands in it.
package runbook

import (
	"regexp"
	"strings"
)

var (
	heading  = regexp.MustCompile(`(?m)^## `)
	unlinked = regexp.MustCompile(`[^\p{L}\p{N}_\- ]`) // what GitHub leaves out of a heading's anchor
)

// Section is the part of a page below the heading that has this anchor, the heading included; empty: the page has no such heading.
func Section(page, anchor string) string {
	for _, part := range heading.Split(page, -1)[1:] {
		title, _, _ := strings.Cut(part, "\n")
		if strings.ReplaceAll(strings.ToLower(unlinked.ReplaceAllString(title, "")), " ", "-") == anchor {
			return part
		}
	}
	return ""
}

// Commands are the lines of code blocks that call pulsegrid, in their order, as they are written.
func Commands(text string) (out []string) {
	for line := range strings.Lines(text) {
		if command := strings.TrimSpace(line); strings.HasPrefix(line, "    pulsegrid ") {
			out = append(out, command)
		}
	}
	return out
}

// Parts of a section, in this order.
var Parts = []string{"How you notice", "What users see", "What to do", "It is over when", "Afterwards"}

// Missing is the first part that a section lacks where it must be, behind the parts before it; empty: it has all.
func Missing(section string) string {
	at := 0
	for _, part := range Parts {
		i := strings.Index(section[at:], "**"+part+".**")
		if i < 0 {
			return part
		}
		at += i
	}
	return ""
}

package deploy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/integration/rig"
)

// section is a part of docs/deploy.md with commands.
type section struct {
	title   string
	script  string // its blocks ```sh, in order
	account int    // its blocks ```sh account, which need a real account
}

// page reads the commands of docs/deploy.md.
func page(t *testing.T) (sections []section) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(rig.Root(), "docs", "deploy.md"))
	require.NoError(t, err)
	fence := ""
	for line := range strings.Lines(string(text)) {
		trimmed := strings.TrimSpace(line)
		switch {
		case fence == "" && strings.HasPrefix(line, "## "):
			sections = append(sections, section{title: strings.TrimPrefix(trimmed, "## ")})
		case fence == "" && strings.HasPrefix(trimmed, "```"):
			fence = trimmed
			require.Contains(t, []string{"```sh", "```sh account"}, fence, "a block of docs/deploy.md is run (sh), or needs an account (sh account)")
			require.NotEmpty(t, sections)
			if fence == "```sh account" {
				sections[len(sections)-1].account++
			}
		case trimmed == "```":
			fence = ""
		case fence == "```sh":
			sections[len(sections)-1].script += line
		}
	}
	require.Empty(t, fence, "docs/deploy.md: a block does not end")
	return sections
}

// Guarantees: every command of docs/deploy.md is run by TestTheFleet, but for those that only an account can answer: the delegation with the images, and the first event.
func TestWhatOnlyAnAccountCanAnswerIsLittle(t *testing.T) {
	account, runnable := 0, 0
	for _, s := range page(t) {
		account += s.account
		if s.script != "" {
			runnable++
		}
	}
	require.Equal(t, 2, account)
	require.GreaterOrEqual(t, runnable, 6)
}

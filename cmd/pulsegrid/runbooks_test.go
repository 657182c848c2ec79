package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/testkit/runbook"
)

// Guarantees: each command of a runbook is one that there is, with flags and arguments that it takes. Those of the jobs are run by TestTheRunbooksBesideLiveTraffic, those that
// only look by TestTheAlertsRunbooksOnARunningCell.
func TestRunbooksNameCommandsThatExist(t *testing.T) {
	pages, err := filepath.Glob("../../docs/runbooks/*.md")
	require.NoError(t, err)
	pages = append(pages, "../../docs/slo.md", "../../docs/alerts.md", "../../docs/regions.md")
	commands := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, line := range runbook.Commands(string(text)) {
			words := regexp.MustCompile(`"[^"]*"|'[^']*'|\S+`).FindAllString(line, -1)
			commands++
			for i, w := range words {
				words[i] = strings.Trim(w, `"'`)
			}
			if end := slices.IndexFunc(words, func(w string) bool { return w == ">" || w == "|" }); end > 0 {
				words = words[:end] // the rest is the shell's
			}
			cmd, rest, err := newRoot().Find(words[1:])
			require.NoError(t, err, "%s: %s", page, line)
			require.True(t, cmd.Runnable() && !cmd.HasSubCommands() || slices.Contains([]string{"audit", "residency"}, cmd.Name()), "%s: %s", page, line)
			require.NoError(t, cmd.ParseFlags(rest), "%s: %s", page, line)
			require.NoError(t, cmd.ValidateArgs(cmd.Flags().Args()), "%s: %s", page, line)
		}
	}
	require.Greater(t, commands, 50)
}

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Guarantees: the rules that come with PulseGrid are right, printed as they are, and can be given back; a wrong rule ends with 1 and its place; wrong command lines end with 2, and say what to do.
func TestAlertsCommandLines(t *testing.T) {
	require.Contains(t, ends(t, 0, "alerts", "check", "--static"), "rules of 3 groups are right, as far as the files tell")
	rules := filepath.Join(t.TempDir(), "rules.yaml")
	printed := ends(t, 0, "alerts", "check", "--print")
	require.NoError(t, os.WriteFile(rules, []byte(printed), 0o600))
	require.Contains(t, ends(t, 0, "alerts", "check", "--static", rules), "are right")
	require.NoError(t, os.WriteFile(rules, []byte(strings.Replace(printed, "window: 5m", "window: 5", 1)), 0o600))
	require.Contains(t, ends(t, 1, "alerts", "check", "--static", rules), `rules.yaml:8:17: groups[0].rules[0].window: "5": want a duration`)

	none := t.TempDir()
	for want, line := range map[string][]string{
		"name an Alertmanager with --alertmanager URL": {"run"},
		"--workers: 0: want 1 to 64":                   {"run", "--alertmanager", "http://127.0.0.1:1", "--workers", "0"},
		"--resend: 1s":                                 {"run", "--alertmanager", "http://127.0.0.1:1", "--resend", "1s"},
		"want http[s]://HOST:PORT":                     {"run", "--alertmanager", "127.0.0.1:9093"},
		"want --from before --to":                      {"test", "--from", "1h", "--to", "2h"},
		"--from: \"soon\"":                             {"test", "--from", "soon"},
		"--max-rows: 0":                                {"check", "--max-rows", "0"},
		"--max-seconds: 61":                            {"check", "--max-seconds", "61"},
		"want --clickhouse-user and":                   {"check", "--clickhouse-user", "a"},
	} {
		require.Contains(t, ends(t, 2, append([]string{"alerts"}, line...)...), want)
	}
	require.Contains(t, ends(t, 2, "alerts", "test"), "want --from before --to")
	require.Contains(t, ends(t, 3, "alerts", "check", "--data", none), "no cell is running")
	require.Contains(t, ends(t, 3, "alerts", "test", "--from", "1h", "--data", none), "no cell is running")
}

package fault

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/integration/rig"
)

func TestEveryGuardIsInTheDocument(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(rig.Root(), "docs", "guards.md"))
	require.NoError(t, err)
	for _, g := range guards {
		require.Contains(t, string(text), "## "+strings.ToUpper(g.name[:1])+g.name[1:]+"\n", g.name)
	}
}

func TestEveryFaultIsInTheDocumentAndHasANameOfItsOwn(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(rig.Root(), "docs", "faults.md"))
	require.NoError(t, err)
	names := map[string]bool{}
	for _, f := range faults {
		require.False(t, names[f.name], f.name)
		names[f.name] = true
		require.NotEmpty(t, f.does, f.name)
		require.True(t, strings.Contains(string(text), "`"+f.name+"`"), "docs/faults.md has no row for %s: run `make test-fault fault-table`", f.name)
	}
}

// Guarantees: each rehearsal has an outcome in the document, or the document says that it has not been run; each alert that wakes somebody is set off by one that has been, or the document says that it is not.
func TestEveryPageIsRehearsedOrSaidNotToBe(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(rig.Root(), "docs", "rehearsals.md"))
	require.NoError(t, err)
	outcomes, rest, found := strings.Cut(string(text), "## What is not rehearsed")
	require.True(t, found)
	set := map[string]bool{}
	for _, r := range rehearsals {
		run := strings.Contains(outcomes, "\n| `"+r.name+"`")
		require.True(t, run || strings.Contains(rest, "`"+r.name+"`"), "docs/rehearsals.md has no row of %s, and does not say that it has not been run: `make rehearse REHEARSAL=%[1]s rehearsal-table`", r.name)
		set[r.alert] = set[r.alert] || run && !r.ticket
	}
	pages := 0
	for _, a := range alertRules(t) {
		if a.Labels["severity"] == "page" {
			pages++
			require.True(t, set[a.Alert] || strings.Contains(rest, "`"+a.Alert+"`"), "%s pages, no rehearsal expects it, and docs/rehearsals.md does not say so", a.Alert)
		}
	}
	require.Greater(t, pages, 20)
}

// alertRule is an alert of observability/.
type alertRule struct {
	Alert               string
	Labels, Annotations map[string]string
}

// alertRules are all of them, in the order of their files.
func alertRules(t *testing.T) (out []alertRule) {
	t.Helper()
	for _, pattern := range []string{"alerts/*.yaml", "rules/*.yaml"} {
		files, err := filepath.Glob(filepath.Join(rig.Root(), "observability", pattern))
		require.NoError(t, err)
		for _, file := range files {
			content, err := os.ReadFile(file)
			require.NoError(t, err)
			var rules struct{ Groups []struct{ Rules []alertRule } }
			require.NoError(t, yaml.Unmarshal(content, &rules), file)
			for _, g := range rules.Groups {
				for _, r := range g.Rules {
					if r.Alert != "" {
						out = append(out, r)
					}
				}
			}
		}
	}
	return out
}

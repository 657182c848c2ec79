package fault

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

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

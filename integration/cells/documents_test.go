package cells

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/integration/rig"
)

func TestEveryDrillHasARow(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(rig.Root(), "docs", "regions.md"))
	require.NoError(t, err)
	for _, d := range drills {
		require.Contains(t, string(text), "\n| `"+d.name+"`", "docs/regions.md has no row of %s: run `make drill-cells DRILL=%[1]s drill-table`", d.name)
	}
}

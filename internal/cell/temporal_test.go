package cell

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Guarantees: the Temporal server that a cell runs is the one that tools/install.sh builds.
func TestTheTemporalServerIsTheOneThatIsInstalled(t *testing.T) {
	sum := sha256.New()
	for _, file := range []string{"go.mod", "go.sum", "main.go"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "orchestration", "devserver", file))
		require.NoError(t, err)
		sum.Write(text)
	}
	require.Equal(t, fmt.Sprintf("%x", sum.Sum(nil))[:12], devServerSum, "orchestration/devserver was changed: change devServerSum")
}

func TestACellWithoutATemporalServerSaysHowToInstallOne(t *testing.T) {
	t.Setenv("PULSEGRID_CACHE", t.TempDir())
	collector := filepath.Join(t.TempDir(), "collector")
	require.NoError(t, os.WriteFile(collector, nil, 0o755))
	o := Options{GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", DataDir: t.TempDir(), Collector: collector}
	require.NoError(t, o.validate(), "without --orchestration none is needed")
	o.Worker = []string{"pulsegrid", "job", "worker"}
	require.ErrorContains(t, o.validate(), "tools/install.sh temporal")
}

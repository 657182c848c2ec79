package wholefile_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/wholefile"
)

// Guarantees: the file has the new content and the mode that is asked for; where it cannot be replaced it is as it was; nothing is left beside it either way.
func TestAFileIsReplacedOrLeftAsItIs(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	for _, content := range []string{"old", "new"} {
		require.NoError(t, wholefile.Write(path, []byte(content), 0o600))
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, content, string(text))
	}
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	taken := filepath.Join(dir, "taken")
	require.NoError(t, os.MkdirAll(filepath.Join(taken, "by-a-directory"), 0o755))
	require.Error(t, wholefile.Write(taken, []byte("new"), 0o600))
	require.Error(t, wholefile.Write(filepath.Join(dir, "nowhere", "state"), []byte("new"), 0o600))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2, "%v", entries)
}

package bucket_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/bucket"
)

// Guarantees: a directory that does not exist is made; an object is one file in it, also where the system's temporary directory cannot be used.
func TestADirectoryHoldsItsObjectsAndNothingElse(t *testing.T) {
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "is not there"))
	dir := filepath.Join(t.TempDir(), "new", "directory")
	b, err := bucket.Open(t.Context(), "file://"+dir)
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close()) }()
	require.NoError(t, b.WriteAll(t.Context(), "a/b", []byte("x"), nil))
	files, err := os.ReadDir(filepath.Join(dir, "a"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.Equal(t, "b", files[0].Name())
}

func TestAnotherStoreIsRefusedByName(t *testing.T) {
	_, err := bucket.Open(t.Context(), "ftp://x")
	require.ErrorContains(t, err, "ftp://x")
}

package fileset

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"gocloud.dev/blob/memblob"
)

func names(t *testing.T, s Source) []string {
	t.Helper()
	entries, err := s.List(t.Context())
	require.NoError(t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name)
		content, err := s.Read(t.Context(), e.Name, 100)
		require.NoError(t, err)
		require.Equal(t, "content of "+e.Name, string(content))
	}
	slices.Sort(out)
	return out
}

// Guarantees: files of subdirectories belong to a tree, under names that are the same whether it lies in a directory or in an object store; hidden
// ones, and files that are not YAML, do not.
func TestATreeHoldsWhatIsBelowIt(t *testing.T) {
	files := []string{"a.yaml", "b/c.yml", "b/d/e.yaml", "b/.hidden.yaml", ".git/f.yaml", "b/readme.md", "b/..data/g.yaml"}
	want := []string{"a.yaml", "b/c.yml", "b/d/e.yaml"}
	dir := t.TempDir()
	bk := memblob.OpenBucket(nil)
	t.Cleanup(func() { _ = bk.Close() })
	for _, f := range files {
		path := filepath.Join(dir, "real", filepath.FromSlash(f))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte("content of "+f), 0o600))
		require.NoError(t, bk.WriteAll(context.Background(), "schemas/"+f, []byte("content of "+f), nil))
	}
	require.NoError(t, bk.WriteAll(context.Background(), "other/z.yaml", nil, nil))
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(filepath.Join(dir, "real"), link))
	s, err := OpenTree(t.Context(), link)
	require.NoError(t, err)
	require.Equal(t, want, names(t, s))
	require.Equal(t, want, names(t, bucketTree{&bucket{Bucket: bk, prefix: "schemas/", name: "mem://", member: isYAML}}))

	_, err = OpenTree(t.Context(), "ftp://host/dir")
	require.Error(t, err)
	s, err = OpenTree(t.Context(), filepath.Join(dir, "nothing"))
	require.NoError(t, err)
	_, err = s.List(t.Context())
	require.Error(t, err)
}

// Guarantees: what is written is a member of the tree at once, whole, readable for others, and leaves nothing beside it; a hidden directory is a tree of its own.
func TestATreeIsWrittenAFileAtATime(t *testing.T) {
	dir := t.TempDir()
	bk := memblob.OpenBucket(nil)
	t.Cleanup(func() { _ = bk.Close() })
	onDisk, err := OpenTree(t.Context(), dir)
	require.NoError(t, err)
	for _, s := range []Tree{onDisk, bucketTree{&bucket{Bucket: bk, prefix: "schemas/", name: "mem://", member: isYAML}}} {
		require.NoError(t, s.Write(t.Context(), "a.yaml", []byte("other content")))
		require.NoError(t, s.Write(t.Context(), "a.yaml", []byte("content of a.yaml")))
		hidden := s.Below(".versions/1")
		require.NoError(t, hidden.Write(t.Context(), "b/c.yaml", []byte("content of b/c.yaml")))
		require.Equal(t, []string{"a.yaml"}, names(t, s))
		require.Equal(t, []string{"b/c.yaml"}, names(t, hidden))
	}
	found, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, found, 2)
	info, err := os.Stat(filepath.Join(dir, ".versions", "1", "b", "c.yaml"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o644), info.Mode().Perm())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	require.Error(t, onDisk.Write(t.Context(), "file/a.yaml", nil), "a file is no directory")
}

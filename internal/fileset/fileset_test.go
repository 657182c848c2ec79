package fileset

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/testkit/s3test"
)

// store is where a test's files are, in a directory or in an object store.
type store interface {
	put(name, content string)
	remove(name string)
	location() string
}

type folder struct {
	t   *testing.T
	dir string
	n   int
}

func (f *folder) put(name, content string) {
	path := filepath.Join(f.dir, name)
	require.NoError(f.t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(f.t, os.WriteFile(path, []byte(content), 0o600))
	f.n++ // file systems' clocks are coarse
	at := time.Unix(1_700_000_000+int64(f.n), 0)
	require.NoError(f.t, os.Chtimes(path, at, at))
}
func (f *folder) remove(name string) { require.NoError(f.t, os.Remove(filepath.Join(f.dir, name))) }
func (f *folder) location() string   { return f.dir }

type objects struct {
	t      *testing.T
	server *s3test.Server
}

func (o *objects) put(name, content string) {
	_, err := o.server.Client().PutObject(o.t.Context(), &s3.PutObjectInput{Bucket: aws.String("registry"), Key: aws.String("cell/tenants/" + name), Body: strings.NewReader(content)})
	require.NoError(o.t, err)
}

func (o *objects) remove(name string) {
	_, err := o.server.Client().DeleteObject(o.t.Context(), &s3.DeleteObjectInput{Bucket: aws.String("registry"), Key: aws.String("cell/tenants/" + name)})
	require.NoError(o.t, err)
}

func (o *objects) location() string {
	return "s3://registry/cell/tenants?region=" + s3test.Region + "&use_path_style=true&endpoint=" + o.server.Endpoint
}

func TestADirectoryTellsWhatHasChanged(t *testing.T) {
	changes(t, &folder{t: t, dir: t.TempDir()})
}

func TestAnObjectStoresPrefixTellsWhatHasChanged(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
	server := s3test.Start(t)
	_, err := server.Client().CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("registry")})
	require.NoError(t, err)
	o := &objects{t, server}
	changes(t, o)

	source, err := Open(t.Context(), o.location())
	require.NoError(t, err)
	defer func() { require.NoError(t, source.Close()) }()
	s := New(source)
	_, err = s.Refresh(t.Context())
	require.NoError(t, err)
	server.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = s.Refresh(ctx)
	require.ErrorContains(t, err, "s3://registry/cell/tenants/")
	require.NotContains(t, err.Error(), s3test.SecretKey)
	server.Restart()
	c, err := s.Refresh(t.Context())
	require.NoError(t, err)
	require.True(t, c.Empty(), "nothing has changed meanwhile")
}

// Guarantees: only what has changed is read; what is gone is told; what is no member of the set is never seen.
func changes(t *testing.T, st store) {
	source, err := Open(t.Context(), st.location())
	require.NoError(t, err)
	defer func() { require.NoError(t, source.Close()) }()
	s := New(source)
	refresh := func() *Change {
		t.Helper()
		c, err := s.Refresh(t.Context())
		require.NoError(t, err)
		return c
	}
	for _, other := range []string{"README.md", ".hidden.yaml", "sub/a.yaml", "a.yaml.bak"} {
		st.put(other, "x")
	}
	_, err = s.Refresh(t.Context())
	require.ErrorIs(t, err, ErrEmpty)
	st.put("b.yml", "one")
	st.put("a.yaml", "two")
	require.Equal(t, []File{{"a.yaml", []byte("two")}, {"b.yml", []byte("one")}}, refresh().Files)
	require.True(t, refresh().Empty())
	st.put("b.yml", "six") // as long as before
	c := refresh()
	require.Equal(t, []File{{"b.yml", []byte("six")}}, c.Files)
	require.Empty(t, c.Removed)
	st.remove("b.yml")
	require.Equal(t, []string{"b.yml"}, refresh().Removed)
	st.put("huge.yaml", strings.Repeat("x", MaxFileBytes+1))
	c = refresh()
	require.ErrorContains(t, c.Failed["huge.yaml"], "more than 16777216")
	require.False(t, refresh().Empty(), "it is said as long as it is so")
	st.put("huge.yaml", "small")
	require.Equal(t, []File{{"huge.yaml", []byte("small")}}, refresh().Files)
	st.remove("a.yaml")
	st.remove("huge.yaml")
	_, err = s.Refresh(t.Context())
	require.ErrorIs(t, err, ErrEmpty)
	st.put("a.yaml", "seven")
	require.Equal(t, &Change{Files: []File{{"a.yaml", []byte("seven")}}, Removed: []string{"huge.yaml"}, Failed: map[string]error{}}, refresh())
}

func (s *Set) changed(t *testing.T) []File {
	c, err := s.Refresh(t.Context())
	require.NoError(t, err)
	return c.Files
}

// Scenario: a Kubernetes ConfigMap: links through a link that is swapped.
func TestAConfigMapsSwapIsSeen(t *testing.T) {
	dir := t.TempDir()
	version := func(name, content string) {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name, "tenants.yaml"), []byte(content), 0o600))
		at := time.Unix(1_700_000_000+int64(len(name)), 0)
		require.NoError(t, os.Chtimes(filepath.Join(dir, name, "tenants.yaml"), at, at))
		require.NoError(t, os.Symlink(name, filepath.Join(dir, "..tmp")))
		require.NoError(t, os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")))
	}
	version("..1", "one")
	require.NoError(t, os.Symlink("..data/tenants.yaml", filepath.Join(dir, "tenants.yaml")))
	source, err := Open(t.Context(), "file://"+dir)
	require.NoError(t, err)
	s := New(source)
	require.Equal(t, []File{{"tenants.yaml", []byte("one")}}, s.changed(t))
	version("..22", "two")
	require.Equal(t, []File{{"tenants.yaml", []byte("two")}}, s.changed(t))
}

// Scenario: a registry, perhaps out of a repository, has links to files of the machine and of itself.
// Guarantees: those of the machine are not read, and named; the others are, and the files beside them.
func TestALinkOutOfTheDirectoryIsNotFollowed(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret.yaml")
	require.NoError(t, os.WriteFile(outside, []byte("secret"), 0o600))
	for name, open := range map[string]func(context.Context, string) (Source, error){"flat": Open, "tree": func(ctx context.Context, location string) (Source, error) { return OpenTree(ctx, location) }} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("a"), 0o600))
			require.NoError(t, os.Symlink("a.yaml", filepath.Join(dir, "inside.yaml")))
			require.NoError(t, os.Symlink("gone.yaml", filepath.Join(dir, "nowhere.yaml")))
			require.NoError(t, os.Symlink(outside, filepath.Join(dir, "absolute.yaml")))
			up, err := filepath.Rel(dir, outside)
			require.NoError(t, err)
			require.NoError(t, os.Symlink(up, filepath.Join(dir, "relative.yaml")))
			source, err := open(t.Context(), dir)
			require.NoError(t, err)
			s := New(source)
			for range 2 { // it is told each time
				c, err := s.Refresh(t.Context())
				require.NoError(t, err)
				require.Len(t, c.Failed, 2)
				for _, link := range []string{"absolute.yaml", "relative.yaml"} {
					require.ErrorContains(t, c.Failed[link], link)
					require.ErrorContains(t, c.Failed[link], "a link is followed only if it is relative and stays in "+dir)
				}
				if c.Files != nil {
					require.Equal(t, []File{{"a.yaml", []byte("a")}, {"inside.yaml", []byte("a")}}, c.Files)
				}
			}
		})
	}
}

func TestLocationsThatMeanNothingAreRefused(t *testing.T) {
	for location, want := range map[string]string{
		"": "is empty", "http://x/y": "neither a directory nor s3", "s3:///prefix": "names no bucket", "file://host/x": "want file:///DIRECTORY",
	} {
		require.ErrorContains(t, Check(location), want)
		_, err := Open(t.Context(), location)
		require.ErrorContains(t, err, want)
	}
	for _, location := range []string{"tenants", "/etc/tenants", "file:///etc/tenants", "s3://b", "s3://b/p?region=x"} {
		require.NoError(t, Check(location))
	}
}

func TestAFileThatCannotBeReadIsTriedAgain(t *testing.T) {
	src := &failing{}
	s := New(src)
	c, err := s.Refresh(t.Context())
	require.NoError(t, err)
	require.ErrorIs(t, c.Failed["a.yaml"], os.ErrPermission)
	src.content = "x"
	require.Equal(t, []File{{"a.yaml", []byte("x")}}, s.changed(t))
	require.Empty(t, s.changed(t))
	src.content = ""
	src.version = "2"
	c, err = s.Refresh(t.Context())
	require.NoError(t, err)
	require.Len(t, c.Failed, 1)
	src.gone = true
	c, err = s.Refresh(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"a.yaml"}, c.Removed, "also where it could not be read last")
}

// failing cannot be read until it has content: a file whose rights are wrong, to a test that may be root.
type failing struct {
	content, version string
	gone             bool
}

func (f *failing) List(context.Context) ([]Entry, error) {
	out := []Entry{{"b.yaml", "1", 1}, {"a.yaml", "1" + f.version, 1}}
	if f.gone {
		out = out[:1]
	}
	return out, nil
}

func (f *failing) Read(_ context.Context, name string, _ int64) ([]byte, error) {
	if f.content == "" && name == "a.yaml" {
		return nil, os.ErrPermission
	}
	return []byte(f.content), nil
}
func (f *failing) String() string { return "failing" }
func (f *failing) Close() error   { return nil }

// Guarantees: a set of named files has no other members, whatever their names end with.
func TestASetOfNamedFilesHasNoOthers(t *testing.T) {
	st := &folder{t: t, dir: t.TempDir()}
	for _, name := range []string{"hosts.csv", "hosts.yaml", "hosts.csv.bak", "sub/users.csv"} {
		st.put(name, name)
	}
	source, err := OpenNamed(t.Context(), st.location(), []string{"hosts.csv", "users.csv"})
	require.NoError(t, err)
	defer func() { require.NoError(t, source.Close()) }()
	c, err := New(source).Refresh(t.Context())
	require.NoError(t, err)
	require.Equal(t, []File{{"hosts.csv", []byte("hosts.csv")}}, c.Files)
	_, err = OpenNamed(t.Context(), "ftp://host/dir", nil)
	require.Error(t, err)
}

package schema_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/schema"
)

// folder is files whose version is their content.
type folder struct {
	files map[string]string
	err   error
}

func (f *folder) List(context.Context) ([]fileset.Entry, error) {
	var out []fileset.Entry
	for name, content := range f.files {
		out = append(out, fileset.Entry{Name: name, Version: content, Size: int64(len(content))})
	}
	return out, f.err
}

func (f *folder) Read(_ context.Context, name string, _ int64) ([]byte, error) {
	if content := f.files[name]; content != "unreadable" {
		return []byte(content), nil
	}
	return nil, errors.New("permission denied")
}

func (*folder) String() string                              { return "folder" }
func (*folder) Close() error                                { return nil }
func (*folder) Below(string) fileset.Tree                   { return &folder{} }
func (*folder) Write(context.Context, string, []byte) error { return errors.New("read only") }

func event(name string) string {
	return fmt.Sprintf("groups: [{id: event.%s, type: event, name: %s}]", name, name)
}

// Guarantees: whatever becomes of the files, what was good stays in force until something good takes its place, and the file at fault is named.
func TestABadChangeChangesNothing(t *testing.T) {
	attrs := "groups: [{id: r, type: attribute_group, attributes: [{id: x, type: int}]}]"
	uses := "groups: [{id: e, type: event, name: e, attributes: [{ref: x}]}]"
	f := &folder{files: map[string]string{"a.yaml": event("a"), "b.yaml": "groups: [", "attrs.yaml": attrs, "uses.yaml": uses}}
	l := schema.NewLoader(f)
	require.Zero(t, l.Registry().Schemas())
	require.Empty(t, l.Registry().Version())
	step := func(schemas int, changed bool, refused ...string) {
		t.Helper()
		r, err := l.Reload(t.Context())
		require.NoError(t, err)
		require.Equal(t, changed, r.Changed)
		require.Equal(t, schemas, l.Registry().Schemas())
		var names []string
		for _, e := range r.Refused {
			var fe *schema.FileError
			if !errors.As(e, &fe) {
				t.Fatal(e)
			}
			names = append(names, fe.File)
		}
		require.Equal(t, refused, names)
	}
	step(2, true, "b.yaml") // at first what is good is taken
	step(2, false, "b.yaml")
	f.files["b.yaml"] = event("b")
	step(3, true)
	version := l.Registry().Version()

	f.files["b.yaml"] = "groups: [{id: b, type: nothing}]"
	step(3, false, "b.yaml")
	require.Equal(t, version, l.Registry().Version())
	f.files["c.yaml"] = event("c") // another team's change is not held up
	step(4, true, "b.yaml")
	f.files["b.yaml"] = event("b")
	step(4, false)

	f.files["attrs.yaml"] = "groups: []" // well-formed, and uses.yaml is bad with it
	step(4, false, "attrs.yaml")
	delete(f.files, "attrs.yaml")
	step(4, false, "attrs.yaml")
	f.files["attrs.yaml"] = attrs
	step(4, false)
	delete(f.files, "c.yaml")
	step(3, true)

	f.files["a.yaml"] = "unreadable"
	step(3, false, "a.yaml")
	f.err = errors.New("the store is down")
	_, err := l.Reload(t.Context())
	require.ErrorContains(t, err, "the store is down")
	require.Equal(t, 3, l.Registry().Schemas())
	f.err, f.files = nil, map[string]string{}
	_, err = l.Reload(t.Context())
	require.ErrorIs(t, err, fileset.ErrEmpty)
	require.Equal(t, 3, l.Registry().Schemas())
}

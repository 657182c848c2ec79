package cellhealth

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
)

type host map[component.ID]component.Component

func (h host) GetExtensions() map[component.ID]component.Component { return h }

type board struct {
	component.StartFunc
	component.ShutdownFunc
}

func (*board) Watch(string, func(context.Context) error) func() { return func() {} }
func (*board) Drained() bool                                    { return false }

func TestTheBoardIsFoundAmongTheExtensions(t *testing.T) {
	other := struct {
		component.StartFunc
		component.ShutdownFunc
	}{}
	none, err := Find(host{component.MustNewID("other"): other})
	require.NoError(t, err)
	require.Nil(t, none)
	b := &board{}
	found, err := Find(host{component.MustNewID("other"): other, component.MustNewID("cell_health"): b})
	require.NoError(t, err)
	require.Same(t, b, found)
	_, err = Find(host{component.MustNewID("a"): b, component.MustNewID("b"): b})
	require.ErrorContains(t, err, "extensions a, b are all health checks")
}

func TestAStateIsReadAsItWasWritten(t *testing.T) {
	for _, s := range []State{
		{Cell: "eu-1", Drained: true, Since: time.Date(2026, 11, 30, 2, 40, 0, 0, time.UTC), Reason: "kernel: \"upgrade\" # 1"},
		{Cell: "us-1", Since: time.Date(2026, 11, 30, 2, 40, 0, 0, time.UTC)},
	} {
		require.NoError(t, s.Validate())
		got, err := ParseState(s.Marshal())
		require.NoError(t, err)
		require.Equal(t, s, got)
		require.LessOrEqual(t, len(s.Marshal()), StateBytesMax)
	}
}

// Guarantees: what is not understood as a whole says what is wrong, and nothing of it is taken.
func TestAStateThatIsNotUnderstoodIsRefused(t *testing.T) {
	good := "cell: eu-1\ndrained: true\nsince: 2026-11-30T02:40:00Z\n"
	_, err := ParseState([]byte(good))
	require.NoError(t, err)
	for want, content := range map[string]string{
		"is no state of a cell: EOF":           "",
		"is no state of a cell: yaml":          "- a",
		"field draned not found":               good + "draned: true\n",
		"drained: is missing":                  strings.Replace(good, "drained: true\n", "", 1),
		"cannot unmarshal":                     strings.Replace(good, "true", "perhaps", 1),
		`cell: "": want 1 to 32`:               strings.Replace(good, "cell: eu-1\n", "", 1),
		`cell: "EU 1": want 1 to 32`:           strings.Replace(good, "eu-1", "EU 1", 1),
		"since: is missing":                    strings.Replace(good, "since: 2026-11-30T02:40:00Z\n", "", 1),
		`reason: "a\nb" is not one line`:       good + `reason: "a\nb"`,
		"reason: has 513 bytes":                good + "reason: " + strings.Repeat("x", 513),
		"has more than 4096 bytes":             good + strings.Repeat("#", 4096),
		`reason: "\x1b[2J" is not one line`:    good + `reason: "\e[2J"`,
		"mapping key \"cell\" already defined": good + "cell: eu-2\n",
	} {
		s, err := ParseState([]byte(content))
		require.ErrorContains(t, err, want)
		require.Zero(t, s, want)
	}
}

// Guarantees: what was written for a cell is read for it, and for no other one; without a file a cell is not drained; without the location nothing is known.
func TestTheStateOfACellIsReadFromItsLocation(t *testing.T) {
	dir := t.TempDir()
	tree, err := fileset.OpenTree(t.Context(), dir)
	require.NoError(t, err)
	got, err := Read(t.Context(), tree, "eu-1")
	require.NoError(t, err)
	require.Equal(t, State{Cell: "eu-1"}, got)
	want := State{Cell: "eu-1", Drained: true, Since: time.Date(2026, 11, 30, 2, 40, 0, 0, time.UTC), Reason: "why"}
	require.NoError(t, tree.Write(t.Context(), StateFile, want.Marshal()))
	require.NoError(t, tree.Write(t.Context(), "other.yaml", []byte("no state")))
	source, err := fileset.OpenNamed(t.Context(), dir, []string{StateFile})
	require.NoError(t, err)
	for _, s := range []fileset.Source{tree, source} {
		got, err = Read(t.Context(), s, "eu-1")
		require.NoError(t, err)
		require.Equal(t, want, got)
		_, err = Read(t.Context(), s, "us-1")
		require.ErrorContains(t, err, `drain.yaml of `+dir+`: cell: is "eu-1", and not "us-1"`)
	}
	require.NoError(t, tree.Write(t.Context(), StateFile, []byte("drained: true\n")))
	_, err = Read(t.Context(), source, "eu-1")
	require.ErrorContains(t, err, "cell: \"\": want 1 to 32")
	gone, err := fileset.OpenNamed(t.Context(), dir+"/nowhere", []string{StateFile})
	require.NoError(t, err)
	_, err = Read(t.Context(), gone, "eu-1")
	require.ErrorContains(t, err, "nowhere")
}

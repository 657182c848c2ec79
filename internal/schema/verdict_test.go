package schema_test

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/schema"
)

func TestWhatIsNoFindingsIsRefused(t *testing.T) {
	verdict := `{"code":"too_deep","path":"body"}`
	for name, b := range map[string]string{
		"no JSON":           "[",
		"something else":    `{"event":0}`,
		"more behind":       `[] []`,
		"an unknown field":  `[{"event":0,"verdicts":[` + verdict + `],"x":1}]`,
		"no verdicts":       `[{"event":0,"verdicts":[]}]`,
		"too many verdicts": `[{"event":0,"verdicts":[` + strings.Repeat(verdict+",", 16) + verdict + `]}]`,
		"out of order":      `[{"event":1,"verdicts":[` + verdict + `]},{"event":1,"verdicts":[` + verdict + `]}]`,
		"below zero":        `[{"event":-1,"verdicts":[` + verdict + `]}]`,
		"beyond any":        `[{"event":262144,"verdicts":[` + verdict + `]}]`,
		"a code":            `[{"event":0,"verdicts":[{"code":"Not A Code","path":"body"}]}]`,
		"half a pair":       `[{"event":0,"verdicts":[` + verdict + `],"also":[0]}]`,
		"skips back":        `[{"event":0,"verdicts":[` + verdict + `],"also":[-1,1]}]`,
		"no further one":    `[{"event":0,"verdicts":[` + verdict + `],"also":[1,0]}]`,
		"far too many":      `[{"event":0,"verdicts":[` + verdict + `],"also":[0,262144]}]`,
		"far behind":        `[{"event":0,"verdicts":[` + verdict + `],"also":[9223372036854775807,1]}]`,
		"one of another":    `[{"event":0,"verdicts":[` + verdict + `],"also":[0,2]},{"event":2,"verdicts":[` + verdict + `]}]`,
		"more than none":    `[{"event":0,"more":-1,"verdicts":[` + verdict + `]}]`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := schema.DecodeFindings([]byte(b))
			require.ErrorIs(t, err, schema.ErrFindings)
		})
	}
	f, err := schema.DecodeFindings([]byte(`[{"event":7,"verdicts":[{"code":"of_a_later_version","path":"x"}]}]`))
	require.NoError(t, err)
	require.Equal(t, schema.Code("of_a_later_version"), f[0].Verdicts[0].Code)
}

// Guarantees: the document lists every code and no other, and its example is one.
func TestTheDocumentListsEveryCode(t *testing.T) {
	text, err := os.ReadFile("../../docs/formats/verdicts.md")
	require.NoError(t, err)
	var listed []schema.Code
	_, table, found := strings.Cut(string(text), "\n## Codes\n")
	require.True(t, found)
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| \\S").FindAllStringSubmatch(table, -1) {
		listed = append(listed, schema.Code(m[1]))
	}
	want := slices.Clone(schema.Codes)
	slices.Sort(want)
	slices.Sort(listed)
	require.Equal(t, want, listed)
	_, example, found := strings.Cut(string(text), "```json\n")
	require.True(t, found)
	example, _, _ = strings.Cut(example, "```")
	_, err = schema.DecodeFindings([]byte(example))
	require.NoError(t, err)
}

// Guarantees: the document's example of a registry loads, and its verdicts are those that the document shows.
func TestTheDocumentsRegistryLoads(t *testing.T) {
	text, err := os.ReadFile("../../docs/formats/schemas.md")
	require.NoError(t, err)
	n := 0
	for _, part := range strings.Split(string(text), "```yaml\n")[1:] {
		example, _, _ := strings.Cut(part, "```")
		if strings.HasPrefix(example, "current:") {
			r, err := schema.ParseRollout([]byte(example))
			require.NoError(t, err)
			require.Equal(t, example, string(r.Marshal()[bytes.IndexByte(r.Marshal(), '\n')+1:]))
			continue
		}
		name := "example.yaml"
		if strings.HasPrefix(example, "schema_url:") {
			name = "manifest.yaml"
		}
		_, err := schema.Load([]schema.File{{Name: name, Content: []byte(example)}})
		require.NoError(t, err)
		n++
	}
	require.GreaterOrEqual(t, n, 2)
}

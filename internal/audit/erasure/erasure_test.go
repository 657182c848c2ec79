package erasure

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const minimal = `format: 1
erasures:
  - id: "1"
    by: dpo
    at: 2026-01-02T03:04:05Z
    reason: Art. 17
    tenant: acme
`

func TestADeclarationIsRead(t *testing.T) {
	got, err := Read(strings.NewReader(minimal))
	require.NoError(t, err)
	require.Equal(t, []Erasure{{
		ID: "1", By: "dpo", At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Reason: "Art. 17", Tenant: "acme",
		Stores: []string{certificate.Hot, certificate.Lake}, Signals: signal.All[:],
	}}, got)
}

// Guarantees: a declaration that is not exactly what the format says declares nothing, and the error names the key and the value.
func TestAWrongDeclarationIsRefused(t *testing.T) {
	for want, change := range map[string]func(string) string{
		"the file is empty":                  func(string) string { return "" },
		"format: 2: want 1":                  func(s string) string { return strings.Replace(s, "format: 1", "format: 2", 1) },
		"erasures: there is none":            func(string) string { return "format: 1\nerasures: []\n" },
		"field tenants not found":            func(s string) string { return s + "    tenants: [a]\n" },
		"more than one YAML document":        func(s string) string { return s + "---\n" + s },
		"reason: must be there":              func(s string) string { return strings.Replace(s, "Art. 17", `" "`, 1) },
		"tenant: must be there":              func(s string) string { return strings.Replace(s, "tenant: acme", `tenant: ""`, 1) },
		"by: must be there":                  func(s string) string { return strings.Replace(s, "    by: dpo\n", "", 1) },
		"id: must be there":                  func(s string) string { return strings.Replace(s, `id: "1"`, `id: ""`, 1) },
		`at: "yesterday": want RFC 3339`:     func(s string) string { return strings.Replace(s, "2026-01-02T03:04:05Z", "yesterday", 1) },
		`stores: "snowflake": want`:          func(s string) string { return s + "    stores: [snowflake]\n" },
		"stores: there is none":              func(s string) string { return s + "    stores: []\n" },
		`signals: unknown signal`:            func(s string) string { return s + "    signals: [profiles]\n" },
		"signals: there is none":             func(s string) string { return s + "    signals: []\n" },
		"ranges: there is none":              func(s string) string { return s + "    ranges: []\n" },
		`ranges: range "x": want`:            func(s string) string { return s + "    ranges: [x]\n" },
		"is not before to":                   func(s string) string { return s + "    from: 2026-01-02T00:00:00Z\n    to: 2026-01-01T00:00:00Z\n" },
		`id: "1": is there twice`:            func(s string) string { return s + strings.TrimPrefix(s, "format: 1\nerasures:\n") },
		`from: "1677-01-01T00:00:00Z": want`: func(s string) string { return s + "    from: 1677-01-01T00:00:00Z\n" },
		`erased: "kafka": want`:              func(s string) string { return s + "    erased: {kafka: []}\n" },
		`erased: lake: "t/0/1": want`:        func(s string) string { return s + "    erased: {lake: [t/0/1]}\n" },
		`erased: lake: "t/1 00": want`:       func(s string) string { return s + "    erased: {lake: [t/1 00]}\n" },
		`erased: lake: "t/0/1 ab": want`:     func(s string) string { return s + "    erased: {lake: [t/0/1 ab]}\n" },
		"erased: there is none":              func(s string) string { return s + "    erased:\n" },
		"[0] \"1\": erased: there is none":   func(s string) string { return s + "    erased: {}\n" },
		`attribute: "user.id": want erased`:  func(s string) string { return s + "    attribute: user.id\n" },
		"cannot unmarshal !!str":             func(string) string { return "format: 1\nerasures: x\n" },
	} {
		_, err := Read(strings.NewReader(change(minimal)))
		require.ErrorContains(t, err, want)
	}
	_, err := ReadFile(filepath.Join(t.TempDir(), "none.yaml"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestTheDocumentedExampleIsReadAndEveryKeyIsDocumented(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "formats", "erasures.md"))
	require.NoError(t, err)
	example := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(doc)
	require.NotNil(t, example)
	got, err := Read(strings.NewReader(string(example[1])))
	require.NoError(t, err)
	require.Len(t, got, 3)
	for _, key := range []string{"format", "erasures", "id", "by", "at", "reason", "stores", "tenant", "signals", "from", "to", "ranges", "attribute", "erased"} {
		require.Contains(t, string(doc), "| `"+key+"` |")
	}
}

func TestCoversKeepsToItsBounds(t *testing.T) {
	at := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	e := Erasure{
		At: at, Tenant: "acme", Stores: []string{certificate.Lake}, Signals: []signal.Signal{signal.Logs}, From: at.Add(-time.Hour), To: at.Add(-time.Minute),
		Ranges: []certificate.Range{{Topic: "otlp.logs.v1", Partition: 3, First: 10, Last: 19}},
	}
	good := Event{Store: certificate.Lake, Tenant: "acme", Signal: signal.Logs, Topic: "otlp.logs.v1", Partition: 3, Offset: 10, Time: at.Add(-time.Hour).UnixNano(), Appended: at.Add(-1)}
	require.True(t, e.Covers(good))
	for name, change := range map[string]func(*Event){
		"store": func(v *Event) { v.Store = certificate.Hot }, "tenant": func(v *Event) { v.Tenant = "b" }, "signal": func(v *Event) { v.Signal = signal.Traces },
		"topic": func(v *Event) { v.Topic = "otlp.logs.overflow.v1" }, "partition": func(v *Event) { v.Partition = 2 }, "first": func(v *Event) { v.Offset = 9 },
		"last": func(v *Event) { v.Offset = 20 }, "from": func(v *Event) { v.Time-- }, "to": func(v *Event) { v.Time = at.Add(-time.Minute).UnixNano() },
		"after the erasure": func(v *Event) { v.Appended = at },
	} {
		v := good
		change(&v)
		require.False(t, e.Covers(v), name)
	}
}

// Guarantees: a declaration that a job writes is read as it was, also where it names no event: then it covers none.
func TestNamedEventsAreReadAsTheyWereWritten(t *testing.T) {
	e := Erasure{
		ID: "2", By: "dpo: #1", At: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Reason: "Art. 17", Tenant: "acme", Attribute: "user.id",
		Stores: []string{certificate.Hot, certificate.Lake}, Signals: signal.All[:], Named: map[string]Names{certificate.Hot: {}, certificate.Lake: {}},
	}
	again := func() Erasure {
		b, err := e.Declaration()
		require.NoError(t, err)
		got, err := Read(strings.NewReader("format: 1\nerasures:\n" + string(b)))
		require.NoError(t, err)
		return got[0]
	}
	require.Equal(t, e, again())
	missing := Event{Store: certificate.Lake, Tenant: "acme", Signal: signal.Logs, Topic: "a/b", Partition: 3, Offset: 1 << 40, ID: 255}
	require.False(t, e.Covers(missing))
	for _, id := range []uint64{255, 1 << 63, 255} {
		e.Named[certificate.Lake].Add(Record{"a/b", 3, 1 << 40}, id)
	}
	e.Named[certificate.Hot].Add(Record{"a/b", 3, 0}, 1)
	require.Equal(t, e, again())
	require.Equal(t, 2, e.Named[certificate.Lake].Events())
	e = again()
	require.True(t, e.Covers(missing))
	missing.ID++
	require.False(t, e.Covers(missing))
	require.False(t, e.Might(certificate.Lake, signal.Logs, certificate.Range{Topic: "a/b", Partition: 3, Last: 1 << 41}, time.Time{}))
}

package subject

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/rows"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Scenario: log records with a key and values that are near what is looked for, and such that are it.
// Guarantees: a row is found where its event carries the value, exactly, as text or as the digits of an integer; the same as in the request that the event came in.
func TestARowIsFoundByTheExactValueOfTheAttribute(t *testing.T) {
	const key, other = "user.id", "enduser.id"
	for name, test := range map[string]struct {
		value string
		key   string
		put   func(pcommon.Map)
		is    bool
	}{
		"text":                {"a/b<c", key, func(m pcommon.Map) { m.PutStr(key, "a/b<c") }, true},
		"text in quotes":      {`say "x"`, other, func(m pcommon.Map) { m.PutStr(other, `say "x"`) }, true},
		"not promoted":        {"7f", other, func(m pcommon.Map) { m.PutStr(other, "7f") }, true},
		"digits of an int":    {"-42", other, func(m pcommon.Map) { m.PutInt(other, -42) }, true},
		"promoted int":        {"503", "http.response.status_code", func(m pcommon.Map) { m.PutInt("http.response.status_code", 503) }, true},
		"zero":                {"0", key, func(m pcommon.Map) { m.PutInt(key, 0) }, true},
		"a double":            {"42", other, func(m pcommon.Map) { m.PutDouble(other, 42) }, false},
		"a bool":              {"true", other, func(m pcommon.Map) { m.PutBool(other, true) }, false},
		"bytes":               {"ab", key, func(m pcommon.Map) { m.PutEmptyBytes(key).FromRaw([]byte("ab")) }, false},
		"longer":              {"42", key, func(m pcommon.Map) { m.PutStr(key, "421") }, false},
		"shorter":             {"42", key, func(m pcommon.Map) { m.PutStr(key, "4") }, false},
		"another case":        {"ab", key, func(m pcommon.Map) { m.PutStr(key, "AB") }, false},
		"other digits":        {"042", key, func(m pcommon.Map) { m.PutInt(key, 42) }, false},
		"another key":         {"42", key, func(m pcommon.Map) { m.PutStr(other, "42") }, false},
		"a key that ends so":  {"42", "id", func(m pcommon.Map) { m.PutStr(key, "42") }, false},
		"in a list":           {"42", key, func(m pcommon.Map) { m.PutEmptySlice(key).AppendEmpty().SetStr("42") }, false},
		"a key in a value":    {"42", key, func(m pcommon.Map) { m.PutEmptyMap("who").PutStr(key, "42") }, false},
		"as it is in JSON":    {"42", key, func(m pcommon.Map) { m.PutStr("note", `{"user.id":"42"}`) }, false},
		"of another tenant":   {"42", key, func(m pcommon.Map) { m.PutStr(key, "42"); m.PutStr("tenant", "globex") }, false},
		"a key with a dollar": {"42", "$id", func(m pcommon.Map) { m.PutStr("$id", "42") }, true},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := New("acme", test.key, []string{"somebody", test.value})
			require.NoError(t, err)
			for place, fill := range map[string]func(plog.ResourceLogs, plog.ScopeLogs, plog.LogRecord){
				"event":    func(_ plog.ResourceLogs, _ plog.ScopeLogs, lr plog.LogRecord) { test.put(lr.Attributes()) },
				"scope":    func(_ plog.ResourceLogs, sl plog.ScopeLogs, _ plog.LogRecord) { test.put(sl.Scope().Attributes()) },
				"resource": func(rl plog.ResourceLogs, _ plog.ScopeLogs, _ plog.LogRecord) { test.put(rl.Resource().Attributes()) },
			} {
				ld := plog.NewLogs()
				rl := ld.ResourceLogs().AppendEmpty()
				sl := rl.ScopeLogs().AppendEmpty()
				fill(rl, sl, sl.LogRecords().AppendEmpty())
				req, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
				require.NoError(t, err)
				tenant := "acme"
				if strings.HasPrefix(name, "of another") {
					tenant = "globex"
				} else {
					with, all, ok := s.inRequest(signal.Logs, req)
					require.True(t, ok)
					require.Equal(t, 1, all)
					require.Equal(t, test.is, with == 1, "%s: in the request", place)
				}
				lineage.StampResource(rl.Resource().Attributes(), lineage.Origin{Tenant: tenant, Received: time.Now(), Partition: -1})
				b := columns.NewBuilder(memory.DefaultAllocator, columns.Logs)
				defer b.Release()
				require.NoError(t, b.AppendLogs(ld))
				rec := b.NewRecordBatch()
				defer rec.Release()
				var found Found
				require.NoError(t, s.Rows(columns.Logs, nil, rec, &found, func(int, *rows.Reader) error { return nil }))
				require.Equal(t, test.is, found.Rows == 1, "%s: in the row", place)
			}
		})
	}
}

// Guarantees: each type of point is looked at, and its exemplars.
func TestPointsOfEachTypeAreFound(t *testing.T) {
	s, err := New("acme", "user.id", []string{"42"})
	require.NoError(t, err)
	md := pmetric.NewMetrics()
	sm := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty()
	sampled := func(attributes pcommon.Map, exemplars pmetric.ExemplarSlice) {
		attributes.PutStr("user.id", "41")
		exemplars.AppendEmpty().FilteredAttributes().PutStr("user.id", "42")
	}
	g := sm.Metrics().AppendEmpty().SetEmptyGauge().DataPoints().AppendEmpty()
	sampled(g.Attributes(), g.Exemplars())
	n := sm.Metrics().AppendEmpty().SetEmptySum().DataPoints().AppendEmpty()
	sampled(n.Attributes(), n.Exemplars())
	h := sm.Metrics().AppendEmpty().SetEmptyHistogram().DataPoints().AppendEmpty()
	sampled(h.Attributes(), h.Exemplars())
	e := sm.Metrics().AppendEmpty().SetEmptyExponentialHistogram().DataPoints().AppendEmpty()
	sampled(e.Attributes(), e.Exemplars())
	sm.Metrics().AppendEmpty().SetEmptySummary().DataPoints().AppendEmpty().Attributes().PutStr("user.id", "42")
	sm.Metrics().AppendEmpty().SetEmptySummary().DataPoints().AppendEmpty()
	req, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	require.NoError(t, err)
	with, all, ok := s.inRequest(signal.Metrics, req)
	require.Equal(t, []any{5, 6, true}, []any{with, all, ok})
}

// Guarantees: what cannot be looked for is refused, and no error quotes a value.
func TestBadValuesAreRefusedUnseen(t *testing.T) {
	for want, test := range map[string]struct {
		key    string
		values []string
	}{
		"there is no value":                  {"user.id", nil},
		"1001 values: at most 1000":          {"user.id", strings.Split(strings.Repeat("secret,", 1000)+"secret", ",")},
		"value 2: must have 1 to 4096 bytes": {"user.id", []string{"secret", "secret\xff"}},
		"value 1: must have 1 to 4096 bytes": {"user.id", []string{strings.Repeat("secret", 1000)}},
		"the attribute's key must have":      {`user"id`, []string{"secret"}},
	} {
		_, err := New("acme", test.key, test.values)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "secret")
	}
	path := filepath.Join(t.TempDir(), "values")
	require.NoError(t, os.WriteFile(path, []byte("\ufeffa b \r\n\n c"), 0o600))
	values, err := ReadValues(path)
	require.NoError(t, err)
	require.Equal(t, []string{"a b ", " c"}, values)
	require.NoError(t, os.Truncate(path, fileMax+1))
	_, err = ReadValues(path)
	require.ErrorContains(t, err, "larger than")
}

// Guarantees: of a body that is text a value is found as it is and not within a longer word; of other bytes, anywhere.
func TestABodyHoldsAValueAsAWholeWord(t *testing.T) {
	for body, is := range map[string]bool{
		`{"user.id":"42"}`:       true,
		`user.id=42`:             true,
		`42`:                     true,
		`{"user.id":"421"}`:      false,
		`{"user.id":"142"}`:      false,
		`{"trace":"a42"}`:        false,
		`x-42, 42`:               true,
		`x-42`:                   false,
		`é42`:                    false,
		"\x00\x0242\x02421":      true,
		"\xff421":                true,
		`{"user.id":"somebody"}`: false,
		``:                       false,
	} {
		require.Equal(t, is, holds([]byte(body), "42"), "%q", body)
	}
}

// Guarantees: each run asks ClickHouse in the same way, so that the questions of several runs tell no more of an id than one does; other tenants and keys are asked otherwise.
func TestAllRunsAskTheSame(t *testing.T) {
	ask := func(tenant, key string) string {
		s, err := New(tenant, key, []string{"7f"})
		require.NoError(t, err)
		return s.may("x")
	}
	require.Equal(t, ask("acme", "user.id"), ask("acme", "user.id"))
	require.NotEqual(t, ask("acme", "user.id"), ask("globex", "user.id"))
	require.NotEqual(t, ask("acme", "user.id"), ask("acme", "enduser.id"))
}

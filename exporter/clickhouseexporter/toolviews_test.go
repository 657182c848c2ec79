package clickhouseexporter

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
)

// Scenario: a database without views for tools, with one of another version, with one that somebody has changed, and with a table of somebody's own by the name of one.
// Guarantees: views are created, those of this program replaced, and nobody else's touched; rows are stored whatever becomes of them; verify and tool_views: false change nothing.
func TestViewsForToolsAreCreatedAndReplacedButNothingElseIs(t *testing.T) {
	ch := clickhousetest.Shared(t)
	views := func() []string {
		return strings.Fields(ch.Query("SELECT name FROM system.tables WHERE database = 'pulsegrid' AND engine = 'View' ORDER BY name"))
	}
	require.NoError(t, start(t, signal.Logs, config(ch.URL, func(c *Config) { c.ToolViews = false })).consumeLogs(t, 10, 0))
	require.NoError(t, start(t, signal.Logs, config(ch.URL, mode(SchemaVerify))).consumeLogs(t, 10, 10))
	require.Empty(t, views())

	require.NoError(t, start(t, signal.Logs, config(ch.URL)).consumeLogs(t, 10, 20))
	require.Equal(t, []string{"bi_logs", "bi_logs_10s", "bi_logs_1h", "bi_logs_1m", "otel_logs"}, views())
	require.EqualValues(t, 30, ch.QueryInt("SELECT count() FROM pulsegrid.otel_logs WHERE ServiceName = 'checkout' AND LogAttributes['http.route'] = '/pay'"))

	ch.Exec("CREATE OR REPLACE VIEW pulsegrid.otel_logs AS SELECT 1 AS old COMMENT 'PulseGrid\\'s view for tools: of another version'")
	ch.Exec("CREATE OR REPLACE VIEW pulsegrid.bi_logs AS SELECT 1 AS mine")
	ch.Exec("DROP VIEW pulsegrid.bi_logs_1h SYNC")
	ch.Exec("CREATE TABLE pulsegrid.bi_logs_1h (mine UInt8) ENGINE = MergeTree ORDER BY mine")
	require.NoError(t, start(t, signal.Logs, config(ch.URL, mode(SchemaVerify))).consumeLogs(t, 10, 30))
	require.EqualValues(t, 1, ch.QueryInt("SELECT old FROM pulsegrid.otel_logs"))
	require.NoError(t, start(t, signal.Logs, config(ch.URL)).consumeLogs(t, 10, 40))
	require.EqualValues(t, 50, ch.QueryInt("SELECT count() FROM pulsegrid.otel_logs"))
	require.EqualValues(t, 1, ch.QueryInt("SELECT mine FROM pulsegrid.bi_logs"), "somebody's own")
	require.Equal(t, "mine", ch.Query("SELECT name FROM system.columns WHERE database = 'pulsegrid' AND table = 'bi_logs_1h'"), "somebody's own")
}

// Scenario: the user may not create views, and later ClickHouse is away while they are looked at.
// Guarantees: the first stops nothing; after the second the views are looked at again.
func TestNothingThatIsStoredWaitsForViewsForTools(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL, mode(SchemaOff)))
	refused := start(t, signal.Logs, config(ch.URL, mode(SchemaOff)))
	for _, side := range []*rig{r, refused} {
		side.schema = newSchema(config(ch.URL), side.client, side.table, side.set.Logger)
	}
	lost := &onViews{next: refused.client.http.Transport, meddle: func(req *http.Request) bool { req.URL.RawQuery += "&readonly=1"; return false }}
	refused.client.http.Transport = lost
	require.NoError(t, refused.schema.ensure(t.Context()))
	require.Zero(t, ch.QueryInt("SELECT count() FROM system.tables WHERE engine = 'View' AND database = 'pulsegrid'"))

	away := &onViews{next: r.client.http.Transport, meddle: func(*http.Request) bool { return true }}
	r.client.http.Transport = away
	require.Error(t, r.schema.ensure(t.Context()))
	r.client.http.Transport, r.schema.last = away.next, nil
	require.NoError(t, r.schema.ensure(t.Context()))
	require.NotZero(t, ch.QueryInt("SELECT count() FROM system.tables WHERE engine = 'View' AND database = 'pulsegrid'"))
}

// onViews meddles with the statements that create views for tools.
type onViews struct {
	next   http.RoundTripper
	meddle func(*http.Request) (lost bool)
}

func (o *onViews) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	if bytes.HasPrefix(body, []byte("CREATE VIEW")) && o.meddle(req) {
		return nil, io.ErrUnexpectedEOF
	}
	return o.next.RoundTrip(req)
}

package ingestreceiver

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

func legacyRig(t *testing.T, next *sink) *rig {
	t.Helper()
	cfg := testConfig()
	cfg.LegacyEvents.Enabled = true
	return start(t, cfg, next, nil)
}

func TestLegacyEventsBecomeAnEnvelopeASignalAndWhatCannotBeMappedIsQuarantined(t *testing.T) {
	s := &sink{}
	r := legacyRig(t, s)
	body := `[{"type":"log","message":"a"},
		{"type":"metric","name":"m","value":1},
		{"type":"nothing",
		 "x":1},
		{"type":"trace","trace_id":"0af7651916cd43dd8448eb211c80319c","span_id":"b7ad6b7169203331","name":"s"},
		{"type":"log","message":"b"}]`
	got := r.post("/v1/events", strings.NewReader(string(compress(t, encodingGzip, []byte(body)))), "Content-Encoding", "gzip", "Content-Type", "application/json", "x-pulsegrid-tenant", "acme", "x-pulsegrid-agent", "old-1")
	require.Equal(t, http.StatusOK, got.code, string(got.body))
	var answer map[string]any
	require.NoError(t, json.Unmarshal(got.body, &answer))
	require.EqualValues(t, 4, answer["accepted"])
	require.EqualValues(t, 1, answer["rejected"])
	require.Contains(t, answer["message"], `event 2: unknown_type`)

	events := map[signal.Signal]int{}
	var bad []envelope.Envelope
	for _, e := range s.take() {
		require.Equal(t, "acme", e.Tenant)
		require.Equal(t, "old-1", e.Source)
		if e.Lane == envelope.LaneQuarantine {
			bad = append(bad, e)
			continue
		}
		events[e.Signal] += e.Events
		require.NoError(t, decodes(e.Signal, e.Body))
	}
	require.Equal(t, map[signal.Signal]int{signal.Logs: 2, signal.Metrics: 1, signal.Traces: 1}, events)
	require.Len(t, bad, 1)
	require.Equal(t, typeLines, bad[0].Quarantine.ContentType)
	require.Equal(t, 1, strings.Count(string(bad[0].Body), "\n"), "one line an event")
	require.JSONEq(t, `{"type":"nothing","x":1}`, string(bad[0].Body))
	findings, err := schema.DecodeFindings(bad[0].Findings)
	require.NoError(t, err)
	require.Equal(t, schema.Unmapped, findings[0].Verdicts[0].Code)
}

func TestALegacyBodyThatIsNoJSONIsRefusedAsAWhole(t *testing.T) {
	s := &sink{}
	r := legacyRig(t, s)
	for body, code := range map[string]int{
		`{"type":"log"} nonsense`:            http.StatusBadRequest,
		strings.Repeat("[", 10_000):          http.StatusBadRequest,
		strings.Repeat(`{"type":"log"} `, 0): http.StatusOK, // nothing is no mistake
	} {
		require.Equal(t, code, r.post("/v1/events", strings.NewReader(body), "Content-Type", typeLines).code, body)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/v1/events", nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusMethodNotAllowed, r.do(req).code)
	require.Empty(t, s.take())
}

func TestALegacyBodyIsAcknowledgedOnlyWhenThePipelineHasIt(t *testing.T) {
	s := &sink{script: func(context.Context) error { return errors.New("kafka is away") }}
	r := legacyRig(t, s)
	got := r.post("/v1/events", strings.NewReader(`{"type":"log"}`), "Content-Type", typeJSON)
	require.Equal(t, http.StatusServiceUnavailable, got.code)
	require.NotEmpty(t, got.header.Get("Retry-After"))
}

// Scenario: a web page sends what browsers send anywhere without asking first.
// Guarantees: it is refused, and programs that say what they send are not.
func TestLegacyEventsOfAnotherContentTypeAreRefused(t *testing.T) {
	s := &sink{}
	r := legacyRig(t, s)
	for contentType, code := range map[string]int{
		"text/plain": 415, "text/plain;charset=UTF-8": 415, "application/x-www-form-urlencoded": 415, "multipart/form-data; boundary=x": 415, "": 415, "nonsense": 415,
		"application/json": 200, "application/json; charset=utf-8": 200, "application/x-ndjson": 200,
	} {
		got := r.post("/v1/events", strings.NewReader(`{"type":"log"}`), "Content-Type", contentType)
		require.Equal(t, code, got.code, "%q: %s", contentType, got.body)
		require.Len(t, s.take(), map[int]int{200: 1}[code])
	}
}

func TestLegacyEventsAreServedOnlyWhereConfigured(t *testing.T) {
	r := start(t, testConfig(), &sink{}, nil)
	require.Equal(t, http.StatusNotFound, r.post("/v1/events", strings.NewReader(`{}`)).code)
}

func TestAMappingFileIsUsedAndABadOneNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mapping.yaml")
	cfg := testConfig()
	cfg.LegacyEvents = LegacyConfig{Enabled: true, MappingFile: file}
	begin := func() error {
		rec, err := NewFactory().CreateLogs(t.Context(), receivertest.NewNopSettings(metadata.Type()), cfg, &sink{})
		require.NoError(t, err)
		err = rec.Start(t.Context(), componenttest.NewNopHost())
		require.NoError(t, rec.Shutdown(t.Context()))
		return err
	}
	require.ErrorContains(t, begin(), file)
	require.NoError(t, os.WriteFile(file, []byte("version: 7"), 0o600))
	require.ErrorContains(t, begin(), "version")
}

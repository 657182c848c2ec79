package ingestreceiver

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// partialOf reads an Export*ServiceResponse as an SDK does.
func partialOf(t *testing.T, s signal.Signal, msg []byte, isJSON bool) (rejected int64, text string) {
	t.Helper()
	read := func(r interface {
		UnmarshalProto([]byte) error
		UnmarshalJSON([]byte) error
	}) {
		if isJSON {
			require.NoError(t, r.UnmarshalJSON(msg))
		} else {
			require.NoError(t, r.UnmarshalProto(msg))
		}
	}
	switch s {
	case signal.Logs:
		r := plogotlp.NewExportResponse()
		read(r)
		return r.PartialSuccess().RejectedLogRecords(), r.PartialSuccess().ErrorMessage()
	case signal.Metrics:
		r := pmetricotlp.NewExportResponse()
		read(r)
		return r.PartialSuccess().RejectedDataPoints(), r.PartialSuccess().ErrorMessage()
	}
	r := ptraceotlp.NewExportResponse()
	read(r)
	return r.PartialSuccess().RejectedSpans(), r.PartialSuccess().ErrorMessage()
}

// Scenario: the pipeline takes a request and says that some of its events were quarantined.
// Guarantees: the sender hears 200 or OK with the count and the first reasons, in the encoding of its request; and nothing where all is well.
func TestASenderHearsWhatBecameOfItsEvents(t *testing.T) {
	tell := func(*envelope.Result) {}
	s := &sink{script: func(ctx context.Context) error { tell(envelope.ResultOf(ctx)); return nil }}
	r := start(t, testConfig(), s, nil)
	conn := r.dial()
	for name, c := range map[string]struct {
		tell     func(*envelope.Result)
		rejected int64
		text     string
	}{
		"nothing":  {func(*envelope.Result) {}, 0, ""},
		"rejected": {func(res *envelope.Result) { res.Reject(3, "event 7: attribute_type", "two", "three", "four") }, 3, "event 7: attribute_type; two; three"},
		"lost":     {func(res *envelope.Result) { res.Reject(3, "event 7: event_too_large"); res.Lose(1) }, 3, "2 events were put into quarantine, sending them again does not help; 1 events were refused and are kept nowhere"},
		"flagged":  {func(res *envelope.Result) { res.Flag(2, "event 1: \xff") }, 0, "2 events violate their schema"},
		"long":     {func(res *envelope.Result) { res.Reject(1, strings.Repeat("é", maxPartialBytes)) }, 1, "1 events were put into quarantine"},
	} {
		tell = c.tell
		for _, sig := range signal.All {
			req := otlptest.Realistic(sig, 1, 10)
			path := "/v1/" + sig.String()
			check := func(rejected int64, text string) {
				require.Equal(t, c.rejected, rejected, name)
				require.Contains(t, text, c.text, name)
				require.Equal(t, c.text == "", text == "", name)
				require.LessOrEqual(t, len(text), maxPartialBytes)
				require.True(t, utf8.ValidString(text))
			}
			got := r.post(path, bytes.NewReader(req), "Content-Type", typeProtobuf)
			require.Equal(t, http.StatusOK, got.code)
			check(partialOf(t, sig, got.body, false))
			got = r.post(path, bytes.NewReader(toJSON(t, sig, req)), "Content-Type", typeJSON)
			require.Equal(t, http.StatusOK, got.code)
			check(partialOf(t, sig, got.body, true))
		}
		req := plogotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(otlptest.Logs(1, 10)))
		resp, err := plogotlp.NewGRPCClient(conn).Export(t.Context(), req)
		require.NoError(t, err)
		require.Equal(t, c.rejected, resp.PartialSuccess().RejectedLogRecords(), name)
		require.Contains(t, resp.PartialSuccess().ErrorMessage(), c.text, name)
	}
}

func keepingConfig() *Config {
	cfg := testConfig()
	cfg.QuarantineUndecodable = true
	cfg.Limits.MaxDecompressedBytes, cfg.Limits.MaxCompressedBytes = 64<<10, 64<<10
	return cfg
}

// Guarantees: a body that is not OTLP is handed to the quarantine as it came, with what is known of it, and refused all the same; what is beyond
// the limits is only refused.
func TestWhatIsNotOTLPIsKeptAndRefused(t *testing.T) {
	s := &sink{}
	r := start(t, keepingConfig(), s, nil)
	conn := r.dial()
	rubbish := []byte("this is \xff not OTLP")
	for name, c := range map[string]struct {
		body, kept  []byte
		contentType string
		encoding    string // sent
		keptAs      string // encoding of what is kept
		code        int
	}{
		"protobuf":          {rubbish, rubbish, typeProtobuf, "", "", 400},
		"gzip":              {compress(t, "gzip", rubbish), rubbish, typeProtobuf, "gzip", "", 400},
		"json":              {rubbish, rubbish, typeJSON, "", "", 400},
		"broken gzip":       {rubbish, rubbish, typeProtobuf, "gzip", "gzip", 400},
		"broken zstd":       {rubbish, rubbish, typeJSON, "zstd", "zstd", 400},
		"too large":         {bytes.Repeat(rubbish, 10_000), nil, typeProtobuf, "", "", 413},
		"a bomb":            {compress(t, "gzip", make([]byte, 2<<20)), nil, typeProtobuf, "gzip", "", 413},
		"what is OTLP":      {otlptest.Logs(1, 3), nil, typeProtobuf, "", "", 200},
		"not even its type": {rubbish, nil, "text/plain", "", "", 415},
	} {
		t.Run(name, func(t *testing.T) {
			got := r.post("/v1/logs", bytes.NewReader(c.body), "Content-Type", c.contentType, "Content-Encoding", c.encoding, "X-Pulsegrid-Tenant", "acme")
			require.Equal(t, c.code, got.code, "%s", got.body)
			all := s.take()
			if c.kept == nil {
				for _, e := range all {
					require.NotEqual(t, envelope.LaneQuarantine, e.Lane)
				}
				return
			}
			require.Len(t, all, 1)
			e := all[0]
			require.Equal(t, c.kept, e.Body)
			require.Equal(t, envelope.LaneQuarantine, e.Lane)
			require.Equal(t, "acme", e.Tenant)
			require.Equal(t, signal.Logs, e.Signal)
			require.False(t, e.Received.IsZero())
			require.Equal(t, c.contentType, e.Quarantine.ContentType)
			require.Equal(t, c.keptAs, e.Quarantine.ContentEncoding)
			require.True(t, e.Quarantine.PII)
			findings, err := schema.DecodeFindings(e.Findings)
			require.NoError(t, err)
			require.Equal(t, schema.Undecodable, findings[0].Verdicts[0].Code)
		})
	}
	err := raw(t.Context(), conn, signal.Traces, rubbish)
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	all := s.take()
	require.Len(t, all, 1)
	require.Equal(t, rubbish, all[0].Body)
	require.Equal(t, signal.Traces, all[0].Signal)
}

// Guarantees: without the setting nothing is kept; a quarantine that does not take a body for now makes the sender come again, one that never
// will leaves the refusal.
func TestABodyThatCannotBeKeptIsAskedForAgain(t *testing.T) {
	s := &sink{}
	r := start(t, testConfig(), s, nil)
	require.Equal(t, 400, r.post("/v1/logs", strings.NewReader("rubbish"), "Content-Type", typeProtobuf).code)
	require.Empty(t, s.take())

	var err error
	r = start(t, keepingConfig(), &sink{script: func(context.Context) error { return err }}, nil)
	err = errors.New("kafka is down")
	require.Equal(t, 503, r.post("/v1/logs", strings.NewReader("rubbish"), "Content-Type", typeProtobuf).code)
	err = consumererror.NewPermanent(errors.New("larger than a record"))
	got := r.post("/v1/logs", strings.NewReader("rubbish"), "Content-Type", typeJSON)
	require.Equal(t, 400, got.code)
	require.Contains(t, string(got.body), "larger than a record")
}

func TestKeepingNeedsEnvelopes(t *testing.T) {
	cfg := keepingConfig()
	cfg.Output = outputPdata
	require.ErrorContains(t, cfg.Validate(), "quarantine_undecodable: is true")
}

package ingestreceiver

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// written is what a writer of a coding makes of b.
func written(t testing.TB, coding string, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	switch coding {
	case encodingGzip:
		w = gzip.NewWriter(&out)
	case encodingZlib:
		w = zlib.NewWriter(&out)
	case encodingSnappyFramed:
		w = snappy.NewBufferedWriter(&out)
	case encodingLZ4:
		w = lz4.NewWriter(&out)
	case encodingSnappy:
		return snappy.Encode(nil, b)
	default:
		return compress(t, coding, b)
	}
	_, err := w.Write(b)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return out.Bytes()
}

// Guarantees: whatever the Collector's exporters compress with is taken, under each of its names and in any case; what is cut or is another coding is
// refused for good.
func TestEveryCodingOfTheCollectorIsTaken(t *testing.T) {
	s := &sink{}
	r := start(t, testConfig(), s, nil)
	large := bytes.Repeat(otlptest.Realistic(signal.Logs, 7, 200), 20) // more than a block of each coding
	small := otlptest.Realistic(signal.Logs, 7, 2)
	for _, c := range []struct{ name, coding string }{
		{"gzip", encodingGzip}, {"GZIP", encodingGzip}, {"x-gzip", encodingGzip}, {"zstd", encodingZstd}, {"Zstd", encodingZstd},
		{"zlib", encodingZlib}, {"deflate", encodingZlib}, {"Deflate", encodingZlib}, {"snappy", encodingSnappy}, {"SNAPPY", encodingSnappy},
		{"snappy", encodingSnappyFramed}, {"x-snappy-framed", encodingSnappyFramed}, {"lz4", encodingLZ4}, {"LZ4", encodingLZ4}, {"Identity", encodingNone},
	} {
		t.Run(c.name+" "+c.coding, func(t *testing.T) {
			for _, want := range [][]byte{small, large} {
				sent := written(t, c.coding, want)
				got := r.post("/v1/logs", bytes.NewReader(sent), "Content-Type", typeProtobuf, "Content-Encoding", c.name)
				require.Equal(t, http.StatusOK, got.code, "%s", got.body)
				e := s.take()
				require.Len(t, e, 1)
				require.True(t, bytes.Equal(want, e[0].Body))
				if c.coding == encodingNone {
					continue
				}
				for _, bad := range [][]byte{sent[:len(sent)/2], []byte("neither of them")} {
					got = r.post("/v1/logs", bytes.NewReader(bad), "Content-Type", typeProtobuf, "Content-Encoding", c.name)
					require.Equal(t, http.StatusBadRequest, got.code, "%s", got.body)
					require.Empty(t, s.take())
				}
			}
		})
	}
}

// Scenario: zstd -22 --ultra, whose frames ask for windows that a stream would have to allocate, with and without their size in the header.
// Guarantees: they are taken; beyond the largest window, and beyond the limits of size, they are refused.
func TestZstdWithALargeWindowIsTaken(t *testing.T) {
	s := &sink{}
	cfg := testConfig()
	cfg.Limits.MaxDecompressedBytes = 12 * mib
	r := start(t, cfg, s, nil)
	request := bytes.Repeat(otlptest.Realistic(signal.Logs, 7, 1000), 12)
	require.Greater(t, len(request), 8*mib)
	wide := func(window int, b []byte) []byte {
		var out bytes.Buffer
		w, err := zstd.NewWriter(&out, zstd.WithWindowSize(window))
		require.NoError(t, err)
		_, err = w.Write(b)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return out.Bytes()
	}
	single, err := zstd.NewWriter(nil, zstd.WithWindowSize(64*mib))
	require.NoError(t, err)
	defer func() { _ = single.Close() }()
	for name, sent := range map[string][]byte{
		"stream": wide(64*mib, request), "two": append(written(t, encodingZstd, request[:100]), wide(128*mib, request[100:])...),
		"two, the second of unknown size": append(written(t, encodingZstd, request[:100]), compress(t, "zstd-stream", request[100:])...), "of known size": single.EncodeAll(request, nil),
	} {
		got := r.post("/v1/logs", bytes.NewReader(sent), "Content-Type", typeProtobuf, "Content-Encoding", "zstd")
		require.Equal(t, http.StatusOK, got.code, "%s: %s", name, got.body)
		e := s.take()
		require.Len(t, e, 1)
		require.True(t, bytes.Equal(request, e[0].Body), name)
	}
	got := r.post("/v1/logs", bytes.NewReader(wide(256*mib, request)), "Content-Type", typeProtobuf, "Content-Encoding", "zstd")
	require.Equal(t, http.StatusBadRequest, got.code, "%s", got.body)
	got = r.post("/v1/logs", bytes.NewReader(wide(64*mib, make([]byte, 13*mib))), "Content-Type", typeProtobuf, "Content-Encoding", "zstd")
	require.Contains(t, []int{http.StatusRequestEntityTooLarge, http.StatusBadRequest}, got.code, "%s", got.body) // the decoder does not tell which
	require.Empty(t, s.take())
}

// storm is a batch of one error, again and again.
func storm(t testing.TB, records int) []byte {
	t.Helper()
	trace := "java.lang.IllegalStateException: pool exhausted\n"
	for i := range 80 {
		trace += fmt.Sprintf("\tat com.acme.pool.Conn%d.take(Conn%d.java:%d)\n", i, i, 100+i)
	}
	req := plogotlp.NewExportRequest()
	logs := req.Logs().ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
	for range records {
		record := logs.AppendEmpty()
		record.SetTimestamp(1_795_852_800_000_000_000)
		record.Attributes().PutStr("exception.stacktrace", trace)
	}
	b, err := req.MarshalProto()
	require.NoError(t, err)
	return b
}

func TestAStormOfOneErrorIsTakenHoweverWellItCompresses(t *testing.T) {
	s := &sink{}
	r := start(t, testConfig(), s, nil)
	req := storm(t, 4096)
	sent := compress(t, encodingZstd, req)
	require.Greater(t, len(req), 10*mib)
	require.Greater(t, len(req)/len(sent), 1000)
	got := r.post("/v1/logs", bytes.NewReader(sent), "Content-Type", typeProtobuf, "Content-Encoding", encodingZstd)
	assert.Equal(t, http.StatusOK, got.code, "%s", got.body)
	require.NoError(t, raw(t.Context(), r.dial(), signal.Logs, req, grpc.UseCompressor("zstd")))
	assert.Len(t, s.take(), 2)
}

// Scenario: an endpoint that ends with a slash, joined with OTLP's path, or a path with a slash behind it.
func TestSlashesInAPathDoNotCount(t *testing.T) {
	s := &sink{}
	cfg := testConfig()
	cfg.LegacyEvents.Enabled = true
	r := start(t, cfg, s, nil)
	for _, path := range []string{"//v1/logs", "/v1/logs/", "///v1//logs//"} {
		got := r.post(path, bytes.NewReader(otlptest.Logs(1, 1)), "Content-Type", typeProtobuf)
		assert.Equal(t, http.StatusOK, got.code, "%s: %s", path, got.body)
		assert.Len(t, s.take(), 1)
	}
	assert.Equal(t, http.StatusOK, r.post("//v1/events", strings.NewReader(`{"type":"log"}`), "Content-Type", typeJSON).code)
	for _, path := range []string{"/v1", "//", "/v1/logs/x", "/x/../v1/logs", "/v1/Logs"} {
		assert.Equal(t, http.StatusNotFound, r.post(path, bytes.NewReader(otlptest.Logs(1, 1)), "Content-Type", typeProtobuf).code, path)
	}
}

// Guarantees: SDKs' connections, which send each minute, are not closed between two exports.
func TestIdleConnectionsOutliveTheExportInterval(t *testing.T) {
	r := start(t, testConfig(), &sink{}, nil)
	assert.GreaterOrEqual(t, r.httpServer.IdleTimeout, 2*time.Minute)
}

func TestProfilesAreRefusedByName(t *testing.T) {
	r := start(t, testConfig(), &sink{}, nil)
	for _, path := range []string{"/v1development/profiles", "/v1/profiles", "//v1development/profiles"} {
		got := r.post(path, strings.NewReader("x"), "Content-Type", typeProtobuf)
		assert.Equal(t, http.StatusNotFound, got.code)
		assert.Contains(t, statusOf(t, got).Message(), "profiles are not served")
	}
	conn := r.dial()
	for method, text := range map[string]string{
		"/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export": "profiles are not served",
		"/opentelemetry.proto.collector.logs.v1.LogsService/Other":                     "want Export of",
	} {
		err := conn.Invoke(t.Context(), method, &clientFrame{[]byte("x")}, &frame{}, grpc.ForceCodecV2(clientCodec{}))
		assert.Equal(t, codes.Unimplemented, status.Code(err))
		assert.Contains(t, status.Convert(err).Message(), text)
	}
}

func TestAnEmptyBodyIsNoJSON(t *testing.T) {
	s := &sink{}
	r := start(t, testConfig(), s, nil)
	for _, encoding := range []string{"", encodingGzip, encodingZstd} {
		for _, body := range []string{"", " \n"} {
			got := r.post("/v1/logs", bytes.NewReader(compress(t, encoding, []byte(body))), "Content-Type", typeJSON, "Content-Encoding", encoding)
			assert.Equal(t, http.StatusBadRequest, got.code, "%q %s", body, got.body)
		}
	}
	assert.Empty(t, s.take())
}

const oneLog = `{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"s"}}]},"scopeLogs":[{"logRecords":[{"timeUnixNano":"1","body":{"stringValue":"first"}}]}]}]}`

// Scenario: JSON that is no OTLP request, or more than one; and protobuf of another kind.
// Guarantees: none is answered OK, since nothing of it is kept, and each is in quarantine where that is configured. Requests that merely have no events are
// taken.
func TestABodyOfAnotherKindIsNotAnsweredOK(t *testing.T) {
	s := &sink{}
	cfg := testConfig()
	cfg.QuarantineUndecodable = true
	r := start(t, cfg, s, nil)
	unknownField := protowire.AppendString(protowire.AppendTag(nil, 77, protowire.BytesType), "what is this?")
	nested := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), unknownField)
	refused := func(what string, got reply, sent []byte) {
		t.Helper()
		require.Equal(t, http.StatusBadRequest, got.code, "%s: %s", what, got.body)
		kept := s.take()
		require.Len(t, kept, 1, what)
		require.Equal(t, envelope.LaneQuarantine, kept[0].Lane)
		require.Equal(t, string(sent), string(kept[0].Body), what)
	}
	for what, body := range map[string]string{
		"two requests": oneLog + "\n" + oneLog, "garbage behind": oneLog + " trailing {{{", "plain": `{"level":"info","msg":"hello"}`,
		"another signal": `{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"x"}]}]}]}`, "before OTLP 0.15": `{"resourceLogs":[{"instrumentationLibraryLogs":[{"logs":[{"body":{"stringValue":"old"}}]}]}]}`,
		"Firehose": `{"requestId":"r","timestamp":1,"records":[{"data":"AAAA"}]}`, "a list": `[` + oneLog + `]`, "a text": `"hello"`, "null": `null`,
	} {
		for _, encoding := range []string{encodingNone, encodingGzip} {
			refused(what, r.post("/v1/logs", bytes.NewReader(compress(t, encoding, []byte(body))), "Content-Type", typeJSON, "Content-Encoding", encoding), []byte(body))
		}
	}
	for what, body := range map[string][]byte{"unknown": unknownField, "unknown within": nested} {
		refused(what, r.post("/v1/logs", bytes.NewReader(body), "Content-Type", typeProtobuf), body)
		require.Equal(t, codes.InvalidArgument, status.Code(raw(t.Context(), r.dial(), signal.Logs, body)))
		require.Len(t, s.take(), 1)
	}
	for _, body := range []string{`{}`, `{"resourceLogs":[]}`, `{"resourceLogs":null}`, `{"resourceLogs":[{"resource":{"attributes":[]},"scopeLogs":[{}],"schemaUrl":"x"}]}`} {
		require.Equal(t, http.StatusOK, r.post("/v1/logs", strings.NewReader(body), "Content-Type", typeJSON).code, body)
	}
	require.Empty(t, s.take())
}

// Scenario: what the JavaScript SDK makes of an attribute NaN, Infinity, 1e21 and 2**63, beside good spans.
// Guarantees: NaN and Infinity are attributes without a value. What cannot be an integer costs its span only: the sender hears how many and why, and it
// is in quarantine, with what is around it, where that is configured.
func TestAValueThatOTLPCannotHaveCostsItsEventOnly(t *testing.T) {
	span := func(name, value string) string {
		return `{"name":"` + name + `","attributes":[{"key":"v","value":` + value + `}]}`
	}
	around := func(spans ...string) string {
		return `{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"js"}}]},"scopeSpans":[{"scope":{"name":"x"},"spans":[` + strings.Join(spans, ",") + `]}]}]}`
	}
	bad := []string{span("1e21", `{"intValue":1e+21}`), span("2**63", `{"intValue":9223372036854776000}`)}
	sent := around(span("good", `{"intValue":1}`), bad[0], span("NaN", `{"doubleValue":null}`), bad[1], span("1e3", `{"intValue":1e3}`))
	for _, quarantine := range []bool{false, true} {
		s := &sink{}
		cfg := testConfig()
		cfg.QuarantineUndecodable = quarantine
		r := start(t, cfg, s, nil)
		got := r.post("/v1/traces", strings.NewReader(sent), "Content-Type", typeJSON, "x-pulsegrid-tenant", "acme")
		require.Equal(t, http.StatusOK, got.code, "%s", got.body)
		rejected, text := partialOf(t, signal.Traces, got.body, true)
		require.EqualValues(t, 2, rejected)
		require.Contains(t, text, `event 1: spans[1].attributes[0].value.intValue: "1e+21" is not an integer of 64 bits; event 3`)
		es := s.take()
		require.Equal(t, 3, es[0].Events)
		require.Equal(t, envelope.LaneFast, es[0].Lane)
		require.JSONEq(t, around(span("good", `{"intValue":"1"}`), span("NaN", `{}`), span("1e3", `{"intValue":"1000"}`)), withoutDefaults(string(toJSON(t, signal.Traces, es[0].Body))))
		if !quarantine {
			require.Len(t, es, 1)
			require.Contains(t, text, "kept nowhere")
			continue
		}
		require.Len(t, es, 2)
		require.Contains(t, text, "put into quarantine")
		kept := es[1]
		require.Equal(t, envelope.LaneQuarantine, kept.Lane)
		require.Equal(t, "acme", kept.Tenant)
		require.Equal(t, around(bad...), string(kept.Body))
		require.Equal(t, typeJSON, kept.Quarantine.ContentType)
		require.Equal(t, 2, kept.Events)
		findings, err := schema.DecodeFindings(kept.Findings)
		require.NoError(t, err)
		require.Len(t, findings, 2)
		require.Equal(t, schema.Undecodable, findings[1].Verdicts[0].Code)
		require.Contains(t, findings[1].Verdicts[0].Got, "9223372036854776000")

		got = r.post("/v1/traces", strings.NewReader(around(bad...)), "Content-Type", typeJSON)
		require.Equal(t, http.StatusBadRequest, got.code, "nothing of it is taken")
		es = s.take()
		require.Len(t, es, 1)
		require.Equal(t, around(bad...), string(es[0].Body))
	}
}

// withoutDefaults takes away what pdata writes though it is empty.
func withoutDefaults(j string) string {
	for _, empty := range []string{`"traceId":"",`, `"spanId":"",`, `"parentSpanId":"",`, `,"status":{}`} {
		j = strings.ReplaceAll(j, empty, "")
	}
	return j
}

// Scenario: thousands of events with wrong values, of half a kilobyte each.
// Guarantees: their records of the quarantine stay small, and each event is in one of them.
func TestManyRejectedEventsBecomeSeveralRecords(t *testing.T) {
	s := &sink{}
	cfg := testConfig()
	cfg.QuarantineUndecodable = true
	r := start(t, cfg, s, nil)
	bad := `{"flags":-1,"severityText":"` + strings.Repeat("x", 500) + `"}`
	body := `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"flags":1}` + strings.Repeat(","+bad, 2000) + `]}]}]}`
	require.Equal(t, http.StatusOK, r.post("/v1/logs", strings.NewReader(body), "Content-Type", typeJSON).code)
	es := s.take()
	require.Equal(t, 1, es[0].Events)
	events := 0
	for _, e := range es[1:] {
		require.LessOrEqual(t, len(e.Body), rejectedBytes+1024)
		require.Equal(t, e.Events, strings.Count(string(e.Body), `"flags":-1`))
		events += e.Events
	}
	require.Equal(t, 2000, events)
	require.LessOrEqual(t, len(es), 8)
}

package otlpjson_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/pulsegrid/pulsegrid/internal/otlpjson"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

var limits = otlpjson.Limits{MaxDepth: 212, MaxEvents: 1000, Reserve: func(int) bool { return true }}

// byPdata is the other way from JSON to protobuf.
func byPdata(s signal.Signal, b []byte) ([]byte, error) {
	req := otlptest.NewRequest(s)
	if err := req.UnmarshalJSON(b); err != nil {
		return nil, err
	}
	return req.MarshalProto()
}

func toJSON(t testing.TB, s signal.Signal, b []byte) []byte {
	t.Helper()
	req := otlptest.NewRequest(s)
	require.NoError(t, req.UnmarshalProto(b))
	out, err := req.MarshalJSON()
	require.NoError(t, err)
	return out
}

// Guarantees: of requests with every field set, and of realistic ones, the bytes are those of pdata, whatever the order of names.
func TestWhatPdataWritesBecomesTheBytesThatPdataWrites(t *testing.T) {
	for _, s := range signal.All {
		for name, req := range map[string][]byte{"full": otlptest.Full(s, 3), "realistic": otlptest.Realistic(s, 7, 50), "one": otlptest.Realistic(s, 8, 1), "none": nil} {
			sent := toJSON(t, s, req)
			want, err := byPdata(s, sent)
			require.NoError(t, err)
			for how, sent := range map[string][]byte{"as pdata writes it": sent, "spaced": bytes.ReplaceAll(sent, []byte(`,"`), []byte(" ,\n\t\""))} {
				got, err := otlpjson.Transcode(s, sent, limits)
				require.NoError(t, err, "%s %s", s, name)
				require.Empty(t, got.Rejected)
				require.Empty(t, got.Unknown)
				equal(t, want, got.Body, fmt.Sprint(s, " ", name, " ", how))
				events, err := otlpwire.Count(s, got.Body, otlpwire.Limits{})
				require.NoError(t, err)
				require.Equal(t, events, got.Events)
			}
		}
	}
}

// equal shows what is around the first difference.
func equal(t *testing.T, want, got []byte, what string) {
	t.Helper()
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) || want[i] != got[i] {
			part := func(b []byte) string { return hex.Dump(b[min(len(b), max(0, i-16)):min(len(b), i+32)]) }
			t.Fatalf("%s: at byte %d want %s\ngot %s", what, i, part(want), part(got))
		}
	}
}

// log is a request of one log record with this in it.
func log(members string) string {
	return `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{` + members + `}]}]}]}`
}

func attribute(value string) string { return log(`"attributes":[{"key":"k","value":` + value + `}]`) }

func record(t *testing.T, body string) plog.LogRecord {
	t.Helper()
	got, err := otlpjson.Transcode(signal.Logs, []byte(body), limits)
	require.NoError(t, err, body)
	require.Empty(t, got.Rejected, body)
	req := plogotlp.NewExportRequest()
	require.NoError(t, req.UnmarshalProto(got.Body), body)
	return req.Logs().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
}

// Guarantees: the forms that ProtoJSON has for values.
func TestValuesHaveTheFormsOfProtoJSON(t *testing.T) {
	for value, want := range map[string]any{
		`{"intValue":"7"}`: int64(7), `{"intValue":7}`: int64(7), `{"intValue":-7}`: int64(-7), `{"int_value":7}`: int64(7),
		`{"intValue":1e3}`: int64(1000), `{"intValue":"1E+3"}`: int64(1000), `{"intValue":7.0}`: int64(7), `{"intValue":1.50e1}`: int64(15), `{"intValue":0e999999999999}`: int64(0),
		`{"intValue":"-9223372036854775808"}`: int64(math.MinInt64), `{"intValue":9223372036854775807}`: int64(math.MaxInt64), `{"intValue":1200e-2}`: int64(12),
		`{"intValue":-0}`: int64(0), `{"intValue":922337203685477580700e-2}`: int64(math.MaxInt64),
		`{"doubleValue":1.5}`: 1.5, `{"doubleValue":"1.5"}`: 1.5, `{"doubleValue":1e21}`: 1e21, `{"doubleValue":"Infinity"}`: math.Inf(1), `{"doubleValue":"-Infinity"}`: math.Inf(-1),
		`{"doubleValue":5}`: 5.0, `{"doubleValue":0}`: 0.0,
		`{"doubleValue":null}`: nil, `{"intValue":null}`: nil, `null`: nil, `{}`: nil, `{"stringValue":null}`: nil, `{"arrayValue":null,"boolValue":true}`: true,
		`{"boolValue":false}`: false, `{"stringValue":""}`: "", `{"stringValue":"\u00e9\ud83d\ude00\n\/\"\\"}`: "é😀\n/\"\\", `{"stringValue":"\ud83dx\udc00"}`: "\uFFFDx\uFFFD",
		`{"bytesValue":"+/8="}`: []byte{0xfb, 0xff}, `{"bytesValue":"-_8="}`: []byte{0xfb, 0xff}, `{"bytesValue":"+/8"}`: []byte{0xfb, 0xff}, `{"bytesValue":""}`: []byte(nil),
		`{"bytesValue":"` + strings.Repeat("AAAA", 100) + `"}`:                make([]byte, 300),
		`{"arrayValue":{"values":[{"intValue":1},null,{"stringValue":"b"}]}}`: []any{int64(1), nil, "b"}, `{"arrayValue":{}}`: []any{}, `{"arrayValue":{"values":null}}`: []any{},
		`{"kvlistValue":{"values":[{"key":"a","value":{"boolValue":true}}]}}`: map[string]any{"a": true},
		`{"stringValue":"a","stringValue":"b"}`:                               "b", `{"stringValue":"a","intValue":1}`: int64(1), `{"what":[{"x":{}},"\u0041"],"stringValue":"a"}`: "a",
	} {
		got := record(t, attribute(value)).Attributes().AsRaw()["k"]
		require.Equal(t, want, got, value)
	}
	nan := record(t, attribute(`{"doubleValue":"NaN"}`)).Attributes().AsRaw()["k"]
	require.True(t, math.IsNaN(nan.(float64)))

	for body, want := range map[string]plog.SeverityNumber{`9`: 9, `"SEVERITY_NUMBER_INFO"`: 9, `77`: 77} {
		require.Equal(t, want, record(t, log(`"severityNumber":`+body)).SeverityNumber())
		require.Equal(t, want, record(t, log(`"severity_number":`+body)).SeverityNumber())
	}
	for _, id := range []string{"0102030405060708090a0b0c0d0e0fff", "0102030405060708090A0B0C0D0E0FFF"} {
		require.Equal(t, "0102030405060708090a0b0c0d0e0fff", record(t, log(`"traceId":"`+id+`"`)).TraceID().String())
	}
	require.True(t, record(t, log(`"traceId":"","spanId":null`)).TraceID().IsEmpty())
	require.Zero(t, record(t, log(`"timeUnixNano":0`)).Timestamp())
	require.EqualValues(t, uint64(math.MaxUint64), record(t, log(`"timeUnixNano":"18446744073709551615"`)).Timestamp())
}

// Guarantees: a value that its field cannot have costs its event only; the others arrive, and Part is a request of the rejected ones with what is
// around them.
func TestAWrongValueCostsItsEventOnly(t *testing.T) {
	for _, bad := range []string{
		`"timeUnixNano":-1`, `"timeUnixNano":1.5`, `"timeUnixNano":18446744073709551616`, `"timeUnixNano":1e400`, `"timeUnixNano":"x"`, `"timeUnixNano":""`, `"timeUnixNano":" 1"`, `"timeUnixNano":true`,
		`"timeUnixNano":{}`, `"severityNumber":"LOUD"`, `"severityNumber":"9"`, `"severityNumber":2147483648`, `"severityText":7`, `"body":"text"`, `"body":[1,{"a":"}"}]`, `"flags":4294967296`, `"flags":-1`,
		`"traceId":"01"`, `"traceId":"zz02030405060708090a0b0c0d0e0fff"`, `"traceId":"AQIDBAUGBwgJCgsMDQ4PEA=="`, `"spanId":8`, `"attributes":{}`, `"attributes":["x"]`, `"attributes":[{"key":1}]`,
		`"attributes":[{"key":"k","value":{"intValue":1e21}}]`, `"attributes":[{"key":"k","value":{"intValue":9223372036854775808}}]`, `"attributes":[{"key":"k","value":{"doubleValue":NaN}}]`,
		`"attributes":[{"key":"k","value":{"doubleValue":-Infinity}}]`, `"attributes":[{"key":"k","value":{"doubleValue":1e400}}]`, `"attributes":[{"key":"k","value":{"doubleValue":"1x"}}]`,
		`"attributes":[{"key":"k","value":{"boolValue":"true"}}]`, `"attributes":[{"key":"k","value":{"boolValue":1}}]`, `"attributes":[{"key":"k","value":{"bytesValue":"!"}}]`,
	} {
		around := `{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"s"}}]},"scopeLogs":[{"scope":{"name":"n"},"logRecords":[%s]},{"logRecords":[%s]}]}]}`
		good := func(i int) string { return fmt.Sprintf(`{"timeUnixNano":"%d"}`, i) }
		wrong := "{" + bad + `,"severityText":"t"}`
		body := fmt.Sprintf(around, good(1)+" , "+wrong+","+good(2)+","+wrong, wrong+", "+good(3))
		got, err := otlpjson.Transcode(signal.Logs, []byte(body), limits)
		require.NoError(t, err, body)
		want, err := byPdata(signal.Logs, fmt.Appendf(nil, around, good(1)+","+good(2), good(3)))
		require.NoError(t, err)
		equal(t, want, got.Body, bad)
		require.Equal(t, 6, got.Events)
		require.Len(t, got.Rejected, 3, bad)
		require.Equal(t, []int{1, 3, 4}, []int{got.Rejected[0].Event, got.Rejected[1].Event, got.Rejected[2].Event})
		require.Contains(t, got.Rejected[0].Reason, "logRecords[1]."+strings.Split(bad, `"`)[1])
		require.Equal(t, fmt.Sprintf(around, wrong+","+wrong, wrong), string(got.Part(got.Rejected)))
		require.Equal(t, fmt.Sprintf(around, wrong, wrong), string(got.Part(got.Rejected[1:])))
	}
	got, err := otlpjson.Transcode(signal.Metrics, []byte(`{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"m","gauge":{"dataPoints":[{"asInt":1.5},{"asDouble":null},{"asInt":"3"}]}}]}]}]}`), limits)
	require.NoError(t, err)
	require.Equal(t, `resourceMetrics`, strings.Split(string(got.Part(got.Rejected)), `"`)[1])
	require.Len(t, got.Rejected, 1)
	require.Contains(t, got.Rejected[0].String(), "event 0: dataPoints[0].asInt: \"1.5\" is not an integer of 64 bits")
	req := pmetricotlp.NewExportRequest()
	require.NoError(t, req.UnmarshalProto(got.Body))
	require.Equal(t, 2, req.Metrics().DataPointCount())
}

// Guarantees: what is no JSON, or is wrong outside of events, is refused as a whole, wherever it is.
func TestABodyThatIsNoRequestIsRefused(t *testing.T) {
	one := log(`"severityText":"x"`)
	for _, body := range []string{
		"", " ", "null", "[]", "7", `"x"`, "{", `{"resourceLogs":[`, one + one, one + "\n" + one, one + "x", one + "]", one + "\x00", "\ufeff" + one,
		`{"resourceLogs":7}`, `{"resourceLogs":[7]}`, `{"resourceLogs":{}}`, `{"resourceLogs":[{"resource":"x"}]}`, `{"resourceLogs":[{"resource":{"attributes":[{"key":7}]}}]}`,
		`{"resourceLogs":[{"scopeLogs":[{"scope":{"name":7}}]}]}`, `{"resourceLogs":[{"scopeLogs":[{"logRecords":{}}]}]}`,
		`{resourceLogs:[]}`, `{"resourceLogs":[],}`, `{"resourceLogs":[{},]}`, `{"resourceLogs" []}`, `{"x":01}`, `{"x":1.}`, `{"x":.5}`, `{"x":+1}`, `{"x":1e}`, `{"x":-}`, `{"x":tru}`, `{"x":'y'}`, "{\"x\":\"\n\"}",
		`{"x":"\x"}`, `{"x":"\u12"}`, `{"x":"\u12g4"}`, `{"x":"`, `{"x":"\`, `{"x":nan}`,
		log(`"body":{"stringValue":7},"x":]`), log(`"body":{"stringValue":7}`)[:60], log(`"timeUnixNano":1.5.5`),
	} {
		_, err := otlpjson.Transcode(signal.Logs, []byte(body), limits)
		require.ErrorIs(t, err, otlpjson.ErrMalformed, body)
		require.Contains(t, err.Error(), "at byte ", body)
	}
	got, err := otlpjson.Transcode(signal.Logs, []byte(" \r\n"+one+"\t\n"), limits)
	require.NoError(t, err)
	require.Equal(t, 1, got.Events)
}

func TestANameThatOTLPDoesNotHaveIsNamed(t *testing.T) {
	for body, want := range map[string]string{
		`{}`: "", `{"resourceLogs":[]}`: "", `{"resource_logs":null}`: "", `{"level":"info"}`: `"level"`, `{"resourceMetrics":[{"x":1}]}`: `"resourceMetrics"`,
		`{"resourceLogs":[{"instrumentationLibraryLogs":[{"logs":[{}]}]}]}`: `"instrumentationLibraryLogs"`, `{"ResourceLogs":[]}`: `"ResourceLogs"`,
	} {
		got, err := otlpjson.Transcode(signal.Logs, []byte(body), limits)
		require.NoError(t, err)
		require.Equal(t, want, got.Unknown, body)
		require.Zero(t, got.Events)
	}
}

func TestBoundsHold(t *testing.T) {
	deep := limits
	deep.MaxDepth = 10
	for _, body := range []string{`{"x":` + strings.Repeat("[", 10) + strings.Repeat("]", 10) + `}`, `{"x":` + strings.Repeat(`{"a":`, 100_000)} {
		_, err := otlpjson.Transcode(signal.Logs, []byte(body), deep)
		require.ErrorIs(t, err, otlpjson.ErrTooDeep)
	}
	_, err := otlpjson.Transcode(signal.Logs, []byte(`{"x":`+strings.Repeat("[", 9)+strings.Repeat("]", 9)+`}`), deep)
	require.NoError(t, err)

	few := limits
	few.MaxEvents = 2
	many := func(event string, n int) []byte {
		return []byte(`{"resourceLogs":[{"scopeLogs":[{"logRecords":[` + strings.Repeat(event+",", n-1) + event + `]}]}]}`)
	}
	for _, event := range []string{"{}", `{"flags":-1}`} {
		_, err = otlpjson.Transcode(signal.Logs, many(event, 2), few)
		require.NoError(t, err)
		_, err = otlpjson.Transcode(signal.Logs, many(event, 3), few)
		require.ErrorIs(t, err, otlpjson.ErrTooManyEvents)
	}

	// What is written, and what is kept of rejected events, is reserved.
	for _, body := range [][]byte{many(`{"flags":-1}`, 1000), []byte(`{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"histogram":{"dataPoints":[{"explicitBounds":[` + strings.Repeat("0,", 99_999) + `0]}]}}]}]}]}`)} {
		s := signal.Logs
		if bytes.Contains(body, []byte("Metrics")) {
			s = signal.Metrics
		}
		reserved := 0
		got, err := otlpjson.Transcode(s, body, otlpjson.Limits{MaxDepth: 50, MaxEvents: 1000, Reserve: func(n int) bool { reserved += n; return true }})
		require.NoError(t, err)
		require.GreaterOrEqual(t, reserved, cap(got.Body)+400*len(got.Rejected))
		left := reserved - 1
		_, err = otlpjson.Transcode(s, body, otlpjson.Limits{MaxDepth: 50, MaxEvents: 1000, Reserve: func(n int) bool { left -= n; return left >= 0 }})
		require.ErrorIs(t, err, otlpjson.ErrMemory)
	}
}

// emptyName is where pdata takes the rest of an object for its end.
var emptyName = regexp.MustCompile(`""\s*:`)

// FuzzTranscode holds Transcode against pdata: what both take is the same, and what Transcode takes as a whole pdata takes too, unless ProtoJSON allows more
// than pdata does. Whatever it makes is OTLP.
func FuzzTranscode(f *testing.F) {
	for i, s := range signal.All {
		f.Add(uint8(i), toJSON(f, s, otlptest.Full(s, 3)))
		f.Add(uint8(i), toJSON(f, s, otlptest.Realistic(s, 1, 2)))
	}
	for _, body := range []string{attribute(`{"intValue":1e3}`), attribute(`{"doubleValue":"NaN","intValue":null}`), log(`"flags":-1},{"flags":1,"attributes":[{"key":"\u0041"}]`), `{"resourceLogs":[null,{"x":"\"{"}]} x`} {
		f.Add(uint8(0), []byte(body))
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		s := signal.All[int(which)%len(signal.All)]
		got, err := otlpjson.Transcode(s, body, limits)
		want, pdataErr := byPdata(s, body)
		if err != nil {
			return
		}
		req := otlptest.NewRequest(s)
		require.NoError(t, req.UnmarshalProto(got.Body))
		again, err := req.MarshalProto()
		require.NoError(t, err)
		if pdataErr == nil && len(got.Rejected) == 0 && !emptyName.Match(body) {
			equal(t, want, again, "by pdata and by Transcode")
		}
		if len(got.Rejected) > 0 {
			part, err := otlpjson.Transcode(s, got.Part(got.Rejected), limits)
			require.NoError(t, err)
			require.Len(t, part.Rejected, len(got.Rejected))
			require.Equal(t, len(got.Rejected), part.Events)
		}
	})
}

func BenchmarkTranscode(b *testing.B) {
	for _, s := range signal.All {
		sent := toJSON(b, s, otlptest.Realistic(s, 1, 500))
		b.Run(s.String()+"/transcode", func(b *testing.B) {
			b.SetBytes(int64(len(sent)))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = otlpjson.Transcode(s, sent, limits)
			}
		})
		b.Run(s.String()+"/pdata", func(b *testing.B) {
			b.SetBytes(int64(len(sent)))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = byPdata(s, sent)
			}
		})
	}
}

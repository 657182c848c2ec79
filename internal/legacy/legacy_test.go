package legacy

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

func convert(t *testing.T, body string) Result {
	t.Helper()
	events, err := Split([]byte(body), Limits{})
	require.NoError(t, err)
	return Default().Convert(events)
}

func TestAnObjectAnArrayAndLinesAreEvents(t *testing.T) {
	for _, body := range []string{
		`{"type":"log","message":"a"}`,
		` [ {"type":"log","message":"a"} ] `,
		"{\"type\":\"log\",\"message\":\"a\"}\n",
	} {
		r := convert(t, body)
		require.Empty(t, r.Rejected, body)
		require.Equal(t, 1, r.Logs.LogRecordCount(), body)
	}
	r := convert(t, "{\"type\":\"log\"}\n[{\"type\":\"log\"},{\"type\":\"log\"}]\n\n{\"type\":\"log\"}")
	require.Equal(t, 4, r.Logs.LogRecordCount())
	events, err := Split(nil, Limits{})
	require.NoError(t, err)
	require.Empty(t, events)
}

func TestALogKeepsEveryField(t *testing.T) {
	r := convert(t, `{"type":"log","time":"2026-01-02T03:04:05.000000006Z","service":"shop","host":"h1","level":"WARN","message":"hello","event_id":"e-1",
		"trace_id":"0af7651916cd43dd8448eb211c80319c","span_id":"b7ad6b7169203331","tags":{"a":1,"b":1.5,"c":true,"d":["x",null],"e":{"f":"g"}},"user":"u1","big":9007199254740993}`)
	require.Empty(t, r.Rejected)
	rl := r.Logs.ResourceLogs().At(0)
	require.Equal(t, map[string]any{"service.name": "shop", "host.name": "h1"}, rl.Resource().Attributes().AsRaw())
	lr := rl.ScopeLogs().At(0).LogRecords().At(0)
	require.Equal(t, time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), lr.Timestamp().AsTime())
	require.Equal(t, plog.SeverityNumberWarn, lr.SeverityNumber())
	require.Equal(t, "WARN", lr.SeverityText())
	require.Equal(t, "hello", lr.Body().Str())
	require.Equal(t, "0af7651916cd43dd8448eb211c80319c", lr.TraceID().String())
	require.Equal(t, "b7ad6b7169203331", lr.SpanID().String())
	require.Equal(t, map[string]any{
		"event_id": "e-1", "a": int64(1), "b": 1.5, "c": true, "d": []any{"x", nil}, "e": map[string]any{"f": "g"}, "user": "u1", "big": int64(9007199254740993),
	}, lr.Attributes().AsRaw())
}

// Guarantees: a field that the mapping declares to be an id names the log record; without a declaration no field does, whatever it is called.
func TestAnIdIsOneOnlyWhereTheMappingSaysSo(t *testing.T) {
	const body = `{"type":"log","id":"7","event_id":"8","uuid":"9"}`
	raw := func(r Result) map[string]any {
		return r.Logs.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes().AsRaw()
	}
	require.Equal(t, map[string]any{"id": "7", "event_id": "8", "uuid": "9"}, raw(convert(t, body)))
	m, err := Parse(append(defaultYAML, "id: [event_id]\n"...))
	require.NoError(t, err)
	events, err := Split([]byte(body), Limits{})
	require.NoError(t, err)
	require.Equal(t, map[string]any{"id": "7", "log.record.uid": "8", "uuid": "9"}, raw(m.Convert(events)))
}

func TestMetricsBecomeGaugesAndSums(t *testing.T) {
	r := convert(t, `[
		{"type":"metric","ts":1700000000,"name":"cpu","value":0.5,"unit":"1","service":"shop","core":3},
		{"type":"counter","ts":1700000000123,"name":"requests","value":7,"service":"shop"},
		{"type":"metric","ts":1700000000,"name":"total","value":9,"kind":"cumulative","service":"other"}]`)
	require.Empty(t, r.Rejected)
	require.Equal(t, 2, r.Metrics.ResourceMetrics().Len(), "one a resource")
	ms := r.Metrics.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics()
	gauge := ms.At(0).Gauge().DataPoints().At(0)
	require.Equal(t, 0.5, gauge.DoubleValue())
	require.Equal(t, map[string]any{"core": int64(3)}, gauge.Attributes().AsRaw())
	require.Equal(t, int64(1_700_000_000), gauge.Timestamp().AsTime().Unix())
	require.Equal(t, pmetric.AggregationTemporalityDelta, ms.At(1).Sum().AggregationTemporality())
	require.Equal(t, int64(1_700_000_000_123), ms.At(1).Sum().DataPoints().At(0).Timestamp().AsTime().UnixMilli())
	total := r.Metrics.ResourceMetrics().At(1).ScopeMetrics().At(0).Metrics().At(0)
	require.Equal(t, pmetric.AggregationTemporalityCumulative, total.Sum().AggregationTemporality())
}

func TestSpansHaveIDsTimesAndStatus(t *testing.T) {
	r := convert(t, `{"type":"trace","trace_id":"0af76519-16cd-43dd-8448-eb211c80319c","span_id":"b7ad6b7169203331","parent_id":"00f067aa0ba902b7","name":"GET /","kind":"server",
		"start":1700000000000,"duration":1.5,"error":"timeout","http":{"status":504}}`)
	require.Empty(t, r.Rejected)
	s := r.Traces.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
	require.Equal(t, "0af7651916cd43dd8448eb211c80319c", s.TraceID().String())
	require.Equal(t, "00f067aa0ba902b7", s.ParentSpanID().String())
	require.Equal(t, ptrace.SpanKindServer, s.Kind())
	require.Equal(t, 1500*time.Microsecond, s.EndTimestamp().AsTime().Sub(s.StartTimestamp().AsTime()))
	require.Equal(t, ptrace.StatusCodeError, s.Status().Code())
	require.Equal(t, "timeout", s.Status().Message())
	require.Equal(t, map[string]any{"http": map[string]any{"status": int64(504)}}, s.Attributes().AsRaw())
}

func TestWhatCannotBeMappedIsRejectedWithItsReasonAndTheRestGoesOn(t *testing.T) {
	bad := []struct{ event, code, field string }{
		{`7`, CodeNotAnObject, ""},
		{`null`, CodeNotAnObject, ""},
		{`{}`, CodeMissingField, "type"},
		{`{"type":"alert"}`, CodeUnknownType, "type"},
		{`{"type":{}}`, CodeBadField, "type"},
		{`{"type":"log","time":"yesterday"}`, CodeBadField, "time"},
		{`{"type":"log","time":"0001-01-01T00:00:00Z"}`, CodeBadField, "time"},
		{`{"type":"log","time":-1}`, CodeBadField, "time"},
		{`{"type":"log","trace_id":"xyz"}`, CodeBadField, "log::trace_id"},
		{`{"type":"metric","value":1}`, CodeMissingField, "metric::name"},
		{`{"type":"metric","name":"a"}`, CodeMissingField, "metric::value"},
		{`{"type":"metric","name":"a","value":"1"}`, CodeBadField, "metric::value"},
		{`{"type":"metric","name":"a","value":1e999}`, CodeBadField, "metric::value"},
		{`{"type":"trace","name":"a"}`, CodeMissingField, "trace::trace_id"},
		{`{"type":"trace","trace_id":"0af7651916cd43dd8448eb211c80319c","name":"a"}`, CodeMissingField, "trace::span_id"},
		{`{"type":"trace","trace_id":"0af7651916cd43dd8448eb211c80319c","span_id":"b7ad6b7169203331","name":"a","start":1,"duration":"long"}`, CodeBadField, "trace::duration_ms"},
	}
	var events []string
	for _, b := range bad {
		events = append(events, b.event, `{"type":"log"}`)
	}
	r := convert(t, "["+strings.Join(events, ",")+"]")
	require.Equal(t, len(bad), r.Logs.LogRecordCount())
	require.Zero(t, r.Metrics.DataPointCount()+r.Traces.SpanCount())
	require.Len(t, r.Rejected, len(bad))
	for i, b := range bad {
		got := r.Rejected[i]
		require.Equal(t, 2*i, got.Index)
		require.Equal(t, b.event, string(got.Raw))
		require.Equal(t, b.code, got.Code, b.event)
		require.Equal(t, b.field, got.Field, b.event)
		require.NotEmpty(t, got.Reason)
	}
}

func TestTimesAreToldByTheirMagnitude(t *testing.T) {
	at := time.Date(2023, 11, 14, 22, 13, 20, 0, time.UTC)
	for _, v := range []any{
		json.Number("1700000000"), json.Number("1700000000000"), json.Number("1700000000000000"), json.Number("1700000000000000000"),
		json.Number("1700000000.0"), "1700000000", "2023-11-14T23:13:20+01:00",
	} {
		got, err := parseTime(v)
		require.NoError(t, err, v)
		require.Equal(t, at, got.AsTime(), v)
	}
}

func TestADottedFieldGoesIntoObjectsUnlessThereIsOneOfThatName(t *testing.T) {
	m := Default()
	m.Log.Body = []string{"a.b.c"}
	for _, event := range []string{`{"type":"log","a":{"b":{"c":"x"}}}`, `{"type":"log","a.b.c":"x"}`, `{"type":"log","a":{"b.c":"x"}}`} {
		r := m.Convert([]json.RawMessage{json.RawMessage(event)})
		require.Equal(t, "x", r.Logs.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Body().Str(), event)
	}
}

func TestBodiesBeyondTheLimitsAreRefused(t *testing.T) {
	_, err := Split([]byte(`{"a":`), Limits{})
	require.ErrorIs(t, err, ErrNotJSON)
	_, err = Split([]byte(`{"type":"log"} nonsense`), Limits{})
	require.ErrorIs(t, err, ErrNotJSON)
	_, err = Split([]byte(`[1,2,3]`), Limits{MaxEvents: 2})
	require.ErrorIs(t, err, ErrTooManyEvents)
	_, err = Split([]byte(strings.Repeat("[", 1_000_000)), Limits{})
	require.ErrorIs(t, err, ErrTooDeep)
	_, err = Split([]byte(`{"a":"`+strings.Repeat("[", 1000)+`\"["}`), Limits{})
	require.NoError(t, err, "brackets inside of text are no depth")
}

func TestMappingFilesThatCannotBeAreRefusedByName(t *testing.T) {
	for want, content := range map[string]string{
		"version":        "version: 2",
		"metric::value":  strings.Replace(string(defaultYAML), "value: [value, val, count]", "value: []", 1),
		"is in type::":   strings.Replace(string(defaultYAML), "log: [log, logs, event]", "log: [log, span]", 1),
		"nonsense":       string(defaultYAML) + "\nnonsense: 1\n",
		"file is empty":  "",
		"an empty name":  strings.Replace(string(defaultYAML), "time: [time, timestamp", `time: ["", timestamp`, 1),
		"cannot unmarsh": "version: [1]",
	} {
		_, err := Parse([]byte(content))
		require.ErrorContains(t, err, want)
	}
}

func TestTheDocumentShowsTheDefaultMapping(t *testing.T) {
	doc, err := os.ReadFile("../../docs/formats/legacy.md")
	require.NoError(t, err)
	require.Contains(t, string(doc), "```yaml\n"+string(defaultYAML)+"```\n")
	_, rest, _ := strings.Cut(string(doc), "```json\n")
	example, _, ok := strings.Cut(rest, "```")
	require.True(t, ok)
	r := convert(t, example)
	require.Empty(t, r.Rejected)
	require.Equal(t, []int{1, 1, 1}, []int{r.Logs.LogRecordCount(), r.Metrics.DataPointCount(), r.Traces.SpanCount()})
}

// Guarantee: an event's fields are what encoding/json makes of them, whatever they hold.
func FuzzFieldsAreThoseOfEncodingJSON(f *testing.F) {
	for _, text := range []string{
		`{}`, ` { "a" : 1 , "b":[ ] , "c":{ } } `, `{"a":1,"a":"two","a":{"b":1},"a":{"c":2}}`, `{"a":[1,-2.5e+7,0.1E-3,true,false,null,"x",[[]],{"b":[{}]}]}`,
		`{"a\n\"\\\/\u00e9":"\ud83d\ude00 \ud83d \udc00 \b\f\t"}`, "{\"a\":\"\xff\xc3\",\"\xff\":\"é世\"}", `{"a":12345678901234567890123}`, `null`, `[1]`, `"x"`, `1`, "{\n\t\"a\"\r:\n1}", `{"":""}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		events, err := Split(raw, Limits{})
		if err != nil {
			return
		}
		for _, event := range events {
			dec := json.NewDecoder(bytes.NewReader(event))
			dec.UseNumber()
			var want map[string]any
			if err := dec.Decode(&want); err != nil {
				want = nil
			}
			require.Equal(t, want, fieldsOf(event), "%q", event)
		}
	})
}

// BenchmarkFields reads the fields of a line of a backfill (1.1 KB), by encoding/json and by fieldsOf.
func BenchmarkFields(b *testing.B) {
	line := []byte(`{"service": "checkout", "host": "host-7", "env": "prod", "type": "log", "event_id": "e-1", "timestamp": 1767225600000, "level": "INFO", "message": "payment 17 of customer 8862 took 528 ms", "attributes": {"n": 17, "http.route": "/pay/{id}", "cart": [2, 4], "note": "` +
		strings.Repeat("words of a log record ", 35) + `"}}`)
	b.Run("encoding/json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			dec := json.NewDecoder(bytes.NewReader(line))
			dec.UseNumber()
			var fields map[string]any
			if err := dec.Decode(&fields); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("fieldsOf", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			fieldsOf(line)
		}
	})
}

// Every event of a body is converted or rejected, whatever it holds.
func FuzzConvert(f *testing.F) {
	f.Add([]byte(`{"type":"log","time":1,"message":{"a":[1,2]}}`))
	f.Add([]byte(`[{"type":"metric","name":"a","value":1},{"type":"trace","trace_id":"0af7651916cd43dd8448eb211c80319c","span_id":"b7ad6b7169203331","name":"a","start":1,"duration":2}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		events, err := Split(body, Limits{})
		if err != nil {
			return
		}
		r := Default().Convert(events)
		require.Equal(t, len(events), r.Logs.LogRecordCount()+r.Metrics.DataPointCount()+r.Traces.SpanCount()+len(r.Rejected))
	})
}

// Guarantee: a body that comes again becomes the same request, byte for byte: by that copies are recognised.
func TestABodyBecomesTheSameRequestEachTime(t *testing.T) {
	const body = `[{"type":"log","service":"a","host":"h","region":"r","env":"e","attributes":{"a":1,"b":2,"c":3,"d":{"x":1,"y":2,"z":[1,{"p":1,"q":2}]}},"tags":{"e":1,"f":2},"k":1,"l":2,"m":3},
		{"type":"log","service":"b","message":{"a":1,"b":2,"c":3}},{"type":"metric","name":"m","value":1,"tags":{"e":1,"f":2,"g":3}}]`
	once := ""
	for range 50 {
		r := convert(t, body)
		logs, err := plogotlp.NewExportRequestFromLogs(r.Logs).MarshalProto()
		require.NoError(t, err)
		metrics, err := pmetricotlp.NewExportRequestFromMetrics(r.Metrics).MarshalProto()
		require.NoError(t, err)
		if got := string(logs) + string(metrics); once == "" {
			once = got
		} else {
			require.Equal(t, once, got)
		}
	}
}

// A number and a text that reads like it are different values, so their resources are different ones.
func TestResourcesDifferByTypeToo(t *testing.T) {
	events, err := Split([]byte(`{"type":"log","host":"1"}{"type":"log","host":1}{"type":"log","host":"1"}`), Limits{})
	require.NoError(t, err)
	logs := Default().Convert(events).Logs
	require.Equal(t, 2, logs.ResourceLogs().Len())
	require.Equal(t, 3, logs.LogRecordCount())
}

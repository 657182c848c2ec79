package schema_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// anything applies to what otlptest generates and to what the fuzzer makes of it.
const anything = `
groups:
  - id: span.any
    type: span
    annotations: {pulsegrid: {match: {name: "*"}, unknown_attributes: strict}}
    attributes: &attrs
      - {id: service.name, type: string, requirement_level: required, annotations: {pulsegrid: {pattern: "^[a-z]"}}}
      - {id: user.id, type: string, annotations: {pulsegrid: {pii: true}}, requirement_level: required}
      - {id: http.response.status_code, type: int, annotations: {pulsegrid: {min: 100, max: 599}}}
      - {id: k, type: "string[]", requirement_level: required}
      - {id: attr, type: "template[double]"}
  - {id: event.any, type: event, name: e, attributes: [{ref: service.name}, {ref: k}], body: {id: b, type: map, fields: [{id: k, type: "int[]", requirement_level: required}]}}
  - {id: metric.any, type: metric, metric_name: m, instrument: counter, unit: s, annotations: {pulsegrid: {temporality: delta}}, attributes: [{ref: service.name}]}
  - {id: resource.any, type: resource, annotations: {pulsegrid: {match: {}}}, attributes: [{ref: service.name, requirement_level: required}]}
`

// agree holds the check of a request's bytes against the check of what pdata makes of them. Limits of bytes are left out: pdata writes arrays
// and maps anew, at another length.
func agree(t *testing.T, c *schema.Checker, sig signal.Signal, req []byte) schema.Result {
	t.Helper()
	if _, err := otlpwire.Count(sig, req, otlpwire.Limits{}); err != nil {
		return schema.Result{}
	}
	got, err := c.Check(sig, req, schema.Open, now)
	require.NoError(t, err)
	var want schema.Result
	switch sig {
	case signal.Logs:
		r := plogotlp.NewExportRequest()
		require.NoError(t, r.UnmarshalProto(req))
		want, err = c.CheckLogs(r.Logs(), schema.Open, now)
	case signal.Metrics:
		r := pmetricotlp.NewExportRequest()
		require.NoError(t, r.UnmarshalProto(req))
		want, err = c.CheckMetrics(r.Metrics(), schema.Open, now)
	case signal.Traces:
		r := ptraceotlp.NewExportRequest()
		require.NoError(t, r.UnmarshalProto(req))
		want, err = c.CheckTraces(r.Traces(), schema.Open, now)
	}
	require.NoError(t, err)
	if !reflect.DeepEqual(want, got) {
		t.Fatalf("%s request %x\nof its bytes %s\nof pdata     %s", sig, req[:min(len(req), 1000)], got.Findings.Append(nil), want.Findings.Append(nil))
	}
	alone(t, c, sig, req, got)
	if len(got.Findings) > 0 {
		back, err := schema.DecodeFindings(got.Findings.Append(nil))
		require.NoError(t, err)
		require.Equal(t, got.Findings, back)
	}
	return got
}

// alone checks each event without the others: what is remembered from one event to the next must not show.
func alone(t *testing.T, c *schema.Checker, sig signal.Signal, req []byte, together schema.Result) {
	t.Helper()
	if together.Events > 50 {
		return
	}
	var want schema.Findings
	for i := range together.Events {
		one, _, err := otlpwire.Split(sig, req, func(index int) bool { return index == i })
		require.NoError(t, err)
		res, err := c.Check(sig, one, schema.Open, now)
		require.NoError(t, err)
		for _, f := range res.Findings {
			f.Event = i
			want = append(want, f)
		}
	}
	if !reflect.DeepEqual(want, together.Findings) {
		t.Fatalf("%s request %x\ntogether       %s\none at a time  %s", sig, req[:min(len(req), 1000)], together.Findings.Append(nil), want.Append(nil))
	}
}

func anythingChecker(t testing.TB) *schema.Checker {
	return schema.NewChecker(load(t, anything), schema.Limits{AttributesMax: 4, KeyBytesMax: 20, DepthMax: 2})
}

func TestBytesAndPdataGetTheSameVerdicts(t *testing.T) {
	c := anythingChecker(t)
	codes := map[schema.Code]int{}
	for _, sig := range signal.All {
		for seed := range uint64(60) {
			for _, req := range [][]byte{otlptest.Full(sig, seed), otlptest.Random(sig, seed, 3), otlptest.Realistic(sig, seed, 5)} {
				for _, f := range agree(t, c, sig, req).Findings {
					for _, v := range f.Verdicts {
						codes[v.Code]++
					}
				}
			}
		}
	}
	for _, code := range []schema.Code{schema.AttributeType, schema.AttributeMissing, schema.AttributeUnknown, schema.TooManyAttributes, schema.KeyTooLong, schema.TooDeep} {
		require.NotZero(t, codes[code], "the generated requests show nothing of %s: %v", code, codes)
	}
}

// Events of one scope are of several schemas, valid or not, in any order.
func TestAnEventsVerdictsAreNoNeighbours(t *testing.T) {
	c := schema.NewChecker(load(t, shop), schema.Limits{AttributesMax: 4})
	codes := map[schema.Code]int{}
	for seed := range uint64(60) {
		g := rand.New(rand.NewPCG(seed, 0))
		ld := record(func(plog.LogRecord) {})
		records := ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
		for range 40 {
			lr := records.AppendEmpty()
			records.At(0).CopyTo(lr)
			lr.SetEventName([]string{"order.placed", "order.placed", "order.text", "another", ""}[g.IntN(5)])
			switch attrs := lr.Attributes(); g.IntN(6) {
			case 0:
				attrs.PutInt("order.id", 7)
			case 1:
				attrs.Clear()
			case 2:
				attrs.PutStr("order.state", "paid")
			case 3:
				attrs.PutStr("order.label.colour", "red")
				attrs.PutStr("a", "b")
			case 4:
				for i := range 5 {
					attrs.PutBool(fmt.Sprint(i), true)
				}
			}
		}
		req, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
		require.NoError(t, err)
		for _, f := range agree(t, c, signal.Logs, req).Findings {
			for _, v := range f.Verdicts {
				codes[v.Code]++
			}
		}
	}
	for _, code := range []schema.Code{schema.AttributeType, schema.AttributeMissing, schema.AttributeUnknown, schema.TooManyAttributes, schema.BodyType} {
		require.NotZero(t, codes[code], "the records show nothing of %s: %v", code, codes)
	}
}

// What encoders do not write: a key twice, a value in pieces, the body in pieces.
func TestOddBytesGetTheVerdictOfWhatTheyMean(t *testing.T) {
	field := func(num protowire.Number, content []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), content)
	}
	text := func(num protowire.Number, s string) []byte { return field(num, []byte(s)) }
	cat := func(parts ...[]byte) (out []byte) {
		for _, p := range parts {
			out = append(out, p...)
		}
		return out
	}
	request := func(fields ...[]byte) []byte {
		return field(1, field(2, field(2, cat(append(fields, text(12, "order.placed"), field(5, field(6, field(1, cat(text(1, "reason"), field(2, text(1, "x")))))))...))))
	}
	c := schema.NewChecker(load(t, shop), schema.Limits{})
	id := func(v []byte) []byte { return field(6, cat(text(1, "order.id"), v)) }
	valid := field(2, text(1, "o-1"))
	for name, test := range map[string]struct {
		req  []byte
		want []schema.Code
	}{
		"valid":                     {request(id(valid)), nil},
		"a value in pieces":         {request(id(cat(field(2, text(1, "x")), valid))), nil},
		"the last piece counts":     {request(id(cat(valid, field(2, text(1, "x"))))), []schema.Code{schema.AttributePattern}},
		"an empty piece is none":    {request(id(cat(valid, field(2, nil)))), nil},
		"a key twice":               {request(id(valid), id(valid)), []schema.Code{schema.AttributeDuplicate}},
		"a string behind an int":    {request(id(field(2, cat([]byte{0x18, 7}, text(1, "o-1"))))), nil},
		"an int behind a string":    {request(id(field(2, cat(text(1, "o-1"), []byte{0x18, 7})))), []schema.Code{schema.AttributeType}},
		"an overlong varint":        {request(id(field(2, []byte{0x18, 0x87, 0x80, 0x00}))), []schema.Code{schema.AttributeType}},
		"attributes around another": {request(id(valid), text(3, "INFO"), field(6, cat(text(1, "order.gift"), field(2, text(1, "x"))))), []schema.Code{schema.AttributeType}},
	} {
		t.Run(name, func(t *testing.T) {
			res := agree(t, c, signal.Logs, test.req)
			var got []schema.Code
			for _, v := range only(t, res, nil) {
				if v.Schema != "resource.service" {
					got = append(got, v.Code)
				}
			}
			require.Equal(t, test.want, got)
		})
	}
}

func FuzzLogs(f *testing.F)    { fuzz(f, signal.Logs) }
func FuzzMetrics(f *testing.F) { fuzz(f, signal.Metrics) }
func FuzzTraces(f *testing.F)  { fuzz(f, signal.Traces) }

func fuzz(f *testing.F, sig signal.Signal) {
	for seed := range uint64(10) {
		f.Add(otlptest.Random(sig, seed, 1))
	}
	f.Add(otlptest.Realistic(sig, 1, 1))
	c := anythingChecker(f)
	f.Fuzz(func(t *testing.T, req []byte) {
		if len(req) <= 1<<14 {
			agree(t, c, sig, req)
		}
	})
}

// FuzzLoad: whatever a file says, it is loaded or refused by name, and what is loaded can be used.
func FuzzLoad(f *testing.F) {
	for _, s := range []string{shop, otlptest.HandledSchema, anything, "file_format: definition/2\nattributes: [{key: a, type: string}]\nevents: [{name: e, attributes: [{ref: a, requirement_level: required}]}]\n" +
		"event_refinements: [{id: r, ref: e, annotations: {pulsegrid: {match: {scope: x}}}}]\n"} {
		f.Add([]byte(s))
	}
	ld := record(func(plog.LogRecord) {})
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > 1<<14 {
			return
		}
		r, err := schema.Load([]schema.File{{Name: "a/f.yaml", Content: content}})
		if err != nil {
			require.Contains(t, err.Error(), "a/f.yaml: ")
			return
		}
		_, err = schema.NewChecker(r, schema.Limits{}).CheckLogs(ld, schema.Strict, now)
		require.NoError(t, err)
	})
}

// FuzzDecodeFindings: what is accepted says the same when it is written and read again.
func FuzzDecodeFindings(f *testing.F) {
	f.Add([]byte(`[{"event":0,"verdicts":[{"code":"attribute_type","path":"attributes[\"k\"]","expected":"int","got":"string \"x\"","schema":"s","version":"1"}]}]`))
	f.Add([]byte(`[{"event":3,"pii":true,"more":2,"verdicts":[{"code":"too_deep","path":"body"}]}]`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := schema.DecodeFindings(b)
		if err != nil {
			require.ErrorIs(t, err, schema.ErrFindings)
			return
		}
		again, err := schema.DecodeFindings(got.Append(nil))
		require.NoError(t, err)
		if fmt.Sprint(got) != fmt.Sprint(again) || len(got) > 0 && !reflect.DeepEqual(got, again) {
			t.Fatalf("%v is read as %v", got, again)
		}
	})
}

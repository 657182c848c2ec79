package columnstest

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/rows"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Diff compares what was sent, a plog.Logs, ptrace.Traces or pmetric.Metrics, with the rows of a store (or of a Builder), every
// OTLP field of every event and the columns derived from them, and returns a line per difference; none: all is there, once.
//
// Events are matched by topic, partition, offset and index where want is stamped (internal/lineage), and by their order where it
// is not. Differences that the row model allows (docs/formats/rows.md, "What a store cannot hold") are not reported.
func Diff(want any, recs ...arrow.RecordBatch) []string {
	var t *columns.Table
	switch want.(type) {
	case plog.Logs:
		t = columns.Logs
	case ptrace.Traces:
		t = columns.Spans
	case pmetric.Metrics:
		t = columns.Metrics
	default:
		return []string{fmt.Sprintf("columnstest: cannot compare a %T", want)}
	}
	return DiffTable(t, want, recs...)
}

// DiffTable is Diff for a table with other promoted attributes than the default ones.
func DiffTable(t *columns.Table, want any, recs ...arrow.RecordBatch) []string {
	var out []string
	got := map[string]event{}
	ordinal := 0
	for _, rec := range recs {
		evs, err := decode(t, rec)
		if err != nil {
			out = append(out, err.Error())
			return out
		}
		for _, e := range evs {
			if e.key == "" {
				e.key = fmt.Sprintf("event %d", ordinal)
			}
			ordinal++
			if _, twice := got[e.key]; twice {
				out = append(out, e.key+": stored twice")
			}
			got[e.key] = e
		}
	}
	for i, w := range events(want) {
		if w.key == "" {
			w.key = fmt.Sprintf("event %d", i)
		}
		g, ok := got[w.key]
		if !ok {
			out = append(out, w.key+": not stored")
			continue
		}
		delete(got, w.key)
		out = append(out, w.diff(g)...)
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		out = append(out, key+": stored but never sent")
	}
	return out
}

// event is one event as it is compared: its protobuf decides, its JSON explains.
type event struct {
	key     string
	derived map[string]string // columns that OTLP has no field for
	proto   []byte
	json    []byte
}

func (w event) diff(g event) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(w.derived)) {
		if w.derived[name] != g.derived[name] {
			out = append(out, fmt.Sprintf("%s: %s is %q, want %q", w.key, name, g.derived[name], w.derived[name]))
		}
	}
	if bytes.Equal(w.proto, g.proto) {
		return out
	}
	wf, gf := flatten(w.json), flatten(g.json)
	n := len(out)
	for _, path := range slices.Sorted(maps.Keys(wf)) {
		if gf[path] != wf[path] {
			out = append(out, fmt.Sprintf("%s: %s is %s, want %s", w.key, path, orMissing(gf, path), wf[path]))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(gf)) {
		if _, ok := wf[path]; !ok {
			out = append(out, fmt.Sprintf("%s: %s is %s, want none", w.key, path, gf[path]))
		}
	}
	if len(out) == n {
		out = append(out, fmt.Sprintf("%s: protobuf differs\n got %x\nwant %x", w.key, g.proto, w.proto))
	}
	return out
}

func orMissing(m map[string]string, path string) string {
	if s, ok := m[path]; ok {
		return s
	}
	return "missing"
}

// flatten gives the leaves of a JSON document by path.
func flatten(doc []byte) map[string]string {
	var v any
	out := map[string]string{}
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		out["JSON"] = err.Error()
		return out
	}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				walk(path+"."+k, x)
			}
		case []any:
			for i, x := range v {
				walk(fmt.Sprintf("%s[%d]", path, i), x)
			}
		default:
			out[strings.TrimPrefix(path, ".")] = fmt.Sprintf("%#v", v)
		}
	}
	walk("", v)
	return out
}

// decode turns rows into events.
func decode(t *columns.Table, rec arrow.RecordBatch) ([]event, error) {
	var (
		data any
		err  error
	)
	switch t.Signal {
	case signal.Logs:
		data, err = rows.DecodeLogs(t, rec)
	case signal.Traces:
		data, err = rows.DecodeTraces(t, rec)
	default:
		data, err = rows.DecodeMetrics(t, rec)
	}
	if err != nil {
		return nil, err
	}
	evs, r := events(data), rows.NewReader(t, rec)
	if len(evs) != int(rec.NumRows()) {
		return nil, fmt.Errorf("%d rows of table %s decode to %d events", rec.NumRows(), t.Name, len(evs))
	}
	i := 0
	err = r.Each(func() {
		evs[i].derived, evs[i].key = derived(r, t)
		i++
	})
	return evs, err
}

// derived reads the columns that the row model adds to OTLP.
func derived(r *rows.Reader, t *columns.Table) (map[string]string, string) {
	d := map[string]string{
		"service_name": r.Text("service_name"), "time_source": r.Text("time_source"),
	}
	if t.Signal == signal.Traces {
		d["duration_nano"] = fmt.Sprint(r.Int("duration_nano"))
	}
	topic := r.Text("kafka_topic")
	if topic == "" || r.Int("kafka_offset") < 0 {
		return d, ""
	}
	d["tenant_id"], d["ingest_time"] = r.Text("tenant_id"), fmt.Sprint(r.Time("ingest_time"))
	d["event_id"], d["time"] = hex.EncodeToString(r.Bytes("event_id")), fmt.Sprint(r.Time("time"))
	return d, fmt.Sprintf("%s/%d/%d#%d", topic, r.Int("kafka_partition"), r.Int("kafka_offset"), r.Int("event_index"))
}

// wantDerived is what derived must read for an event.
func wantDerived(res pcommon.Resource, attrs pcommon.Map, at, observed pcommon.Timestamp) (map[string]string, string) {
	d := map[string]string{"service_name": "", "time_source": "event"}
	if v, ok := res.Attributes().Get("service.name"); ok && v.Type() == pcommon.ValueTypeStr {
		d["service_name"] = valid(v.Str())
	}
	stamp, stamped := lineage.ReadResource(res.Attributes())
	ev, hasEvent := lineage.ReadEvent(attrs)
	when := clamp(at)
	switch {
	case at != 0:
	case observed != 0:
		d["time_source"], when = "observed", clamp(observed)
	default:
		d["time_source"], when = "received", pcommon.Timestamp(stamp.Received.UnixNano())
	}
	if !stamped || !hasEvent || stamp.Topic == "" || ev.Offset < 0 {
		return d, ""
	}
	d["tenant_id"], d["ingest_time"] = stamp.Tenant, fmt.Sprint(stamp.Received.UnixNano())
	d["event_id"], d["time"] = hex.EncodeToString(ev.ID[:]), fmt.Sprint(int64(when))
	return d, fmt.Sprintf("%s/%d/%d#%d", stamp.Topic, stamp.Partition, ev.Offset, ev.Index)
}

func clamp(t pcommon.Timestamp) pcommon.Timestamp { return min(t, math.MaxInt64) }

func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

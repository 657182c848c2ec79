package schema

import (
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Checker holds requests against a registry and limits.
type Checker struct {
	registry *Registry
	limits   Limits
	runs     sync.Pool
}

// NewChecker makes one. It is made anew for every registry.
func NewChecker(r *Registry, l Limits) *Checker { return &Checker{registry: r, limits: l} }

// Registry is what the checker holds events against.
func (c *Checker) Registry() *Registry { return c.registry }

// Result is what was found of a request.
type Result struct {
	Findings Findings
	Events   int
	Matched  int // events that have a schema
}

// Check holds each event of a request that otlpwire.Count has accepted against its schema and the limits. now is when the request was
// received. Nothing is allocated for an event that is valid.
func (c *Checker) Check(sig signal.Signal, req []byte, unknown Unknown, now time.Time) (Result, error) {
	r, _ := c.runs.Get().(*run)
	if r == nil {
		r = &run{}
		r.each = r.event
	}
	r.begin(c, sig, unknown, now)
	err := otlpwire.Walk(sig, req, r.each)
	res := Result{Findings: r.found, Events: r.events, Matched: r.matched}
	r.end()
	c.runs.Put(r)
	if err != nil {
		return Result{}, fmt.Errorf("check %s request: %w", sig, err)
	}
	return res, nil
}

const (
	maxOrder = 64 // attributes of an event whose place is remembered
	// maxRequestVerdicts is how many verdicts a request may have before only code and schema are kept of the first one of each event: many small events
	// that are wrong in many ways must not cost much more than they are.
	maxRequestVerdicts = 8 << 10
)

// run is one request being checked. It is used by one goroutine, and again for another request.
type run struct {
	registry *Registry
	base     Limits
	signal   signal.Signal
	kind     kind
	strict   bool // the tenant's
	now      uint64
	each     func(*otlpwire.Event) bool

	found           Findings
	events, matched int

	// Of the event at hand.
	schema  *Schema
	limits  *Limits
	patched Limits // where the schema has limits of its own
	head    otlpwire.Head
	attrs   otlpwire.Cursor
	seen    [maxAttributes / 64]uint64 // of the set of attributes at hand: the checks that were due
	count   int                        // and how many there are so far
	odd     odd
	// order[i] is the check that an event's i-th attribute had last, nil where orderOf had none for it, and strange[i] its key then: events of one kind
	// mostly have their attributes in one order.
	order   [maxOrder]*check
	strange [maxOrder][]byte
	orderOf *table

	// What holds for all events of a resource, a scope or a metric, and is found out once.
	resource, scope, metric int
	resourceVerdicts        []Verdict
	resourceMore            int
	metricVerdicts          []Verdict
	metricFor               *Schema
	scopeName, url          []byte
	named                   bool
	name                    []byte // that schema was found for
	spanKind                int32

	verdicts []Verdict // of the event at hand
	more     int
	budget   int                   // verdicts that may be kept as they are
	short    map[Verdict][]Verdict // what is kept of the others
	at       string                // path of what is at hand, where it is not an attribute of the event
	// schemaOnly leaves the limits out.
	schemaOnly bool
}

func (r *run) begin(c *Checker, sig signal.Signal, unknown Unknown, now time.Time) {
	r.registry, r.base, r.signal, r.kind, r.strict = c.registry, c.limits, sig, kindOf(sig), unknown == Strict
	r.now = uint64(max(now.UnixNano(), 0))
	r.resource, r.scope, r.metric, r.named = -1, -1, -1, false
	r.events, r.matched, r.budget = 0, 0, maxRequestVerdicts
}

// end lets go of the request.
func (r *run) end() {
	*r = run{each: r.each, resourceVerdicts: r.resourceVerdicts[:0], metricVerdicts: r.metricVerdicts[:0], verdicts: r.verdicts[:0]}
}

// spent tells that an event is known to be invalid, and no more is to be said of it.
func (r *run) spent() bool { return r.budget <= 0 && len(r.verdicts) > 0 }

// event checks one event.
func (r *run) event(e *otlpwire.Event) bool {
	r.events++
	if e.ResourceIndex != r.resource {
		r.resource = e.ResourceIndex
		r.checkResource(e)
	}
	if e.ScopeIndex != r.scope {
		r.scope, r.named = e.ScopeIndex, false
		r.scopeName = e.ScopeName()
		if r.registry.asksURL {
			r.url = e.SchemaURL()
		}
	}
	by, valid := r.readHead(e)
	h := &r.head
	r.find(e)
	if r.schema != nil {
		r.matched++
	}
	if r.kind == metricGroup && (e.MetricIndex != r.metric || r.schema != r.metricFor) {
		r.metric, r.metricFor = e.MetricIndex, r.schema
		r.checkMetric(e)
	}
	r.checkTimes(h)
	if !r.spent() {
		r.checkTexts(h)
	}
	if !r.spent() {
		r.checkBody(h)
	}
	if !r.spent() {
		r.checkAttributes(valid && r.schema == by)
	}
	if h.Parts > 0 && !r.spent() {
		r.checkParts(e)
	}
	if r.kind == metricGroup && !r.spent() {
		r.checkNumber(e, h)
	}
	if len(r.verdicts)+len(r.resourceVerdicts)+len(r.metricVerdicts) > 0 {
		r.finish(e.Index)
	}
	return true
}

// finish makes a finding of the verdicts on an event.
func (r *run) finish(index int) {
	if r.budget <= 0 {
		for _, from := range [][]Verdict{r.verdicts, r.metricVerdicts, r.resourceVerdicts} {
			if len(from) > 0 {
				r.found = append(r.found, Finding{Event: index, PII: r.schema != nil && r.schema.pii, Verdicts: r.shortened(from[0])})
				break
			}
		}
		r.verdicts, r.more = r.verdicts[:0], 0
		return
	}
	f := Finding{Event: index, PII: r.schema != nil && r.schema.pii, More: r.more + r.resourceMore}
	most := min(len(r.verdicts)+len(r.metricVerdicts)+len(r.resourceVerdicts), maxVerdicts, r.budget)
	r.budget -= most
	all := make([]Verdict, 0, most)
	for _, from := range [][]Verdict{r.verdicts, r.metricVerdicts, r.resourceVerdicts} {
		n := min(len(from), most-len(all))
		all = append(all, from[:n]...)
		f.More += len(from) - n
	}
	f.Verdicts = all
	r.found = append(r.found, f)
	r.verdicts, r.more = r.verdicts[:0], 0
}

// shortened is what is kept of a verdict, one slice for all that are alike.
func (r *run) shortened(v Verdict) []Verdict {
	key := Verdict{Code: v.Code, Schema: v.Schema, Version: v.Version}
	all, ok := r.short[key]
	if !ok {
		if r.short == nil {
			r.short = map[Verdict][]Verdict{}
		}
		all = []Verdict{key}
		r.short[key] = all
	}
	return all
}

// add notes a verdict of a schema; nil: of the limits.
func (r *run) add(s *Schema, v Verdict) {
	if len(r.verdicts) >= maxVerdicts {
		r.more++
		return
	}
	if s != nil {
		v.Schema, v.Version = s.ID, s.Version
	}
	v.Expected = clip(v.Expected, maxExpectedBytes)
	v.Path = clip(v.Path, maxPathBytes)
	r.verdicts = append(r.verdicts, v)
}

// find finds the event's schema, unless it is that of the event before.
func (r *run) find(e *otlpwire.Event) {
	name := r.head.Name
	if r.kind == eventGroup && len(name) == 0 && len(r.registry.byName[eventGroup]) > 0 {
		if v, ok := e.Attr("event.name"); ok && v.Type() == otlpwire.TypeString { // where the name was before OTLP 1.5
			name = v.Bytes()
		}
	}
	if r.named && r.spanKind == r.head.Kind && string(name) == string(r.name) {
		return
	}
	r.named, r.name, r.spanKind = true, name, r.head.Kind
	r.schema = r.registry.of(r.kind, name, r.head.Kind, r.scopeName, r.url)
	r.limits = &r.base
	if r.schema != nil && r.schema.limits != nil {
		r.patched = r.base
		r.patched.patch(r.schema.limits)
		r.limits = &r.patched
	}
}

// checkResource finds what holds for all events of a resource.
func (r *run) checkResource(e *otlpwire.Event) {
	r.limits = &r.base
	r.named = false // the limits are a schema's no more
	r.at = "resource."
	n := r.set(nil, noTable, e.ResourceAttributes().Cursor(), false)
	r.tooMany(n)
	r.schemaOnly = true // the limits have been checked
	for _, s := range r.registry.resources {
		if s.match.SchemaURL != "" && !glob(s.match.SchemaURL, e.SchemaURL()) || s.match.Scope != "" && !glob(s.match.Scope, e.ScopeName()) {
			continue
		}
		r.set(s, s.table, e.ResourceAttributes().Cursor(), false)
	}
	r.at, r.schemaOnly = "", false
	r.resourceVerdicts, r.verdicts = append(r.resourceVerdicts[:0], r.verdicts...), r.verdicts[:0]
	r.resourceMore, r.more = r.more, 0
}

func (r *run) tooMany(n int) {
	if most := r.limits.AttributesMax; most > 0 && n > most {
		r.add(nil, Verdict{Code: TooManyAttributes, Path: r.at + "attributes", Expected: "at most " + strconv.Itoa(most), Got: strconv.Itoa(n)})
	}
}

// checkMetric finds what holds for all data points of a metric.
func (r *run) checkMetric(e *otlpwire.Event) {
	m := &e.Metric
	before := len(r.verdicts)
	if len(m.Name) == 0 {
		r.add(nil, Verdict{Code: MetricName, Path: "metric.name", Expected: "a name"})
	}
	r.text("metric.name", m.Name)
	r.text("metric.unit", m.Unit)
	if s := r.schema; s != nil && s.metric != nil {
		got := instrument(m)
		switch want := s.metric.instrument; {
		case got == want:
		case want == "counter" && got == "updowncounter":
			r.add(s, Verdict{Code: MetricNotMonotonic, Path: "metric.is_monotonic", Expected: "a monotonic sum", Got: "a sum that is not monotonic"})
		default:
			r.add(s, Verdict{Code: MetricType, Path: "metric.type", Expected: want, Got: got})
		}
		if unit := s.metric.unit; unit != nil && string(m.Unit) != *unit {
			r.add(s, Verdict{Code: MetricUnit, Path: "metric.unit", Expected: strconv.Quote(*unit), Got: quote(m.Unit)})
		}
		if want := s.metric.temporality; want != 0 && (got == "counter" || got == "updowncounter" || got == "histogram") && m.Temporality() != want {
			r.add(s, Verdict{Code: MetricTemporality, Path: "metric.aggregation_temporality", Expected: temporality(want), Got: temporality(m.Temporality())})
		}
	}
	r.metricVerdicts, r.verdicts = append(r.metricVerdicts[:0], r.verdicts[before:]...), r.verdicts[:before]
}

func temporality(t int32) string {
	switch t {
	case 0:
		return "unspecified"
	case 1:
		return "delta"
	case 2:
		return "cumulative"
	}
	return strconv.Itoa(int(t))
}

// checkNumber: a sum that only rises cannot be below zero.
func (r *run) checkNumber(e *otlpwire.Event, h *otlpwire.Head) {
	if e.Metric.Type != otlpwire.Sum {
		return
	}
	v := h.Number
	if (v.Type() == otlpwire.TypeInt && v.Int() < 0 || v.Type() == otlpwire.TypeDouble && v.Double() < 0) && e.Metric.Monotonic() {
		r.add(nil, Verdict{Code: SumNegative, Path: "value", Expected: "not below 0 in a monotonic sum", Got: number(v)})
	}
}

func (r *run) checkTimes(h *otlpwire.Head) {
	at, path := h.Time, "time_unix_nano"
	switch r.kind {
	case eventGroup:
		if at == 0 {
			at, path = h.ObservedTime, "observed_time_unix_nano"
		}
		if at == 0 {
			return // OTLP allows it; it is dated when it was received
		}
	case spanGroup:
		path = "start_time_unix_nano"
		if h.EndTime != 0 && h.EndTime < at {
			r.add(nil, Verdict{Code: TimeOrder, Path: "end_time_unix_nano", Expected: "not before start_time_unix_nano", Got: moment(h.EndTime)})
		}
	}
	if at == 0 {
		r.add(nil, Verdict{Code: TimeMissing, Path: path, Expected: "a time"})
		return
	}
	if most := uint64(r.limits.AgeMax); most > 0 && at < r.now && r.now-at > most {
		r.add(nil, Verdict{Code: TimeTooOld, Path: path, Expected: "at most " + r.limits.AgeMax.String() + " before it was received", Got: moment(at)})
	}
	if most := uint64(r.limits.FutureMax); most > 0 && at > r.now && at-r.now > most {
		r.add(nil, Verdict{Code: TimeInFuture, Path: path, Expected: "at most " + r.limits.FutureMax.String() + " after it was received", Got: moment(at)})
	}
}

func moment(unixNano uint64) string {
	if unixNano > 1<<63-1 {
		return strconv.FormatUint(unixNano, 10)
	}
	return time.Unix(0, int64(unixNano)).UTC().Format(time.RFC3339Nano)
}

// checkTexts: the event's own texts must be text.
func (r *run) checkTexts(h *otlpwire.Head) {
	if r.kind == metricGroup {
		return // checkMetric has its name
	}
	if len(h.Name) > 0 {
		if r.kind == spanGroup {
			r.text("name", h.Name)
		} else {
			r.text("event_name", h.Name)
		}
	}
	r.text("severity_text", h.SeverityText)
	r.text("trace_state", h.TraceState)
	r.text("status.message", h.StatusMessage)
}

func (r *run) text(path string, s []byte) {
	if !textual(s, math.MaxInt) {
		r.add(nil, Verdict{Code: InvalidUTF8, Path: path, Expected: "UTF-8", Got: strconv.Itoa(len(s)) + " bytes"})
	}
}

// checkParts: span events, links and exemplars have attributes too; the limits hold for them.
func (r *run) checkParts(e *otlpwire.Event) {
	schema, limits := r.schema, r.limits
	e.Parts(func(p otlpwire.Part) bool {
		r.at = fmt.Sprintf("%s[%d].", p.Kind, p.Index)
		if p.Kind == otlpwire.SpanLink {
			r.text(r.at+"trace_state", p.Text)
		} else {
			r.text(r.at+"name", p.Text)
		}
		r.tooMany(r.set(nil, noTable, p.Attributes.Cursor(), false))
		return true
	})
	r.at, r.schema, r.limits = "", schema, limits
}

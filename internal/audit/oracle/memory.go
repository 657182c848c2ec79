package oracle

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Rule is why an event is a copy.
type Rule uint8

// The rules; 0: the event is no copy.
const (
	UID Rule = iota + 1
	ByRequest
	ByContent
)

// Rules are all of them.
var Rules = []Rule{UID, ByRequest, ByContent}

func (r Rule) String() string { return [...]string{"", "uid", "request", "content"}[r] }

// Record is what a Kafka record says of its events.
type Record struct {
	Offset      int64
	Appended    time.Time
	Tenant      string
	Key         []byte
	Value       []byte // OTLP request that pdata's decoder takes
	Header      []byte // header `request`; nil: none
	IDAttribute string // header `id_attribute`; empty: none
}

// Request is a record that was read.
type Request struct {
	Record
	Header Header // of a record without one, or with one that is ignored: Whole
	Events []Event
}

// Read reads a record.
func Read(s signal.Signal, r Record) (*Request, error) {
	events, err := Events(s, r.Value, r.IDAttribute)
	if err != nil {
		return nil, err
	}
	q := &Request{Record: r, Events: events}
	if r.Header != nil {
		if h, ok := ParseHeader(r.Header, len(events)); ok {
			q.Header = h
			return q, nil
		}
	}
	q.Header = Header{Digest: Digest(r.Value), Whole: true}
	return q, nil
}

// Index is the index in its request of the event at a position of the record.
func (q *Request) Index(position int) uint32 {
	if q.Header.Whole {
		return uint32(position)
	}
	return q.Header.Indexes[position]
}

// ID is the id of the event's row.
func (q *Request) ID(position int) [16]byte { return EventID(q.Header.Digest, q.Index(position)) }

// rule that decides on an event.
func (q *Request) rule(position int) Rule {
	e := &q.Events[position]
	switch {
	case q.Header.Resent:
		return ByRequest
	case e.HasUID():
		return UID
	case e.Coarse():
		return ByRequest
	}
	return ByContent
}

// Place of an event in the partition.
type Place struct {
	Offset   int64
	Position int32
}

// Verdict on one event.
type Verdict struct {
	Rule Rule  // 0: no copy
	Of   Place // the latest earlier occurrence
	// Differs: the earlier event is the same by the rule `request` and its content is another. Of a record that PulseGrid sent again (repair) that is
	// a copy: it was mended otherwise. Of any other it is no copy, and Rule is 0: the header that says so is wrong.
	Differs bool
}

// Memory decides on the records of one partition, in their order. The time of an event is the latest append time of the records with events up to
// and including its own. It counts in steps: 1/1024 of the window, rounded up to milliseconds. Every occurrence counts, also that of a copy. Use it
// from one goroutine.
//
// It holds 70 to 100 bytes for each event of the rules `uid` and `content` that occurred within the window, 32 for each of the rule `request`,
// another 70 to 100 for each event of a part of a request, and about 300 for each record.
type Memory struct {
	step     int64 // ms
	window   int64 // steps; 0: nothing is a copy
	now      int64 // the partition's time, steps since 1970
	swept    int64
	tenants  map[string]uint32
	events   map[eventKey]occurrence
	requests map[[32]byte]*requestState

	verdicts []Verdict
	equals   map[[32]byte]uint32 // of the record that is decided
}

// eventKey is what the rules uid and content look for: a whole SHA-256, so equal keys are equal content.
type eventKey struct {
	sum     [32]byte
	tenant  uint32
	ordinal uint32 // ofUID: sum is Event.UID
}

const ofUID = math.MaxUint32

const equalsKept = 10_000

type occurrence struct {
	record   *record
	position int32
}

func (o occurrence) place() Place { return Place{o.record.offset, o.position} }

// record is what is kept of one.
type record struct {
	offset, at int64      // at: steps
	all        [32]byte   // SHA-256 over the contents of all its events
	contents   [][32]byte // of each event, where an event is decided by the rule `request`, or where it is a part of a request
	events     int
	request    bool // an event is decided by the rule `request`
}

// requestState is what is known of one request: tenant, record key and digest.
type requestState struct {
	whole last
	parts map[uint32]last // by index
}

// last are the last two occurrences that matter, of the whole request or of one event of a part: any, and one that the rule `request` decided on. They
// differ where a record was sent again under other headers.
type last struct{ any, request occurrence }

func (l *last) set(o occurrence, request bool) {
	l.any = o
	if request {
		l.request = o
	}
}

const stepsOfWindow = 1024

// stepsOf divides a window: the length of a step in milliseconds, and how many steps it has.
func stepsOf(window time.Duration) (step, n int64) {
	ms := window.Milliseconds()
	step = max(1, (ms+stepsOfWindow-1)/stepsOfWindow)
	return step, (ms + step - 1) / step
}

// Reach is how much older an occurrence that counts can be: less than a step more than the window.
func Reach(window time.Duration) time.Duration {
	if window == 0 {
		return 0
	}
	step, n := stepsOf(window)
	return time.Duration((n+1)*step) * time.Millisecond
}

// NewMemory returns a memory of that length.
func NewMemory(window time.Duration) *Memory {
	step, n := stepsOf(window)
	return &Memory{
		step: step, window: n, tenants: map[string]uint32{}, events: map[eventKey]occurrence{}, requests: map[[32]byte]*requestState{},
		equals: map[[32]byte]uint32{},
	}
}

// Add decides on a record's events; the verdicts are valid until the next call. repeats tells that the record repeats a request, or the same part
// of one, as a whole: the same tenant and record key sent each of its events before with the same request digest and index.
func (m *Memory) Add(q *Request) (verdicts []Verdict, repeats bool) {
	m.verdicts = m.verdicts[:0]
	if len(q.Events) == 0 {
		return nil, false
	}
	m.advance(q.Appended)
	if m.window == 0 {
		return append(m.verdicts, make([]Verdict, len(q.Events))...), false
	}
	tenant, ok := m.tenants[q.Tenant]
	if !ok {
		tenant = uint32(len(m.tenants))
		m.tenants[q.Tenant] = tenant
	}
	rec := m.record(q)
	key := requestKey(tenant, q.Key, q.Header.Digest)
	state := m.requests[key]
	if len(m.equals) > equalsKept {
		m.equals = map[[32]byte]uint32{} // clearing takes as long as it once was large
	}
	clear(m.equals)
	repeats = true
	for i := range q.Events {
		e := &q.Events[i]
		rule := q.rule(i)
		var v Verdict
		switch rule {
		case ByRequest:
			if of, equal := m.earlier(state, rec, q, i); of.record != nil {
				v = Verdict{Rule: ByRequest, Of: of.place(), Differs: !equal}
				if !equal && !q.Header.Resent {
					v.Rule = 0
				}
			}
		case UID:
			v = m.find(eventKey{e.UID, tenant, ofUID}, rule, rec, int32(i))
		case ByContent:
			v = m.find(eventKey{e.Content, tenant, m.ordinal(q, i)}, rule, rec, int32(i))
		}
		repeats = repeats && v.Rule != 0 && m.sent(state, q.Index(i))
		m.verdicts = append(m.verdicts, v)
	}
	m.keep(key, state, rec, q)
	return m.verdicts, repeats
}

func requestKey(tenant uint32, key []byte, digest [16]byte) [32]byte {
	b := make([]byte, 0, 64)
	b = append(binary.LittleEndian.AppendUint32(b, tenant), digest[:]...)
	return sha256.Sum256(append(b, key...))
}

func (m *Memory) record(q *Request) *record {
	rec := &record{offset: q.Offset, at: m.now, events: len(q.Events)}
	h := sha256.New()
	for i := range q.Events {
		_, _ = h.Write(q.Events[i].Content[:]) // a hash never fails
		rec.request = rec.request || q.rule(i) == ByRequest
	}
	h.Sum(rec.all[:0])
	if rec.request || !q.Header.Whole {
		rec.contents = make([][32]byte, len(q.Events))
		for i := range q.Events {
			rec.contents[i] = q.Events[i].Content
		}
	}
	return rec
}

// ordinal of an event of the rule content.
func (m *Memory) ordinal(q *Request, position int) uint32 {
	if !q.Header.Whole {
		return q.Header.Ordinals[int32(position)]
	}
	n := m.equals[q.Events[position].Content]
	m.equals[q.Events[position].Content] = n + 1
	return n
}

// within tells whether a record is there, and within the window.
func (m *Memory) within(r *record) bool { return r != nil && m.now-r.at <= m.window }

// find looks for an event by its key, and remembers it.
func (m *Memory) find(key eventKey, rule Rule, rec *record, position int32) (v Verdict) {
	before, ok := m.events[key]
	// Equal events of one request are never copies of each other, whatever a header says of their ordinals.
	if ok && m.within(before.record) && (before.record != rec || rule == UID) {
		v = Verdict{Rule: rule, Of: before.place()}
	}
	m.events[key] = occurrence{rec, position}
	return v
}

// sent tells whether the request's event of that index was sent before.
func (m *Memory) sent(state *requestState, index uint32) bool {
	if state == nil {
		return false
	}
	if w := state.whole.any.record; m.within(w) && int(index) < w.events {
		return true
	}
	return m.within(state.parts[index].any.record)
}

// earlier is the latest occurrence of the event's index in the same request that the rule `request` remembers, and whether the two have the same
// content. One of equal content is preferred.
func (m *Memory) earlier(state *requestState, rec *record, q *Request, position int) (of occurrence, equal bool) {
	if state == nil {
		return occurrence{}, false
	}
	index := q.Index(position)
	content := &q.Events[position].Content
	if w := state.whole.request.record; m.within(w) && int(index) < w.events {
		of = occurrence{w, int32(index)}
		equal = rec.all == w.all && q.Header.Whole || w.contents[index] == *content
	}
	if p := state.parts[index].request; m.within(p.record) {
		same := p.record.contents[p.position] == *content
		if of.record == nil || same && !equal || same == equal && p.record.offset > of.record.offset {
			of, equal = p, same
		}
	}
	return of, equal
}

// keep remembers a request.
func (m *Memory) keep(key [32]byte, state *requestState, rec *record, q *Request) {
	if state == nil {
		state = &requestState{}
		m.requests[key] = state
	}
	if q.Header.Whole {
		state.whole.set(occurrence{rec, 0}, rec.request)
		return
	}
	if state.parts == nil {
		state.parts = map[uint32]last{}
	}
	for i, index := range q.Header.Indexes {
		l := state.parts[index]
		l.set(occurrence{rec, int32(i)}, q.rule(i) == ByRequest)
		state.parts[index] = l
	}
}

// advance goes on to a record that holds events, and now and then forgets what is too old to matter.
func (m *Memory) advance(appended time.Time) {
	m.now = max(m.now, appended.UnixMilli()/m.step)
	if m.swept == 0 {
		m.swept = m.now
	}
	if m.now-m.swept < m.window/4 {
		return
	}
	m.swept = m.now
	for key, o := range m.events {
		if !m.within(o.record) {
			delete(m.events, key)
		}
	}
	for key, s := range m.requests {
		for index, l := range s.parts {
			if !m.within(l.any.record) {
				delete(s.parts, index)
			}
		}
		if !m.within(s.whole.any.record) && len(s.parts) == 0 {
			delete(m.requests, key)
		}
	}
}

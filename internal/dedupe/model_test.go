package dedupe

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// sent is one log record as a client sends it.
type sent struct {
	resource, uid, body string
	time                int64 // ns
}

func (s sent) rule(resent bool) eventid.Rule {
	switch {
	case resent:
		return eventid.ByRequest
	case s.uid != "":
		return eventid.ByUID
	case s.time%1e6 == 0:
		return eventid.ByRequest
	}
	return eventid.ByContent
}

// request is what a client sends at once.
type request struct {
	tenant, source string
	events         []sent
}

// equals is how many events before this one are equal to it.
func (r *request) equals(index int) (n int) {
	for _, e := range r.events[:index] {
		if e == r.events[index] {
			n++
		}
	}
	return n
}

func (r *request) encode() []byte {
	ld := plog.NewLogs()
	for i, e := range r.events {
		if i == 0 || r.events[i-1].resource != e.resource {
			rl := ld.ResourceLogs().AppendEmpty()
			rl.Resource().Attributes().PutStr("service.name", e.resource)
			rl.ScopeLogs().AppendEmpty()
		}
		lr := ld.ResourceLogs().At(ld.ResourceLogs().Len() - 1).ScopeLogs().At(0).LogRecords().AppendEmpty()
		lr.SetTimestamp(pcommon.Timestamp(e.time))
		lr.Body().SetStr(e.body)
		if e.uid != "" {
			lr.Attributes().PutStr(eventid.AttrUID, e.uid)
		}
	}
	b, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	if err != nil {
		panic(err)
	}
	return b
}

// record is a Kafka record: a whole request, or the events of these indexes.
type record struct {
	offset   int64
	appended int64 // ms
	request  *request
	part     []int // nil: all
	resent   bool
	identity eventid.Record
}

func (r *record) events() int {
	if r.part != nil {
		return len(r.part)
	}
	return len(r.request.events)
}

// index is that of the event at a position.
func (r *record) index(position int) int {
	if r.part != nil {
		return r.part[position]
	}
	return position
}

// read makes the record's identity of its bytes and headers, as a receiver does.
func (r *record) read(t testing.TB) {
	t.Helper()
	value := r.request.encode()
	header := eventid.Request{Digest: eventid.Digest(value), Whole: r.part == nil, Resent: r.resent}
	if r.part != nil {
		var err error
		value, _, err = otlpwire.Split(signal.Logs, value, func(index int) bool { return slices.Contains(r.part, index) })
		require.NoError(t, err)
		for _, index := range r.part {
			header.Add(index, r.request.equals(index))
		}
	}
	from := eventid.From{Tenant: r.request.tenant, Source: []byte(r.request.source)}
	if r.part != nil || r.resent || r.offset%2 == 0 { // a whole request has a header or not
		from.Request = header.Encode()
	}
	r.identity = eventid.Record{Offset: r.offset, Appended: r.appended}
	require.NoError(t, eventid.NewReader(signal.Logs, false).Read(&r.identity, value, r.events(), from))
}

// copies is the rule, written down as it is said (decision 0030): for each record, which of its events repeat an earlier one.
func copies(log []record, step, window int64) [][]bool {
	occurred := map[string][]int64{} // times of occurrences, in steps
	now := int64(never)
	var out [][]bool
	for i := range log {
		r := &log[i]
		if r.events() > 0 {
			now = max(now, r.appended/step)
		}
		byIndex := func(index int) string {
			return fmt.Sprintf("request %q %q %q %d", r.request.tenant, r.request.source, r.request.encode(), index)
		}
		whole := false // the record's occurrence is one of every event of its request
		dup := make([]bool, r.events())
		for p := range dup {
			e := r.request.events[r.index(p)]
			var name string
			switch e.rule(r.resent) {
			case eventid.ByUID:
				name = fmt.Sprintf("uid %q %q %q", r.request.tenant, e.resource, e.uid)
			case eventid.ByContent:
				name = fmt.Sprintf("content %q %v %d", r.request.tenant, e, r.request.equals(r.index(p)))
			case eventid.ByRequest:
				name = byIndex(r.index(p))
				whole = whole || r.part == nil
			}
			for _, at := range occurred[name] {
				dup[p] = dup[p] || now-at <= window
			}
			occurred[name] = append(occurred[name], now)
		}
		if whole {
			for index := range dup {
				occurred[byIndex(index)] = append(occurred[byIndex(index)], now)
			}
		}
		out = append(out, dup)
	}
	return out
}

// randomLog is a partition with holes between offsets, empty records, several tenants with the same events, events of all rules, requests that come again
// whole, divided and divided otherwise, within and out of the window and at its very edge, and clocks that go back.
func randomLog(t testing.TB, rnd *rand.Rand, records int, window int64) []record {
	var requests []*request
	var log []record
	offset, now := rnd.Int64N(1000), time.Now().UnixMilli()
	few := 1 + rnd.IntN(20)
	for range records {
		offset += 1 + rnd.Int64N(2)*rnd.Int64N(5)
		switch rnd.IntN(12) {
		case 0:
			now += window
		case 1:
			now += window / 2
		case 2:
			now += window + 1
		case 3:
			now -= rnd.Int64N(window + 2)
		case 4:
			now += rnd.Int64N(2 * window)
		default:
			now += rnd.Int64N(window/20 + 1)
		}
		r := record{offset: offset, appended: now, resent: rnd.IntN(12) == 0}
		if len(requests) > 0 && rnd.IntN(3) > 0 {
			r.request = requests[rnd.IntN(len(requests))]
		} else {
			r.request = randomRequest(rnd, few)
			requests = append(requests, r.request)
		}
		if rnd.IntN(2) == 0 {
			r.part = []int{}
			for index := range r.request.events {
				if rnd.IntN(2) == 0 {
					r.part = append(r.part, index)
				}
			}
		}
		r.read(t)
		log = append(log, r)
	}
	return log
}

func randomRequest(rnd *rand.Rand, few int) *request {
	r := &request{tenant: fmt.Sprint("t", rnd.IntN(2)), source: fmt.Sprint("s", rnd.IntN(2))}
	for range rnd.IntN(6) {
		e := sent{resource: fmt.Sprint("r", rnd.IntN(2)), body: fmt.Sprint("b", rnd.IntN(few)), time: int64(rnd.IntN(3)) * 1e6}
		if rnd.IntN(2) == 0 {
			e.time++
		}
		if rnd.IntN(5) == 0 {
			e.uid = fmt.Sprint("u", rnd.IntN(few))
		}
		r.events = append(r.events, e)
	}
	return r
}

// part is a block, or a part of one, with its records' positions in the log.
type part struct {
	block.Block
	records []int
}

// tile cuts the log from offset first on into blocks of up to n records.
func tile(rnd *rand.Rand, log []record, first int64, n int) []part {
	var out []part
	p := part{Block: block.Block{Topic: "t", Signal: signal.Logs, First: first}}
	size := 1 + rnd.IntN(n)
	for i, r := range log {
		if r.offset < first {
			continue
		}
		p.records = append(p.records, i)
		if len(p.records) == size || i == len(log)-1 {
			p.Last = r.offset
			out = append(out, p)
			p = part{Block: p.Block}
			p.First = r.offset + 1
			size = 1 + rnd.IntN(n)
		}
	}
	return out
}

// halves tile p.
func (p part) halves(log []record) []part {
	if len(p.records) < 2 {
		return []part{p}
	}
	left, right := p, p
	left.records, right.records = p.records[:len(p.records)/2], p.records[len(p.records)/2:]
	left.Last = log[left.records[len(left.records)-1]].offset
	right.First = left.Last + 1
	return []part{left, right}
}

func (p part) identities(log []record) []eventid.Record {
	var out []eventid.Record
	for _, i := range p.records {
		if log[i].events() > 0 {
			out = append(out, log[i].identity)
		}
	}
	return out
}

// warmUp does what a receiver does before the block that begins at next.
func warmUp(m *Memory, partition int32, log []record, next int64) {
	m.Begin("t", partition, next)
	from := int64(0)
	for _, r := range log {
		if r.offset >= next && r.events() > 0 {
			from = r.appended - m.Window().Milliseconds()
			break
		}
	}
	begun := false
	for _, r := range log {
		if r.offset >= next {
			return
		}
		begun = begun || r.appended >= from
		if begun {
			m.Remember("t", partition, &r.identity)
		}
	}
}

package dedupe

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// record is a Kafka record as far as dedupe sees it.
type record struct {
	offset   int64
	appended int64 // ms
	tenant   string
	ids      [][16]byte
}

// duplicates is the rule, written down as it is said: for each record, which of its events are duplicates.
func duplicates(log []record, window int64) [][]bool {
	type id struct {
		tenant string
		id     [16]byte
	}
	occurred := map[id][]int64{}
	now := int64(never)
	var out [][]bool
	for _, r := range log {
		if len(r.ids) > 0 {
			now = max(now, r.appended)
		}
		dup := make([]bool, len(r.ids))
		for i := range r.ids {
			k := id{r.tenant, r.ids[i]}
			for _, at := range occurred[k] {
				if now-at <= window {
					dup[i] = true
				}
			}
			occurred[k] = append(occurred[k], now)
		}
		out = append(out, dup)
	}
	return out
}

// randomLog is a partition with holes between offsets, empty records, several tenants with the same ids, copies within and out of the
// window and at its very edge, and clocks that go back.
func randomLog(rnd *rand.Rand, records int, window int64) []record {
	var log []record
	offset, now := rnd.Int64N(1000), time.Now().UnixMilli()
	few := 1 + rnd.IntN(40)
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
		r := record{offset: offset, appended: now, tenant: fmt.Sprint("t", rnd.IntN(3))}
		for range rnd.IntN(8) {
			r.ids = append(r.ids, testID(rnd.IntN(few)))
		}
		log = append(log, r)
	}
	return log
}

func testID(n int) (id [16]byte) {
	copy(id[:], fmt.Sprintf("%016d", n))
	return id
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

func (p part) events(m *Memory, log []record) []Event {
	var out []Event
	for _, i := range p.records {
		r := log[i]
		t := m.Tenant(r.tenant)
		for j := range r.ids {
			out = append(out, Event{Key: t.Key(&r.ids[j]), Appended: r.appended, Offset: r.offset, Index: int32(j)})
		}
	}
	return out
}

// warmUp does what a receiver does before the block that begins at next.
func warmUp(m *Memory, partition int32, log []record, next int64) {
	m.Begin("t", partition, next)
	from := int64(0)
	for _, r := range log {
		if r.offset >= next && len(r.ids) > 0 {
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
			m.Remember("t", partition, r.offset, time.UnixMilli(r.appended), r.tenant, r.ids)
		}
	}
}

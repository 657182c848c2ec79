package otlpwire

import (
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Levels of the messages around an event. A log record or a span has the first three, a data point has five.
const (
	requestLevel = iota
	resourceLevel
	scopeLevel
	metricLevel
	dataLevel
	levels
)

// level is one message around an event.
type level struct {
	num    int32    // its field number in the message around it; 0 for the request
	msg    []byte   // the message
	holder *message // what msg is
	nested int32    // number of its field that holds the next level or the events; 0: it has none
	last   int      // of a oneof: where in msg the field that counts begins; -1: all count
}

// path leads to an event.
type path struct {
	at      [levels]level
	depth   int // index of the innermost level
	event   []byte
	changed int // the outermost level that is another one than for the event before; levels: none
}

// enter makes msg the path's level d, and finds out which of its fields hold the next one.
func (p *path) enter(d int, num int32, holder *message, msg []byte) *Error {
	l := &p.at[d]
	*l = level{num: num, msg: msg, holder: holder, last: -1}
	p.depth = d
	p.changed = min(p.changed, d)
	if holder != metricMsg && holder.old == nil {
		for n := range holder.fields {
			if holder.fields[n].kind >= kEvents {
				l.nested = int32(n)
			}
		}
		return nil
	}
	f := fields{b: msg}
	for f.next() {
		switch kind := holder.field(f.num).kind; {
		case kind < kEvents || f.wire != wireLen:
		case kind == kWrappedOld && l.nested != 0:
		case kind == kWrappedOneof:
			l.nested, l.last = f.num, f.start
		default:
			l.nested = f.num
		}
	}
	if f.err < 0 {
		return malformed("field", f.pos, f.err)
	}
	return nil
}

// nests tells whether a field of the level holds the next level or an event.
func (l *level) nests(f *fields) bool {
	return f.num == l.nested && f.wire == wireLen && (l.last < 0 || l.last == f.start)
}

// descend calls fn for each event of req, with the path to it, until fn returns false.
func descend(sig signal.Signal, req []byte, fn func(*path) bool) error {
	p := path{}
	if e := p.enter(requestLevel, 0, requestOf(sig), req); e != nil {
		return e
	}
	if _, e := p.descend(requestLevel, fn); e != nil {
		return e
	}
	return nil
}

func (p *path) descend(d int, fn func(*path) bool) (bool, *Error) {
	l := &p.at[d]
	f := fields{b: l.msg}
	for f.next() {
		if !l.nests(&f) {
			continue
		}
		nested := l.holder.field(f.num)
		if nested.kind == kEvents {
			p.event = f.content()
			if !fn(p) {
				return false, nil
			}
			p.changed = levels
			continue
		}
		e := p.enter(d+1, f.num, nested.of, f.content())
		more := true
		if e == nil {
			more, e = p.descend(d+1, fn)
		}
		if e != nil {
			return false, e.in(nested.name, f.value)
		}
		if !more {
			return false, nil
		}
		p.depth = d
	}
	if f.err < 0 {
		return false, malformed("field", f.pos, f.err)
	}
	return true, nil
}

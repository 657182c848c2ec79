// Package refusals counts what a server has refused, by kind, and tells it in the server's log at a bounded rate; Newest reads such a log.
//
// The first refusal of a kind is logged at once, those that follow in one line a minute. Both the kinds that are remembered and the lines are bounded: a
// sender decides about neither. Texts of senders are clipped and keep no control characters.
package refusals

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Message is the text of each line in the log.
const Message = "requests refused"

const (
	maxKinds     = 256              // that are told apart by tenant and sender; others are counted together
	maxCommon    = 64               // kinds of those others
	interval     = 10 * time.Second // between two looks for what is to be logged
	maxLines     = 5                // an interval. The Collector's logger drops lines of one text behind the 10th in 10 s
	summaryEvery = time.Minute      // of a kind
	forgetAfter  = 10 * time.Minute // a kind that has not come again
)

// Others stands for the tenant and the sender where there are too many kinds to tell them apart.
const Others = "(others)"

// Kind is what refusals are counted by.
type Kind struct {
	Protocol string `json:"protocol"`         // http, grpc
	Status   string `json:"status"`           // that the sender was told: 413, InvalidArgument; of a request that was taken in part 200 or OK
	Reason   string `json:"reason"`           // why
	Detail   string `json:"detail,omitempty"` // of google.rpc.ErrorInfo, such as QUOTA_EXCEEDED
	Tenant   string `json:"tenant,omitempty"` // empty: not known
	Sender   string `json:"sender"`           // address without port; Others; empty: not told
}

// Line is what is known of a kind: a line of the log.
type Line struct {
	Kind
	Requests  int64     `json:"requests"`         // since First
	Events    int64     `json:"events,omitempty"` // rejected, of requests that were taken in part
	First     time.Time `json:"first"`            // since the server started, or had not seen the kind for 10 minutes
	Last      time.Time `json:"last"`
	UserAgent string    `json:"user_agent,omitempty"` // of the example
	Example   string    `json:"example"`              // what a sender was told
}

// Refusal is one request that was refused, or of which some events were.
type Refusal struct {
	Kind
	UserAgent string
	Text      string // what the sender was told
	Quotes    bool   // Text may quote values of events: the log shall not have them
	Events    int    // that were rejected, where the others were taken
}

// Log counts refusals. Its methods may be called by any goroutine.
type Log struct {
	logger *zap.Logger

	mu     sync.Mutex // guards what follows
	kinds  map[Kind]*entry
	lines  int         // that may still be logged in this interval
	timer  *time.Timer // of the next look; nil: there is nothing to look for
	closed bool
}

type entry struct {
	Line
	untold time.Time // the first refusal that no line tells of; zero: there is none
	told   time.Time // the last line; zero: there is none
}

// New returns a Log that writes to logger.
func New(logger *zap.Logger) *Log {
	return &Log{logger: logger, kinds: map[Kind]*entry{}, lines: maxLines}
}

// Add counts a refusal.
func (l *Log) Add(r Refusal) {
	r.Tenant, r.Sender, r.Detail = printable(r.Tenant, maxNameBytes), printable(r.Sender, maxNameBytes), printable(r.Detail, maxNameBytes)
	now := time.Now()
	line, first := l.add(&r, now)
	if first {
		l.write(line)
	}
}

// add returns the kind's line if it is to be logged at once.
func (l *Log) add(r *Refusal, now time.Time) (line Line, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entryOf(r.Kind, now)
	e.Last = now
	e.Requests++
	e.Events += int64(r.Events)
	if e.untold.IsZero() {
		e.untold = now
		e.UserAgent, e.Example = printable(r.UserAgent, maxNameBytes), printable(r.Text, maxTextBytes)
		if r.Quotes {
			e.Example = withoutValues(e.Example)
		}
	}
	if l.timer == nil && !l.closed {
		l.timer = time.AfterFunc(interval, l.look)
	}
	if !e.told.IsZero() || l.lines == 0 || l.closed {
		return Line{}, false
	}
	return l.tell(e, now), true
}

// entryOf finds a kind, or makes it. Where there is no room it is counted together with others, last with all others.
func (l *Log) entryOf(k Kind, now time.Time) *entry {
	if l.kinds[k] == nil && len(l.kinds) >= maxKinds {
		k = Kind{Protocol: k.Protocol, Status: k.Status, Reason: k.Reason, Sender: Others}
		if l.kinds[k] == nil && len(l.kinds) >= maxKinds+maxCommon {
			k = Kind{Sender: Others}
		}
	}
	e := l.kinds[k]
	if e == nil {
		e = &entry{Line: Line{Kind: k, First: now}}
		l.kinds[k] = e
	}
	return e
}

// tell is the line of a kind, which the caller writes.
func (l *Log) tell(e *entry, now time.Time) Line {
	l.lines--
	e.untold, e.told = time.Time{}, now
	return e.Line
}

// look writes the lines that are due, and forgets kinds that have not come again.
func (l *Log) look() {
	for _, line := range l.due(time.Now()) {
		l.write(line)
	}
}

func (l *Log) due(now time.Time) []Line {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	lines := l.untold(func(e *entry) bool { return e.told.IsZero() || now.Sub(e.told) >= summaryEvery }, now)
	for k, e := range l.kinds {
		if e.untold.IsZero() && now.Sub(e.Last) >= forgetAfter {
			delete(l.kinds, k)
		}
	}
	l.timer = nil
	if len(l.kinds) > 0 {
		l.timer = time.AfterFunc(interval, l.look)
	}
	return lines
}

// untold begins an interval with the lines of those kinds that are due and wait longest.
func (l *Log) untold(due func(*entry) bool, now time.Time) []Line {
	l.lines = maxLines
	var waiting []*entry
	for _, e := range l.kinds {
		if !e.untold.IsZero() && due(e) {
			waiting = append(waiting, e)
		}
	}
	slices.SortFunc(waiting, func(a, b *entry) int { return cmp.Or(a.untold.Compare(b.untold), a.First.Compare(b.First)) })
	var lines []Line
	for _, e := range waiting[:min(len(waiting), maxLines)] {
		lines = append(lines, l.tell(e, now))
	}
	return lines
}

// Shutdown writes the lines that wait longest, and is the end of writing.
func (l *Log) Shutdown() {
	for _, line := range l.last(time.Now()) {
		l.write(line)
	}
}

func (l *Log) last(now time.Time) []Line {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	if l.timer != nil {
		l.timer.Stop()
	}
	return l.untold(func(*entry) bool { return true }, now)
}

// write logs a line: the fields are those of Line's JSON.
func (l *Log) write(line Line) {
	fields := []zap.Field{zap.String("protocol", line.Protocol), zap.String("status", line.Status), zap.String("reason", line.Reason)}
	optional := func(name, value string) {
		if value != "" {
			fields = append(fields, zap.String(name, value))
		}
	}
	optional("detail", line.Detail)
	optional("tenant", line.Tenant)
	fields = append(fields, zap.String("sender", line.Sender))
	optional("user_agent", line.UserAgent)
	fields = append(fields, zap.Int64("requests", line.Requests))
	if line.Events > 0 {
		fields = append(fields, zap.Int64("events", line.Events))
	}
	fields = append(fields, zap.String("first", line.First.UTC().Format(time.RFC3339)), zap.String("last", line.Last.UTC().Format(time.RFC3339)))
	l.logger.Warn(Message, append(fields, zap.String("example", line.Example))...)
}

package dedupe

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
)

const (
	// WindowMin and WindowMax bound Options.Window.
	WindowMin = time.Second
	WindowMax = 24 * time.Hour
	// MaxBytesMin bounds Options.MaxBytes.
	MaxBytesMin = 1 << 20
)

// Options of a Memory.
type Options struct {
	// Window is how much older an occurrence may be that makes an event a copy. Milliseconds count. Time goes in steps (Step).
	Window time.Duration
	// MaxBytes bounds what is remembered, over all partitions. Where it is reached, the partition with the most forgets its oldest
	// events before their time. Not counted: about 1.5 KiB that every partition may have, and one shard (3 MiB) while it is rebuilt.
	MaxBytes int64
	// Forgot is called with how many events were forgotten early. It must not call the Memory.
	Forgot func(events int64)
	Log    *zap.Logger
}

// Memory remembers the events of the partitions that one pipeline reads, and decides which are duplicates. It is safe for
// concurrent use.
//
// One lock guards all of it: a decision takes a small part of a microsecond an event, which is a fiftieth of what the rest of a
// pipeline does with the event, and with one lock any partition can be made to forget for another.
type Memory struct {
	opts   Options
	step   int64 // ms
	window int64 // steps

	mu         sync.Mutex
	pool       pool
	partitions map[place]*partition
	arrivals   *arrivals
	forgetting bool // an episode of forgetting early was logged and has not ended
	waiting    int
	one        decider
}

var _ block.Memory = (*Memory)(nil)

type place struct {
	topic     string
	partition int32
}

// NewMemory returns an empty Memory.
func NewMemory(opts Options) *Memory {
	step, window := stepsOf(opts.Window)
	m := &Memory{
		opts: opts, step: step, window: window,
		pool:       pool{max: opts.MaxBytes, tables: map[*table]struct{}{}},
		partitions: map[place]*partition{},
	}
	m.arrivals = newArrivals(&m.pool, m.window)
	return m
}

// stepsOf divides a window: a step in milliseconds, and how many steps the window has.
func stepsOf(window time.Duration) (step, n int64) {
	ms := window.Milliseconds()
	step = (ms + steps - 1) / steps
	return step, (ms + step - 1) / step
}

// Window implements block.Memory: an occurrence that counts is less than two steps older than Options.Window.
func (m *Memory) Window() time.Duration {
	return time.Duration((m.window+1)*m.step) * time.Millisecond
}

// Begin implements block.Memory.
func (m *Memory) Begin(topic string, partition int32, next int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.begin(place{topic, partition}, next)
}

func (m *Memory) begin(at place, next int64) *partition {
	if old := m.partitions[at]; old != nil {
		old.end()
	}
	p := &partition{table: newTable(&m.pool, m.window), next: next, moved: make(chan struct{})}
	m.partitions[at] = p
	return p
}

// Remember implements block.Memory.
func (m *Memory) Remember(topic string, id int32, record *eventid.Record) {
	if len(record.Rules) == 0 {
		return // a record without events has no say in the partition's time
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.partitions[place{topic, id}]
	if p == nil {
		return // it has ended
	}
	p.table.advance(record.Appended / m.step)
	m.one.decide(p.table, record)
	m.settle()
}

// End implements block.Memory.
func (m *Memory) End(topic string, partition int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := place{topic, partition}
	if p := m.partitions[at]; p != nil {
		p.end()
		delete(m.partitions, at)
	}
	m.settle()
}

// settle reports what was forgotten early since it was last called, and logs when that begins and when it is over.
func (m *Memory) settle() {
	if n := m.pool.forgotten; n > 0 {
		m.pool.forgotten = 0
		if m.opts.Forgot != nil {
			m.opts.Forgot(n)
		}
		if !m.forgetting {
			m.forgetting = true
			m.opts.Log.Warn("the memory for events is full: the oldest are forgotten before the window has passed, and copies of their "+
				"events are let through; give it more memory, or run more aggregators",
				zap.Int64("max_memory_bytes", m.opts.MaxBytes), zap.Duration("window", m.opts.Window), zap.Duration("effective_window", m.effective()))
		}
	} else if m.forgetting && m.effective() == m.opts.Window {
		m.forgetting = false
		m.opts.Log.Info("nothing is forgotten before the window has passed any more", zap.Duration("window", m.opts.Window))
	}
}

func (m *Memory) effective() time.Duration {
	least := m.window
	for t := range m.pool.tables {
		least = min(least, t.effective())
	}
	if least == m.window {
		return m.opts.Window
	}
	return time.Duration(least*m.step) * time.Millisecond
}

// Stats is what a Memory holds.
type Stats struct {
	Remembered int           // keys: one for an event, or one for a request; of these some have expired and not been removed yet
	Bytes      int64         // memory that they take
	Effective  time.Duration // within it nothing was forgotten early, in any partition
	Waiting    int           // blocks that wait for the block before them
}

// Stats of now.
func (m *Memory) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Stats{Bytes: m.pool.bytes, Effective: m.effective(), Waiting: m.waiting}
	for t := range m.pool.tables {
		s.Remembered += t.count
	}
	return s
}

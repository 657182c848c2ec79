package backfill

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.uber.org/zap"
	"gocloud.dev/blob"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/legacy"
	"github.com/pulsegrid/pulsegrid/internal/yield"
)

const (
	// saveEvery is how often progress is written.
	saveEvery = 5 * time.Second
	// stretch is how many objects an intent covers: so many may have been begun, and are looked up, when a job goes on.
	stretch = 16
	// startOvers bounds how often a store may say, in one run, that it has less than it had.
	startOvers = 3
)

// Store is where a job's blocks go: the pipelines of an aggregator that end in one store.
type Store struct {
	Name       string
	Logs       consumer.Logs
	Metrics    consumer.Metrics
	Traces     consumer.Traces
	Quarantine consumer.Logs
}

// Options of a run. They change nothing about what is stored.
type Options struct {
	Stores   []Store
	InFlight int           // chunks of lines, a block of each stream, that each store is given at a time
	Rate     int           // lines a second, at most; 0: no bound
	Patience time.Duration // how long a store may take no block before the run ends
	Live     yield.Live    // what the job yields to; nil: nothing
	Log      *zap.Logger
}

// Job is a plan, and what runs it.
type Job struct {
	Plan    *Plan
	State   State
	Objects *blob.Bucket

	mapping *legacy.Mapping
	reader  *reader

	mu       sync.Mutex
	progress Progress // guarded by mu
	waiting  string   // guarded by mu: why blocks are not taken; empty: they are
	courtesy *yield.Courtesy
	saving   sync.Mutex
	saved    time.Time // guarded by saving
	success  atomic.Int64
	lines    atomic.Int64 // delivered in this run
}

// Open makes a job of a plan and of what was saved of its progress.
func Open(ctx context.Context, p *Plan, state State, objects *blob.Bucket) (*Job, error) {
	m, err := legacy.Parse([]byte(p.Settings.Mapping))
	if err != nil {
		return nil, err
	}
	j := &Job{Plan: p, State: state, Objects: objects, mapping: m, reader: newReader(p, objects), courtesy: yield.NewCourtesy()}
	j.progress, err = state.Progress(ctx, p.Spec.Job())
	return j, err
}

// Progress is how far the job is.
func (j *Job) Progress() Progress {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.progress.clone()
}

// Again makes runs offer every block to the stores again, from the first one. They leave out what they have.
func (j *Job) Again(ctx context.Context) error {
	j.again()
	return j.save(ctx, true)
}

func (j *Job) again() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.progress = Progress{Intents: []Intent{{Upto: offsetOf(len(j.Plan.Objects), 0), At: j.Plan.Created}}}
}

// Status is a look at a run.
type Status struct {
	Objects int   // that are finished
	Bytes   int64 // of the objects that have been read, those of earlier runs included
	Tally   Tally // of what is finished
	Lines   int64 // that were delivered in this run
	Waiting string
	Yields  string // to what the job yields, and how much; empty: to nothing
}

// Status of the run.
func (j *Job) Status() Status {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := Status{Tally: j.progress.Total(), Lines: j.lines.Load(), Waiting: j.waiting, Yields: j.courtesy.String()}
	s.Objects = int(j.progress.Position >> lineBits)
	s.Bytes = min(j.reader.read.Load(), j.Plan.Bytes())
	return s
}

// Reading is how far a run is and how fast, for people.
type Reading struct {
	Objects        int     `json:"objects"` // that are finished
	AllObjects     int     `json:"all_objects"`
	Bytes          int64   `json:"bytes"` // of the objects that have been read
	AllBytes       int64   `json:"all_bytes"`
	Events         int64   `json:"events"`
	Lines          int64   `json:"lines"` // events, copies and malformed ones, those of earlier runs included
	LinesPerSecond float64 `json:"lines_per_second"`
	SecondsLeft    float64 `json:"seconds_left,omitempty"` // at the speed of this run; 0: not known yet
	Waiting        string  `json:"waiting,omitempty"`      // why blocks are not taken
	Yields         string  `json:"yields,omitempty"`       // to what the job yields, and how much
}

// Gauge returns what reads the progress of the run that begins now.
func (j *Job) Gauge() func() Reading {
	begun, first := time.Now(), j.Status()
	return func() Reading {
		s, took := j.Status(), time.Since(begun).Seconds()
		r := Reading{
			Objects: s.Objects, AllObjects: len(j.Plan.Objects), Bytes: s.Bytes, AllBytes: j.Plan.Bytes(), Events: s.Tally.Events(), Lines: s.Tally.Lines,
			LinesPerSecond: float64(s.Lines) / took, Waiting: s.Waiting, Yields: s.Yields,
		}
		if read := s.Bytes - first.Bytes; read > 0 {
			r.SecondsLeft = took * float64(r.AllBytes-s.Bytes) / float64(read)
		}
		return r
	}
}

// errStartOver says that a store has less than it had: the run begins anew, and the stores leave out what they have.
var errStartOver = errors.New("a store has less than it had")

// Run loads what is left. Its error says why it ended before; what was loaded counts, and the next run goes on from there.
func (j *Job) Run(ctx context.Context, o Options) error {
	if j.Progress().Done {
		return nil
	}
	if o.Live != nil {
		looking, end := context.WithCancel(ctx)
		var work sync.WaitGroup
		work.Go(func() { j.courtesy.Observe(looking, o.Live, o.Log) })
		defer work.Wait()
		defer end()
	}
	for over := 0; ; over++ {
		err := j.pass(ctx, o)
		if !errors.Is(err, errStartOver) || over == startOvers {
			return errors.Join(err, j.save(context.WithoutCancel(ctx), true))
		}
		o.Log.Warn("the job starts over: what the stores have is left out", zap.Error(err))
		j.again()
	}
}

// save writes the progress, unless that was done a short while ago. The order is a contract: the stores have what it says.
func (j *Job) save(ctx context.Context, now bool) error {
	j.saving.Lock()
	defer j.saving.Unlock()
	if !now && time.Since(j.saved) < saveEvery {
		return nil
	}
	if err := j.State.save(ctx, j.Plan.Spec.Job(), j.Progress()); err != nil {
		return err
	}
	j.saved = time.Now()
	return nil
}

// pass goes once over the objects from where the job is.
type pass struct {
	*Job
	o      Options
	ctx    context.Context
	fail   context.CancelCauseFunc
	worker uint64
	redo   int64 // offset before which blocks may have been begun by an earlier run

	topics [streams]string
	ids    [streams]block.TopicID
	slots  []chan struct{} // of each store: chunks in flight
	wait   sync.WaitGroup
	memory []memory

	cuts [streams]int64 // where the next block of each stream begins; owned by the loop over chunks

	// Guarded by Job.mu.
	chunks []*tracked           // that are not finished, in order
	open   [][streams][]*flight // of each store and stream: what is not finished, in order
}

// tracked is a chunk on its way.
type tracked struct {
	*decoded
	left int // flights that have not ended
	cuts [streams]int64
}

// memory is one of a stream's stages that remember (block.Memory).
type memory struct {
	block.Memory
	stream Stream
}

var workers atomic.Uint64

func (j *Job) pass(ctx context.Context, o Options) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	before := j.Progress()
	p := &pass{Job: j, o: o, ctx: ctx, fail: fail, worker: workers.Add(1), redo: before.begun(), cuts: before.Cuts, open: make([][streams][]*flight, len(o.Stores))}
	j.success.Store(time.Now().UnixNano())
	for s := range streams {
		p.topics[s], p.ids[s] = j.Plan.topic(s), j.Plan.topicID(s)
	}
	for range o.Stores {
		p.slots = append(p.slots, make(chan struct{}, o.InFlight))
	}
	window, err := p.introduce()
	if err != nil {
		return err
	}
	first := p.warmUpFrom(before.Position, window)
	j.reader.read.Store(0)
	for _, o := range j.Plan.Objects[:first] {
		j.reader.read.Add(o.Size)
	}
	err = p.chunksFrom(first, before.Position)
	if err != nil {
		p.fail(err) // what is in flight need not be waited for
	}
	p.wait.Wait()
	for _, m := range p.memory {
		m.End(p.topics[m.stream], 0)
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.progress.Done = true
	return nil
}

// warmUpFrom is the object from which the pass reads: those before Position are only remembered.
func (p *pass) warmUpFrom(position int64, window time.Duration) int {
	first := min(int(position>>lineBits), len(p.Plan.Objects))
	if first == 0 || first == len(p.Plan.Objects) || window == 0 {
		return first
	}
	since := p.Plan.Objects[first].Modified.Add(-window)
	i, _ := slices.BinarySearchFunc(p.Plan.Objects[:first], since, func(o Object, at time.Time) int { return o.Modified.Compare(at) })
	return i
}

// chunksFrom decodes chunks, several at a time, and takes them in their order.
func (p *pass) chunksFrom(first int, position int64) error {
	decoders := max(1, runtime.GOMAXPROCS(0))
	type pending struct {
		chunk *chunk
		done  chan *decoded
	}
	todo, ordered := make(chan *pending), make(chan *pending, decoders)
	ctx, stop := context.WithCancel(p.ctx)
	defer stop()
	var work sync.WaitGroup
	defer work.Wait()
	defer stop()
	for range decoders {
		work.Go(func() {
			d := newDecoder(p.Plan, p.mapping)
			for c := range todo {
				c.done <- d.decode(c.chunk)
			}
		})
	}
	var readErr error
	work.Go(func() {
		defer close(todo)
		defer close(ordered)
		for object := first; object < len(p.Plan.Objects); object++ {
			readErr = p.reader.object(ctx, object, 0, func(c *chunk) error {
				next := &pending{c, make(chan *decoded, 1)}
				for _, to := range []chan *pending{ordered, todo} {
					select {
					case to <- next:
					case <-ctx.Done():
						return errStopped
					}
				}
				return nil
			})
			if readErr != nil {
				return
			}
		}
	})
	pace := yield.Pace{Rate: p.o.Rate}
	for next := range ordered {
		var d *decoded
		select {
		case d = <-next.done:
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
		if d.next <= position {
			p.remember(d)
			continue
		}
		if err := pace.Wait(p.ctx, len(d.lines), p.courtesy.Worked()); err != nil {
			return err
		}
		if err := p.launch(d); err != nil {
			return err
		}
	}
	return readErr // closing ordered has published it
}

// remember tells the pipelines' memories of a chunk that is finished.
func (p *pass) remember(d *decoded) {
	for _, m := range p.memory {
		if b := d.batches[m.stream]; b != nil {
			for i := range b.records {
				m.Remember(p.topics[m.stream], 0, &b.records[i])
			}
		}
	}
}

// launch begins the deliveries of a chunk, once each store has room for them.
func (p *pass) launch(d *decoded) error {
	if err := p.intend(d); err != nil {
		return err
	}
	t := &tracked{decoded: d, cuts: p.cuts}
	var flights []*flight
	for s := range streams {
		b := d.batches[s]
		if b == nil {
			continue
		}
		last := d.lines[len(d.lines)-1].offset
		for store := range p.o.Stores {
			flights = append(flights, &flight{tracked: t, store: store, stream: s, batch: b, first: p.cuts[s], last: last})
		}
		p.cuts[s] = last + 1
	}
	t.cuts, t.left = p.cuts, len(flights)
	p.mu.Lock()
	p.chunks = append(p.chunks, t)
	for _, f := range flights {
		p.open[f.store][f.stream] = append(p.open[f.store][f.stream], f)
	}
	p.finish()
	p.mu.Unlock()
	for store, slots := range p.slots {
		var left atomic.Int32
		mine := slices.DeleteFunc(slices.Clone(flights), func(f *flight) bool { return f.store != store })
		if len(mine) == 0 {
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
		left.Store(int32(len(mine)))
		for _, f := range mine {
			p.wait.Go(func() {
				p.deliver(f)
				if left.Add(-1) == 0 {
					<-slots
				}
			})
		}
	}
	return nil
}

// intend writes down that a chunk, and objects behind it, may be begun from now on, before it is.
func (p *pass) intend(d *decoded) error {
	p.mu.Lock()
	known := d.next <= p.progress.begun()
	if !known {
		upto := offsetOf(min(d.object+stretch, len(p.Plan.Objects)), 0)
		p.progress.Intents = append(p.progress.Intents, Intent{Upto: upto, At: time.Now().UTC()})
	}
	p.mu.Unlock()
	if known {
		return nil
	}
	return p.save(p.ctx, true)
}

// finish moves the progress over the chunks that are finished. The caller holds mu.
func (p *pass) finish() {
	for len(p.chunks) > 0 && p.chunks[0].left == 0 {
		t := p.chunks[0]
		p.chunks = p.chunks[1:]
		outcome := p.progress.at(t.object)
		outcome.add(t.tally)
		if t.ended {
			outcome.State, outcome.Reason = t.state, t.reason
		}
		p.progress.Position, p.progress.Cuts = t.next, t.cuts
		p.progress.Intents = slices.DeleteFunc(p.progress.Intents, func(i Intent) bool { return i.Upto <= t.next })
		p.lines.Add(t.tally.Lines)
	}
}

func (p *pass) describe(f *flight) string {
	return fmt.Sprintf("%s of %s to %s", f.stream, p.Plan.line(f.lines[0].offset), p.o.Stores[f.store].Name)
}

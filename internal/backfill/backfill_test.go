package backfill

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/dedupe"
	"github.com/pulsegrid/pulsegrid/internal/legacy"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(leaktest.Patient(m)) }

var settings = Settings{Mapping: string(legacy.DefaultText()), EqualLines: EqualCopies, BlockLines: 3, BlockBytes: 1 << 20, MaxLineBytes: 200}

func packed(t *testing.T, lines ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write([]byte(strings.Join(lines, "\n") + "\n"))
	require.NoError(t, errors.Join(err, z.Close()))
	return b.Bytes()
}

func logLine(n int) string {
	return fmt.Sprintf(`{"type":"log","time":%d,"message":"m%d"}`, 1_767_225_600_000+n, n)
}

func logLines(from, to int) (out []string) {
	for n := from; n < to; n++ {
		out = append(out, logLine(n))
	}
	return out
}

type bench struct {
	t       *testing.T
	objects *blob.Bucket
	state   State
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, objects: memblob.OpenBucket(nil)}
	states := memblob.OpenBucket(nil)
	b.state = NewState(states)
	t.Cleanup(func() { require.NoError(t, errors.Join(b.objects.Close(), states.Close())) })
	return b
}

func (b *bench) put(key string, content []byte) {
	b.t.Helper()
	require.NoError(b.t, b.objects.WriteAll(b.t.Context(), key, content, nil))
}

func (b *bench) find(r Request) (Found, error) {
	r.Spec.Objects, r.Spec.Tenant = "mem://", "acme"
	if r.Settings == (Settings{}) {
		r.Settings = settings
	}
	return Find(b.t.Context(), b.state, b.objects, r, time.Unix(1_800_000_000, 0))
}

func (b *bench) plan() *Plan {
	b.t.Helper()
	f, err := b.find(Request{})
	require.NoError(b.t, err)
	return f.Plan
}

func (b *bench) open(p *Plan) *Job {
	b.t.Helper()
	j, err := Open(b.t.Context(), p, b.state, b.objects)
	require.NoError(b.t, err)
	return j
}

// store is one that keeps the contract of internal/block: it knows a block by its name, and sends a job back that is beyond what it holds.
type store struct {
	mu     sync.Mutex
	blocks map[string][]string // by name: what is in it
	next   map[string]int64    // by topic
	fail   func(block.Block) error
	memory *dedupe.Memory // nil: copies are stored
}

func newStore() *store { return &store{blocks: map[string][]string{}, next: map[string]int64{}} }

func (s *store) take(ctx context.Context, of func() []string) error {
	if introduction := block.IntroductionOf(ctx); introduction != nil {
		if s.memory != nil {
			introduction.Add(s.memory)
		}
		return nil
	}
	b, _ := block.FromContext(ctx)
	got := of()
	if s.memory != nil {
		copies, err := s.memory.Decide(ctx, b, b.Records)
		if err != nil {
			return err
		}
		for _, c := range copies {
			got = slices.DeleteFunc(got, func(text string) bool {
				return strings.HasPrefix(text, fmt.Sprintf("%d:%d ", c.Offset>>32, c.Offset&(1<<32-1)))
			})
			b.Account.Add(c.Offset, block.Tally{Duplicates: 1})
		}
		defer s.memory.Stored(b)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.Oldest > s.next[b.Topic] {
		return &block.ResumeError{Topic: b.Topic, Next: s.next[b.Topic]}
	}
	for b.First > s.next[b.Topic] { // it waits for the block before it
		s.mu.Unlock()
		time.Sleep(time.Millisecond)
		s.mu.Lock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if s.fail != nil {
		if err := s.fail(b); err != nil {
			return err
		}
	}
	if had, known := s.blocks[b.Name()]; known {
		if !slices.Equal(had, got) {
			return fmt.Errorf("block %s came with %q and with %q", b, had, got)
		}
		return nil
	}
	if b.First < s.next[b.Topic] {
		return fmt.Errorf("block %s is cut otherwise than before", b)
	}
	s.blocks[b.Name()], s.next[b.Topic] = got, b.Next()
	return nil
}

func (s *store) pipelines(t *testing.T) Store {
	logs, err := consumer.NewLogs(func(ctx context.Context, ld plog.Logs) error {
		return s.take(ctx, func() []string { return texts(ld) })
	})
	require.NoError(t, err)
	metrics, err := consumer.NewMetrics(func(ctx context.Context, md pmetric.Metrics) error {
		return s.take(ctx, func() []string { return []string{fmt.Sprint(md.DataPointCount(), " points")} })
	})
	require.NoError(t, err)
	traces, err := consumer.NewTraces(func(ctx context.Context, td ptrace.Traces) error {
		return s.take(ctx, func() []string { return []string{fmt.Sprint(td.SpanCount(), " spans")} })
	})
	require.NoError(t, err)
	items, err := consumer.NewLogs(func(ctx context.Context, ld plog.Logs) error {
		return s.take(ctx, func() []string { return itemsOf(ld) })
	})
	require.NoError(t, err)
	return Store{Name: "a store", Logs: logs, Metrics: metrics, Traces: traces, Quarantine: items}
}

func texts(ld plog.Logs) (out []string) {
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				e, _ := lineage.ReadEvent(lr.Attributes())
				out = append(out, fmt.Sprintf("%d:%d %s", e.Offset>>32, e.Offset&(1<<32-1), lr.Body().AsString()))
			}
		}
	}
	return out
}

func itemsOf(ld plog.Logs) (out []string) {
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				i := quarantine.FromLog(lr)
				out = append(out, fmt.Sprintf("%s %s %d", i.Source, i.Code, len(i.Body)))
			}
		}
	}
	return out
}

// all is what a store holds, in order.
func (s *store) all() (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, texts := range s.blocks {
		out = append(out, texts...)
	}
	slices.Sort(out)
	return out
}

func options(t *testing.T, stores ...*store) Options {
	o := Options{InFlight: 3, Patience: time.Minute, Log: zap.NewNop()}
	for _, s := range stores {
		o.Stores = append(o.Stores, s.pipelines(t))
	}
	return o
}

// Guarantee: objects that cannot be loaded whole have a state that says why, what can be of them is loaded, and the others are not held up.
func TestEachObjectHasAStateAndTheHealthyOnesAreLoaded(t *testing.T) {
	b := newBench(t)
	whole := packed(t, logLines(0, 400)...)
	torn := bytes.Clone(whole)
	torn[len(torn)-6] ^= 1 // its checksum
	damaged := bytes.Clone(whole)
	copy(damaged[len(damaged)/2:], "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
	b.put("a-whole", packed(t, logLines(1000, 1007)...))
	b.put("b-truncated", whole[:len(whole)*3/4])
	b.put("c-checksum", torn)
	b.put("d-damaged", damaged)
	b.put("e-plain", []byte(logLine(2000)+"\r\n\n  \n"+logLine(2001)))
	b.put("f-parquet", []byte("PAR1 and so on"))
	b.put("g-binary", []byte("{\"a\":1}\x00\x01"))
	b.put("h-changed", packed(t, logLines(3000, 3002)...))
	b.put("i-missing", packed(t, logLines(4000, 4002)...))
	b.put("j-zstd-in-gzip", packed(t, "\x28\xb5\x2f\xfd"))
	b.put("k-last", packed(t, logLine(5000)))
	p := b.plan()
	b.put("h-changed", packed(t, logLines(3000, 3003)...))
	require.NoError(t, b.objects.Delete(t.Context(), "i-missing"))
	s, j := newStore(), b.open(p)
	require.NoError(t, j.Run(t.Context(), options(t, s)))
	progress := j.Progress()
	states := map[string]string{}
	for i, o := range p.Objects {
		states[o.Key] = progress.Outcome(i).State
	}
	require.Equal(t, map[string]string{
		"a-whole": StateLoaded, "b-truncated": StateTruncated, "c-checksum": StateCorrupt, "d-damaged": StateCorrupt, "e-plain": StateLoaded, "f-parquet": StateUnknown,
		"g-binary": StateUnknown, "h-changed": StateChanged, "i-missing": StateMissing, "j-zstd-in-gzip": StateUnknown, "k-last": StateLoaded,
	}, states)
	require.Equal(t, 8, progress.Failed())
	all := strings.Join(s.all(), "\n")
	for _, want := range []string{" m1006", " m2000", " m2001", " m5000", "2:400 m399", "1:200 m199"} {
		require.Contains(t, all, want)
	}
	require.NotContains(t, all, " m3000")
	require.Equal(t, int64(7), progress.Outcome(0).Lines)
}

// Guarantee: a line that no memory holds goes to quarantine with its beginning, and the lines around it are events. So does each other line that is no event.
func TestLinesThatAreNoEventsGoToQuarantine(t *testing.T) {
	b := newBench(t)
	long := `{"type":"log","message":"` + strings.Repeat("x", 300_000) + `"}`
	b.put("o", packed(t, logLine(1), long, `{"type":"log",`, strings.Repeat(" ", 500), `[{"type":"invoice"},{"type":"log","message":"in a list"},17]`, logLine(2)))
	s, j := newStore(), b.open(b.plan())
	require.NoError(t, j.Run(t.Context(), options(t, s)))
	require.Equal(t, []string{
		"0:1 m1", "0:5 in a list", "0:6 m2",
		"mem://o:2 limit_exceeded 200", "mem://o:3 undecodable 14", "mem://o:4 limit_exceeded 0", "mem://o:5 unmapped 22",
	}, s.all())
	require.Equal(t, Tally{Lines: 6, Logs: 3, Quarantined: 5}, func() Tally { p := j.Progress(); return p.Total() }())
}

// Scenario: one of two stores fails at random blocks, so that each run ends early; each next run has a new process's state.
// Guarantees: all runs deliver the same blocks with the same content, whatever was in flight; nothing is delivered that was not begun by an intent; both stores end with
// every distinct line once, and every line is counted once.
func TestAJobThatBreaksOffAnywhereDeliversTheSameBlocks(t *testing.T) {
	b := newBench(t)
	want := []string{}
	for i := range 40 {
		lines := logLines(100*i, 100*i+7)
		if i%5 == 0 {
			lines[3] = "no event"
			want = append(want, fmt.Sprintf("mem://o%02d:4 undecodable 8", i))
		}
		if i > 3 {
			lines[6] = logLine(100*(i-3) + i%3) // a copy of a line of an earlier object
		}
		for n, l := range lines {
			if l != "no event" && (n != 6 || i <= 3) {
				want = append(want, fmt.Sprintf("%d:%d m%d", i, n+1, 100*i+n))
			}
		}
		b.put(fmt.Sprintf("o%02d", i), packed(t, lines...))
	}
	slices.Sort(want)
	p := b.plan()
	one, two := newStore(), newStore()
	left, runs := 0, 0
	var away func() // for long: the run ends
	two.fail = func(blk block.Block) error {
		progress, err := b.state.Progress(context.Background(), p.Spec.Job())
		require.NoError(t, err)
		if blk.Last >= progress.begun() {
			t.Errorf("block %s is not intended: %+v", blk, progress)
		}
		if left--; left < 0 {
			away()
			return errors.New("away")
		}
		return nil
	}
	for done := false; !done; runs++ {
		left = 3 + runs%9
		ctx, cancel := context.WithCancel(t.Context())
		away = sync.OnceFunc(func() { time.AfterFunc(300*time.Millisecond, cancel) })
		j := b.open(p)
		for _, s := range []*store{one, two} { // as a new process has it
			s.memory = dedupe.NewMemory(dedupe.Options{Window: time.Minute, MaxBytes: 1 << 20, Log: zap.NewNop()})
		}
		err := j.Run(ctx, options(t, one, two))
		cancel()
		done = err == nil
		if !done {
			require.ErrorIs(t, err, context.Canceled)
		}
		require.Less(t, runs, 60)
	}
	require.Greater(t, runs, 3)
	require.Equal(t, want, one.all())
	require.Equal(t, want, two.all())
	require.Equal(t, slices.Sorted(maps.Keys(one.blocks)), slices.Sorted(maps.Keys(two.blocks)))
	progress := b.open(p).Progress()
	require.Equal(t, Tally{Lines: 280, Logs: 272, Duplicates: 36, Quarantined: 8}, progress.Total())
}

// Scenario: after a job is done one store is emptied. Guarantees: the job alone does nothing; --again fills it, and changes nothing in the other; if that
// happens within a run, the store sends the job back.
func TestAStoreThatHasLessIsFilledAgain(t *testing.T) {
	b := newBench(t)
	for i := range 6 {
		b.put(fmt.Sprintf("o%d", i), packed(t, logLines(100*i, 100*i+9)...))
	}
	p := b.plan()
	one, two := newStore(), newStore()
	require.NoError(t, b.open(p).Run(t.Context(), options(t, one, two)))
	want := one.all()
	require.Len(t, want, 54)
	*two = store{blocks: map[string][]string{}, next: map[string]int64{}}
	require.NoError(t, b.open(p).Run(t.Context(), options(t, one, two)))
	require.Empty(t, two.all())
	j := b.open(p)
	require.NoError(t, j.Again(t.Context()))
	two.fail = func(blk block.Block) error {
		if blk.First > offsetOf(3, 0) && two.fail != nil { // it loses everything in the middle of the run
			two.fail = nil
			two.blocks, two.next = map[string][]string{}, map[string]int64{}
			return &block.ResumeError{Topic: blk.Topic, Next: block.FromStart}
		}
		return nil
	}
	require.NoError(t, j.Run(t.Context(), options(t, one, two)))
	require.Equal(t, want, one.all())
	require.Equal(t, want, two.all())
	require.Equal(t, int64(54), func() int64 { p := j.Progress(); return p.Total().Lines }())
}

// Guarantees: the same command finds its plan, whatever has come since; objects that another job has are not loaded twice; what is new is a further job; a plan
// is not cut otherwise later.
func TestAnObjectBelongsToOneJob(t *testing.T) {
	b := newBench(t)
	b.put("a/1", packed(t, logLine(1)))
	b.put("b/1", packed(t, logLine(2)))
	first, err := b.find(Request{Spec: Spec{Prefixes: []string{"a/"}}})
	require.NoError(t, err)
	require.False(t, first.Old)
	b.put("a/2", packed(t, logLine(3)))
	again, err := b.find(Request{Spec: Spec{Prefixes: []string{"a/"}}})
	require.NoError(t, err)
	require.Equal(t, Found{Plan: first.Plan, Old: true, Left: 1}, again)

	_, err = b.find(Request{})
	require.ErrorContains(t, err, "1 of the objects are in the plan of job "+first.Plan.Spec.Job())
	_, err = b.find(Request{Spec: Spec{Prefixes: []string{"a/1"}}})
	require.ErrorContains(t, err, "1 of the objects are in the plan of job "+first.Plan.Spec.Job(), "all of them")
	rest, err := b.find(Request{NewObjects: true})
	require.NoError(t, err)
	require.Equal(t, []string{"b/1", "a/2"}, []string{rest.Plan.Objects[0].Key, rest.Plan.Objects[1].Key})
	require.NotEqual(t, first.Plan.ID, rest.Plan.ID)

	other := settings
	other.BlockLines++
	_, err = b.find(Request{Spec: Spec{Prefixes: []string{"a/"}}, Settings: other})
	require.ErrorContains(t, err, "--block-lines")
	_, err = b.find(Request{Spec: Spec{Prefixes: []string{"c/"}}})
	require.ErrorIs(t, err, ErrNothing)

	goOn, err := b.find(Request{Spec: Spec{Prefixes: []string{"a/"}}, NewObjects: true})
	require.NoError(t, err)
	require.Equal(t, first.Plan.ID, goOn.Plan.ID, "the job before is not done")
	require.NoError(t, b.open(first.Plan).Run(t.Context(), options(t, newStore())))
	_, err = b.find(Request{Spec: Spec{Prefixes: []string{"a/"}}, NewObjects: true})
	require.ErrorIs(t, err, ErrNothing, "the other job has what was new")
	b.put("a/1", packed(t, logLine(4)))
	further, err := b.find(Request{Spec: Spec{Prefixes: []string{"a/"}}, NewObjects: true})
	require.NoError(t, err)
	require.Equal(t, 1, further.Plan.Spec.Further, "another content of an object is another object")
}

// Guarantee: a refusal for good, and stores that take nothing, end a run with an error that names lines.
func TestARunThatCannotGoOnEndsAndSaysWhere(t *testing.T) {
	b := newBench(t)
	b.put("o", packed(t, logLine(1)))
	s := newStore()
	o := options(t, s)
	o.Patience = 10 * time.Millisecond
	s.fail = func(block.Block) error { return errors.New("the disk is full") }
	p := b.plan()
	require.ErrorContains(t, b.open(p).Run(t.Context(), o), "logs of mem://o:1 to a store: the disk is full")
	s.fail = nil
	require.NoError(t, b.open(p).Run(t.Context(), o))
}

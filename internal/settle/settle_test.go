package settle

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// event is one of a cell in memory.
type event struct {
	signal signal.Signal
	id     uint64
	time   int64 // Unix nanoseconds; 0: it has none
}

// memoryCell is a cell whose stores are sets.
type memoryCell struct {
	hot, lake map[event]bool
	planned   []event
	removed   []event
}

func newMemoryCell() *memoryCell {
	return &memoryCell{hot: map[event]bool{}, lake: map[event]bool{}}
}

func (c *memoryCell) add(events ...event) {
	for _, e := range events {
		c.hot[e], c.lake[e] = true, true
	}
}

func (e event) named(n *Namer) ID {
	var id [16]byte
	binary.LittleEndian.PutUint64(id[:], e.id)
	return n.ID(e.signal, id[:])
}

func (e event) bucket() Bucket {
	source := "event"
	if e.time == 0 {
		source = SourceReceived
	}
	return BucketOf(e.signal, e.time, source)
}

func (c *memoryCell) Events(_ context.Context, w Window, n *Namer) (Events, error) {
	hot, lake := Events{}, Events{}
	for e := range c.hot {
		if b := e.bucket(); w.Only == nil || w.Only[b] {
			hot[b] = append(hot[b], e.named(n))
		}
	}
	for e := range c.lake {
		if b := e.bucket(); w.Only == nil || w.Only[b] {
			lake[b] = append(lake[b], e.named(n), e.named(n)) // a row may be there twice
		}
	}
	return Both(hot, lake), nil
}

func (c *memoryCell) Plan(_ context.Context, _ Window, n *Namer, doubled map[ID]bool) (Plan, error) {
	c.planned = nil
	var ids []ID
	for e := range c.hot {
		if id := e.named(n); doubled[id] && c.lake[e] {
			c.planned = append(c.planned, e)
			ids = append(ids, id)
		}
	}
	return Plan{Total: TotalOf(Sorted(ids)), Rows: map[string]int64{"clickhouse": int64(len(ids)), "lake": int64(len(ids))}}, nil
}

func (c *memoryCell) Remove(context.Context, Window, Plan) (Removal, error) {
	for _, e := range c.planned {
		delete(c.hot, e)
		delete(c.lake, e)
	}
	c.removed = append(c.removed, c.planned...)
	return Removal{Left: map[string]int64{"clickhouse": 0, "lake": 0}, Declaration: "x", At: time.Now()}, nil
}

var asked = Request{ID: "x", Tenant: "acme", Home: "eu-1", Guest: "eu-2", From: time.Unix(1000, 0).UTC(), To: time.Unix(2000, 0).UTC(), Around: time.Hour}

func opened(t *testing.T, dir string) *Exchange {
	t.Helper()
	tree, err := fileset.OpenTree(t.Context(), dir)
	require.NoError(t, err)
	x, err := Open(t.Context(), tree, asked)
	require.NoError(t, err)
	return x
}

// settled has both sides do all steps, each in a process that was begun anew: nothing but the files is known from before. between is called before each step.
func settled(t *testing.T, dir string, home, guest *memoryCell, between func(Step)) *Certificate {
	t.Helper()
	for s := range steps {
		between(s)
		x := opened(t, dir)
		g, err := (&Guest{Exchange: x, Cell: guest}).Step(t.Context())
		require.NoError(t, err)
		h := false
		if !g {
			h, err = (&Home{Exchange: x, Cell: home}).Step(t.Context())
			require.NoError(t, err)
		}
		require.Equal(t, []bool{!s.ByHome(), s.ByHome()}, []bool{g, h}, "%s", s)
		require.True(t, x.Has(s))
	}
	between(steps)
	h := &Home{Exchange: opened(t, dir), Cell: home}
	require.True(t, h.Ready())
	c, err := h.Certify(t.Context(), "test")
	require.NoError(t, err)
	return c
}

// random are events of some minutes: minute 0 is the guest's alone, 1 is equal in both, in the others some are in both.
func random(r *rand.Rand) (home, guest, both []event) {
	for i := range uint64(3000) {
		e := event{signal: signal.All[r.IntN(3)], id: i, time: r.Int64N(8) * minute}
		if e.time > 0 {
			e.time += r.Int64N(minute)
		}
		switch m := e.time / minute; {
		case m == 7 || m > 1 && r.IntN(3) == 0:
			guest = append(guest, e)
		case m == 1 || r.IntN(2) == 0:
			both = append(both, e)
		default:
			home = append(home, e)
		}
	}
	return home, guest, both
}

// Guarantees: what both cells had, in both stores of each, is removed from the guest's, and nothing else, whichever step a process dies after; minutes that only the guest has, and equal ones, cost no
// identities; the certificate counts it and is good only as it was sealed and signed.
func TestWhatBothCellsHaveIsRemovedFromTheGuest(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	onlyHome, onlyGuest, both := random(r)
	home, guest := newMemoryCell(), newMemoryCell()
	home.add(onlyHome...)
	home.add(both...)
	guest.add(onlyGuest...)
	guest.add(both...)
	inHotOnly, inHomesLakeOnly := event{signal.Logs, 10_000, 2 * minute}, event{signal.Logs, 10_001, 3 * minute}
	home.add(inHotOnly)
	guest.hot[inHotOnly] = true
	guest.add(inHomesLakeOnly)
	home.lake[inHomesLakeOnly] = true

	dir := t.TempDir()
	c := settled(t, dir, home, guest, func(Step) {})
	require.Equal(t, Settled, c.Verdict)
	require.ElementsMatch(t, both, guest.removed)
	require.Len(t, guest.hot, len(onlyGuest)+2)
	require.Len(t, guest.lake, len(onlyGuest)+1)
	require.EqualValues(t, len(both), c.Removed.Events)
	require.Equal(t, c.Doubled, c.Removed)
	require.Equal(t, GuestHad{uint64(len(onlyGuest) + len(both) + 1), 24, 3, 3, 18}, c.Had)
	told := 0
	for e := range maps.Keys(guest.hot) {
		if m := e.time / minute; m != 1 && m != 7 && e != inHotOnly {
			told++
		}
	}
	for _, e := range both {
		if e.time/minute != 1 {
			told++
		}
	}
	x := opened(t, dir)
	require.Len(t, x.body(Identities), told*idBytes+18*4)
	require.Len(t, x.body(Doubled), (told+7)/8)
	toHome, toGuest := x.Bytes()
	require.Equal(t, []int64{toHome, toGuest}, []int64{c.ToHome, c.ToGuest})

	key := filepath.Join(t.TempDir(), "key")
	public, err := certificate.NewKey(key)
	require.NoError(t, err)
	signer, err := certificate.OpenSigner(key)
	require.NoError(t, err)
	sealed, err := (&Home{Exchange: x}).Seal(t.Context(), c, signer)
	require.NoError(t, err)
	kept, err := opened(t, dir).Certificate(t.Context())
	require.NoError(t, err)
	require.Equal(t, string(sealed), string(kept))
	pub, err := certificate.ReadPublicKey(public)
	require.NoError(t, err)
	var read Certificate
	require.NoError(t, Unseal(sealed, pub, &read))
	require.Equal(t, c.Removed, read.Removed)
	require.Equal(t, c.Request, read.Request)
	require.ErrorContains(t, Unseal([]byte(strings.Replace(string(sealed), `"verdict": "settled"`, `"verdict": "partly"`, 1)), nil, &read), "was changed after it was written")
	unsigned, err := certificate.Sealed(t.Context(), certificateKind, c, nil)
	require.NoError(t, err)
	require.NoError(t, Unseal(unsigned, nil, &read))
	require.ErrorContains(t, Unseal(unsigned, pub, &read), "is not signed")
	other, err := certificate.Sealed(t.Context(), "another kind", c, signer)
	require.NoError(t, err)
	require.ErrorContains(t, Unseal(other, pub, &read), "the signature is not of this key")
}

// Scenario: rows come to both cells between any two steps.
// Guarantees: no event is removed that the home has not in both stores; what came too late is in both cells still, and the next settling removes it; none is lost.
func TestLateEventsWaitForTheNextSettling(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	onlyHome, onlyGuest, both := random(r)
	home, guest := newMemoryCell(), newMemoryCell()
	home.add(onlyHome...)
	home.add(both...)
	guest.add(onlyGuest...)
	guest.add(both...)
	all := map[event]bool{}
	for e := range guest.hot {
		all[e] = true
	}
	next := uint64(20_000)
	c := settled(t, t.TempDir(), home, guest, func(Step) {
		for m := range int64(8) {
			for range 3 {
				next++
				e := event{signal.All[next%3], next, m * minute}
				all[e] = true
				guest.add(e)
				if next%2 == 0 {
					home.add(e)
				}
			}
		}
	})
	require.Contains(t, []Verdict{Partly, Settled}, c.Verdict)
	for _, e := range guest.removed {
		require.True(t, home.hot[e] && home.lake[e])
	}
	c = settled(t, t.TempDir(), home, guest, func(Step) {})
	require.Equal(t, Settled, c.Verdict)
	for e := range all {
		require.NotEqual(t, home.hot[e], guest.hot[e], "in one cell, and in one only")
		require.Equal(t, guest.hot[e], guest.lake[e])
	}
}

// Guarantees: a home that has lost its copies after they were removed is told.
func TestACertificateSaysWhatTheHomeHasLost(t *testing.T) {
	home, guest := newMemoryCell(), newMemoryCell()
	one, two := event{signal.Logs, 1, 0}, event{signal.Traces, 2, minute}
	home.add(one, two)
	guest.add(one, two)
	c := settled(t, t.TempDir(), home, guest, func(s Step) {
		if s == steps {
			delete(home.lake, two)
		}
	})
	require.Equal(t, Failed, c.Verdict)
	require.EqualValues(t, 1, c.Missing)
	require.Empty(t, guest.hot)
}

// Guarantees: files of two runs, a file that is cut, and an exchange of another request are refused before anything is removed.
func TestFilesThatAreNotOfOneExchangeAreRefused(t *testing.T) {
	home, guest := newMemoryCell(), newMemoryCell()
	for i := range uint64(100) {
		home.add(event{signal.Logs, i, int64(i) * minute / 10})
		guest.add(event{signal.Logs, 2 * i, int64(i) * minute / 5})
	}
	first, second := t.TempDir(), t.TempDir()
	for _, dir := range []string{first, second} {
		settled(t, dir, home, guest, func(Step) {})
	}
	for s := Answer; s < steps; s++ {
		dir := t.TempDir()
		for before := range s + 1 {
			from := first
			if before == s {
				from = second
			}
			b, err := os.ReadFile(filepath.Join(from, before.String()))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(dir, before.String()), b, 0o600))
		}
		tree, err := fileset.OpenTree(t.Context(), dir)
		require.NoError(t, err)
		_, err = Open(t.Context(), tree, asked)
		require.ErrorContains(t, err, s.String()+" of "+dir+" does not follow the file before it")
	}
	tree, err := fileset.OpenTree(t.Context(), first)
	require.NoError(t, err)
	other := asked
	other.To = other.To.Add(time.Second)
	_, err = Open(t.Context(), tree, other)
	require.ErrorContains(t, err, "of another request already")

	cut := func(s Step, to func([]byte) []byte) error {
		dir := t.TempDir()
		for before := range s + 1 {
			b, err := os.ReadFile(filepath.Join(first, before.String()))
			require.NoError(t, err)
			if before == s {
				b = to(b)
			}
			require.NoError(t, os.WriteFile(filepath.Join(dir, before.String()), b, 0o600))
		}
		tree, err := fileset.OpenTree(t.Context(), dir)
		require.NoError(t, err)
		x, err := Open(t.Context(), tree, asked)
		if err != nil {
			return err
		}
		_, err = (&Guest{Exchange: x, Cell: guest}).Step(t.Context())
		if err == nil {
			_, err = (&Home{Exchange: x, Cell: home}).Step(t.Context())
		}
		return err
	}
	short := func(b []byte) []byte { return b[:len(b)-1] }
	long := func(b []byte) []byte { return append(b, 0) }
	for _, s := range []Step{Summary, Answer, Identities, Doubled} {
		require.ErrorContains(t, cut(s, short), s.String(), "%s", s)
		require.ErrorContains(t, cut(s, long), s.String(), "%s", s)
	}
	require.ErrorContains(t, cut(Answer, func(b []byte) []byte { b[linkBytes] = 7; return b }), "an answer 7")
}

// Guarantees: of two runs at a time the one that is slower writes nothing.
func TestAStepThatIsThereIsNotWrittenAgain(t *testing.T) {
	dir, cell := t.TempDir(), newMemoryCell()
	fast, slow := opened(t, dir), opened(t, dir)
	_, err := (&Guest{Exchange: fast, Cell: cell}).Step(t.Context())
	require.NoError(t, err)
	_, err = (&Guest{Exchange: slow, Cell: cell}).Step(t.Context())
	require.ErrorContains(t, err, "another run has written 1-summary")
}

// Guarantees: an exchange is refused unless it is known to be allowed.
func TestIdentitiesStayWhereTheyMustBe(t *testing.T) {
	eu1, eu2, us1 := Place{Name: "eu-1", Jurisdiction: "eu"}, Place{Name: "eu-2", Jurisdiction: "eu"}, Place{Name: "us-1", Jurisdiction: "us"}
	open := us1
	open.MayLeave = true
	pinned, free := &tenant.Tenant{ID: "acme", Jurisdiction: "eu", Home: "eu-1"}, &tenant.Tenant{ID: "globex", Home: "eu-1"}
	inUS := &tenant.Tenant{ID: "globex", Home: "us-1"}
	for name, test := range map[string]struct {
		t           *tenant.Tenant
		home, guest Place
		here        string
		reads       []Place
		want        string // empty: it is allowed
	}{
		"within":                               {pinned, eu1, eu2, "eu", []Place{eu1, eu2}, ""},
		"nobody knows where this runs":         {pinned, eu1, eu2, "", []Place{eu1, eu2}, "where this process runs is not known"},
		"this runs elsewhere":                  {pinned, eu1, eu2, "us", []Place{eu1, eu2}, `must stay in jurisdiction "eu"`},
		"a side of it does":                    {pinned, eu1, eu2, "us", []Place{eu2}, `must stay in jurisdiction "eu"`},
		"a guest elsewhere":                    {pinned, eu1, us1, "eu", []Place{eu1}, `must stay in jurisdiction "eu"`},
		"whatever its cell allows":             {pinned, eu1, open, "eu", []Place{eu1}, `must stay in jurisdiction "eu"`},
		"a home elsewhere":                     {&tenant.Tenant{ID: "acme", Jurisdiction: "eu", Home: "us-1"}, us1, eu2, "eu", []Place{eu2}, `must stay in jurisdiction "eu"`},
		"not the home":                         {pinned, eu2, eu1, "eu", []Place{eu1, eu2}, "is cell eu-1, and not eu-2"},
		"no home":                              {&tenant.Tenant{ID: "x"}, eu1, eu2, "eu", []Place{eu1, eu2}, "names no home"},
		"one cell":                             {pinned, eu1, eu1, "eu", []Place{eu1}, "both home and guest"},
		"of no jurisdiction":                   {free, eu1, eu2, "eu", []Place{eu1, eu2}, ""},
		"of none, and this runs elsewhere":     {free, eu1, eu2, "us", []Place{eu1, eu2}, "would read cell eu-1"},
		"of none, over a border":               {free, eu1, us1, "eu", []Place{eu1}, "may not leave us for eu"},
		"of none, out of the EU":               {inUS, us1, eu2, "us", []Place{us1}, "may not leave eu for us"},
		"of none, as the guest allows":         {free, eu1, open, "eu", []Place{eu1}, ""},
		"likewise the guest's side":            {free, eu1, open, "us", []Place{open}, ""},
		"both sides by the home":               {free, eu1, open, "eu", []Place{eu1, open}, ""},
		"both sides by the guest":              {free, eu1, open, "us", []Place{eu1, open}, "would read cell eu-1"},
		"a guest whose cell does not allow it": {inUS, us1, eu2, "eu", []Place{eu2}, "may not leave eu for us"},
	} {
		err := Allowed(test.t, test.home, test.guest, test.here, test.reads...)
		if test.want == "" {
			require.NoError(t, err, name)
		} else {
			require.ErrorContains(t, err, test.want, name)
		}
	}
}

// Guarantees: the same event has the same ID under one key only, and another tenant's or signal's is another; buckets are whole minutes, before 1970 too.
func TestIDsAndBuckets(t *testing.T) {
	id := sha256.Sum256(nil)
	k := newKey()
	of := func(k Key, tenant string, s signal.Signal) ID { return NewNamer(k, tenant).ID(s, id[:16]) }
	same := of(k, "acme", signal.Logs)
	require.Equal(t, same, of(k, "acme", signal.Logs))
	others := []ID{same, of(newKey(), "acme", signal.Logs), of(k, "acme2", signal.Logs), of(k, "acme", signal.Traces)}
	require.Len(t, Sorted(slices.Clone(others)), 4)
	require.Equal(t, Bucket{signal.Logs, 60}, BucketOf(signal.Logs, 2*minute-1, "event"))
	require.Equal(t, Bucket{signal.Logs, 120}, BucketOf(signal.Logs, 2*minute, "observed"))
	require.Equal(t, Bucket{signal.Logs, -60}, BucketOf(signal.Logs, -1, "event"))
	require.Equal(t, Bucket{signal.Logs, NoMinute}, BucketOf(signal.Logs, 2*minute, "received"))
	a, b := TotalOf(others[:2]), TotalOf([]ID{others[1], others[0]})
	require.Equal(t, a, b)
	require.NotEqual(t, a.Fingerprint, TotalOf(others[1:3]).Fingerprint)
	w := Window{Only: map[Bucket]bool{{signal.Logs, NoMinute}: true}}
	_, _, ok := w.Minutes()
	require.False(t, ok)
	w.Only[Bucket{signal.Logs, 600}], w.Only[Bucket{signal.Traces, 60}] = true, true
	from, to, ok := w.Minutes()
	require.Equal(t, []any{int64(60), int64(660), true}, []any{from, to, ok})
}

// Guarantees: a cell that cannot be read ends the step, and nothing is written.
func TestAStepThatFailsIsNotDone(t *testing.T) {
	dir := t.TempDir()
	_, err := (&Guest{Exchange: opened(t, dir), Cell: failing{}}).Step(t.Context())
	require.ErrorIs(t, err, errFailing)
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, files)
}

var errFailing = errors.New("does not answer")

type failing struct{ GuestCell }

func (failing) Events(context.Context, Window, *Namer) (Events, error) { return nil, errFailing }

package settle

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Window is what a side reads of its stores.
type Window struct {
	From, To time.Time       // of receipt
	Only     map[Bucket]bool // nil: all
}

// Minutes are the first one of the window's buckets and the end of the last one, in Unix seconds; false: they are not bounded.
func (w *Window) Minutes() (from, to int64, ok bool) {
	for b := range w.Only {
		switch {
		case b.Minute == NoMinute:
		case !ok:
			from, to, ok = b.Minute, b.Minute+60, true
		default:
			from, to = min(from, b.Minute), max(to, b.Minute+60)
		}
	}
	return from, to, ok
}

// Cell is what a side asks of its own cell.
type Cell interface {
	// Events are those of the tenant within the window that both of the cell's stores have.
	Events(ctx context.Context, w Window, n *Namer) (Events, error)
}

// GuestCell is the cell that lets go of its copies. Its methods may be called again after a kill at any moment.
type GuestCell interface {
	Cell
	// Plan looks for the rows of these events that both stores have, and writes to the disk which they are. Nothing is removed yet.
	Plan(ctx context.Context, w Window, n *Namer, doubled map[ID]bool) (Plan, error)
	// Remove removes the rows of the plan that Plan has written, declares that, and builds rollups anew.
	Remove(ctx context.Context, w Window, p Plan) (Removal, error)
}

// Guest does the guest's steps.
type Guest struct {
	*Exchange
	Cell   GuestCell
	events Events // as of Summary, if this process has written it
}

func (x *Exchange) window() Window { return Window{From: x.From, To: x.To} }

// Step does the guest's next step, if it is the guest's turn.
func (g *Guest) Step(ctx context.Context) (did bool, err error) {
	switch {
	case !g.Has(Summary):
		return true, g.summarize(ctx)
	case g.Has(Answer) && !g.Has(Identities):
		return true, g.tell(ctx)
	case g.Has(Doubled) && !g.Has(Planned):
		return true, g.plan(ctx)
	case g.Has(Planned) && !g.Has(Removed):
		return true, g.remove(ctx)
	}
	return false, nil
}

func (g *Guest) summarize(ctx context.Context) (err error) {
	head := summaryHead{g.Request, newKey()}
	if g.events, err = g.Cell.Events(ctx, g.window(), NewNamer(head.Key, g.Tenant)); err != nil {
		return err
	}
	if len(g.events) > bucketsMax {
		return fmt.Errorf("the events are of %d minutes, more than %d: settle a shorter time", len(g.events), bucketsMax)
	}
	var buckets []counted
	for _, at := range slices.SortedFunc(maps.Keys(g.events), compareBuckets) {
		buckets = append(buckets, counted{at, TotalOf(g.events[at])})
	}
	body, err := encodeSummary(head, buckets)
	if err != nil {
		return err
	}
	return g.write(ctx, Summary, body)
}

func compareBuckets(a, b Bucket) int {
	return cmp.Or(cmp.Compare(a.Signal, b.Signal), cmp.Compare(a.Minute, b.Minute))
}

// asked reads the summary and its answer.
func (g *Guest) asked() (head summaryHead, buckets []counted, answers []byte, err error) {
	if head, buckets, err = g.summary(); err == nil {
		answers, err = g.answers(len(buckets))
	}
	return head, buckets, answers, err
}

// tell sends the IDs that the guest has now: those that came since the summary are as good.
func (g *Guest) tell(ctx context.Context) error {
	head, buckets, answers, err := g.asked()
	if err != nil {
		return err
	}
	w := g.window()
	w.Only = map[Bucket]bool{}
	for i, c := range buckets {
		if answers[i] == answerTell {
			w.Only[c.Bucket] = true
		}
	}
	if g.events == nil && len(w.Only) > 0 {
		if g.events, err = g.Cell.Events(ctx, w, NewNamer(head.Key, g.Tenant)); err != nil {
			return err
		}
	}
	var body []byte
	for _, c := range buckets {
		if !w.Only[c.Bucket] {
			continue
		}
		ids := g.events[c.Bucket]
		body = binary.BigEndian.AppendUint32(body, uint32(len(ids)))
		for _, id := range ids {
			body = append(body, id[:]...)
		}
	}
	g.events = nil
	return g.write(ctx, Identities, body)
}

// doubled are the events that the home has. Of a bucket that was equal they are known only while it has not changed since; a late event there waits for another settling.
func (g *Guest) doubled(ctx context.Context, head summaryHead, buckets []counted, answers []byte) (map[ID]bool, error) {
	told, err := g.identities(buckets, answers)
	if err != nil {
		return nil, err
	}
	n := 0
	equal := g.window()
	equal.Only = map[Bucket]bool{}
	for i, c := range buckets {
		if answers[i] == answerEqual {
			equal.Only[c.Bucket] = true
		}
		n += len(told[c.Bucket])
	}
	is, err := g.doubledBits(n)
	if err != nil {
		return nil, err
	}
	out := map[ID]bool{}
	i := 0
	for _, c := range buckets {
		for _, id := range told[c.Bucket] {
			if is.has(i) {
				out[id] = true
			}
			i++
		}
	}
	if len(equal.Only) == 0 {
		return out, nil
	}
	events, err := g.Cell.Events(ctx, equal, NewNamer(head.Key, g.Tenant))
	if err != nil {
		return nil, err
	}
	for _, c := range buckets {
		if ids := events[c.Bucket]; equal.Only[c.Bucket] && TotalOf(ids) == c.Total {
			for _, id := range ids {
				out[id] = true
			}
		}
	}
	return out, nil
}

func (g *Guest) plan(ctx context.Context) error {
	head, buckets, answers, err := g.asked()
	if err != nil {
		return err
	}
	doubled, err := g.doubled(ctx, head, buckets, answers)
	if err != nil {
		return err
	}
	p, err := g.Cell.Plan(ctx, g.window(), NewNamer(head.Key, g.Tenant), doubled)
	if err != nil {
		return err
	}
	return g.writeJSON(ctx, Planned, p)
}

func (g *Guest) remove(ctx context.Context) error {
	p, err := g.Plan()
	if err != nil {
		return err
	}
	r, err := g.Cell.Remove(ctx, g.window(), p)
	if err != nil {
		return err
	}
	return g.writeJSON(ctx, Removed, r)
}

func (x *Exchange) writeJSON(ctx context.Context, s Step, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return x.write(ctx, s, body)
}

// Home does the home's steps.
type Home struct {
	*Exchange
	Cell   Cell
	events Events // as of Answer, if this process has written it
}

// Step does the home's next step, if it is the home's turn. The certificate is no step: see Certify.
func (h *Home) Step(ctx context.Context) (did bool, err error) {
	switch {
	case h.Has(Summary) && !h.Has(Answer):
		return true, h.answer(ctx)
	case h.Has(Identities) && !h.Has(Doubled):
		return true, h.look(ctx)
	}
	return false, nil
}

// read reads what the home has of the summary's minutes. Its copies may have been received earlier or later than the guest's.
func (h *Home) read(ctx context.Context, head summaryHead, buckets []counted) (Events, error) {
	w := Window{From: h.From.Add(-h.Around), To: h.To.Add(h.Around), Only: map[Bucket]bool{}}
	for _, c := range buckets {
		w.Only[c.Bucket] = true
	}
	if len(buckets) == 0 {
		return Events{}, nil
	}
	return h.Cell.Events(ctx, w, NewNamer(head.Key, h.Tenant))
}

func (h *Home) answer(ctx context.Context) error {
	head, buckets, err := h.summary()
	if err != nil {
		return err
	}
	if h.events, err = h.read(ctx, head, buckets); err != nil {
		return err
	}
	body := make([]byte, len(buckets))
	var equal []ID
	for i, c := range buckets {
		ids := h.events[c.Bucket]
		switch {
		case len(ids) == 0:
			body[i] = answerNone
		case TotalOf(ids) == c.Total:
			body[i] = answerEqual
			equal = append(equal, ids...)
		default:
			body[i] = answerTell
		}
	}
	if err := h.keep(ctx, homeEqual, equal); err != nil {
		return err
	}
	return h.write(ctx, Answer, body)
}

// look tells which of the guest's events the home has in both stores.
func (h *Home) look(ctx context.Context) error {
	head, buckets, err := h.summary()
	if err != nil {
		return err
	}
	answers, err := h.answers(len(buckets))
	if err != nil {
		return err
	}
	told, err := h.identities(buckets, answers)
	if err != nil {
		return err
	}
	if h.events == nil && len(told) > 0 {
		if h.events, err = h.read(ctx, head, buckets); err != nil {
			return err
		}
	}
	var is bitmap
	var kept []ID
	for _, c := range buckets {
		own := h.events[c.Bucket]
		for _, id := range told[c.Bucket] {
			_, has := slices.BinarySearchFunc(own, id, compareIDs)
			is.add(has)
			if has {
				kept = append(kept, id)
			}
		}
	}
	h.events = nil
	if err := h.keep(ctx, homeTold, kept); err != nil {
		return err
	}
	return h.write(ctx, Doubled, is.bits)
}

// keep writes IDs for the home itself: what it must have at the end. They belong to the summary whose hash they begin with.
func (h *Home) keep(ctx context.Context, name string, ids []ID) error {
	body := h.link(Answer)
	for _, id := range ids {
		body = append(body, id[:]...)
	}
	if err := h.dir.Write(ctx, name, body); err != nil {
		return fmt.Errorf("write %s of %s: %w", name, h.dir, err)
	}
	return nil
}

// kept reads what both calls of keep have written.
func (h *Home) kept(ctx context.Context) (ids []ID, err error) {
	for _, name := range []string{homeEqual, homeTold} {
		b, err := h.Exchange.read(ctx, name)
		if err != nil {
			return nil, err
		}
		b, found := bytes.CutPrefix(b, h.link(Answer))
		if !found || len(b)%idBytes != 0 {
			return nil, fmt.Errorf("%s of %s is gone, or of another run", name, h.dir)
		}
		for ; len(b) > 0; b = b[idBytes:] {
			ids = append(ids, ID(b))
		}
	}
	return Sorted(ids), nil
}

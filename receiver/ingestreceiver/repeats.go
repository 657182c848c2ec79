package ingestreceiver

import (
	"context"
	"encoding/binary"
	"hash/maphash"
	"strings"
	"sync"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Bounds of repeats: at most about 32 MiB, with the closed connections that it remembers.
const (
	maxGroups      = 16 << 10    // beyond it the oldest is forgotten
	maxPlaces      = 64 << 10    // of all groups, the first of each not counted; beyond it equal requests have one identity, as without repeats
	maxGroupPlaces = 1 << 10     // of one group; it bounds the work for one request too
	keepGroup      = time.Minute // a request that is sent again later than this after the first of its group counts as equal to that one
)

// repeats tells equal requests that a client sends because it has equal events from those that it sends again.
//
// Equal requests of one source are a group. Each takes the lowest free place of its group, and the place is part of the request's identity: to dedupe,
// requests in different places are different requests. A place is free when its request has failed, or may have failed: it was not answered OK, or
// its connection is closed. A client sends a request again after a failure or a timeout, so a retry finds a free place: its own, or one of another
// request that failed. The window is shorter than clients' timeouts; a group gets new places within it only.
//
// Places count from 0 in every gateway and after every start. So n equal requests have at most n identities, however often and wherever they are sent
// again: an event can be taken for a copy, but none is stored twice. A request in place 0 has the identity that it has without repeats.
type repeats struct {
	window time.Duration
	now    func() time.Time

	mu     sync.Mutex // guards what follows
	groups map[repeatKey]*group
	young  []*group // within the window, by start
	kept   []*group // older ones that have several places, by start
	places int      // sum of group.more
}

// bodySeed is random, and never leaves the process.
var bodySeed = maphash.MakeSeed()

type repeatKey struct {
	hash           uint64 // of the body, by bodySeed: a client that could make two bodies share one would harm itself only
	tenant, source string
	signal         signal.Signal
}

type group struct {
	key   repeatKey
	start time.Time
	more  int // places beyond the first; guarded by repeats.mu

	mu     sync.Mutex // guards places and their arrivals; before repeats.mu
	places []*arrival
}

// arrival is a request in a place. nil: a request without one.
type arrival struct {
	of         *group
	connection *connection
	call       context.Context // while the request is handled; then nil
	failed     bool
}

func newRepeats(window time.Duration) *repeats {
	return &repeats{window: window, now: time.Now, groups: make(map[repeatKey]*group)}
}

// arrive gives a request its place. A request without one (nil) has the identity of place 0.
func (r *repeats) arrive(call context.Context, c *connection, key repeatKey) (*arrival, int) {
	a := &arrival{connection: c, call: call}
	now := r.now()
	first := r.join(a, key, now)
	if first {
		return a, 0
	}
	g := a.of
	g.mu.Lock()
	defer g.mu.Unlock()
	if place := g.free(); place >= 0 {
		g.places[place] = a
		return a, place
	}
	if now.Sub(g.start) >= r.window || len(g.places) >= maxGroupPlaces || !r.grow(g) {
		return nil, 0
	}
	g.places = append(g.places, a)
	return a, len(g.places) - 1
}

// join finds the group of an arrival. The first request of a group has place 0 in it.
func (r *repeats) join(a *arrival, key repeatKey, now time.Time) (first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire(now)
	if a.of = r.groups[key]; a.of != nil {
		return false
	}
	for len(r.groups) >= maxGroups {
		r.forgetOldest()
	}
	a.of = &group{key: key, start: now, places: []*arrival{a}}
	r.groups[key] = a.of
	r.young = append(r.young, a.of)
	return true
}

// grow asks for one place more in a group.
func (r *repeats) grow(g *group) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.places >= maxPlaces || r.groups[g.key] != g {
		return false
	}
	g.more++
	r.places++
	return true
}

func (r *repeats) expire(now time.Time) {
	for len(r.kept) > 0 && now.Sub(r.kept[0].start) >= keepGroup {
		r.kept = r.forget(r.kept)
	}
	for len(r.young) > 0 && now.Sub(r.young[0].start) >= r.window {
		if g := r.young[0]; g.more > 0 {
			r.young[0] = nil
			r.young, r.kept = r.young[1:], append(r.kept, g)
		} else {
			r.young = r.forget(r.young)
		}
	}
}

func (r *repeats) forgetOldest() {
	if len(r.kept) > 0 {
		r.kept = r.forget(r.kept)
	} else {
		r.young = r.forget(r.young)
	}
}

// forget drops the first group of a list.
func (r *repeats) forget(list []*group) []*group {
	g := list[0]
	delete(r.groups, g.key)
	r.places -= g.more
	list[0] = nil
	return list[1:]
}

// free returns a place whose request has failed, else one whose connection is closed, so that its client may not have read the answer; else -1.
func (g *group) free() int {
	for i, a := range g.places {
		if a.failed || a.call != nil && a.call.Err() != nil {
			return i
		}
	}
	stands := make(map[*connection]bool)
	for i, a := range g.places {
		known, ok := stands[a.connection]
		if !ok {
			known = a.connection.stands()
			stands[a.connection] = known
		}
		if !known {
			return i
		}
	}
	return -1
}

// end says that a request has been handled, and whether its answer was OK and has been written.
func (a *arrival) end(answered bool) {
	if a == nil {
		return
	}
	a.of.mu.Lock()
	defer a.of.mu.Unlock()
	a.failed = !answered || a.call.Err() != nil
	a.call = nil
}

// identityOf is the header `request` of the request with this digest in a place: another digest. nil in place 0: there the record is the request.
func identityOf(digest [16]byte, place int) []byte {
	if place == 0 {
		return nil
	}
	// No request begins with a zero byte, so this is the digest of no request.
	b := append([]byte("\x00repeat"), digest[:]...)
	id := eventid.Request{Whole: true, Digest: eventid.Digest(binary.LittleEndian.AppendUint32(b, uint32(place)))}
	return id.Encode()
}

// place sets the identity of a request, if its times do not tell it from a retry, and its connection does.
func (r *ingestReceiver) place(ctx context.Context, q *request, e *envelope.Envelope) {
	c, _ := ctx.Value(connectionKey{}).(*connection)
	if r.repeats == nil || c == nil || relayed(q.headers) || !eventid.BeginsCoarse(e.Signal, e.Body) {
		return
	}
	key := repeatKey{hash: maphash.Bytes(bodySeed, e.Body), tenant: e.Tenant, source: e.Source, signal: e.Signal}
	var place int
	if q.arrival, place = r.repeats.arrive(ctx, c, key); place > 0 {
		q.transport.in.repeats.Add(ctx, 1, q.transport.bySignal[q.signal])
		e.Request = identityOf(eventid.Digest(e.Body), place)
	}
}

// relayed tells whether a proxy, or a client that repeats calls within its library, says so in a request's headers. What became of an answer behind a
// proxy does not show in the connection.
func relayed(headers map[string][]string) bool {
	for name := range headers {
		switch name = strings.ToLower(name); {
		case name == "via", name == "forwarded", name == "x-real-ip", name == "grpc-previous-rpc-attempts",
			strings.HasPrefix(name, "x-forwarded-"), strings.HasPrefix(name, "x-envoy-"):
			return true
		}
	}
	return false
}

package ingestreceiver

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

const (
	wasteBurst   = 16       // seconds of limits::max_refused_bytes_per_second that a tenant may waste at once
	minWaste     = 16 << 10 // bytes that a refused request counts for at least: its headers and its answer cost CPU too
	wasteSweep   = time.Minute
	minWasteWait = 100 * time.Millisecond
	oneAtATime   = "beyond half of that one request at a time is taken"
)

// waste is the work that a gateway did in vain, by tenant, in bytes that it read and decompressed. Quotas count what is taken only: a tenant whose requests
// are all refused could keep the gateway busy and spend nothing. Once a tenant has wasted too much its requests are refused by their headers, before anything
// of their bodies is read. From half of that on it has one request at a time: how much a request wastes is known at its end only, so several that came in at the
// same moment would waste a multiple, on every core.
type waste struct {
	perSecond float64 // a tenant's waste is forgotten at this rate
	now       func() time.Time

	mu    sync.Mutex
	of    map[string]wasted // guarded by mu; by tenant, without those whose waste is forgotten
	swept time.Time         // guarded by mu
}

// wasted are bytes as of a time.
type wasted struct {
	bytes float64
	at    time.Time
	busy  bool // the one request is in
}

func newWaste(perSecond int) *waste {
	return &waste{perSecond: float64(perSecond), now: time.Now, of: map[string]wasted{}}
}

// left is what of a tenant's waste is not forgotten yet.
func (w *waste) left(of wasted, now time.Time) float64 {
	return max(0, of.bytes-w.perSecond*max(0, now.Sub(of.at).Seconds()))
}

func (w *waste) add(tenant string, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now, of := w.now(), w.of[tenant]
	of.bytes, of.at = w.left(of, now)+float64(bytes), now
	w.of[tenant] = of
	if now.Sub(w.swept) < wasteSweep {
		return
	}
	w.swept = now
	for id, of := range w.of {
		if w.left(of, now) == 0 && !of.busy {
			delete(w.of, id)
		}
	}
}

// admit refuses a tenant's request by its headers, where the tenant has wasted more than it may, or so much that it has one request at a time; nil: it may come in,
// until held is released.
func (w *waste) admit(id string, held *reservation) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	of := w.of[id]
	bytes := w.left(of, w.now())
	after, rule := minWasteWait, oneAtATime
	switch beyond := bytes - wasteBurst*w.perSecond; {
	case beyond > 0:
		after = max(after, time.Duration(beyond/w.perSecond*float64(time.Second)).Truncate(time.Millisecond)+time.Millisecond)
		rule = "none is taken beyond that"
	case bytes <= wasteBurst*w.perSecond/2:
		return nil
	case !of.busy:
		of.busy = true
		w.of[id] = of
		held.onRelease = func() { w.leave(id) }
		return nil
	}
	refusal := tenant.Refusal{
		Reason: tenant.ReasonQuota, Code: codes.ResourceExhausted, After: after, Info: map[string]string{"tenant": id},
		Text: fmt.Sprintf("requests of tenant %q that were not taken have cost the gateway %.0f bytes, read and decompressed in vain; %.0f a second are allowed, and %d s of that at once "+
			"(max_refused_bytes_per_second); %s: correct what is refused, and send this again in %v", id, bytes, w.perSecond, wasteBurst, rule, after),
	}
	return &denied{status: refusal.GRPCStatus(), reason: reasonWaste}
}

// leave lets the next request of a tenant in that has one at a time.
func (w *waste) leave(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	of := w.of[id]
	of.busy = false
	w.of[id] = of
}

// atFault are the reasons that lie in a request itself.
var atFault = map[string]bool{
	refusedCompression.reason: true, refusedTooLarge.reason: true, refusedRatio.reason: true, refusedMalformed.reason: true,
	refusedTooDeep.reason: true, refusedTooMany.reason: true, refusedRepetitive.reason: true,
}

// countWaste counts a request that was done with and spent no quota; a is its refusal, nil where it was taken. Not counted is what a tenant has no part in,
// such as a Kafka that is away; nor are requests without credentials, in which anybody could name any tenant.
func (r *ingestReceiver) countWaste(q *request, held *reservation, a *answer) {
	if held.tenant == "" {
		return
	}
	cost := max(held.held, q.size)
	switch {
	case a == nil && q.events == 0 && !q.legacy: // it was taken, and no quota counts it
	case a != nil && (atFault[a.reason] || a.reason == reasonQuota): // one that does not wait as it is told to
		cost = max(cost, minWaste)
	default:
		return
	}
	r.waste.add(held.tenant, cost)
}

// Of the texts of the gRPC library, which hands on nothing else: how many bytes it had decompressed when it refused a message.
const tooLargeDecompressed = "after decompression larger than max"

var afterBytes = regexp.MustCompile(`after (\d+) decompressed bytes`) // place says so

// countCall counts a call whose message the gRPC library has refused.
func (r *ingestReceiver) countCall(c *call, s *status.Status) {
	if c.owner == "" || s.Code() != codes.ResourceExhausted && s.Code() != codes.Internal {
		return // the message was not wanted any more, or nobody knows whose it is
	}
	cost := int64(minWaste)
	if strings.Contains(s.Message(), tooLargeDecompressed) {
		cost = int64(r.maxMessage)
	} else if m := afterBytes.FindStringSubmatch(s.Message()); m != nil {
		n, _ := strconv.ParseInt(m[1], 10, 64) // digits, of a number that was an int
		cost = max(cost, n)
	}
	r.waste.add(c.owner, cost)
}

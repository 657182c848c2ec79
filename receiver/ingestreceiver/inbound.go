package ingestreceiver

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/tap"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	inboundFree = 64 << 10  // what a connection may hold of unfinished messages without a reservation: most messages are smaller
	inboundStep = 256 << 10 // what it reserves at a time
)

// inbound is the account of one gRPC connection over the bytes of messages that have not come whole. The gRPC library holds them, and does not tell; what
// the connection has read while calls wait for their messages, less the messages that have come, is at least as much. It is reserved in the budget, in the
// name of the tenant whose calls they are. Where there is no room the calls that wait are refused.
type inbound struct {
	mu    sync.Mutex
	calls map[*call]struct{} // that wait for their messages
	last  int64              // bytes of the last read: it may hold the beginning of a message beside its call's headers
	bytes int64
	held  reservation
}

type inboundKey struct{}

func newInbound(b *budget) *inbound {
	return &inbound{calls: map[*call]struct{}{}, held: reservation{of: b}}
}

// read adds n bytes that the connection has read.
func (in *inbound) read(n int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.last = int64(n)
	if len(in.calls) == 0 {
		return
	}
	in.bytes += in.last
	if missing := in.bytes - inboundFree - in.held.held; missing > 0 && !in.held.grow(int(max(missing, inboundStep))) {
		in.refuse()
	}
}

func (in *inbound) begin(c *call) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.calls) == 0 {
		in.bytes = in.last
	}
	in.calls[c] = struct{}{}
}

// owner says whose calls they are. What was reserved before anybody knew it is theirs, too.
func (in *inbound) owner(tenant string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	was := in.held
	if was.tenant == tenant || was.tenant != "" && was.held > 0 {
		return
	}
	in.held.release()
	in.held.tenant = tenant
	if was.held > 0 && !in.held.grow(int(was.held)) {
		in.refuse()
	}
}

// refuse refuses the calls that wait: what was asked for last has no room.
func (in *inbound) refuse() {
	why := in.held.noRoom()
	for c := range in.calls {
		c.refuse(why)
	}
}

// end ends the wait of a call, whose message of n bytes has come, or will not.
func (in *inbound) end(c *call, n int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if _, waits := in.calls[c]; !waits {
		return
	}
	delete(in.calls, c)
	in.bytes = max(0, in.bytes-int64(n))
	if len(in.calls) == 0 {
		in.bytes = 0
	}
	if in.bytes <= inboundFree {
		in.held.release()
	}
}

// close gives back what a connection that has ended holds.
func (in *inbound) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	clear(in.calls)
	in.bytes = 0
	in.held.release()
}

// call is a gRPC call from its headers on. One goroutine serves it, after tapCall.
type call struct {
	signal     signal.Signal
	start      time.Time
	compressed int    // bytes of its message, as they came
	handled    bool   // the receiver has counted it
	tenant     string // whose it is, where it is not handled; empty: not known
	owner      string // as reservation.tenant
	reason     string // why it is refused, where it is not handled; empty: the library has refused it
	leave      func() // reservation.onRelease, where it is not handled; may be nil

	in      *inbound // of its connection
	cancel  context.CancelFunc
	refused atomic.Pointer[refusal] // why it was cancelled
	tooLong *time.Timer             // refuses it
}

type callKey struct{}

// tapCall sees a call when its headers have come. Its message must come within limits::read_timeout, as an HTTP body must.
func (r *ingestReceiver) tapCall(ctx context.Context, info *tap.Info) (context.Context, error) {
	c := &call{start: time.Now(), in: ctx.Value(inboundKey{}).(*inbound)}
	for s, name := range services {
		if strings.HasPrefix(info.FullMethodName, "/"+name+"/") {
			c.signal = s
		}
	}
	ctx, c.cancel = context.WithCancel(context.WithValue(ctx, callKey{}, c))
	c.in.begin(c)
	c.tooLong = time.AfterFunc(r.cfg.Limits.ReadTimeout, func() {
		c.refuse(refusedSlow.because("the message did not come, or was not decompressed, within %v (read_timeout)", r.cfg.Limits.ReadTimeout))
		c.in.end(c, 0)
	})
	return ctx, nil
}

// receive waits for the call's message. Where it returns a refusal the library has answered Canceled already, which senders retry.
func (c *call) receive(stream grpc.ServerStream, f *frame) error {
	err := stream.RecvMsg(f)
	c.tooLong.Stop()
	c.in.end(c, c.compressed)
	if r := c.refused.Load(); err != nil && r != nil {
		return r
	}
	return err
}

// refuse ends the wait for the call's message.
func (c *call) refuse(r *refusal) {
	c.refused.CompareAndSwap(nil, r)
	c.cancel()
}

// end is called when all is over.
func (c *call) end() {
	c.tooLong.Stop()
	c.in.end(c, 0)
	c.cancel()
}

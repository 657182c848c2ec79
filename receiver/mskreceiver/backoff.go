package mskreceiver

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff paces tries: each wait is about twice the one before, within half of it at random, so that partitions that failed
// together do not come back together.
type backoff struct {
	cfg     RetryConfig
	current time.Duration
}

func newBackoff(cfg RetryConfig) *backoff { return &backoff{cfg: cfg} }

func (b *backoff) next() time.Duration {
	if b.current == 0 {
		b.current = b.cfg.InitialInterval
	} else {
		b.current = min(2*b.current, b.cfg.MaxInterval)
	}
	return b.current/2 + rand.N(b.current/2+1)
}

func (b *backoff) reset() { b.current = 0 }

// sleep waits; false: ctx or stop ended it. A nil stop never ends it.
func sleep(ctx context.Context, stop <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-stop:
	}
	return false
}

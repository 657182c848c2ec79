// Package sleep waits as long as nobody minds.
package sleep

import (
	"context"
	"time"
)

// For returns nil after d, or the cause for which ctx ended before that.
func For(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

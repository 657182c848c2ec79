// Package yield has jobs give way to live traffic, and bounds how much they do a second.
package yield

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/sleep"
)

const (
	// lookEvery is how often live traffic is looked at.
	lookEvery = 2 * time.Second
	// leastShare is what a job keeps of its time, so that it comes to its end beside traffic that never catches up.
	leastShare = 1.0 / 32
	// longestPause bounds what is left to live traffic at a time.
	longestPause = 30 * time.Second
)

// Live tells how live traffic is behind; empty: it is not. It returns soon after ctx ends.
type Live func(ctx context.Context) (behind string, err error)

// Courtesy is the share of its time that a job works; in the rest live traffic has the stores for itself. The share is halved at each look at which live
// traffic is behind, and grows by a quarter at each other one, so it settles where live traffic just keeps up.
type Courtesy struct {
	mu     sync.Mutex
	share  float64 // guarded by mu; 1: all
	behind string  // guarded by mu; how live traffic was behind when it last was, while share is below 1
}

// NewCourtesy has a job work all of its time.
func NewCourtesy() *Courtesy { return &Courtesy{share: 1} }

// heard takes what a look has found.
func (c *Courtesy) heard(behind string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if behind != "" {
		c.share, c.behind = max(leastShare, c.share/2), behind
		return
	}
	if c.share = min(1, c.share*1.25); c.share == 1 {
		c.behind = ""
	}
}

// Worked is the share.
func (c *Courtesy) Worked() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.share
}

// String says that the job yields, and to what; empty: it does not.
func (c *Courtesy) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.behind == "" {
		return ""
	}
	return fmt.Sprintf("works %.0f%% of the time: %s", 100*c.share, c.behind)
}

// Observe looks at live traffic until ctx ends.
func (c *Courtesy) Observe(ctx context.Context, live Live, log *zap.Logger) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	failed := false
	for {
		look, cancel := context.WithTimeout(ctx, lookEvery)
		behind, err := live(look)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failed {
			log.Warn("live traffic cannot be looked at; the job does not yield to it meanwhile", zap.Error(err))
		}
		failed = err != nil
		c.heard(behind)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// Pace bounds how many lines, or events, a job begins a second, and the share of the time that it works.
type Pace struct {
	Rate int // a second; 0: no bound

	begun time.Time
	count int // that were begun then
}

// Wait returns when the next count may begin.
func (p *Pace) Wait(ctx context.Context, count int, share float64) error {
	if !p.begun.IsZero() {
		took := time.Since(p.begun)
		least := took
		if p.Rate > 0 {
			least = max(took, time.Duration(float64(p.count)/float64(p.Rate)*float64(time.Second)))
		}
		yielded := min(longestPause, time.Duration(float64(least)*(1/share-1)))
		if err := sleep.For(ctx, least-took+yielded); err != nil {
			return err
		}
	}
	p.begun, p.count = time.Now(), count
	return nil
}

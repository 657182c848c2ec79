package spill

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gocloud.dev/gcerrors"
)

// leaseLasts is for how long a lease counts after it was last written, and leaseRenew after how long its holder writes it anew.
const (
	leaseLasts = 60 * time.Second
	leaseRenew = 15 * time.Second
)

// lease is this process's knowledge of a lease that it holds.
type lease struct{ written time.Time }

// ErrLed is returned where another gateway holds the lease.
var ErrLed = errors.New("another gateway drains these objects")

// lead takes or renews the lease of a gateway's objects. A gateway's own lease it takes in any case: whoever adopted its objects while
// it was silent finds that out when renewing.
func (s *Spool) lead(ctx context.Context, gateway string) error {
	now := s.now()
	s.leasesMu.Lock()
	held, mine := s.leases[gateway]
	s.leasesMu.Unlock()
	if mine && now.Sub(held.written) < leaseRenew {
		return nil
	}
	key := gateway + "/" + leaseName
	if gateway != s.cfg.Gateway {
		holder, err := s.bucket.ReadAll(ctx, key)
		if err != nil && gcerrors.Code(err) != gcerrors.NotFound {
			return fmt.Errorf("read the lease of gateway %s: %w", gateway, err)
		}
		if err == nil && string(holder) != s.cfg.Gateway {
			at, err := s.bucket.Attributes(ctx, key)
			if err != nil && gcerrors.Code(err) != gcerrors.NotFound {
				return fmt.Errorf("read the lease of gateway %s: %w", gateway, err)
			}
			if err == nil && now.Sub(at.ModTime) < leaseLasts {
				return fmt.Errorf("gateway %s, led by %s: %w", gateway, holder, ErrLed)
			}
		}
	}
	if err := s.bucket.WriteAll(ctx, key, []byte(s.cfg.Gateway), nil); err != nil {
		return fmt.Errorf("write the lease of gateway %s: %w", gateway, err)
	}
	s.leasesMu.Lock()
	s.leases[gateway] = lease{written: now}
	s.leasesMu.Unlock()
	return nil
}

// Adopt gives back the objects of gateways that no longer do it themselves, as far as their lanes take them.
func (s *Spool) Adopt(ctx context.Context, sink Sink) (d Drained, err error) {
	gateways, err := s.Look(ctx)
	if err != nil {
		return d, err
	}
	var errs []error
	for _, gateway := range gateways { // a gateway whose lease cannot be had holds no other up
		one, err := s.adopt(ctx, gateway, sink)
		d.add(one)
		if err != nil && !errors.Is(err, ErrLed) {
			errs = append(errs, err)
		}
	}
	return d, errors.Join(errs...)
}

func (s *Spool) adopt(ctx context.Context, gateway string, sink Sink) (d Drained, err error) {
	if err := s.lead(ctx, gateway); err != nil {
		return d, err
	}
	// Listed now that nobody else changes them.
	x := newIndex()
	listing := x.beginListing()
	all, err := s.list(ctx, gateway)
	if err != nil {
		return d, err
	}
	x.reconcile(listing, all[gateway])
	// Lanes that do not take this gateway's records are not tried with another's.
	d, err = s.sweep(ctx, x, gateway, s.lanes.snapshot(), sink)
	if err == nil && len(x.entries) == 0 {
		s.release(ctx, gateway)
	}
	return d, err
}

// release deletes the lease of objects that are all drained. Where that fails it ends by itself.
func (s *Spool) release(ctx context.Context, gateway string) {
	_ = s.bucket.Delete(ctx, gateway+"/"+leaseName)
	s.leasesMu.Lock()
	delete(s.leases, gateway)
	s.leasesMu.Unlock()
}

package spill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"gocloud.dev/gcerrors"
)

const (
	// leaseLasts is for how long a lease counts after it was last written, and leaseRenew after how long its holder writes it anew.
	leaseLasts = 60 * time.Second
	leaseRenew = 15 * time.Second
	// drainBatchBytes is how much of an object is produced at once.
	drainBatchBytes = 4 << 20
)

// Drained is what a call of Drain gave back.
type Drained struct {
	Objects, Records, Bad int
}

// Drain produces what gateway has in the store, oldest first, and deletes each object when produce has returned nil for all of its
// records. It ends with nil when a listing finds at most leave objects. Records that were produced before an error come again with the
// next Drain.
func (s *Spool) Drain(ctx context.Context, gateway string, leave int, produce func(context.Context, []Record) error) (d Drained, err error) {
	for {
		names, err := s.list(ctx, gateway)
		if err != nil || len(names) <= leave {
			return d, err
		}
		for _, name := range names {
			if err := s.lead(ctx, gateway); err != nil {
				return d, err
			}
			n, err := s.drain(ctx, name, produce)
			d.Records += n
			switch {
			case errors.Is(err, ErrDamaged):
				if err := s.setAside(ctx, name); err != nil {
					return d, err
				}
				d.Bad++
			case err != nil:
				return d, fmt.Errorf("spill object %s: %w", name, err)
			default:
				if err := s.delete(ctx, name); err != nil {
					return d, err
				}
				d.Objects++
			}
		}
	}
}

// drain produces one object. An object that another holder of the lease has deleted meanwhile is done.
func (s *Spool) drain(ctx context.Context, name string, produce func(context.Context, []Record) error) (records int, err error) {
	r, err := s.bucket.NewReader(ctx, name, nil)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer r.Close()
	dec, err := newDecoder(r)
	if err != nil {
		return 0, err
	}
	defer dec.close()
	for end := false; !end; {
		var batch []Record
		for size := 0; size < drainBatchBytes; {
			rec, err := dec.next()
			if errors.Is(err, io.EOF) {
				end = true
				break
			}
			if err != nil {
				return records, err
			}
			batch = append(batch, rec)
			size += rec.size()
		}
		if len(batch) == 0 {
			break
		}
		if err := produce(ctx, batch); err != nil {
			return records, err
		}
		records += len(batch)
	}
	return records, nil
}

func (s *Spool) delete(ctx context.Context, name string) error {
	if err := s.bucket.Delete(ctx, name); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return fmt.Errorf("delete drained spill object %s: %w", name, err)
	}
	s.backlog.removed(name)
	return nil
}

// setAside keeps an object that cannot be read where nobody drains it.
func (s *Spool) setAside(ctx context.Context, name string) error {
	if err := s.bucket.Copy(ctx, badPrefix+name, name, nil); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return fmt.Errorf("set the damaged spill object %s aside: %w", name, err)
	}
	return s.delete(ctx, name)
}

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

// Adopt drains the objects of gateways that no longer do it themselves.
func (s *Spool) Adopt(ctx context.Context, produce func(context.Context, []Record) error) (d Drained, err error) {
	gateways, err := s.Look(ctx)
	if err != nil {
		return d, err
	}
	var errs []error
	for gateway := range gateways { // a gateway whose lease cannot be had holds no other up
		if gateway == s.cfg.Gateway {
			continue
		}
		one, err := s.Drain(ctx, gateway, 0, produce)
		d.Objects, d.Records, d.Bad = d.Objects+one.Objects, d.Records+one.Records, d.Bad+one.Bad
		switch {
		case errors.Is(err, ErrLed):
		case err != nil:
			errs = append(errs, err)
		default:
			s.release(ctx, gateway)
		}
	}
	return d, errors.Join(errs...)
}

// release deletes the lease of objects that are all drained. Where that fails it ends by itself.
func (s *Spool) release(ctx context.Context, gateway string) {
	_ = s.bucket.Delete(ctx, gateway+"/"+leaseName)
	s.leasesMu.Lock()
	delete(s.leases, gateway)
	s.leasesMu.Unlock()
}

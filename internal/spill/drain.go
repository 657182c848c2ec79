package spill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"gocloud.dev/gcerrors"
	"golang.org/x/sync/errgroup"
)

const (
	// leaseLasts is for how long a lease counts after it was last written, and leaseRenew after how long its holder writes it anew.
	leaseLasts = 60 * time.Second
	leaseRenew = 15 * time.Second
	// drainBatchBytes is how much is produced at once.
	drainBatchBytes = 4 << 20
	// drainObjects is how many objects are read at a time, and drainBytes how much they may take as they lie in the store, but for the
	// first. An object alone costs two of the store's answers, a tenth of a second, and a gateway under light load closes one as often.
	drainObjects = 16
	drainBytes   = 16 << 20
)

// Drained is what a call of Drain gave back.
type Drained struct {
	Objects, Records, Bad int
}

// Drain produces what gateway has in the store, oldest first, and deletes objects when produce has returned nil for all of their
// records. It ends with nil when a listing finds at most leave objects. It begins with one object, the probe, and takes more at a time as
// it goes well. Records that were produced before an error may come again with the next Drain.
func (s *Spool) Drain(ctx context.Context, gateway string, leave int, produce func(context.Context, []Record) error) (d Drained, err error) {
	few := 1
	for {
		objects, err := s.list(ctx, gateway)
		if err != nil || len(objects) <= leave {
			return d, err
		}
		for len(objects) > 0 {
			if err := s.lead(ctx, gateway); err != nil {
				return d, err
			}
			n := together(objects, few)
			one, err := s.drain(ctx, objects[:n], produce)
			d.Objects, d.Records, d.Bad = d.Objects+one.Objects, d.Records+one.Records, d.Bad+one.Bad
			if err != nil {
				return d, err
			}
			objects, few = objects[n:], min(2*few, drainObjects)
		}
	}
}

// together is how many of the first objects are read at a time.
func together(objects []stored, most int) int {
	size := int64(0)
	for i, o := range objects[:min(most, len(objects))] {
		if size += o.bytes; i > 0 && size > drainBytes {
			return i
		}
	}
	return min(most, len(objects))
}

// drain produces objects in their order, many in a batch, and deletes them.
func (s *Spool) drain(ctx context.Context, objects []stored, produce func(context.Context, []Record) error) (d Drained, err error) {
	bodies, err := s.read(ctx, objects)
	if err != nil {
		return d, err
	}
	var batch []Record
	size := 0
	var done, last, bad []string // objects that are produced; those whose last records are in the batch; those that cannot be read
	flush := func() error {
		if len(batch) > 0 {
			if err := produce(ctx, batch); err != nil {
				return err
			}
		}
		d.Records += len(batch)
		batch, size = nil, 0
		done, last = append(done, last...), nil
		return nil
	}
	for i, o := range objects {
		err = each(bodies[i], func(r Record) error {
			batch = append(batch, r)
			if size += r.size(); size < drainBatchBytes {
				return nil
			}
			return flush()
		})
		if errors.Is(err, ErrDamaged) {
			bad, err = append(bad, o.name), nil
			continue
		}
		if err != nil {
			break
		}
		if len(batch) == 0 {
			done = append(done, o.name)
		} else {
			last = append(last, o.name)
		}
	}
	if err == nil {
		err = flush()
	}
	if err != nil {
		err = fmt.Errorf("spill objects %s to %s: %w", objects[0].name, objects[len(objects)-1].name, err)
	}
	d.Objects, d.Bad = len(done), len(bad)
	return d, errors.Join(err, s.remove(ctx, done, bad))
}

// read returns the objects as they lie in the store. One that another holder of the lease has deleted meanwhile is empty.
func (s *Spool) read(ctx context.Context, objects []stored) ([][]byte, error) {
	bodies := make([][]byte, len(objects))
	g, ctx := errgroup.WithContext(ctx)
	for i, o := range objects {
		g.Go(func() (err error) {
			if bodies[i], err = s.bucket.ReadAll(ctx, o.name); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
				return fmt.Errorf("spill object %s: %w", o.name, err)
			}
			return nil
		})
	}
	return bodies, g.Wait()
}

// each calls fn for each record of an object. It holds no more than a record of it decompressed.
func each(body []byte, fn func(Record) error) error {
	if body == nil {
		return nil
	}
	dec, err := newDecoder(bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer dec.close()
	for {
		r, err := dec.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = fn(r)
		}
		if err != nil {
			return err
		}
	}
}

// remove deletes what is produced, and sets aside what cannot be read.
func (s *Spool) remove(ctx context.Context, done, bad []string) error {
	var g errgroup.Group
	for _, name := range done {
		g.Go(func() error { return s.delete(ctx, name) })
	}
	for _, name := range bad {
		g.Go(func() error { return s.setAside(ctx, name) })
	}
	return g.Wait()
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

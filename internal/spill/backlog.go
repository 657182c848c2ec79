package spill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"gocloud.dev/blob"
)

// Names that are no gateway's objects.
const (
	leaseName = "lease"
	badPrefix = "bad/"
)

// Backlog is what waits in the store.
type Backlog struct {
	Objects int
	Bytes   int64
	Oldest  time.Time // when the oldest object was closed; zero: there is none
}

// backlog counts what waits: as last listed, and what this gateway has added or drained since.
type backlog struct {
	mu      sync.Mutex
	objects map[string]int64 // guarded by mu; name -> bytes
	bytes   int64            // guarded by mu
	oldest  time.Time        // guarded by mu; least closedAt of objects; zero: there are none
}

func (b *backlog) added(name string, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.objects == nil {
		b.objects = map[string]int64{}
	}
	b.objects[name] = bytes
	b.bytes += bytes
	b.age(name)
}

// age takes an object's time into account. It is called with mu held.
func (b *backlog) age(name string) {
	if at := closedAt(name); b.oldest.IsZero() || at.Before(b.oldest) {
		b.oldest = at
	}
}

func (b *backlog) removed(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bytes -= b.objects[name]
	delete(b.objects, name)
	b.oldest = time.Time{}
	for left := range b.objects { // thousands at most, for an object that took milliseconds to drain
		b.age(left)
	}
}

func (b *backlog) listed(objects map[string]int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.objects, b.bytes, b.oldest = objects, 0, time.Time{}
	for name, n := range objects {
		b.bytes += n
		b.age(name)
	}
}

func (b *backlog) full(cfg Config, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bytes >= cfg.MaxBytes {
		return fmt.Errorf("%w: %d bytes wait in the store, max_bytes is %d", ErrFull, b.bytes, cfg.MaxBytes)
	}
	if age := now.Sub(b.oldest); !b.oldest.IsZero() && age >= cfg.MaxAge {
		return fmt.Errorf("%w: its oldest object has waited %v, max_age is %v", ErrFull, age.Round(time.Second), cfg.MaxAge)
	}
	return nil
}

// Backlog is what waited when it was last looked at (Drain, Look), and what this gateway has added or drained since.
func (s *Spool) Backlog() Backlog {
	b := &s.backlog
	b.mu.Lock()
	defer b.mu.Unlock()
	return Backlog{Objects: len(b.objects), Bytes: b.bytes, Oldest: b.oldest}
}

// closedAt reads an object's name; the zero time for a name that is none.
func closedAt(name string) time.Time {
	_, base, _ := strings.Cut(name, "/")
	ms, _, _ := strings.Cut(base, "-")
	n, err := strconv.ParseInt(ms, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(n)
}

// Look lists the store, and returns the gateways that have objects there, by name, with their objects in order.
func (s *Spool) Look(ctx context.Context) (map[string][]string, error) {
	all := map[string]int64{}
	byGateway := map[string][]string{}
	for it := s.bucket.List(nil); ; {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("list the spill: %w", err)
		}
		gateway, base, nested := strings.Cut(o.Key, "/")
		if !nested || base == leaseName || strings.HasPrefix(o.Key, badPrefix) || closedAt(o.Key).IsZero() {
			continue
		}
		all[o.Key] = o.Size
		byGateway[gateway] = append(byGateway[gateway], o.Key) // listings are in lexical order
	}
	s.backlog.listed(all)
	return byGateway, nil
}

// stored is an object in the store.
type stored struct {
	name  string
	bytes int64
}

// list returns one gateway's objects in order.
func (s *Spool) list(ctx context.Context, gateway string) ([]stored, error) {
	var out []stored
	for it := s.bucket.List(&blob.ListOptions{Prefix: gateway + "/"}); ; {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list the spill of gateway %s: %w", gateway, err)
		}
		if !closedAt(o.Key).IsZero() {
			out = append(out, stored{o.Key, o.Size})
		}
	}
}

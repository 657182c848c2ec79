package spill

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/zeebo/xxh3"
	"gocloud.dev/gcerrors"
)

const (
	// probeLanes is how many blocked lanes are tried at a time, in turn. Where more are blocked and all of these take their record, the
	// others are taken to do so too: it was the cluster that was away.
	probeLanes = 32
	// probeObjects is how many objects are read to find the oldest records of those lanes. A lane that alone fails needs one.
	probeObjects = 16
)

var errEnough = errors.New("enough was read")

// probe produces the oldest record of blocked lanes, and unblocks those that take it.
func (s *Spool) probe(ctx context.Context, blocked map[Lane]struct{}, sink Sink) (d Drained, err error) {
	wanted := s.lanes.turn(blocked)
	heads, absent, far, err := s.heads(ctx, wanted, sink)
	if err != nil {
		return d, err
	}
	for lane := range absent {
		s.unblock(lane, nil)
	}
	var rs []Record
	for _, lane := range slices.Sorted(maps.Keys(heads)) {
		rs = append(rs, heads[lane])
	}
	var errs []error
	if len(rs) > 0 {
		errs = sink.Produce(ctx, rs)
	}
	taken := 0
	for i, err := range errs {
		switch {
		case err == nil:
			s.unblock(rs[i].lane(), &rs[i])
			taken++
			d.Records++
		case errors.Is(err, ErrRefused): // the sweep sets it aside
			s.unblock(rs[i].lane(), nil)
			taken++
		}
	}
	// The sweep comes upon the records that lie far behind. Where nothing else is taken it tries one lane at a time, since each that fails
	// costs it the time of a produce.
	for lane := range far {
		s.unblock(lane, nil)
		if taken == 0 {
			break
		}
	}
	if taken > 0 && taken == len(rs) && len(blocked) > probeLanes {
		for lane := range blocked {
			if _, tried := wanted[lane]; !tried {
				s.unblock(lane, nil)
			}
		}
	}
	return d, nil
}

// turn returns the next lanes to try.
func (b *blockedLanes) turn(blocked map[Lane]struct{}) map[Lane]struct{} {
	all := slices.Sorted(maps.Keys(blocked))
	if len(all) <= probeLanes {
		return maps.Clone(blocked)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	at, _ := slices.BinarySearch(all, b.next)
	out := map[Lane]struct{}{}
	for i := range probeLanes {
		out[all[(at+i)%len(all)]] = struct{}{}
	}
	b.next = all[(at+probeLanes)%len(all)]
	return out
}

// unblock lets the lane be swept again. ahead is its oldest record, if that is in Kafka already.
func (s *Spool) unblock(lane Lane, ahead *Record) {
	s.lanes.mu.Lock()
	defer s.lanes.mu.Unlock()
	delete(s.lanes.of, lane)
	if ahead != nil {
		s.lanes.ahead[lane] = ahead.hash()
	}
}

// hash tells records apart.
func (r *Record) hash() uint64 { return xxh3.Hash(appendRecord(nil, *r)) }

// heads returns the oldest record of each lane, as far as probeObjects go. absent are lanes of which the store has nothing, far those that
// have nothing in the objects that were read. A lane that is in none of these is tried another time.
func (s *Spool) heads(ctx context.Context, wanted map[Lane]struct{}, sink Sink) (heads map[Lane]Record, absent, far map[Lane]struct{}, err error) {
	heads = map[Lane]Record{}
	missing := maps.Clone(wanted)
	behind := ""
	for range probeObjects {
		e := s.own.first(behind, missing)
		if e == nil {
			return heads, missing, nil, nil
		}
		behind = e.name
		body, err := s.read(ctx, s.own, e)
		switch {
		case gcerrors.Code(err) == gcerrors.NotFound: // the sweep has just replaced it
			return heads, nil, nil, nil
		case errors.Is(err, errLeft):
			continue
		case err != nil:
			return nil, nil, nil, err
		}
		err = each(body, func(r Record) error {
			sink.Route(&r)
			lane := r.lane()
			if _, is := missing[lane]; !is {
				return nil
			}
			delete(missing, lane)
			heads[lane] = r
			if len(missing) == 0 {
				return errEnough
			}
			return nil
		})
		switch {
		case errors.Is(err, errEnough):
			return heads, nil, nil, nil
		case err != nil && !errors.Is(err, ErrDamaged): // which the sweep sets aside when it comes there
			return nil, nil, nil, err
		}
	}
	return heads, nil, missing, nil
}

// first returns the first object behind the one named that may have records of one of the lanes.
func (x *index) first(behind string, lanes map[Lane]struct{}) *entry {
	x.mu.Lock()
	defer x.mu.Unlock()
	at, found := x.find(behind)
	if found {
		at++
	}
	for _, e := range x.entries[min(at, len(x.entries)):] {
		if x.mayHold(e, lanes) {
			return e
		}
	}
	return nil
}

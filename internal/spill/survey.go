package spill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"
)

const (
	// surveyedGateways and surveyedNames bound a Survey's lists, whatever lies in the store.
	surveyedGateways = 1000
	surveyedNames    = 20
)

// Survey is what lies in a spill's store, as somebody sees it who gives nothing back.
type Survey struct {
	Gateways []Waiting `json:"gateways"` // in the order of their names, up to 1000
	More     int       `json:"more"`     // objects of further gateways
	Aside    []string  `json:"aside"`    // objects under bad/, up to 20 of them, in the order of their names
	Asides   int       `json:"asides"`   // all of these
	Foreign  []string  `json:"foreign"`  // objects that no gateway has written, likewise
	Foreigns int       `json:"foreigns"` // all of these
}

// Waiting is what waits of one gateway.
type Waiting struct {
	Gateway string    `json:"gateway"`
	Objects int       `json:"objects"`
	Bytes   int64     `json:"bytes"`            // in the store
	Oldest  time.Time `json:"oldest"`           // when the oldest object was closed, by the clock of who wrote it
	Holder  string    `json:"holder,omitempty"` // the gateway that gave back last, by the lease; empty: there is none
	Renewed time.Time `json:"renewed,omitzero"` // when the lease was last written, by the store's clock
}

// Look lists a spill's store. It reads leases, and changes nothing.
func Look(ctx context.Context, b *blob.Bucket) (s Survey, err error) {
	s = Survey{Gateways: []Waiting{}, Aside: []string{}, Foreign: []string{}}
	of := map[string]*Waiting{}
	for it := b.List(nil); ; {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return s, fmt.Errorf("list the spill: %w", err)
		}
		gateway, base, _ := strings.Cut(o.Key, "/")
		p, isObject := parse(o.Key)
		switch {
		case strings.HasPrefix(o.Key, badPrefix):
			if s.Asides++; len(s.Aside) < surveyedNames {
				s.Aside = append(s.Aside, o.Key)
			}
			continue
		case base == leaseName, base == writableName:
			continue
		case !isObject:
			if s.Foreigns++; len(s.Foreign) < surveyedNames {
				s.Foreign = append(s.Foreign, o.Key)
			}
			continue
		}
		w := of[gateway]
		if w == nil && len(of) == surveyedGateways {
			s.More++
			continue
		}
		if w == nil {
			w = &Waiting{Gateway: gateway}
			of[gateway] = w
		}
		w.Objects++
		w.Bytes += o.Size
		w.Oldest = earlier(w.Oldest, p.at)
	}
	for _, w := range of {
		if err := w.lease(ctx, b); err != nil {
			return s, err
		}
		s.Gateways = append(s.Gateways, *w)
	}
	slices.SortFunc(s.Gateways, func(a, b Waiting) int { return strings.Compare(a.Gateway, b.Gateway) })
	return s, nil
}

// lease reads who gave objects back last.
func (w *Waiting) lease(ctx context.Context, b *blob.Bucket) error {
	key := w.Gateway + "/" + leaseName
	holder, err := b.ReadAll(ctx, key)
	if err == nil {
		var at *blob.Attributes
		if at, err = b.Attributes(ctx, key); err == nil {
			w.Holder, w.Renewed = string(holder), at.ModTime
		}
	}
	if err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return fmt.Errorf("read the lease of gateway %s: %w", w.Gateway, err)
	}
	return nil
}

// Records calls f for each record that lies in a spill's store, of objects that were set aside too, and other for each object that is none of a gateway or cannot be read. It changes nothing. An object that is given
// back meanwhile is passed over: its records are in Kafka.
func Records(ctx context.Context, b *blob.Bucket, f func(*blob.ListObject, Record) error, other func(*blob.ListObject) error) error {
	for it := b.List(nil); ; {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list the spill: %w", err)
		}
		name := strings.TrimPrefix(o.Key, badPrefix)
		if _, base, _ := strings.Cut(name, "/"); base == leaseName || base == writableName {
			continue
		}
		if _, isObject := parse(name); !isObject {
			if err := other(o); err != nil {
				return err
			}
			continue
		}
		body, err := b.ReadAll(ctx, o.Key)
		if gcerrors.Code(err) == gcerrors.NotFound {
			continue
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", o.Key, err)
		}
		err = each(body, func(r Record) error { return f(o, r) })
		if errors.Is(err, ErrDamaged) {
			err = other(o) // what of it could be read is counted
		}
		if err != nil {
			return fmt.Errorf("%s: %w", o.Key, err)
		}
	}
}

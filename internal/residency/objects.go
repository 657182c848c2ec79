package residency

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	iceio "github.com/apache/iceberg-go/io"
	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/pulsegrid/pulsegrid/internal/spill"
)

const (
	// walks is how often a store is listed anew since an object went away before it was read: its rows may be in one that the listing had passed.
	walks = 5
	// namedMax is how many failures of one store are named.
	namedMax = 20
)

// errGone is returned for an object that is listed and not there.
var errGone = errors.New("objects went away again and again while they were read")

// Store is where objects lie.
type Store interface {
	// Each calls f for each object.
	Each(ctx context.Context, f func(Object) error) error
	// Open opens one. The error is fs.ErrNotExist where it is not there any more.
	Open(ctx context.Context, key string) (File, error)
}

// Object is one of a listing.
type Object struct {
	Key      string
	Size     int64
	Modified time.Time
}

// File is an object that is read in pieces.
type File interface {
	io.ReaderAt
	io.Seeker
	io.Closer
}

// Objects counts the rows of a day in the Parquet files of a store, whether a snapshot names them or not. What is no Parquet file is unknown; the lake's own metadata is passed over. name
// is how the store is called in the inventory.
func Objects(ctx context.Context, s Store, kind, name string, day Day) ([]Place, error) {
	var err error
	for range walks {
		w := &walk{store: s, kind: kind, name: strings.TrimSuffix(name, "/"), day: day, places: map[string]*tally{}}
		if err = s.Each(ctx, func(o Object) error { return w.object(ctx, o) }); err == nil {
			if w.more > 0 {
				w.failed = append(w.failed, fmt.Errorf("and %d more", w.more))
			}
			return placesOf(w.places), errors.Join(w.failed...)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: %w", errGone, err)
}

type walk struct {
	store      Store
	kind, name string
	day        Day
	places     map[string]*tally
	failed     []error
	more       int // failures that are not named
}

func placesOf(tallies map[string]*tally) (out []Place) {
	for _, t := range tallies {
		if p, some := t.done(); some {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b Place) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (w *walk) at(name string) *tally {
	t := w.places[name]
	if t == nil {
		t = newTally(w.kind, name)
		w.places[name] = t
	}
	return t
}

func (w *walk) object(ctx context.Context, o Object) error {
	switch {
	case o.Size == 0, isMetadata(o.Key):
		return nil
	case o.Modified.Before(w.day.Start.Add(-clockSlack)):
		return nil // it is older than the day
	}
	f, err := w.store.Open(ctx, o.Key)
	if err != nil {
		return fmt.Errorf("open %s: %w", o.Key, err)
	}
	defer func() { _ = f.Close() }() // it was only read
	of, err := rowsOf(ctx, f, o.Size, w.day)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read %s: %w", o.Key, err)
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		if len(w.failed) < namedMax {
			w.failed = append(w.failed, fmt.Errorf("%s: %w", o.Key, err))
		} else {
			w.more++
		}
	case of == nil:
		return w.at(w.name).add("", Amount{Items: 1, Objects: 1, Bytes: o.Size})
	}
	for tenant, rows := range of {
		if err := w.at(w.table(o.Key)).add(tenant, Amount{Items: rows, Objects: 1, Bytes: o.Size}); err != nil {
			return err
		}
	}
	return nil
}

// table is the place of a data file: the folder of its table.
func (w *walk) table(key string) string {
	folder, _, found := strings.Cut(key, "/data/")
	if !found {
		folder = path.Dir(key)
	}
	if strings.HasPrefix(folder, w.name) {
		return folder
	}
	return strings.TrimSuffix(w.name+"/"+strings.TrimPrefix(strings.TrimPrefix(folder, "."), "/"), "/")
}

// isMetadata tells of an object whether it is metadata of an Iceberg table: it has names of files, counts and bounds of columns that hold no content.
func isMetadata(key string) bool {
	folder, file := path.Split(key)
	return path.Base(folder) == "metadata" && slices.Contains([]string{".avro", ".json", ".puffin", ".stats"}, path.Ext(file))
}

// Spill counts the records of a day in the store to which a cell's gateways spill, with those that were set aside.
func Spill(ctx context.Context, b *blob.Bucket, name string, day Day) ([]Place, error) {
	t := newTally(KindSpill, name)
	err := spill.Records(ctx, b, func(o *blob.ListObject, r spill.Record) error {
		tenant, came, size := header(r.Headers, o.ModTime)
		if !day.has(came) {
			return nil
		}
		return t.add(tenant, Amount{Items: 1, Bytes: size + int64(len(r.Key)+len(r.Value))})
	}, func(o *blob.ListObject) error {
		return t.add("", Amount{Items: 1, Objects: 1, Bytes: o.Size})
	})
	if p, some := t.done(); some {
		return []Place{p}, err
	}
	return nil, err
}

// InBucket are the objects of a bucket.
func InBucket(b *blob.Bucket) Store { return inBucket{b} }

type inBucket struct{ *blob.Bucket }

func (b inBucket) Each(ctx context.Context, f func(Object) error) error {
	for it := b.List(nil); ; {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f(Object{o.Key, o.Size, o.ModTime}); err != nil {
			return err
		}
	}
}

func (b inBucket) Open(ctx context.Context, key string) (File, error) {
	at, err := b.Attributes(ctx, key)
	if err != nil {
		return nil, gone(err)
	}
	f := &bucketFile{ctx: ctx, bucket: b.Bucket, key: key}
	f.SectionReader = io.NewSectionReader(readerAt(f.read), 0, at.Size)
	return f, nil
}

// bucketFile reads each piece by a request of its own.
type bucketFile struct {
	*io.SectionReader
	ctx    context.Context
	bucket *blob.Bucket
	key    string
}

type readerAt func(p []byte, off int64) (int, error)

func (f readerAt) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

func (f *bucketFile) read(p []byte, off int64) (int, error) {
	r, err := f.bucket.NewRangeReader(f.ctx, f.key, off, int64(len(p)), nil)
	if err != nil {
		return 0, gone(err)
	}
	n, err := io.ReadFull(r, p)
	return n, errors.Join(err, r.Close())
}

func (f *bucketFile) Close() error { return nil }

func gone(err error) error {
	if gcerrors.Code(err) == gcerrors.NotFound {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

// InLake are the objects below a location of a lake.
func InLake(fsys iceio.IO, root string) (Store, error) {
	listable, ok := fsys.(iceio.ListableIO)
	if !ok {
		return nil, fmt.Errorf("%T cannot list files", fsys)
	}
	return inLake{listable, root}, nil
}

type inLake struct {
	iceio.ListableIO
	root string
}

func (l inLake) Each(ctx context.Context, f func(Object) error) error {
	return l.WalkDir(l.root, func(file string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case d == nil && errors.Is(err, fs.ErrNotExist):
			return nil // nothing was ever written
		case err != nil:
			return err
		case d.IsDir():
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return f(Object{file, info.Size(), info.ModTime()})
	})
}

func (l inLake) Open(_ context.Context, key string) (File, error) { return l.ListableIO.Open(key) }

// isParquet tells by the first bytes.
func isParquet(f File, size int64) (bool, error) {
	var head [4]byte
	if size < int64(2*len(head)) {
		return false, nil
	}
	if _, err := f.ReadAt(head[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return bytes.Equal(head[:], []byte("PAR1")), nil
}

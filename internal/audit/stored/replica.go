package stored

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
)

// ReplicaConfig says where the objects of a lake were copied to, one by one and in no order, as S3 replicates a bucket.
type ReplicaConfig struct {
	Location   string // of what lay in the lake's warehouse: s3://bucket/prefix, file:///dir or /dir
	Properties map[string]string
	Namespace  string
}

// Replica is a lake whose catalog and objects are gone, read from copies of its objects. Of each table it has the newest version of which everything has arrived.
type Replica struct {
	*Lake
	config   ReplicaConfig
	Versions map[string]Version // by table, of those that were read
}

// Version is that of a table which a replica has.
type Version struct {
	At     time.Time // when it was committed; zero: the table was empty
	Behind int       // newer versions of which something is missing
}

// OpenReplica returns the lake that the copies are of. Nothing is read yet.
func OpenReplica(c ReplicaConfig) *Replica {
	c.Location = strings.TrimRight(c.Location, "/")
	r := &Replica{config: c, Versions: map[string]Version{}}
	r.Lake = &Lake{config: LakeConfig{CatalogType: "replica", CatalogURI: c.Location, Namespace: c.Namespace}, open: r.open}
	return r
}

// open finds the newest whole version of a table: its metadata name each file by where it was, below the table's location.
func (r *Replica) open(ctx context.Context, name string) (*table.Table, error) {
	fsys, err := iceio.LoadFS(ctx, r.config.Properties, r.config.Location)
	if err != nil {
		return nil, err
	}
	files, ok := fsys.(iceio.ListableIO)
	if !ok {
		return nil, fmt.Errorf("%T cannot list files", fsys)
	}
	var there map[string]bool
	var dir string
	for _, namespace := range []string{r.config.Namespace, r.config.Namespace + ".db"} { // as catalogs lay tables out
		dir = strings.Join([]string{r.config.Location, namespace, name}, "/")
		if there, err = below(ctx, files, dir); err != nil || len(there) > 0 {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("replica of table %s at %s: %w", name, dir, err)
	}
	if len(there) == 0 {
		return nil, fmt.Errorf("the replica has no table %s: %s has no files", name, dir)
	}
	v := &version{files: files, dir: dir, there: there, whole: map[string]bool{}}
	versions := v.newest()
	for behind, file := range versions {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		tbl, err := v.load(ctx, table.Identifier{r.config.Namespace, name}, file)
		if err != nil {
			return nil, fmt.Errorf("replica of table %s: %s: %w", name, file, err)
		}
		if tbl == nil {
			continue
		}
		at := Version{Behind: behind}
		if s := tbl.CurrentSnapshot(); s != nil {
			at.At = time.UnixMilli(s.TimestampMs).UTC()
		}
		r.Versions[name] = at
		return tbl, nil
	}
	return nil, fmt.Errorf("replica of table %s at %s: of none of its %d versions has everything arrived", name, dir, len(versions))
}

// below are the files below a location, by their paths without a scheme of files.
func below(ctx context.Context, files iceio.ListableIO, dir string) (map[string]bool, error) {
	there := map[string]bool{}
	err := files.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case !d.IsDir():
			there[plain(file)] = true
		}
		return nil
	})
	return there, err
}

// plain is a path by which a file is the same, whether its scheme is written or not.
func plain(file string) string { return strings.TrimPrefix(file, "file://") }

// version looks for the newest whole version of a table.
type version struct {
	files iceio.ListableIO
	dir   string          // of the table, in the replica
	there map[string]bool // its files
	whole map[string]bool // manifests, by whether all of their files are there
}

const metadataSuffix = ".metadata.json"

// newest are the table's metadata files, the newest first. Their names begin with the version's number.
func (v *version) newest() []string {
	number := func(file string) int {
		digits, _, _ := strings.Cut(path.Base(file), "-")
		n, err := strconv.Atoi(strings.TrimPrefix(digits, "v"))
		if err != nil {
			return -1
		}
		return n
	}
	var out []string
	for file := range v.there {
		if strings.HasSuffix(file, metadataSuffix) && number(file) >= 0 {
			out = append(out, file)
		}
	}
	slices.SortFunc(out, func(a, b string) int { return number(b) - number(a) })
	return out
}

// load opens a version; nil: something of it is missing.
func (v *version) load(ctx context.Context, id table.Identifier, file string) (*table.Table, error) {
	as, err := table.NewFromLocation(ctx, id, file, func(context.Context) (iceio.IO, error) { return v.files, nil }, nil) // it may be compressed
	if err != nil {
		return nil, err
	}
	meta := as.Metadata()
	moved := movedIO{v.files, plain(strings.TrimSuffix(meta.Location(), "/")), v.dir}
	if s := meta.CurrentSnapshot(); s != nil {
		if whole, err := v.complete(s, moved); err != nil || !whole {
			return nil, err
		}
	}
	return table.New(id, meta, file, func(context.Context) (iceio.IO, error) { return moved, nil }, nil), nil
}

// complete tells whether everything has arrived that a snapshot needs.
func (v *version) complete(s *table.Snapshot, moved movedIO) (bool, error) {
	has := func(file string) (bool, error) {
		now, err := moved.where(file)
		return v.there[plain(now)], err
	}
	if ok, err := has(s.ManifestList); err != nil || !ok {
		return false, err
	}
	manifests, err := s.Manifests(moved)
	if err != nil {
		return false, err
	}
	for _, m := range manifests {
		whole, known := v.whole[m.FilePath()]
		if !known {
			if whole, err = manifestComplete(m, moved, has); err != nil {
				return false, err
			}
			v.whole[m.FilePath()] = whole
		}
		if !whole {
			return false, nil
		}
	}
	return true, nil
}

func manifestComplete(m iceberg.ManifestFile, moved movedIO, has func(string) (bool, error)) (bool, error) {
	if ok, err := has(m.FilePath()); err != nil || !ok {
		return false, err
	}
	for e, err := range m.Entries(moved, true) {
		if err != nil {
			return false, err
		}
		if ok, err := has(e.DataFile().FilePath()); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// movedIO opens files by where they were: below from, and are below to.
type movedIO struct {
	iceio.IO
	from, to string
}

func (m movedIO) where(name string) (string, error) {
	rest, ok := strings.CutPrefix(plain(name), m.from+"/")
	if !ok {
		return "", fmt.Errorf("%s is not below the table's location %s: a replica of the table's own folder does not have it", name, m.from)
	}
	return m.to + "/" + rest, nil
}

// Open implements iceio.IO.
func (m movedIO) Open(name string) (iceio.File, error) {
	now, err := m.where(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return m.IO.Open(now)
}

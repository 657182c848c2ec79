package backfill

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/pulsegrid/pulsegrid/internal/block"
)

const (
	// planFormat is Plan.Format.
	planFormat = 1
	// MaxObjects bounds a plan: it is held in memory, and the progress of each object is written again and again.
	MaxObjects = 200_000
	// lineBits is how many bits of an offset are the line's.
	lineBits = 32
)

// Spec names a job: two commands with one Spec are one job.
type Spec struct {
	Objects  string    `json:"objects"`            // URL of the bucket, as internal/bucket opens it
	Prefixes []string  `json:"prefixes,omitempty"` // of keys; none: all objects
	From     time.Time `json:"from,omitzero"`      // only objects that were written since
	To       time.Time `json:"to,omitzero"`        // only objects that were written before
	Tenant   string    `json:"tenant"`             // whose events they are
	Further  int       `json:"further,omitempty"`  // how many jobs of this Spec come before it, which have other objects
}

// Equal says what becomes of lines that are equal and have neither an id nor times finer than a millisecond.
type Equal string

// Values of Equal.
const (
	EqualCopies Equal = "copies" // a line that repeats an earlier one is a copy: a sender or a collector wrote it again
	EqualEvents Equal = "events" // each is an event
)

// Settings decide how lines become blocks and events. They are part of a plan: a job that goes on with others would deliver other blocks.
type Settings struct {
	Mapping      string        `json:"mapping"` // text of the legacy mapping
	EqualLines   Equal         `json:"equal_lines"`
	BlockLines   int           `json:"block_lines"`    // lines in a block, at most
	BlockBytes   int           `json:"block_bytes"`    // bytes after which a block is cut
	MaxLineBytes int           `json:"max_line_bytes"` // a longer line goes to quarantine, cut off
	Window       time.Duration `json:"window"`         // of dedupe, in the time of the objects; 0: the pipelines'
}

// Object is one object of a plan.
type Object struct {
	Key      string    `json:"key"`
	Version  string    `json:"version"` // ETag where there is one: another one is another content
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
}

// Plan is what a job loads. It is written once, before anything is loaded.
type Plan struct {
	Format   int       `json:"format"`
	Spec     Spec      `json:"spec"`
	Settings Settings  `json:"settings"`
	ID       string    `json:"id"`      // no other plan has it: what stores remember of the job goes by it
	Created  time.Time `json:"created"` // the ingest_time of every row of the job
	Objects  []Object  `json:"objects"` // in the order of their time, then of their key
}

// Job is the job's name: "backfill." and twelve digits that follow from the Spec.
func (s Spec) Job() string {
	text, _ := json.Marshal(s) // of texts and numbers
	sum := sha256.Sum256(text)
	return jobPrefix + hex.EncodeToString(sum[:6])
}

const jobPrefix = "backfill."

// IsJob tells whether a row's kafka_topic is the name of a job: it came by no gateway.
func IsJob(topic string) bool { return strings.HasPrefix(topic, jobPrefix) }

// name is the URL of an object, for people.
func (s Spec) name(key string) string {
	u, err := url.Parse(s.Objects)
	if err != nil {
		return key
	}
	if prefix := u.Query().Get("prefix"); prefix != "" {
		key = prefix + key
	}
	return u.Scheme + "://" + path.Join(u.Host, u.Path, key)
}

// Bytes is the size of all objects.
func (p *Plan) Bytes() (n int64) {
	for _, o := range p.Objects {
		n += o.Size
	}
	return n
}

// Digest is the same for plans that load the same in the same way, whenever they were made.
func (p *Plan) Digest() string {
	text, _ := json.Marshal(Plan{Spec: p.Spec, Settings: p.Settings, Objects: p.Objects}) // of texts, numbers and times
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// topicID is the id of a stream's topic, which no other plan has.
func (p *Plan) topicID(s Stream) block.TopicID {
	sum := sha256.Sum256([]byte(p.ID + "/" + s.String()))
	return block.TopicID(sum[:16])
}

// topic is the name of a stream's topic.
func (p *Plan) topic(s Stream) string { return p.Spec.Job() + "." + s.String() }

// line is the place of an offset, for people.
func (p *Plan) line(offset int64) string {
	object := offset >> lineBits
	if object < 0 || object >= int64(len(p.Objects)) {
		return fmt.Sprintf("offset %d", offset)
	}
	return fmt.Sprintf("%s:%d", p.Spec.name(p.Objects[object].Key), offset&(1<<lineBits-1))
}

func offsetOf(object int, line int64) int64 { return int64(object)<<lineBits | line }

// List finds the objects of a Spec.
func List(ctx context.Context, objects *blob.Bucket, s Spec) ([]Object, error) {
	prefixes := s.Prefixes
	if len(prefixes) == 0 {
		prefixes = []string{""}
	}
	found := map[string]Object{} // prefixes may overlap
	for _, prefix := range prefixes {
		for it := objects.List(&blob.ListOptions{Prefix: prefix}); ; {
			o, err := it.Next(ctx)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				err = fmt.Errorf("list the objects of %s: %w", s.name(prefix), err)
				if gcerrors.Code(err) == gcerrors.NotFound {
					err = RequestError{err}
				}
				return nil, err
			}
			if o.IsDir || o.Size == 0 || strings.HasSuffix(o.Key, "/") ||
				!s.From.IsZero() && o.ModTime.Before(s.From) || !s.To.IsZero() && !o.ModTime.Before(s.To) {
				continue
			}
			found[o.Key] = Object{Key: o.Key, Version: listedVersion(o), Size: o.Size, Modified: o.ModTime.UTC()}
			if len(found) > MaxObjects {
				return nil, RequestError{fmt.Errorf("more than %d objects match: load them by several jobs, each with a prefix or a time range of its own", MaxObjects)}
			}
		}
	}
	out := make([]Object, 0, len(found))
	for _, o := range found {
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b Object) int {
		return cmp.Or(a.Modified.Compare(b.Modified), strings.Compare(a.Key, b.Key))
	})
	return out, nil
}

// listedVersion is the version of a listed object: S3's ETag, elsewhere its time and size.
func listedVersion(o *blob.ListObject) string {
	var s3Object types.Object
	if o.As(&s3Object) && s3Object.ETag != nil {
		return *s3Object.ETag
	}
	return version(o.ModTime, o.Size)
}

// openedVersion is the same of an object that has been opened.
func openedVersion(r *blob.Reader) string {
	var out s3.GetObjectOutput
	if r.As(&out) && out.ETag != nil {
		return *out.ETag
	}
	return version(r.ModTime(), r.Size())
}

func version(modified time.Time, size int64) string {
	return fmt.Sprintf("%s/%d", modified.UTC().Format(time.RFC3339Nano), size)
}

// differences names the settings in which two plans differ.
func (s Settings) differences(other Settings) (out []string) {
	add := func(name string, a, b any) {
		if a != b {
			out = append(out, name)
		}
	}
	add("mapping", s.Mapping, other.Mapping)
	add("equal-lines", s.EqualLines, other.EqualLines)
	add("block-lines", s.BlockLines, other.BlockLines)
	add("block-bytes", s.BlockBytes, other.BlockBytes)
	add("max-line-bytes", s.MaxLineBytes, other.MaxLineBytes)
	add("dedupe-window", s.Window, other.Window)
	return out
}

package settle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"time"

	"gocloud.dev/gcerrors"

	"github.com/pulsegrid/pulsegrid/internal/failpoint"
	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Step is a step of an exchange: a file that one side writes and the other reads.
type Step int

// The steps in their order. Each is one file, which never changes once it is there.
const (
	Summary    Step = iota // guest: events of each bucket, counted and added up
	Answer                 // home: which buckets it has none of, has wholly, or wants to be told
	Identities             // guest: the IDs of the buckets that the home wants to be told
	Doubled                // home: which of these are in both of its stores
	Planned                // guest: what it is about to remove. Its own plan, which names the rows, is on its disk
	Removed                // guest: that nothing of the plan is left in either of its stores, and that its rollups are equal
	steps
)

var stepNames = [steps]string{"1-summary", "2-answer", "3-identities", "4-doubled", "5-planned", "6-removed"}

// String is the file's name.
func (s Step) String() string { return stepNames[s] }

// ByHome tells whether the home writes the step.
func (s Step) ByHome() bool { return s == Answer || s == Doubled }

// Files that the home writes for itself, and that are no part of what is exchanged.
const (
	homeEqual       = "home-equal" // the IDs of the buckets that it has wholly
	homeTold        = "home-told"  // those of the others that it has
	CertificateFile = "certificate.json"
)

const (
	// Version of the exchange's files.
	Version = 1
	// fileBytesMax bounds a file that is read.
	fileBytesMax = 512 << 20
	// bucketsMax bounds a summary.
	bucketsMax = 1 << 20
	// EventsMax bounds the events that a side reads at a time.
	EventsMax = 20_000_000
	linkBytes = sha256.Size
)

// Request is what is settled. All runs of one settling must ask for the same.
type Request struct {
	Format int           `json:"format"`
	ID     string        `json:"id"`
	Tenant string        `json:"tenant"`
	Home   string        `json:"home"`
	Guest  string        `json:"guest"`
	From   time.Time     `json:"from"` // of receipt in the guest; is in
	To     time.Time     `json:"to"`   // likewise; is not in
	Around time.Duration `json:"around"`
}

// summaryHead is the beginning of a summary, one line.
type summaryHead struct {
	Request
	Key Key `json:"key"`
}

// counted is one bucket of a summary.
type counted struct {
	Bucket
	Total
}

const countedBytes = 1 + 8 + 8 + idBytes

// What the home answers of a bucket.
const (
	answerNone  = 0 // it has no event of that minute
	answerEqual = 1 // it has these events in both stores, and no others
	answerTell  = 2 // it wants to be told which they are
)

// Exchange is what two cells tell each other about one settling, in a directory of the home's own state location. Each file begins with the hash of the one before it, so that files of two
// runs that were begun at the same time do not pass for one exchange.
type Exchange struct {
	Request
	dir   fileset.Tree
	files [steps][]byte // that are there, links included
}

// Open reads what there is of an exchange. It fails where that is of another request.
func Open(ctx context.Context, dir fileset.Tree, r Request) (*Exchange, error) {
	r.Format = Version
	x := &Exchange{Request: r, dir: dir}
	if err := x.Refresh(ctx); err != nil {
		return nil, err
	}
	if !x.Has(Summary) {
		return x, nil
	}
	head, _, err := x.summary()
	if err != nil {
		return nil, err
	}
	if !head.same(r) {
		return nil, fmt.Errorf("%s has a settling %q of another request already: tenant %s, home %s, guest %s, from %s to %s: take another id, or ask for the same",
			dir, r.ID, head.Tenant, head.Home, head.Guest, head.From.Format(time.RFC3339), head.To.Format(time.RFC3339))
	}
	return x, nil
}

func (h *summaryHead) same(r Request) bool {
	of := h.Request
	if !of.From.Equal(r.From) || !of.To.Equal(r.To) {
		return false
	}
	of.From, of.To = r.From, r.To
	return of == r
}

// Refresh reads the steps that the other side has done since.
func (x *Exchange) Refresh(ctx context.Context) error {
	for s := range steps {
		if x.files[s] != nil {
			continue
		}
		b, err := x.read(ctx, s.String())
		if err != nil {
			return err
		}
		if b == nil {
			return nil
		}
		if len(b) < linkBytes || !bytes.Equal(b[:linkBytes], x.link(s)) {
			return fmt.Errorf("%s of %s does not follow the file before it: two runs were begun at the same time. Nothing was removed by this one; take another id", s, x.dir)
		}
		x.files[s] = b
	}
	return nil
}

// read returns nil where the file is not there.
func (x *Exchange) read(ctx context.Context, name string) ([]byte, error) {
	b, err := x.dir.Read(ctx, name, fileBytesMax)
	switch {
	case errors.Is(err, fs.ErrNotExist), gcerrors.Code(err) == gcerrors.NotFound:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read %s of %s: %w", name, x.dir, err)
	case len(b) > fileBytesMax:
		return nil, fmt.Errorf("%s of %s: more than %d bytes", name, x.dir, fileBytesMax)
	}
	return b, nil
}

// link is what the file of a step must begin with.
func (x *Exchange) link(s Step) []byte {
	if s == 0 {
		return make([]byte, linkBytes)
	}
	sum := sha256.Sum256(x.files[s-1])
	return sum[:]
}

// Has tells whether a step is done.
func (x *Exchange) Has(s Step) bool { return x.files[s] != nil }

// body is what a step says.
func (x *Exchange) body(s Step) []byte { return x.files[s][linkBytes:] }

// write does a step.
func (x *Exchange) write(ctx context.Context, s Step, body []byte) error {
	content := append(x.link(s), body...)
	if len(content) > fileBytesMax {
		return fmt.Errorf("%s would have %d bytes, more than %d: settle a shorter time", s, len(content), fileBytesMax)
	}
	if there, err := x.read(ctx, s.String()); err != nil {
		return err
	} else if there != nil {
		return fmt.Errorf("another run has written %s of %s meanwhile: run one at a time", s, x.dir)
	}
	if err := x.dir.Write(ctx, s.String(), content); err != nil {
		return fmt.Errorf("write %s of %s: %w", s, x.dir, err)
	}
	x.files[s] = content
	failpoint.Hit("settle-" + s.String())
	return nil
}

// Bytes are those that were exchanged until now, in each direction.
func (x *Exchange) Bytes() (toHome, toGuest int64) {
	for s := range steps {
		if s.ByHome() {
			toGuest += int64(len(x.files[s]))
		} else {
			toHome += int64(len(x.files[s]))
		}
	}
	return toHome, toGuest
}

func (x *Exchange) bad(s Step, why string) error { return fmt.Errorf("%s of %s: %s", s, x.dir, why) }

func encodeSummary(head summaryHead, buckets []counted) ([]byte, error) {
	b, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	b = append(b, '\n')
	for _, c := range buckets {
		b = append(b, byte(c.Signal))
		b = binary.BigEndian.AppendUint64(b, uint64(c.Minute))
		b = binary.BigEndian.AppendUint64(b, c.Events)
		b = append(b, c.Fingerprint[:]...)
	}
	return b, nil
}

// summary reads the step Summary.
func (x *Exchange) summary() (head summaryHead, buckets []counted, err error) {
	line, rest, found := bytes.Cut(x.body(Summary), []byte{'\n'})
	if !found || len(rest)%countedBytes != 0 || len(rest)/countedBytes > bucketsMax {
		return head, nil, x.bad(Summary, "is cut")
	}
	if err := json.Unmarshal(line, &head); err != nil {
		return head, nil, x.bad(Summary, err.Error())
	}
	if head.Format != Version {
		return head, nil, x.bad(Summary, fmt.Sprintf("format %d, want %d: both sides need the same version of pulsegrid", head.Format, Version))
	}
	buckets = make([]counted, 0, len(rest)/countedBytes)
	for ; len(rest) > 0; rest = rest[countedBytes:] {
		c := counted{Bucket: Bucket{signal.Signal(rest[0]), int64(binary.BigEndian.Uint64(rest[1:]))}}
		c.Events = binary.BigEndian.Uint64(rest[9:])
		copy(c.Fingerprint[:], rest[17:])
		buckets = append(buckets, c)
	}
	return head, buckets, nil
}

// answers reads the step Answer, one of each of n buckets.
func (x *Exchange) answers(n int) ([]byte, error) {
	b := x.body(Answer)
	if len(b) != n {
		return nil, x.bad(Answer, fmt.Sprintf("%d answers to %d buckets", len(b), n))
	}
	for _, a := range b {
		if a > answerTell {
			return nil, x.bad(Answer, fmt.Sprintf("an answer %d", a))
		}
	}
	return b, nil
}

// identities reads the step Identities: of each bucket that is told, how many IDs, and these.
func (x *Exchange) identities(buckets []counted, answers []byte) (map[Bucket][]ID, error) {
	b, out := x.body(Identities), map[Bucket][]ID{}
	for i, c := range buckets {
		if answers[i] != answerTell {
			continue
		}
		if len(b) < 4 {
			return nil, x.bad(Identities, "is cut")
		}
		n := int(binary.BigEndian.Uint32(b))
		if b = b[4:]; len(b) < n*idBytes {
			return nil, x.bad(Identities, "is cut")
		}
		ids := make([]ID, n)
		for j := range ids {
			ids[j] = ID(b[j*idBytes:]) // the first bytes
		}
		out[c.Bucket], b = ids, b[n*idBytes:]
	}
	if len(b) > 0 {
		return nil, x.bad(Identities, "is too long")
	}
	return out, nil
}

// bitmap says of IDs in their order which ones are meant.
type bitmap struct {
	bits []byte
	n    int
}

func (m *bitmap) add(is bool) {
	if m.n%8 == 0 {
		m.bits = append(m.bits, 0)
	}
	if is {
		m.bits[m.n/8] |= 1 << (m.n % 8)
	}
	m.n++
}

func (m *bitmap) has(i int) bool { return m.bits[i/8]&(1<<(i%8)) != 0 }

// doubledBits reads the step Doubled, of n IDs.
func (x *Exchange) doubledBits(n int) (*bitmap, error) {
	b := x.body(Doubled)
	if len(b) != (n+7)/8 || n%8 != 0 && bits.Len8(b[len(b)-1]) > n%8 {
		return nil, x.bad(Doubled, fmt.Sprintf("%d bytes for %d identities", len(b), n))
	}
	return &bitmap{b, n}, nil
}

// Plan is what the guest is about to remove: the step Planned.
type Plan struct {
	Total
	Rows map[string]int64 `json:"rows"` // by store
}

// Removal is what became of the plan: the step Removed.
type Removal struct {
	Left        map[string]int64 `json:"left"`        // rows of the plan, by store
	Declaration string           `json:"declaration"` // id in the guest's file of declarations; empty: nothing was removed
	Rollups     bool             `json:"rollups"`     // they were compared with the rows, and are equal
	At          time.Time        `json:"at"`
}

// Plan reads the step Planned.
func (x *Exchange) Plan() (p Plan, err error) {
	err = x.decode(Planned, &p)
	return p, err
}

func (x *Exchange) decode(s Step, out any) error {
	if err := json.Unmarshal(x.body(s), out); err != nil {
		return x.bad(s, err.Error())
	}
	return nil
}

package eventid

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"

	"github.com/minio/highwayhash"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// AttrUID is OpenTelemetry's attribute by which a sender names a single log record.
const AttrUID = "log.record.uid"

// Rule is the evidence by which an event is compared with earlier ones.
type Rule uint8

// The rules (decision 0030).
const (
	ByContent Rule = iota // the same content, and the same ordinal among its equals in its request
	ByUID                 // a log record's own name, of the same resource
	ByRequest             // the same index in the same request of the same source
	Rules                 // how many there are
)

var ruleNames = [Rules]string{"content", "uid", "request"}

func (r Rule) String() string { return ruleNames[r] }

// Key stands for what a rule compares. Two different things share a key as often as random numbers of 128 bits are equal, whatever tenants send: keys are
// hashes under a random key of this process, so they mean nothing outside of it.
type Key struct{ Hi, Lo uint64 }

// secret is the key of all keys of this process. Other processes make other keys of the same events, and need to agree on none.
var secret = func() (k hashKey) {
	_, _ = rand.Read(k[:]) // it never fails: see crypto/rand
	return k
}()

// hashKey is a key of HighwayHash: secret, or made of secret and of what lies around events.
type hashKey [highwayhash.Size]byte

// derive makes the key of what belongs to content. content ends with one of the constants below, so that contents of two kinds are never equal.
func (k *hashKey) derive(content []byte) hashKey { return highwayhash.Sum(content, k[:]) }

func (k *hashKey) sum(content []byte) Key {
	h := highwayhash.Sum128(content, k[:])
	return Key{binary.LittleEndian.Uint64(h[:]), binary.LittleEndian.Uint64(h[8:])}
}

// Last bytes of contents.
const (
	ofTenant byte = iota + 1
	ofResource
	ofScope
	ofMetric
	ofUIDs
	ofItem
	ofRequest
	ofWhole
	ofIndex
	ofOrdinal
)

var ordinals = secret.derive([]byte{ofOrdinal})

// Nth is the key of an event of which n equal ones come before it in its request, if k is that of the first of them.
func (k Key) Nth(n int) Key {
	if n == 0 {
		return k
	}
	var b [24]byte
	binary.LittleEndian.PutUint64(b[:], k.Hi)
	binary.LittleEndian.PutUint64(b[8:], k.Lo)
	binary.LittleEndian.PutUint64(b[16:], uint64(n))
	return ordinals.sum(b[:])
}

// Record is what the events of one Kafka record, or of one batch that did not come through Kafka, are compared by.
type Record struct {
	Tenant   string
	Offset   int64
	Appended int64 // Unix ms
	Request        // that the events were part of; Digest is zero where nobody needs it, see Reader

	Rules []Rule // of each event
	Keys  []Key  // of each event by content (as if it were the first of its equals) or uid; of the others, zero

	ByRequest int // events of that rule
	request   hashKey
	whole     Key
}

// Index is the index, in its request, of the event at a position of the record.
func (r *Record) Index(position int) int {
	index, _ := r.At(position)
	return index
}

// ID is the event's id: the request's digest plus the event's index.
func (r *Record) ID(position int) [16]byte { return ID(r.Digest, r.Index(position)) }

// ID is the id of the event of this index in the request of this digest: their sum, as little endian numbers of 128 bits.
func ID(digest [16]byte, index int) (id [16]byte) {
	lo, carry := bits.Add64(binary.LittleEndian.Uint64(digest[:]), uint64(index), 0)
	binary.LittleEndian.PutUint64(id[:], lo)
	binary.LittleEndian.PutUint64(id[8:], binary.LittleEndian.Uint64(digest[8:])+carry)
	return id
}

// WholeKey stands for the whole request, with all of its events. Only with ByRequest > 0.
func (r *Record) WholeKey() Key { return r.whole }

// PartsKey says that there are parts of the request. It is nearly WholeKey, so that a table finds both in one place.
func (r *Record) PartsKey() Key { return Key{r.whole.Hi, r.whole.Lo ^ partsBit} }

// partsBit is one of the 20 bits of Lo that internal/dedupe keeps.
const partsBit = 1 << 31

// IndexKey stands for the index in the request of the event at a position of the record.
func (r *Record) IndexKey(position int) Key {
	var b [9]byte
	binary.LittleEndian.PutUint64(b[:], uint64(r.Index(position)))
	b[8] = ofIndex
	return r.request.sum(b[:])
}

// From is what a record says about its request, besides its value.
type From struct {
	Tenant      string
	Source      []byte // the record's key
	IDAttribute string // header id_attribute: the log attribute that the tenant's registry entry declares to be an identity; empty: none
	Request     []byte // header request; empty: the value is the whole request
}

// Reader makes Records of the bytes of requests of one signal. It decodes nothing, and allocates nothing but what a Record's lists grow by. It is not safe
// for concurrent use.
type Reader struct {
	signal signal.Signal
	ids    bool
	buf    []byte

	tenant string
	known  bool // tenantKey is of tenant
	// Keys of what is around the current event, as far as they have been asked for.
	tenantKey                                 hashKey
	resource, uids, scope, metric             hashKey
	hasResource, hasUIDs, hasScope, hasMetric bool
}

// NewReader returns a Reader. ids: Record.ID is wanted, so Digest is always set; else only where the rule ByRequest needs it.
func NewReader(sig signal.Signal, ids bool) *Reader { return &Reader{signal: sig, ids: ids} }

// Read sets all of rec but its place, for the events of a record in their order. value must have passed otlpwire.Count, which has counted events.
// The lists of rec are appended to: the caller empties them, or carves them.
func (r *Reader) Read(rec *Record, value []byte, events int, from From) error {
	rec.Tenant, rec.Request, rec.ByRequest = from.Tenant, Request{Whole: true}, 0
	var known bool
	if len(from.Request) > 0 {
		var req Request
		if req, known = ParseRequest(from.Request, events); known {
			rec.Request = req
		}
	}
	r.of(from.Tenant)
	r.hasResource, r.hasScope, r.hasMetric = false, false, false
	before := len(rec.Keys)
	err := otlpwire.WalkContent(r.signal, value, func(c *otlpwire.Content) bool {
		rule, key := r.event(c, rec.Resent, from.IDAttribute)
		if rule == ByRequest {
			rec.ByRequest++
		}
		rec.Rules, rec.Keys = append(rec.Rules, rule), append(rec.Keys, key)
		return true
	})
	if err != nil {
		return err
	}
	if n := len(rec.Keys) - before; n != events {
		return fmt.Errorf("eventid: a request of %d events has %d", events, n)
	}
	if !known && (r.ids || rec.ByRequest > 0) {
		rec.Digest = Digest(value)
	}
	if rec.ByRequest > 0 {
		r.buf = append(append(append(r.buf[:0], rec.Digest[:]...), from.Source...), ofRequest)
		rec.request = r.tenantKey.derive(r.buf)
		rec.whole = rec.request.sum([]byte{ofWhole})
	}
	return nil
}

// Item sets all of rec but its place, for an item of the quarantine: one event that is known by its id.
func (r *Reader) Item(rec *Record, tenant string, id [16]byte) {
	r.of(tenant)
	r.buf = append(append(r.buf[:0], id[:]...), ofItem)
	rec.Tenant, rec.Request, rec.ByRequest = tenant, Request{Whole: true}, 0
	rec.Rules, rec.Keys = append(rec.Rules, ByUID), append(rec.Keys, r.tenantKey.sum(r.buf))
}

func (r *Reader) of(tenant string) {
	if r.known && r.tenant == tenant {
		return
	}
	r.buf = append(append(r.buf[:0], tenant...), byte(r.signal), ofTenant)
	r.tenant, r.tenantKey, r.known = tenant, secret.derive(r.buf), true
}

// event returns the rule of one event, and its key where that is by content or uid.
func (r *Reader) event(c *otlpwire.Content, resent bool, idAttribute string) (Rule, Key) {
	if resent {
		return ByRequest, Key{}
	}
	r.hasResource = r.hasResource && !c.NewResource
	r.hasUIDs, r.hasScope = r.hasUIDs && r.hasResource, r.hasScope && !c.NewScope
	r.hasMetric = r.hasMetric && !c.NewMetric
	var time1, time2 uint64
	if r.signal == signal.Logs {
		var uid, id otlpwire.Value
		if time1, time2, uid, id = c.Log(AttrUID, idAttribute); named(uid) {
			return ByUID, r.uid(c, AttrUID, uid)
		} else if named(id) {
			return ByUID, r.uid(c, idAttribute, id)
		}
	} else {
		time1, time2 = c.Times()
	}
	if coarse(time1, time2) {
		return ByRequest, Key{}
	}
	return ByContent, r.around(c).sum(c.Bytes)
}

// coarse tells whether times come from a clock of milliseconds, or are missing.
func coarse(a, b uint64) bool { return a%1e6 == 0 && b%1e6 == 0 }

// BeginsCoarse tells whether the first event of a request has coarse times. Where it has not, a request that is equal byte for byte is the same one, sent again.
func BeginsCoarse(sig signal.Signal, req []byte) (begins bool) {
	err := otlpwire.WalkContent(sig, req, func(c *otlpwire.Content) bool {
		begins = coarse(c.Times())
		return false
	})
	return err == nil && begins
}

// resourceOf is the key of the event's resource.
func (r *Reader) resourceOf(c *otlpwire.Content) *hashKey {
	if !r.hasResource {
		r.buf = append(c.AppendResource(r.buf[:0]), ofResource)
		r.resource, r.hasResource = r.tenantKey.derive(r.buf), true
	}
	return &r.resource
}

// around is the key of all that is around the event.
func (r *Reader) around(c *otlpwire.Content) *hashKey {
	if !r.hasScope {
		resource := r.resourceOf(c)
		r.buf = append(c.AppendScope(r.buf[:0]), ofScope)
		r.scope, r.hasScope = resource.derive(r.buf), true
	}
	if r.signal != signal.Metrics {
		return &r.scope
	}
	if !r.hasMetric {
		r.buf = c.AppendMetric(r.buf[:0])
		n := len(r.buf) // tells the fields of the metric from those of its data
		r.buf = append(c.AppendData(r.buf), byte(c.Type))
		r.buf = append(binary.LittleEndian.AppendUint64(r.buf, uint64(n)), ofMetric)
		r.metric, r.hasMetric = r.scope.derive(r.buf), true
	}
	return &r.metric
}

// named tells whether a value names a record: an empty one does not.
func named(v otlpwire.Value) bool {
	switch v.Type() {
	case otlpwire.TypeEmpty:
		return false
	case otlpwire.TypeString, otlpwire.TypeBytes:
		return len(v.Bytes()) > 0
	}
	return true
}

func (r *Reader) uid(c *otlpwire.Content, attribute string, v otlpwire.Value) Key {
	if !r.hasUIDs {
		r.uids, r.hasUIDs = r.resourceOf(c).derive([]byte{ofUIDs}), true
	}
	number := uint64(v.Int()) | math.Float64bits(v.Double()) // of a value of another type, both are zero
	if v.Bool() {
		number = 1
	}
	r.buf = append(append(r.buf[:0], attribute...), v.Bytes()...)
	r.buf = binary.LittleEndian.AppendUint64(r.buf, number)
	r.buf = append(binary.LittleEndian.AppendUint64(r.buf, uint64(len(attribute))), byte(v.Type()))
	return r.uids.sum(r.buf)
}

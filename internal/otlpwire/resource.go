package otlpwire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"

	"github.com/zeebo/xxh3"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// identity lists the resource attributes that say which one of many sent a request, in the order in which they are hashed.
var identity = [...]string{
	"service.namespace", "service.name", "service.instance.id", "host.id", "host.name", "k8s.pod.uid",
}

// Source identifies the sender of req by its resources: 16 hex digits, a hash over those of service.namespace, service.name, service.instance.id, host.id,
// host.name and k8s.pod.uid that a resource has; of several such resources the smallest hash. Where none has any of these, it is the smallest hash of a whole
// resource. So neither the order of resources nor that of these attributes changes it. It is "" for a request whose resources say nothing.
func Source(sig signal.Signal, req []byte) string {
	requestOf(sig) // all signals have their resources at the same place; this refuses what is no signal
	var smallest uint64
	found, identified := false, false
	var last []byte // the resource before: some agents repeat it
	f := fields{b: req}
	for f.next() {
		if f.num != 1 || f.wire != wireLen {
			continue
		}
		resource := merged(f.content(), 1)
		if len(resource) == 0 || found && bytes.Equal(resource, last) {
			continue
		}
		last = resource
		hash, ok := identityOf(resource)
		if !ok && identified {
			continue
		}
		if !ok {
			hash = xxh3.Hash(resource)
		}
		if !found || ok && !identified || hash < smallest {
			smallest = hash
		}
		found, identified = true, identified || ok
	}
	if !found {
		return ""
	}
	var sum [8]byte
	binary.BigEndian.PutUint64(sum[:], smallest)
	return hex.EncodeToString(sum[:])
}

// identityOf hashes those attributes of a resource that are in identity. False: it has none of them.
func identityOf(resource []byte) (hash uint64, ok bool) {
	var values [len(identity)]Value
	var has [len(identity)]bool
	f := fields{b: resource}
	for f.next() {
		if f.num != resourceAttributes || f.wire != wireLen {
			continue
		}
		kv := f.content()
		if key, _, usual := usualParts(kv); usual && len(key) > 0 && key[0] != 's' && key[0] != 'h' && key[0] != 'k' {
			continue
		}
		key, v := keyValue(kv)
		for i, name := range identity {
			if !has[i] && string(key) == name { // the first one counts
				values[i], has[i] = v, true
			}
		}
	}
	var room [512]byte // for what nearly all resources say
	said := room[:0]
	for i, v := range values {
		if v.typ == TypeEmpty {
			continue
		}
		ok = true
		said = append(said, byte(i), byte(v.typ)) // which attribute, its type and number, its length
		said = binary.LittleEndian.AppendUint64(said, v.num)
		said = binary.LittleEndian.AppendUint64(said, uint64(len(v.raw)))
		said = append(said, v.raw...)
	}
	return xxh3.Hash(said), ok
}

// RemoveResourceAttributes returns req without the attributes of its resources whose keys begin with prefix: req itself if there are none.
func RemoveResourceAttributes(sig signal.Signal, req []byte, prefix string) ([]byte, error) {
	requestOf(sig)
	found := false
	for attributes := range Resources(req) {
		for key := range attributes.All() {
			found = found || bytes.HasPrefix(key, []byte(prefix))
		}
	}
	if !found {
		return req, nil
	}
	return eachResource(req, 0, func(b *builder, msg []byte) int {
		return b.setAttribute(msg, func(key []byte) bool { return bytes.HasPrefix(key, []byte(prefix)) }, nil)
	})
}

// SetResourceAttribute returns req with a string attribute set on each of its resources: any attributes of that key are
// removed, and the new one is added behind the others. A resource message is added where there was none.
func SetResourceAttribute(sig signal.Signal, req []byte, key, value string) ([]byte, error) {
	requestOf(sig)
	attr := appendField(nil, resourceAttributes,
		appendField(appendField(nil, 1, []byte(key)), 2, appendField(nil, 1, []byte(value))))
	return eachResource(req, len(attr), func(b *builder, msg []byte) int {
		return b.setAttribute(msg, func(k []byte) bool { return string(k) == key }, attr)
	})
}

// eachResource returns req with what write makes of each of its resources; added is how much longer that is.
func eachResource(req []byte, added int, write func(b *builder, msg []byte) (code int)) ([]byte, error) {
	b := builder{out: make([]byte, 0, len(req)+len(req)/8+added+16)}
	b.begin(0, 0)
	f := fields{b: req}
	for f.next() {
		if f.num != 1 || f.wire != wireLen {
			b.out = append(b.out, f.raw()...)
			continue
		}
		b.begin(1, len(f.content())+added)
		if code := write(&b, f.content()); code < 0 {
			return nil, malformed("resource", f.value, code)
		}
		b.close()
	}
	if f.err < 0 {
		return nil, malformed("field", f.pos, f.err)
	}
	return b.finish(), nil
}

// setAttribute writes the fields of msg, which holds a resource, with attr in place of the resource's attributes of some keys.
// A resource that comes in several pieces gets a further piece.
func (b *builder) setAttribute(msg []byte, of func(key []byte) bool, attr []byte) (code int) {
	f := fields{b: msg}
	pieces := 0
	for f.next() {
		if f.num == 1 && f.wire == wireLen {
			pieces++
		}
	}
	if f.err < 0 {
		return f.err
	}
	f = fields{b: msg}
	for f.next() {
		if f.num != 1 || f.wire != wireLen {
			b.out = append(b.out, f.raw()...)
			continue
		}
		b.begin(1, len(f.content())+len(attr))
		g := fields{b: f.content()}
		for g.next() {
			if g.num == resourceAttributes && g.wire == wireLen {
				if k, _ := keyValue(g.content()); of(k) {
					continue
				}
			}
			b.out = append(b.out, g.raw()...)
		}
		if g.err < 0 {
			return g.err
		}
		if pieces == 1 {
			b.out = append(b.out, attr...)
		}
		b.close()
	}
	if pieces != 1 && len(attr) > 0 {
		b.out = appendField(b.out, 1, attr)
	}
	return 0
}

package otlpwire

import (
	"encoding/binary"
	"encoding/hex"

	"github.com/zeebo/xxh3"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// identity lists the resource attributes that say which one of many sent a request, in the order in which they are hashed.
var identity = [...]string{
	"service.namespace", "service.name", "service.instance.id", "host.id", "host.name", "k8s.pod.uid",
}

// Source identifies the sender of req by its first resource: 16 hex digits, a hash over those of service.namespace,
// service.name, service.instance.id, host.id, host.name and k8s.pod.uid that the resource has, else over the whole resource.
// It is the same for equal resources whatever the order of these attributes, and "" for a request without a resource or whose
// first resource says nothing.
func Source(sig signal.Signal, req []byte) string {
	requestOf(sig) // all signals have their resources at the same place; this refuses what is no signal
	var resource []byte
	f := fields{b: req}
	for f.next() {
		if f.num == 1 && f.wire == wireLen {
			resource = merged(f.content(), 1)
			break
		}
	}
	if len(resource) == 0 {
		return ""
	}
	var h xxh3.Hasher
	any := false
	for i, key := range identity {
		v, ok := Attributes{resource, resourceAttributes}.Get(key)
		if !ok || v.typ == TypeEmpty {
			continue
		}
		any = true
		var head [18]byte // which attribute, its type and number, its length
		head[0], head[1] = byte(i), byte(v.typ)
		binary.LittleEndian.PutUint64(head[2:], v.num)
		binary.LittleEndian.PutUint64(head[10:], uint64(len(v.raw)))
		_, _ = h.Write(head[:])
		_, _ = h.Write(v.raw)
	}
	if !any {
		_, _ = h.Write(resource)
	}
	var sum [8]byte
	binary.BigEndian.PutUint64(sum[:], h.Sum64())
	return hex.EncodeToString(sum[:])
}

// SetResourceAttribute returns req with a string attribute set on each of its resources: any attributes of that key are
// removed, and the new one is added behind the others. A resource message is added where there was none.
func SetResourceAttribute(sig signal.Signal, req []byte, key, value string) ([]byte, error) {
	requestOf(sig)
	attr := appendField(nil, resourceAttributes,
		appendField(appendField(nil, 1, []byte(key)), 2, appendField(nil, 1, []byte(value))))
	b := builder{out: make([]byte, 0, len(req)+len(req)/8+len(attr)+16)}
	b.begin(0, 0)
	f := fields{b: req}
	for f.next() {
		if f.num != 1 || f.wire != wireLen {
			b.out = append(b.out, f.raw()...)
			continue
		}
		b.begin(1, len(f.content())+len(attr))
		if code := b.setAttribute(f.content(), key, attr); code < 0 {
			return nil, malformed("resource", f.value, code)
		}
		b.close()
	}
	if f.err < 0 {
		return nil, malformed("field", f.pos, f.err)
	}
	return b.finish(), nil
}

// setAttribute writes the fields of msg, which holds a resource, with attr in place of the resource's attributes of that key.
// A resource that comes in several pieces gets a further piece.
func (b *builder) setAttribute(msg []byte, key string, attr []byte) (code int) {
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
				if k, _ := keyValue(g.content()); string(k) == key {
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
	if pieces != 1 {
		b.out = appendField(b.out, 1, attr)
	}
	return 0
}

package otlpwire

// builder writes a request from events, each with the path it had in another request. Of every message on the path it keeps
// all fields but those that hold events, known or not, and it opens a message only when an event comes to lie in it.
//
// Sizes are exact at any time: size is what the request would be if it were finished now, and sizeWith what it would be with
// one more event.
type builder struct {
	out  []byte
	hint int // bytes that a request is expected to have
	open [levels]opened
	n    int // messages open; 0: the request is empty
	own  [levels]ownFields
}

// opened is a message being written.
type opened struct {
	num    int32
	start  int // of its content in out
	length int // bytes reserved for its length in front of start
}

// ownFields caches the fields of a message that hold no events, so that opening the message again in the next part does not
// walk it again.
type ownFields struct {
	of    *byte // first byte of the message whose fields these are
	size  int   // of that message: two messages may begin at one place, if one is empty
	bytes []byte
}

// ownOf returns the fields of l that hold no events.
func (b *builder) ownOf(p *path, d int) []byte {
	l, own := &p.at[d], &b.own[d]
	if len(l.msg) == 0 {
		return nil
	}
	if own.of == &l.msg[0] && own.size == len(l.msg) {
		return own.bytes
	}
	own.of, own.size, own.bytes = &l.msg[0], len(l.msg), own.bytes[:0]
	f := fields{b: l.msg}
	for f.next() {
		if l.holder.field(f.num).kind < kEvents {
			own.bytes = append(own.bytes, f.raw()...)
		}
	}
	return own.bytes
}

// add appends p's event.
func (b *builder) add(p *path) {
	for b.n > min(p.changed, p.depth+1) {
		b.close()
	}
	for b.n <= p.depth {
		b.begin(p.at[b.n].num, len(p.at[b.n].msg))
		b.out = append(b.out, b.ownOf(p, b.n-1)...)
	}
	b.out = appendField(b.out, p.at[p.depth].nested, p.event)
}

// begin opens a message whose content will have about size bytes.
func (b *builder) begin(num int32, size int) {
	o := opened{num: num}
	if num != 0 { // the request itself has neither tag nor length
		b.out = appendTag(b.out, num)
		o.length = sizeVarint(size)
		b.out = append(b.out, make([]byte, o.length)...)
	}
	if b.out == nil {
		b.out = make([]byte, 0, b.hint)
	}
	o.start = len(b.out)
	b.open[b.n] = o
	b.n++
}

// close ends the innermost message: its length is put before it, and it is moved should that take other than what was reserved.
func (b *builder) close() {
	b.n--
	o := b.open[b.n]
	if o.num == 0 {
		return
	}
	size := len(b.out) - o.start
	want := sizeVarint(size)
	if want != o.length {
		if want > o.length {
			b.out = append(b.out, make([]byte, want-o.length)...)
		}
		copy(b.out[o.start-o.length+want:], b.out[o.start:o.start+size])
		b.out = b.out[:o.start-o.length+want+size]
	}
	putVarint(b.out[o.start-o.length:], size)
}

// finish closes everything and returns the request; nil if it has no events. The builder is empty then.
func (b *builder) finish() []byte {
	for b.n > 0 {
		b.close()
	}
	out := b.out
	b.out = nil
	return out
}

// sizeWith is the size of the finished request with p's event added.
func (b *builder) sizeWith(p *path) int {
	keep := min(b.n, p.changed, p.depth+1)
	// From the inside out: what is written of each open message, closed as it would be.
	inner := 0 // the finished size of the open message within
	end := len(b.out)
	for d := b.n - 1; d >= keep; d-- {
		inner, end = b.closed(d, inner, end)
	}
	add := sizeField(p.at[p.depth].nested, len(p.event))
	for d := p.depth; d >= keep; d-- {
		add += len(b.ownOf(p, d))
		if d > 0 {
			add = sizeField(p.at[d].num, add)
		}
	}
	inner += add
	for d := keep - 1; d >= 0; d-- {
		inner, end = b.closed(d, inner, end)
	}
	return inner
}

// closed is the size of open message d as a finished field, and where the field begins in out; inner is the finished size of
// what lies in it from end on.
func (b *builder) closed(d, inner, end int) (size, start int) {
	o := b.open[d]
	size = end - o.start + inner
	if o.num == 0 {
		return size, 0
	}
	return sizeField(o.num, size), o.start - o.length - sizeVarint(int(o.num)<<3)
}

func putVarint(out []byte, v int) {
	for ; v >= 0x80; v >>= 7 {
		out[0] = byte(v) | 0x80
		out = out[1:]
	}
	out[0] = byte(v)
}

package otlpwire

import "iter"

// Resources are the attributes of each resource of a request of any signal, in order. It looks at nothing else, so it costs little however
// many events there are.
func Resources(req []byte) iter.Seq[Attributes] {
	return func(yield func(Attributes) bool) {
		f := fields{b: req}
		for f.next() {
			if f.num == 1 && f.wire == wireLen && !yield(Attributes{merged(f.content(), 1), resourceAttributes}) {
				return
			}
		}
	}
}

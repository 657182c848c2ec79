package otlpjson

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// part is what was written of a field: p.written[from:to].
type part struct {
	rank     int
	from, to int
}

// order puts the fields of the message that was written last in pdata's order. Its parts are p.parts[first:].
func (p *parser) order(m *message, first int) {
	parts := p.parts[first:]
	for _, f := range m.always {
		if slices.ContainsFunc(parts, func(x part) bool { return x.rank == f.rank }) {
			continue
		}
		from := len(p.written)
		p.written = append(protowire.AppendTag(p.written, f.num, protowire.BytesType), 0)
		parts = append(parts, part{f.rank, from, len(p.written)})
	}
	byRank := func(a, b part) int { return cmp.Compare(b.rank, a.rank) } // pdata writes a message from its end
	if slices.IsSortedFunc(parts, byRank) {
		p.parts = p.parts[:first]
		return
	}
	start := parts[0].from
	p.scratch = append(p.scratch[:0], p.written[start:]...)
	slices.SortStableFunc(parts, byRank)
	at := start
	for _, x := range parts {
		at += copy(p.written[at:], p.scratch[x.from-start:x.to-start])
	}
}

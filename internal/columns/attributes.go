package columns

import (
	"strings"
	"unicode/utf8"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/pulsegrid/pulsegrid/internal/lineage"
)

// attrCols are an event's attributes: promoted columns and typed maps.
type attrCols struct {
	text, ints, doubles, bools, other *mapCol
	textVals, otherVals               *textCol
	intVals                           *numCol[int64]
	doubleVals                        *numCol[float64]
	boolVals                          *boolCol

	promoted map[string]promoted
	keys     map[string]*attrKey
	// order is the keys of the last event, by position: events of one place in a program have the same keys in the same order, and
	// comparing with the key that is expected costs less than a look-up (about 15 % of an event of 24 attributes, one noisy run).
	order []*attrKey
}

// promoted is the column of a promoted attribute: the one of its kind is set.
type promoted struct {
	text   *textCol
	dict   *dictCol
	int    *numCol[int64]
	double *numCol[float64]
}

// attrKey is what is known of an attribute key, so that an attribute costs one look-up: whether it is reserved or promoted, and
// the key's index in each map's dictionary in the current batch (-1: not there yet).
type attrKey struct {
	name     string
	reserved bool
	promoted promoted
	seen     int // row+1 of the last row that has the key
	idx      [mapKinds]int32
}

const (
	inText = iota
	inInt
	inDouble
	inBool
	inOther
	mapKinds
)

// attrKeysMax bounds the memory that keys may take from batch to batch: agents that put ids into keys exist.
const attrKeysMax = 10_000

const attrOrderMax = 128

func (a *attrCols) bind(b *Builder) {
	a.text, a.ints, a.doubles, a.bools, a.other = col[*mapCol](b, "attributes_string"), col[*mapCol](b, "attributes_int"),
		col[*mapCol](b, "attributes_double"), col[*mapCol](b, "attributes_bool"), col[*mapCol](b, "attributes_other")
	a.textVals, a.otherVals = a.text.vals.(*textCol), a.other.vals.(*textCol)
	a.intVals, a.doubleVals, a.boolVals = a.ints.vals.(*numCol[int64]), a.doubles.vals.(*numCol[float64]), a.bools.vals.(*boolCol)
	a.keys, a.promoted = map[string]*attrKey{}, map[string]promoted{}
	for i, c := range b.table.Columns {
		if c.Promote == "" {
			continue
		}
		var p promoted
		switch pc := b.cols[i].(type) {
		case *textCol:
			p.text = pc
		case *dictCol:
			p.dict = pc
		case *numCol[int64]:
			p.int = pc
		case *numCol[float64]:
			p.double = pc
		}
		a.promoted[c.Promote] = p
	}
}

// reset forgets the dictionaries of the batch that was just finished.
func (a *attrCols) reset() {
	if len(a.keys) > attrKeysMax {
		clear(a.keys)
		a.order = a.order[:0]
	}
	for _, k := range a.keys {
		k.seen, k.idx = 0, [mapKinds]int32{-1, -1, -1, -1, -1}
	}
}

// key returns what is known of the key of the event's attribute number i.
func (a *attrCols) key(i int, name string) *attrKey {
	if i < len(a.order) && a.order[i].name == name {
		return a.order[i]
	}
	k, ok := a.keys[name]
	if !ok {
		k = a.newKey(strings.Clone(name)) // name may alias memory that the sender reuses
	}
	if i < len(a.order) {
		a.order[i] = k
	} else if i == len(a.order) && i < attrOrderMax {
		a.order = append(a.order, k)
	}
	return k
}

func (a *attrCols) newKey(name string) *attrKey {
	if stored := validUTF8(name); stored != name { // keys that are stored as one are one
		k, ok := a.keys[stored]
		if !ok {
			k = a.newKey(stored)
		}
		a.keys[name] = k
		return k
	}
	k := &attrKey{name: name, reserved: lineage.Reserved(name), promoted: a.promoted[name], idx: [mapKinds]int32{-1, -1, -1, -1, -1}}
	a.keys[name] = k
	return k
}

// put appends the key to m's keys; the caller appends the value.
func (k *attrKey) put(m *mapCol, which int) {
	if k.idx[which] < 0 {
		k.idx[which] = m.keys.index(k.name)
	}
	m.keys.pushIndex(k.idx[which])
}

func (a *attrCols) append(b *Builder, attrs pcommon.Map) {
	row, others, othersText := b.rows, a.other.keys.len(), len(a.otherVals.text.data)
	repeated := false
	i := -1
	for name, v := range attrs.All() {
		i++
		k := a.key(i, name)
		if k.reserved {
			continue
		}
		if k.seen > row {
			repeated = true
			continue
		}
		k.seen = row + 1
		switch v.Type() {
		case pcommon.ValueTypeStr:
			s := v.Str()
			if !utf8.ValidString(s) {
				a.appendOther(b, k, v)
				continue
			}
			if s != "" && k.promoted.setText(row, s) {
				continue
			}
			k.put(a.text, inText)
			a.textVals.pushValid(s)
		case pcommon.ValueTypeInt:
			x := v.Int()
			if c := k.promoted.int; c != nil && x != 0 {
				c.set(row, x)
				continue
			}
			k.put(a.ints, inInt)
			a.intVals.push(x)
		case pcommon.ValueTypeDouble:
			x := v.Double()
			if c := k.promoted.double; c != nil && x != 0 {
				c.set(row, x)
				continue
			}
			k.put(a.doubles, inDouble)
			a.doubleVals.push(x)
		case pcommon.ValueTypeBool:
			k.put(a.bools, inBool)
			a.boolVals.push(v.Bool())
		default:
			a.appendOther(b, k, v)
		}
	}
	if repeated {
		a.appendRepeated(b, attrs, others, othersText)
	}
	a.text.end()
	a.ints.end()
	a.doubles.end()
	a.bools.end()
	a.other.end()
}

func (a *attrCols) appendOther(b *Builder, k *attrKey, v pcommon.Value) {
	b.scratch = appendJSONValue(b.scratch[:0], v, 0)
	k.put(a.other, inOther)
	a.otherVals.pushBytes(b.scratch)
}

// hasMap tells whether the first value of a key is stored in a promoted column or a typed map; any other is in attributes_other.
func hasMap(v pcommon.Value) bool {
	switch v.Type() {
	case pcommon.ValueTypeStr:
		return utf8.ValidString(v.Str())
	case pcommon.ValueTypeInt, pcommon.ValueTypeDouble, pcommon.ValueTypeBool:
		return true
	}
	return false
}

// appendRepeated writes the event's entries of attributes_other anew, from the entry others on, now with all values of keys that occur more
// than once. No map may have a key twice: many readers refuse such a file, or show one value without a word.
func (a *attrCols) appendRepeated(b *Builder, attrs pcommon.Map, others, othersText int) {
	a.other.keys.idx.data = a.other.keys.idx.data[:others]
	if a.otherVals.ends.len() > others {
		a.otherVals.ends.data = a.otherVals.ends.data[:others+1]
	}
	a.otherVals.text.data = a.otherVals.text.data[:othersText]

	type entry struct {
		key    *attrKey
		values []pcommon.Value // those that are not in a column or map of their type
		times  int             // that the key occurs
	}
	var entries []entry
	at := map[*attrKey]int{}
	i := -1
	for name, v := range attrs.All() {
		i++
		k := a.key(i, name)
		if k.reserved {
			continue
		}
		n, again := at[k]
		if !again {
			n, at[k] = len(entries), len(entries)
			entries = append(entries, entry{key: k})
		}
		if entries[n].times++; again || !hasMap(v) {
			entries[n].values = append(entries[n].values, v)
		}
	}
	for _, e := range entries {
		switch {
		case len(e.values) == 0:
		case e.times == 1:
			a.appendOther(b, e.key, e.values[0])
		default:
			b.scratch = append(b.scratch[:0], `{"`+jsonValues+`":[`...)
			for i, v := range e.values {
				if i > 0 {
					b.scratch = append(b.scratch, ',')
				}
				b.scratch = appendJSONValue(b.scratch, v, 0)
			}
			b.scratch = append(b.scratch, "]}"...)
			e.key.put(a.other, inOther)
			a.otherVals.pushBytes(b.scratch)
		}
	}
}

// setText stores s as the row's value of the promoted text column; false where there is none.
func (p promoted) setText(row int, s string) bool {
	switch {
	case p.dict != nil:
		p.dict.set(row, s)
	case p.text != nil:
		p.text.padTo(row)
		p.text.pushValid(s)
	default:
		return false
	}
	return true
}

// validUTF8 replaces bytes that are not UTF-8 by U+FFFD.
func validUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

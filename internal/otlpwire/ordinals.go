package otlpwire

import (
	"unsafe"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Ordinals returns, for each event of req, how many events before it in req have the same content: the same bytes, in the same fields around them. The
// fields around an event are those of the resource's, the scope's and the metric's messages that hold no events, in their order; Split and SplitBySize keep
// them, so that an event's content is the same in every part. Contents are compared, not hashed: a sender cannot make two different ones look equal.
func Ordinals(sig signal.Signal, req []byte) ([]int, error) {
	type around struct {
		outer int    // number of what is around that
		kind  int32  // field of a metric's data
		own   string // the fields
	}
	type content struct {
		around int
		event  string
	}
	var out []int
	numbers, seen := map[around]int{}, map[content]int{}
	number := func(a around) int {
		n, ok := numbers[a]
		if !ok {
			n = len(numbers) + 1
			numbers[a] = n
		}
		return n
	}
	var at [levels]int // by level, the number of the message there and of all that is around it
	err := descend(sig, req, func(p *path) bool {
		for d := max(p.changed, resourceLevel); d <= p.depth; d++ {
			l := &p.at[d]
			a := around{outer: at[d-1], own: string(l.appendOwn(nil))}
			if d == dataLevel {
				a.kind = l.num // a gauge without fields of its own is no sum; the old field of a scope says nothing
			}
			at[d] = number(a)
		}
		c := content{at[p.depth], unsafe.String(unsafe.SliceData(p.event), len(p.event))} // req is not written to
		out = append(out, seen[c])
		seen[c]++
		return true
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

package tenant

import (
	"sync"
	"sync/atomic"
)

// OtherClass stands for the classes beyond those that ByClass keeps.
const OtherClass = "other"

// ByClass keeps one T, a set of metric attributes for instance, for each class of tenants. A registry has at most MaxClasses at a time;
// over the life of a program it may have others, so the number is bounded here too.
type ByClass[T any] struct {
	Make func(class string) T // called once a class, or a few times at the same moment

	kept sync.Map // class -> T
	n    atomic.Int32
}

const keptClassesMax = 4 * MaxClasses

// Of returns the T of a class.
func (b *ByClass[T]) Of(class string) T {
	if v, ok := b.kept.Load(class); ok {
		return v.(T)
	}
	if class != OtherClass && b.n.Load() >= keptClassesMax {
		return b.Of(OtherClass)
	}
	v, had := b.kept.LoadOrStore(class, b.Make(class))
	if !had {
		b.n.Add(1)
	}
	return v.(T)
}

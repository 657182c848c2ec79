// Package jsonshape tells by its brackets what decoding JSON would cost, without decoding it: decoders recurse as deep as it is nested, and make a
// struct of every two braces.
package jsonshape

// Shape is what a look at brackets tells.
type Shape struct {
	Depth   int // levels of objects and arrays
	Objects int
}

// Of reads brackets outside of strings. It does not tell whether b is JSON.
func Of(b []byte) Shape {
	var s Shape
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{':
			s.Objects++
			depth++
			s.Depth = max(s.Depth, depth)
		case '[':
			depth++
			s.Depth = max(s.Depth, depth)
		case '}', ']':
			depth--
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		}
	}
	return s
}

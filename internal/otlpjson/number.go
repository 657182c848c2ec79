package otlpjson

import (
	"bytes"
	"math"
	"strconv"
)

// number reads the number that begins at pos.
func (p *parser) number() ([]byte, error) {
	n := numberAt(p.b[p.pos:])
	if n == 0 {
		return nil, p.unexpected("a number")
	}
	p.pos += n
	return p.b[p.pos-n : p.pos], nil
}

// numberAt is the length of the JSON number that b begins with; 0: it begins with none.
func numberAt(b []byte) int {
	i := 0
	digits := func() bool {
		first := i
		for i < len(b) && b[i] >= '0' && b[i] <= '9' {
			i++
		}
		return i > first
	}
	if i < len(b) && b[i] == '-' {
		i++
	}
	switch {
	case i < len(b) && b[i] == '0':
		i++
	case !digits():
		return 0
	}
	if i < len(b) && b[i] == '.' {
		if i++; !digits() {
			return 0
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !digits() {
			return 0
		}
	}
	return i
}

// isNumber tells whether all of b is one JSON number.
func isNumber(b []byte) bool { return len(b) > 0 && numberAt(b) == len(b) }

// numeral reads a number or a text that is one. ok is false for a value of another kind, which is not read.
func (p *parser) numeral() (n []byte, quoted, ok bool, err error) {
	switch c := p.space(); {
	case c == '"':
		n, err = p.text()
		return n, true, true, err
	case (c == '-' || c >= '0' && c <= '9') && !bytes.HasPrefix(p.b[p.pos:], []byte(minusInfinity)):
		n, err = p.number()
		return n, false, true, err
	}
	return nil, false, false, nil
}

// integer reads a whole number of so many bits: as a number or a text, with a fraction of zeros or an exponent too. A signed one is its two's complement.
func (p *parser) integer(bits int, signed bool) (uint64, error) {
	n, isText, ok, err := p.numeral()
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, p.wrong("a number")
	}
	if !isText || isNumber(n) {
		if v, ok := integerOf(n, bits, signed); ok {
			return v, nil
		}
	}
	kind := "an unsigned integer"
	if signed {
		kind = "an integer"
	}
	return 0, &valueError{text: quoted(n) + " is not " + kind + " of " + strconv.Itoa(bits) + " bits"}
}

// integerOf is the value of a JSON number that is whole and fits.
func integerOf(n []byte, bits int, signed bool) (uint64, bool) {
	negative := n[0] == '-'
	digits := n
	if negative {
		digits = n[1:]
	}
	if len(digits) > 19 { // 19 cannot overflow, and nanoseconds have as many
		return longInteger(digits, negative, bits, signed)
	}
	var v uint64
	for _, c := range digits {
		if c < '0' || c > '9' {
			return longInteger(digits, negative, bits, signed)
		}
		v = v*10 + uint64(c-'0')
	}
	return fit(v, negative, bits, signed)
}

// longInteger is for what is long, or has a fraction or an exponent.
func longInteger(n []byte, negative bool, bits int, signed bool) (uint64, bool) {
	mantissa, exponent := n, 0
	if at := bytes.IndexAny(n, "eE"); at >= 0 {
		mantissa = n[:at]
		var err error
		if exponent, err = strconv.Atoi(string(n[at+1:])); err != nil {
			exponent = math.MaxInt32 // of zero it does not matter
			if n[at+1] == '-' {
				exponent = -exponent
			}
		}
	}
	whole, fraction, _ := bytes.Cut(mantissa, []byte{'.'})
	digits := bytes.TrimLeft(append(bytes.Clone(whole), fraction...), "0")
	exponent = min(max(exponent, -math.MaxInt32), math.MaxInt32) - len(fraction)
	trimmed := bytes.TrimRight(digits, "0")
	exponent += len(digits) - len(trimmed)
	if len(trimmed) == 0 {
		return 0, true
	}
	if exponent < 0 || len(trimmed)+exponent > 20 { // 2^64 has 20 digits
		return 0, false
	}
	v, err := strconv.ParseUint(string(append(trimmed, bytes.Repeat([]byte{'0'}, exponent)...)), 10, 64)
	if err != nil {
		return 0, false
	}
	return fit(v, negative, bits, signed)
}

func fit(v uint64, negative bool, bits int, signed bool) (uint64, bool) {
	if !signed {
		return v, (v == 0 || !negative) && v <= math.MaxUint64>>(64-bits)
	}
	limit := uint64(1) << (bits - 1)
	if negative {
		return -v, v <= limit
	}
	return v, v < limit
}

// double reads a number, a text that is one, or the text NaN, Infinity or -Infinity.
func (p *parser) double() (float64, error) {
	n, isText, ok, err := p.numeral()
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, p.wrong("a number")
	}
	if isText {
		switch string(n) {
		case "NaN":
			return math.NaN(), nil
		case "Infinity":
			return math.Inf(1), nil
		case minusInfinity:
			return math.Inf(-1), nil
		}
		if !isNumber(n) {
			return 0, &valueError{text: quoted(n) + " is not a number"}
		}
	}
	v, err := strconv.ParseFloat(string(n), 64)
	if err != nil {
		return 0, &valueError{text: quoted(n) + " is not a number of 64 bits"}
	}
	return v, nil
}

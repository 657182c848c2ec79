package rows

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
)

// depthMax is more than internal/columns writes. Another program's text must not exhaust the stack.
const depthMax = 256

var errTooDeep = fmt.Errorf("is nested deeper than %d", depthMax)

// readMap reads a JSON object (docs/formats/rows.md) into m, in order. An empty text is an empty object: the column was added to the table later.
func readMap(text string, m pcommon.Map) error {
	if text == "" {
		return nil
	}
	dec := newDecoder(text)
	tok, err := dec.Token()
	if err != nil {
		return fmt.Errorf("JSON text %.200q: %w", text, err)
	}
	if tok != json.Delim('{') {
		return fmt.Errorf("JSON text %.200q is no object", text)
	}
	v := pcommon.NewValueEmpty()
	if err := readObject(dec, v, false, 0); err != nil {
		return fmt.Errorf("JSON text %.200q: %w", text, err)
	}
	v.Map().MoveTo(m)
	return nil
}

// readValue reads a JSON text into v.
func readValue(text string, v pcommon.Value) error {
	dec := newDecoder(text)
	tok, err := dec.Token()
	if err == nil {
		err = readToken(dec, tok, v, 0)
	}
	if err != nil {
		return fmt.Errorf("JSON text %.200q: %w", text, err)
	}
	return nil
}

func newDecoder(text string) *json.Decoder {
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	dec.UseNumber()
	return dec
}

func readToken(dec *json.Decoder, tok json.Token, v pcommon.Value, depth int) error {
	if depth > depthMax {
		return errTooDeep
	}
	switch tok := tok.(type) {
	case nil:
		return nil
	case string:
		v.SetStr(tok)
	case bool:
		v.SetBool(tok)
	case json.Number:
		return readNumber(tok.String(), v)
	case json.Delim:
		if tok == '[' {
			s := v.SetEmptySlice()
			for dec.More() {
				next, err := dec.Token()
				if err != nil {
					return err
				}
				if err := readToken(dec, next, s.AppendEmpty(), depth+1); err != nil {
					return err
				}
			}
			_, err := dec.Token()
			return err
		}
		return readObject(dec, v, true, depth)
	}
	return nil
}

func readNumber(s string, v pcommon.Value) error {
	if strings.ContainsAny(s, ".eE") {
		f, err := strconv.ParseFloat(s, 64)
		v.SetDouble(f)
		return err
	}
	n, err := strconv.ParseInt(s, 10, 64)
	v.SetInt(n)
	return err
}

// readObject reads the rest of an object whose "{" was read. A tagged object ({"$bytes": ...}) is a value, where tagged allows it.
func readObject(dec *json.Decoder, v pcommon.Value, tagged bool, depth int) error {
	// pcommon.Map.PutEmpty replaces a key that is there; duplicates are kept by reading the pairs through MoveTo of a new map.
	var pairs []pair
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		tok, err := dec.Token()
		if err != nil {
			return err
		}
		k := key.(string)
		if text, ok := tok.(string); ok && tagged && len(k) > 1 && k[0] == '$' && k[1] != '$' {
			if err := readTagged(k, text, v); err != nil {
				return err
			}
			_, err = dec.Token()
			return err
		}
		val := pcommon.NewValueEmpty()
		if err := readToken(dec, tok, val, depth+1); err != nil {
			return err
		}
		pairs = append(pairs, pair{strings.TrimPrefix(k, "$"), val})
	}
	if _, err := dec.Token(); err != nil {
		return err
	}
	putPairs(v.SetEmptyMap(), pairs)
	return nil
}

func readTagged(tag, text string, v pcommon.Value) error {
	switch tag {
	case "$bytes", "$string":
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return err
		}
		if tag == "$string" {
			v.SetStr(string(raw))
		} else {
			v.SetEmptyBytes().FromRaw(raw)
		}
	case "$double":
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return err
		}
		if math.IsNaN(f) {
			f = math.NaN()
		}
		v.SetDouble(f)
	default:
		return fmt.Errorf("unknown tag %q", tag)
	}
	return nil
}

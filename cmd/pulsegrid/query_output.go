package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// printableCopy copies text without what a terminal would obey: control characters but line feeds and tabs become U+FFFD.
func printableCopy(w io.Writer, r io.Reader) error {
	in, out := bufio.NewReader(r), bufio.NewWriter(w)
	for {
		c, _, err := in.ReadRune()
		if errors.Is(err, io.EOF) {
			return out.Flush()
		}
		if err != nil {
			return err
		}
		if unicode.IsControl(c) && c != '\n' && c != '\t' {
			c = utf8.RuneError
		}
		if _, err := out.WriteRune(c); err != nil {
			return err
		}
	}
}

// jsonLines makes one JSON object a line of jsonFormat. ClickHouse writes the bytes of texts as they are; here those of a FixedString, which is
// an id in the tables, become hexadecimal digits, and invalid UTF-8 of other texts becomes U+FFFD.
func jsonLines(w io.Writer, r io.Reader) error {
	in, out := bufio.NewReader(r), bufio.NewWriter(w)
	var names, types []string
	for n := 0; ; n++ {
		line, err := in.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			var problem error
			switch n {
			case 0:
				problem = json.Unmarshal(line, &names)
			case 1:
				problem = json.Unmarshal(line, &types)
			default:
				problem = jsonObject(out, line, names, types)
			}
			if problem != nil {
				return fmt.Errorf("line %d: %w", n+1, problem)
			}
		}
		if errors.Is(err, io.EOF) {
			return out.Flush()
		}
		if err != nil {
			return err
		}
	}
}

func jsonObject(out *bufio.Writer, line []byte, names, types []string) error {
	// The standard decoder keeps the bytes of a RawMessage, also those that are no UTF-8.
	var cells []json.RawMessage
	if err := json.Unmarshal(line, &cells); err != nil {
		return err
	}
	if len(cells) != len(names) || len(names) != len(types) {
		return fmt.Errorf("%d values of %d columns with %d types", len(cells), len(names), len(types))
	}
	object := []byte{'{'}
	for i, cell := range cells {
		if i > 0 {
			object = append(object, ',')
		}
		name, err := json.Marshal(names[i])
		if err != nil {
			return err
		}
		object = append(append(object, name...), ':')
		if object, err = appendCell(object, cell, strings.Contains(types[i], "FixedString(")); err != nil {
			return fmt.Errorf("column %s: %w", names[i], err)
		}
	}
	_, err := out.Write(append(object, '}', '\n'))
	return err
}

// appendCell appends a value, each text in it as JSON; with ids, as the hexadecimal digits of its bytes.
func appendCell(to, cell []byte, ids bool) ([]byte, error) {
	for i := 0; i < len(cell); {
		if cell[i] != '"' {
			to = append(to, cell[i])
			i++
			continue
		}
		text, n, err := unquote(cell[i:])
		if err != nil {
			return nil, err
		}
		i += n
		if ids {
			to = append(hex.AppendEncode(append(to, '"'), text), '"')
			continue
		}
		quoted, err := json.Marshal(strings.ToValidUTF8(string(text), string(utf8.RuneError)))
		if err != nil {
			return nil, err
		}
		to = append(to, quoted...)
	}
	return to, nil
}

var escapes = map[byte]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// unquote returns the bytes of the JSON string that b begins with, and how long it is. Unlike encoding/json it keeps bytes that are no UTF-8.
func unquote(b []byte) (text []byte, length int, err error) {
	for i := 1; i < len(b); i++ {
		switch c := b[i]; c {
		case '"':
			return text, i + 1, nil
		case '\\':
			if i++; i == len(b) {
				return nil, 0, io.ErrUnexpectedEOF
			}
			if plain, ok := escapes[b[i]]; ok {
				text = append(text, plain)
				continue
			}
			if b[i] != 'u' || i+4 >= len(b) {
				return nil, 0, fmt.Errorf("no JSON escape: %q", b[i])
			}
			code, err := strconv.ParseUint(string(b[i+1:i+5]), 16, 16)
			if err != nil {
				return nil, 0, err
			}
			text = utf8.AppendRune(text, rune(code)) // ClickHouse writes control characters so, never halves of a pair
			i += 4
		default:
			text = append(text, c)
		}
	}
	return nil, 0, io.ErrUnexpectedEOF
}

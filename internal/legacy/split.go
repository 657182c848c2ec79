package legacy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/pulsegrid/pulsegrid/internal/jsonshape"
)

// Limits of a body. Zero fields take the defaults.
type Limits struct {
	MaxEvents int // default 262144
	MaxDepth  int // of one event's JSON; default 64
}

const (
	defaultMaxEvents = 262_144
	defaultMaxDepth  = 64
)

func (l Limits) withDefaults() Limits {
	if l.MaxEvents <= 0 {
		l.MaxEvents = defaultMaxEvents
	}
	if l.MaxDepth <= 0 {
		l.MaxDepth = defaultMaxDepth
	}
	return l
}

// Errors of Split.
var (
	ErrNotJSON       = errors.New("body is not JSON: want one event, an array of events, or events one after the other")
	ErrTooManyEvents = errors.New("too many events in one body")
)

// Split returns the events of a body: one object, an array of them, or several of either one after the other (lines). Whatever is valid
// JSON is an event here; what it is worth, Convert says. A body that is not JSON from some place on is an error as a whole: its sender
// hears so, and nothing of it is taken. The events alias body.
func Split(body []byte, limits Limits) ([]json.RawMessage, error) {
	limits = limits.withDefaults()
	if depth := jsonshape.Of(body).Depth; depth > limits.MaxDepth+1 { // an array around the events is not theirs; the decoder recurses
		return nil, fmt.Errorf("%w: %d levels, at most %d are allowed", ErrTooDeep, depth, limits.MaxDepth)
	}
	if one := bytes.Trim(body, " \t\r\n"); len(one) > 0 && one[0] == '{' && json.Valid(one) { // as nearly all lines of files are
		return []json.RawMessage{one}, nil
	}
	var out []json.RawMessage
	dec := json.NewDecoder(bytes.NewReader(body))
	for {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err == io.EOF {
			return out, nil
		} else if err != nil {
			return nil, fmt.Errorf("%w: at byte %d: %w", ErrNotJSON, dec.InputOffset(), err)
		}
		events := []json.RawMessage{raw}
		if raw[0] == '[' {
			if err := json.Unmarshal(raw, &events); err != nil {
				return nil, fmt.Errorf("%w: %w", ErrNotJSON, err)
			}
		}
		if len(out)+len(events) > limits.MaxEvents {
			return nil, fmt.Errorf("%w: %d by byte %d, at most %d are allowed", ErrTooManyEvents, len(out)+len(events), dec.InputOffset(), limits.MaxEvents)
		}
		out = append(out, events...)
	}
}

// ErrTooDeep is Split's error for a body that is nested beyond its limit.
var ErrTooDeep = errors.New("JSON is nested too deeply")

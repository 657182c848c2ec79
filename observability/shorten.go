package observability

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"time"

	"gopkg.in/yaml.v3"
)

// Keys whose values are durations, in files of rules, of Prometheus and of Alertmanager, as far as ours use them.
var durationKeys = []string{
	"interval", "for", "keep_firing_for", "scrape_interval", "evaluation_interval", "group_wait", "group_interval", "repeat_interval",
}

// inExpr are the durations of a PromQL expression: of ranges, subqueries and offsets.
var inExpr = regexp.MustCompile(`(\[|:|\boffset )(\d+(?:ms|[smhdwy]))(\]|:|\b)`)

// Shorten returns a file of rules, prometheus.yaml or alertmanager.yaml with each duration divided by factor: what they decide is the same, so many times sooner. Numbers that
// series are compared with stay, seconds too. With a factor of 1 the file stays as it is, byte by byte.
func Shorten(content []byte, factor int) ([]byte, error) {
	if factor < 1 {
		return nil, fmt.Errorf("shorten: factor %d: want 1 at least", factor)
	}
	if factor == 1 {
		return content, nil
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	for dec := yaml.NewDecoder(bytes.NewReader(content)); ; {
		var doc yaml.Node
		if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
			return out.Bytes(), enc.Close()
		} else if err != nil {
			return nil, fmt.Errorf("shorten: %w", err)
		}
		if err := shorten(&doc, factor); err != nil {
			return nil, err
		}
		if err := enc.Encode(&doc); err != nil {
			return nil, fmt.Errorf("shorten: %w", err)
		}
	}
}

func shorten(n *yaml.Node, factor int) error {
	if n.Kind != yaml.MappingNode {
		for _, child := range n.Content {
			if err := shorten(child, factor); err != nil {
				return err
			}
		}
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i].Value, n.Content[i+1]
		var err error
		switch {
		case value.Kind == yaml.ScalarNode && slices.Contains(durationKeys, key):
			value.Value, err = divided(value.Value, factor)
		case value.Kind == yaml.ScalarNode && key == "expr":
			value.Value = inExpr.ReplaceAllStringFunc(value.Value, func(found string) string {
				parts := inExpr.FindStringSubmatch(found)
				short, failed := divided(parts[2], factor)
				err = errors.Join(err, failed)
				return parts[1] + short + parts[3]
			})
		default:
			err = shorten(value, factor)
		}
		if err != nil {
			return fmt.Errorf("line %d: %s: %w", n.Content[i].Line, key, err)
		}
	}
	return nil
}

// unitNames are those of Prometheus' durations.
var unitNames = map[string]time.Duration{
	"ms": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour, "y": 365 * 24 * time.Hour,
}

// divided is a duration of one unit, such as 5m, divided.
func divided(text string, factor int) (string, error) {
	m := regexp.MustCompile(`^(\d+)(\D+)$`).FindStringSubmatch(text)
	if m == nil || unitNames[m[2]] == 0 {
		return "", fmt.Errorf("%q is no duration of one unit", text)
	}
	n, err := strconv.ParseInt(m[1], 10, 32)
	if err != nil {
		return "", fmt.Errorf("%q: %w", text, err)
	}
	short := time.Duration(n) * unitNames[m[2]] / time.Duration(factor)
	if short < time.Millisecond {
		return "", fmt.Errorf("%q divided by %d is less than a millisecond", text, factor)
	}
	return strconv.FormatInt(short.Milliseconds(), 10) + "ms", nil
}

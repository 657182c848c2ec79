package refusals

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
)

// newestBytes of a log are read: hours of refusals, if there is little else in it.
const newestBytes = 1 << 20

// Newest returns the newest line of each kind from the end of a log file of JSON lines and of the file before it, PATH.1; newest first. Files that are not
// there hold none.
func Newest(path string) ([]Line, error) {
	tail, err := tailOf(path, newestBytes)
	if err != nil {
		return nil, err
	}
	older, err := tailOf(path+".1", newestBytes-len(tail))
	if err != nil {
		return nil, err
	}
	newest := map[Kind]Line{}
	for line := range bytes.Lines(append(older, tail...)) {
		if !bytes.Contains(line, []byte(Message)) {
			continue
		}
		var found struct {
			Message string `json:"msg"`
			Line
		}
		if json.Unmarshal(line, &found) != nil || found.Message != Message { // cut off, or about something else
			continue
		}
		newest[found.Kind] = found.Line
	}
	lines := make([]Line, 0, len(newest))
	for _, l := range newest {
		lines = append(lines, l)
	}
	slices.SortFunc(lines, func(a, b Line) int { return b.Last.Compare(a.Last) })
	return lines, nil
}

func tailOf(path string, maxBytes int) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	from := max(0, info.Size()-int64(maxBytes))
	b, err := io.ReadAll(io.NewSectionReader(f, from, info.Size()-from))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

package mskreceiver

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/block"
)

// position is what the group's committed offset says of a partition: everything before next is finished, and behind it lie the
// blocks that were decided and are not finished. Its text is the commit's metadata (docs/formats/kafka.md).
type position struct {
	next  int64 // the committed offset; not part of the text
	epoch int32 // leader epoch of the last finished record, -1: unknown; not part of the text
	// stated: a text was read, so ends are all blocks that were begun. Else there may have been others.
	stated bool

	topicID  block.TopicID // of the topic that all this is about; zero: unknown
	appended time.Time     // when the last finished record was appended; zero: unknown
	intended time.Time     // when the first of ends was decided; zero where there are none
	fresh    bool          // nothing is finished yet: next is where initial_offset began
	traced   bool          // epochs are known up to the last of ends; else up to next
	epochs   epochs        // of the records of what is finished, and of ends
	ends     []int64       // the offset behind each unfinished block, in order; the first block begins at next
	// omissions are the events that the blocks of ends are delivered without, in the order of their offsets.
	omissions []omission
}

const (
	intentVersion = "v1"
	// maxMetadataBytes is what Kafka stores with an offset (offset.metadata.max.bytes); one byte more and it refuses the commit.
	maxMetadataBytes = 4096
	// maxEnds keeps the longest text far below that: 20 bytes an end, 27 an omitted event, and less than 512 for all else.
	maxEnds = 128
)

var errNotOurs = errors.New("it is not the text of a mskreceiver")

// text returns the metadata, for example "v1 id=AAAAAAAAQACAAAAAAAAAAQ t=1790000000000 i=1790000000950 e=120,240". Milliseconds count.
func (p position) text() string {
	b := append(make([]byte, 0, 512+20*len(p.ends)+27*len(p.omissions)), intentVersion...)
	if p.topicID != (block.TopicID{}) {
		b = append(append(b, " id="...), p.topicID.String()...)
	}
	if !p.appended.IsZero() {
		b = strconv.AppendInt(append(b, " t="...), p.appended.UnixMilli(), 10)
	}
	if p.fresh {
		b = append(b, " fresh"...)
	}
	if len(p.epochs) > 0 {
		b = p.epochs.appendText(append(b, " l="...))
	}
	if len(p.ends) > 0 {
		b = strconv.AppendInt(append(b, " i="...), p.intended.UnixMilli(), 10)
		for i, end := range p.ends {
			b = append(b, ',')
			if i == 0 {
				b = append(b[:len(b)-1], " e="...)
			}
			b = strconv.AppendInt(b, end, 10)
		}
	}
	if len(p.omissions) > 0 {
		b = appendOmissions(append(b, " x="...), p.omissions)
	}
	return string(b)
}

// decided is the offset behind the last block that is finished or begun.
func (p position) decided() int64 {
	if n := len(p.ends); n > 0 {
		return p.ends[n-1]
	}
	return p.next
}

// parsePosition is text's inverse. It accepts nothing that text would not have written: what is damaged must not be guessed.
func parsePosition(next int64, text string) (position, error) {
	p := position{next: next, epoch: -1}
	fields := strings.Split(text, " ")
	if len(text) > maxMetadataBytes || fields[0] != intentVersion {
		return position{}, errNotOurs
	}
	for _, f := range fields[1:] {
		key, value, _ := strings.Cut(f, "=")
		var err error
		switch key {
		case "id":
			p.topicID, err = block.ParseTopicID(value)
		case "t":
			p.appended, err = parseMillis(value)
		case "fresh":
			p.fresh = true
		case "l":
			p.epochs, err = parseEpochs(value)
			p.traced = true
		case "i":
			p.intended, err = parseMillis(value)
		case "e":
			p.ends, err = parseEnds(next, value)
		case "x":
			p.omissions, err = parseOmissions(value)
		default:
			err = errors.New("unknown field")
		}
		if err != nil {
			return position{}, fmt.Errorf("field %q: %w", f, err)
		}
	}
	if p.text() != text {
		return position{}, errors.New("it is damaged")
	}
	return p, nil
}

func parseMillis(s string) (time.Time, error) {
	ms, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	return time.UnixMilli(ms), nil
}

func parseEnds(next int64, s string) ([]int64, error) {
	if strings.Count(s, ",") >= maxEnds {
		return nil, fmt.Errorf("more than %d blocks", maxEnds)
	}
	var ends []int64
	last := next
	for item := range strings.SplitSeq(s, ",") {
		end, err := strconv.ParseInt(item, 10, 64)
		if err != nil {
			return nil, err
		}
		if end <= last {
			return nil, fmt.Errorf("a block ends at %d and begins at %d", end, last)
		}
		ends, last = append(ends, end), end
	}
	return ends, nil
}

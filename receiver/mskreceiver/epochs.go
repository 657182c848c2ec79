package mskreceiver

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

// epochs are the leader epochs of the records that were taken: from each step's offset on, until the next step. A record's epoch
// never changes, so a record of another one at an offset that has been taken is another record: the log was cut off and written anew
// (unclean leader election). Before the first step only this is known: no record there had a later epoch than the first step's.
type epochs []step

type step struct {
	from  int64
	epoch int32
	// replaced: these records came where others had been taken, and are in quarantine. No block has them.
	replaced bool
}

// maxSteps bounds the text. Leaders change rarely: these reach far beyond what a log is cut off by.
const maxSteps = 8

// at returns the step that an offset lies in; false: it lies before the first.
func (es epochs) at(offset int64) (step, bool) {
	for i := len(es) - 1; i >= 0; i-- {
		if es[i].from <= offset {
			return es[i], true
		}
	}
	return step{}, false
}

// differ tells that a record of that epoch is another one than that which was taken at its offset. Epochs below zero are unknown.
func (es epochs) differ(offset int64, epoch int32) bool {
	if epoch < 0 || len(es) == 0 {
		return false
	}
	if s, ok := es.at(offset); ok {
		return s.epoch != epoch
	}
	return epoch > es[0].epoch
}

// inQuarantine tells that the record at offset went there as another's replacement.
func (es epochs) inQuarantine(offset int64) bool {
	s, ok := es.at(offset)
	return ok && s.replaced
}

// take adds a record: behind all others, or, where a range is cut again, one that is known already. That must not forget what is known
// behind it: a statement may be made before the records there have come.
func (es epochs) take(offset int64, epoch int32) epochs {
	if epoch < 0 {
		return es
	}
	if s, ok := es.at(offset); ok && s.epoch == epoch && !s.replaced {
		return es
	}
	return es.set(step{from: offset, epoch: epoch}, -1)
}

// set puts s in the place of what is in [s.from, to); to below zero: of everything behind. Behind that is what was, or the first step's
// epoch where nothing is known: whatever the log has there now came after s, and is another's replacement too.
func (es epochs) set(s step, to int64) epochs {
	out := make(epochs, 0, len(es)+2)
	for _, old := range es {
		if old.from < s.from {
			out = append(out, old)
		}
	}
	out = append(out, s)
	if to >= 0 && len(es) > 0 {
		behind, ok := es.at(to)
		if !ok {
			behind = es[0]
		}
		behind.from = to
		out = append(out, behind)
		for _, old := range es {
			if old.from > to {
				out = append(out, old)
			}
		}
	}
	out = slices.CompactFunc(out, func(a, b step) bool { return a.epoch == b.epoch && a.replaced == b.replaced })
	return out[max(0, len(out)-maxSteps):]
}

// below returns the steps that begin before an offset.
func (es epochs) below(offset int64) epochs {
	n := len(es)
	for n > 0 && es[n-1].from >= offset {
		n--
	}
	return es[:n:n]
}

// appendText appends, for example, "5@100,6@240,7@300q": the epoch, where it begins, and q for what is in quarantine.
func (es epochs) appendText(b []byte) []byte {
	for i, s := range es {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(strconv.AppendInt(b, int64(s.epoch), 10), '@')
		b = strconv.AppendInt(b, s.from, 10)
		if s.replaced {
			b = append(b, 'q')
		}
	}
	return b
}

func parseEpochs(text string) (epochs, error) {
	var es epochs
	for item := range strings.SplitSeq(text, ",") {
		item, replaced := strings.CutSuffix(item, "q")
		e, o, _ := strings.Cut(item, "@")
		epoch, err := strconv.ParseInt(e, 10, 32)
		if err != nil {
			return nil, err
		}
		from, err := strconv.ParseInt(o, 10, 64)
		if err != nil {
			return nil, err
		}
		if n := len(es); epoch < 0 || n > 0 && es[n-1].from >= from || n == maxSteps {
			return nil, errors.New("no list of leader epochs")
		}
		es = append(es, step{from: from, epoch: int32(epoch), replaced: replaced})
	}
	return es, nil
}

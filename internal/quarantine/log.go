package quarantine

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
)

// An item on its way through an aggregator's pipeline is a log record: the record's bytes as its body, the record's headers as its
// attributes.

// ToLog makes a log record of a record of the quarantine topic. The body is a copy.
func ToLog(r *kgo.Record, lr plog.LogRecord) {
	lr.SetTimestamp(pcommon.NewTimestampFromTime(r.Timestamp))
	lr.Body().SetEmptyBytes().FromRaw(r.Value)
	attrs := lr.Attributes()
	attrs.EnsureCapacity(len(r.Headers) + 1)
	for _, h := range r.Headers {
		attrs.PutStr(h.Key, string(h.Value))
	}
}

// FromLog is its inverse, apart from what the record's place and key say: the pipeline's stamps (internal/lineage) have that. A log
// record that ToLog did not make is an item too.
func FromLog(lr plog.LogRecord) Item {
	i := newItem()
	i.At = lr.Timestamp().AsTime()
	for key, v := range lr.Attributes().All() {
		if v.Type() == pcommon.ValueTypeStr {
			i.set(key, v.Str())
		}
	}
	if v := lr.Body(); v.Type() == pcommon.ValueTypeBytes {
		i.Body = v.Bytes().AsRaw()
	} else {
		i.Body = []byte(v.AsString())
	}
	return i
}

// Personal tells whether the item must be kept like personal data: a schema marks some in it, or nobody has held it against a schema.
// Aggregators know no schemas, so what they put into quarantine is of the second kind.
func (i Item) Personal() bool { return i.PII || i.OriginTopic != "" || len(i.Findings) == 0 }

// Schema is the id and version of the schema of the first verdict; empty where it is of no schema.
func (i Item) Schema() (id, version string) {
	if len(i.Findings) == 0 || len(i.Findings[0].Verdicts) == 0 {
		return "", ""
	}
	v := i.Findings[0].Verdicts[0]
	return v.Schema, v.Version
}

// ID is the item's identity: the same events of the same sender, quarantined for the same reason, are the same item however often they
// are sent; a record that two stores refuse is two.
func (i Item) ID() (id [16]byte) {
	h := sha256.New()
	for _, part := range []string{
		i.Tenant, i.Signal, i.Source, i.Code, i.Object, i.OriginTopic, i.OriginGroup,
		strconv.FormatInt(int64(i.OriginPartition), 10), strconv.FormatInt(i.OriginOffset, 10),
	} {
		var size [8]byte
		binary.LittleEndian.PutUint64(size[:], uint64(len(part)))
		_, _ = h.Write(size[:]) // a hash never fails
		_, _ = io.WriteString(h, part)
	}
	_, _ = h.Write(i.Body)
	copy(id[:], h.Sum(nil))
	return id
}

package quarantine_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/quarantine"
)

// Guarantee: a log record of an item says what its record does; place and key are the stamps' to say.
func TestALogRecordIsTheItemOfItsRecord(t *testing.T) {
	r := &kgo.Record{Topic: topic, Value: []byte("\xff\x00body"), Timestamp: time.Unix(7, 8).UTC(), Headers: []kgo.RecordHeader{
		{Key: envelope.HeaderTenant, Value: []byte("acme")}, {Key: envelope.HeaderQuarantineCode, Value: []byte("attribute_type")},
		{Key: envelope.HeaderOriginTopic, Value: []byte("otlp.logs.v1")}, {Key: envelope.HeaderOriginPartition, Value: []byte("99999999999")},
		{Key: envelope.HeaderQuarantineCode, Value: []byte("refused")}, {Key: envelope.HeaderFrame, Value: []byte{0xff, 0, 1}}, {Key: "foreign", Value: nil},
	}}
	lr := plog.NewLogRecord()
	quarantine.ToLog(r, lr)
	want, got := quarantine.FromRecord(r), quarantine.FromLog(lr)
	require.Equal(t, want, got)
	require.Equal(t, []any{"refused", int32(-1), "\xff\x00body"}, []any{got.Code, got.OriginPartition, string(got.Body)}, "the last of a key counts")
}

func TestTheSameItemHasTheSameIDAndOnlyThat(t *testing.T) {
	base := quarantine.Item{Tenant: "a", Signal: "logs", Source: "s", Code: "c", OriginTopic: "t", OriginGroup: "g", Body: []byte("b")}
	again := base
	again.Offset, again.At, again.Received, again.Gateway = 7, time.Unix(1, 0), time.Unix(1, 0), "another"
	require.Equal(t, base.ID(), again.ID(), "a copy by another gateway at another time")
	seen := map[[16]byte]bool{base.ID(): true}
	for _, change := range []func(*quarantine.Item){
		func(i *quarantine.Item) { i.Tenant, i.Signal = "al", "ogs" }, func(i *quarantine.Item) { i.Source = "x" }, func(i *quarantine.Item) { i.Code = "x" },
		func(i *quarantine.Item) { i.OriginGroup = "x" }, func(i *quarantine.Item) { i.OriginOffset = 1 }, func(i *quarantine.Item) { i.OriginPartition = 1 },
		func(i *quarantine.Item) { i.Object = "x" }, func(i *quarantine.Item) { i.Body = []byte("x") },
	} {
		i := base
		change(&i)
		require.False(t, seen[i.ID()])
		seen[i.ID()] = true
	}
}

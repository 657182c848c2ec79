package mskreceiver

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/otlpdecode"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// BenchmarkDecode takes a block of 10,000 realistic events in 20 records from bytes to stamped pdata: the receiver's share of the
// aggregator's CPU, but for fetching.
//
//	go test -run - -bench Decode -benchmem -count 6 ./receiver/mskreceiver
func BenchmarkDecode(b *testing.B) {
	const records, perRecord = 20, 500
	for _, sig := range signal.All {
		b.Run(sig.String(), func(b *testing.B) {
			values := make([][]byte, records)
			for i := range values {
				values[i] = otlptest.Realistic(sig, uint64(i), perRecord)
			}
			in := inspector{signal: sig, defaultTenant: DefaultTenant}
			decoder := &otlpdecode.Decoder{}
			b.ReportAllocs()
			for b.Loop() {
				blk := newBatch(sig, decoder)
				for i, v := range values {
					e := &entry{record: &kgo.Record{Topic: sig.Topic(), Key: []byte("source-7"), Value: v, Offset: int64(i)}}
					in.inspect(e)
					require.Nil(b, e.refusal)
					require.Nil(b, blk.append(e))
				}
				require.Equal(b, records*perRecord, blk.events)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(records*perRecord), "ns/event")
		})
	}
}

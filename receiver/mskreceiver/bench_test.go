package mskreceiver

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/pulsegrid/pulsegrid/internal/block"
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

// BenchmarkWarmUp reads the ids of 10,000 realistic events in 20 records, as a warm-up does: nearly all that it costs, but for
// fetching and what the memories do. One core does one partition.
//
//	go test -run - -bench WarmUp -benchmem -count 6 ./receiver/mskreceiver
func BenchmarkWarmUp(b *testing.B) {
	const records, perRecord = 20, 500
	for _, sig := range signal.All {
		b.Run(sig.String(), func(b *testing.B) {
			values := make([][]byte, records)
			for i := range values {
				values[i] = otlptest.Realistic(sig, uint64(i), perRecord)
			}
			r := newIDReader(inspector{signal: sig, defaultTenant: DefaultTenant})
			b.ReportAllocs()
			for b.Loop() {
				for i, v := range values {
					e := &entry{record: &kgo.Record{Topic: sig.Topic(), Key: []byte("source-7"), Value: v, Offset: int64(i)}}
					if n := len(r.read(e).Rules); n != perRecord {
						b.Fatal(n)
					}
				}
			}
			b.ReportMetric(float64(b.N)*records*perRecord/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkIntents takes blocks of one record through the whole receiver, over kfake, as fast as it can: with commits, and with
// commits that are answered at once. The difference is what a block costs for being reproducible, at most: with larger blocks it
// is spread over more events, and committing offsets without intents is not free either.
//
//	go test -run - -bench Intents -count 6 ./receiver/mskreceiver
func BenchmarkIntents(b *testing.B) {
	const records = 200 // blocks
	for _, name := range []string{"committed", "answered-at-once"} {
		b.Run(name, func(b *testing.B) {
			c := fakeCluster(b, 1)
			cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
			require.NoError(b, err)
			defer cl.Close()
			for i := range records {
				cl.Produce(b.Context(), &kgo.Record{Topic: logsTopic, Value: logsRequest(strconv.Itoa(i))}, nil)
			}
			require.NoError(b, cl.Flush(b.Context()))
			for i := 0; b.Loop(); i++ {
				done := make(chan struct{})
				var stored atomic.Int64
				s := newStore(func(context.Context, block.Block, plog.Logs) error {
					if stored.Add(1) == records {
						close(done)
					}
					return nil
				})
				cfg := testConfig(c.ListenAddrs(), name+strconv.Itoa(i))
				cfg.Block.MaxEvents = 1
				r, err := newReceiver(receivertest.NewNopSettings(metadata.Type()), cfg)
				require.NoError(b, err)
				r.sinks.logs = s
				if name == "answered-at-once" {
					r.commitWith = func(*kgo.Client) commitFunc {
						return func(context.Context, map[topicPartition]statement) (map[topicPartition]error, error) { return nil, nil }
					}
				}
				require.NoError(b, r.Start(b.Context(), componenttest.NewNopHost()))
				<-done
				require.NoError(b, r.Shutdown(b.Context()))
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/records, "us/block")
		})
	}
}

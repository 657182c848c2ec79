package mskexporter

import (
	"fmt"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

type identity struct {
	digest     [16]byte
	index, nth int
}

// identities are those of the events of records, by the events' indexes.
func identities(t *testing.T, s signal.Signal, ms []*sarama.ConsumerMessage) map[int]identity {
	t.Helper()
	out := map[int]identity{}
	for _, m := range ms {
		events := eventsOf(t, []*sarama.ConsumerMessage{m})
		r := eventid.OfBody(m.Value, []byte(headersOf(m)[envelope.HeaderRequest]), events)
		nths, err := otlpwire.Ordinals(s, m.Value)
		require.NoError(t, err)
		require.Len(t, nths, events)
		for position := range events {
			index, nth := r.At(position)
			if r.Whole {
				nth = nths[position]
			}
			_, twice := out[index]
			require.False(t, twice)
			out[index] = identity{r.Digest, index, nth}
		}
	}
	return out
}

// equals is a request of so many log records, of which all but some are equal, and whose times are missing.
func equals(t *testing.T, n int) envelope.Envelope {
	t.Helper()
	ld := plog.NewLogs()
	lrs := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
	for i := range n {
		lr := lrs.AppendEmpty()
		if i%10 == 0 {
			lr.Body().SetInt(int64(i))
		}
	}
	b, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	require.NoError(t, err)
	return envelope.Envelope{Signal: signal.Logs, Tenant: "acme", Source: "agent", Events: n, Received: time.Unix(1, 0), Body: b}
}

// Scenario: the same request goes to exporters of other sizes of records; one of them takes it whole.
// Guarantees: each event has one digest, index and ordinal; a request that passes whole has no header; no record is larger than is allowed, also where the header
// is larger than the events.
func TestARequestThatIsSplitKeepsTheIdentityOfItsEvents(t *testing.T) {
	for name, e := range map[string]envelope.Envelope{"realistic": request(signal.Logs, "acme", "agent", 300), "equals": equals(t, 10_000)} {
		t.Run(name, func(t *testing.T) {
			whole := map[int]identity{}
			for _, size := range []int{1_000_000, 20_000} {
				k := fake(t)
				r := newRig(t, k.ListenAddrs(), func(c *Config) { c.MaxRecordBytes = size })
				require.NoError(t, r.send(e))
				ms := readAll(t, k.ListenAddrs(), "otlp.logs.v1")
				got := identities(t, e.Signal, ms)
				require.Len(t, got, e.Events)
				if len(ms) == 1 {
					require.NotContains(t, headersOf(ms[0]), envelope.HeaderRequest)
					require.Equal(t, eventid.Digest(e.Body), got[0].digest)
					whole = got
					continue
				}
				require.Equal(t, whole, got)
				for _, m := range ms {
					kr := kgo.Record{Key: m.Key, Value: m.Value}
					for _, h := range m.Headers {
						kr.Headers = append(kr.Headers, kgo.RecordHeader{Key: string(h.Key), Value: h.Value})
					}
					require.LessOrEqual(t, (&record{kafka: &kr}).size()+batchOverhead, int64(size))
				}
			}
		})
	}
}

// Guarantees: what a processor said of an envelope goes with its record, in every lane, and is divided with it; so does the tenant's id attribute; and both
// lie in the spill with the record while Kafka is away.
func TestTheIdentityOfAPartIsInItsHeaderInEveryLane(t *testing.T) {
	first := eventid.Request{Digest: eventid.Digest([]byte("the first request"))}
	for i := range 300 {
		first.Add(2*i, i%2)
	}
	e := request(signal.Logs, "acme", "agent", 300)
	e.Request, e.IDAttribute = first.Encode(), "order.id"
	want := map[int]identity{}
	for i := range 300 {
		want[2*i] = identity{first.Digest, 2 * i, i % 2}
	}
	for lane, sizes := range map[string][]int{envelope.LaneFast: {1_000_000, 50_000}, envelope.LaneOverflow: {1_000_000}, envelope.LaneQuarantine: {1_000_000}} {
		for _, size := range sizes {
			e.Quarantine = nil
			if lane == envelope.LaneQuarantine {
				e.Quarantine = &envelope.Quarantine{Code: "c", Reason: "r", ContentType: envelope.TypeOTLP}
			}
			for _, spill := range []bool{false, true} {
				if spill && lane == envelope.LaneOverflow {
					continue // as the fast lane
				}
				e.Lane = lane
				k := fake(t)
				dir := t.TempDir()
				r := newRig(t, k.ListenAddrs(), func(c *Config) {
					if spill {
						spilling(dir)(c)
					}
					c.MaxRecordBytes = size
				})
				if spill {
					r.direct()
					down := k.Fault(produceFault(kerr.NotEnoughReplicas, -1))
					defer down.Remove()
					require.NoError(t, r.send(e))
					require.Positive(t, r.value("msk_exporter_spilled_records"))
					down.Remove()
					r.direct()
				} else {
					require.NoError(t, r.send(e))
				}
				topic := "otlp.logs.v1"
				if lane == envelope.LaneQuarantine {
					topic = signal.QuarantineTopic
				}
				ms := readAll(t, k.ListenAddrs(), topic)
				require.Equal(t, size < 1_000_000, len(ms) > 1)
				require.Equal(t, want, identities(t, signal.Logs, ms), "%s %d %t", lane, size, spill)
				require.Equal(t, "order.id", headersOf(ms[0])[envelope.HeaderIDAttribute])
			}
		}
	}
}

// Guarantee: the stamps between processors are no part of a request of plain pdata, so that a retry is the same request; the tenant's id attribute is read from
// them.
func TestStampsAreNoPartOfARequestOfPlainPdata(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), nil)
	for i := range 2 {
		ld := plog.NewLogs()
		rl := ld.ResourceLogs().AppendEmpty()
		rl.Resource().Attributes().PutStr("cloud.region", "eu-1")
		rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().Body().SetStr("line")
		lineage.StampResource(rl.Resource().Attributes(), lineage.Origin{Tenant: "acme", Received: time.Unix(int64(i), 0)})
		lineage.StampRoute(rl.Resource().Attributes(), lineage.Route{Lane: envelope.LaneFast, IDAttribute: "order.id"})
		require.NoError(t, r.logs.ConsumeLogs(t.Context(), ld))
		v, _ := rl.Resource().Attributes().Get(lineage.AttrTenant)
		require.Equal(t, "acme", v.Str(), "nothing that is consumed is changed")
	}
	ms := readAll(t, k.ListenAddrs(), "otlp.logs.v1")
	require.Len(t, ms, 2)
	require.Equal(t, ms[0].Value, ms[1].Value)
	require.Equal(t, ms[0].Key, ms[1].Key)
	require.Equal(t, "order.id", headersOf(ms[0])[envelope.HeaderIDAttribute])
}

// Guarantees: the retries of a request without resources share a partition, however they are divided, and such requests are spread over all partitions.
func TestRequestsWithoutASourceAreSpreadAndTheirRetriesMeet(t *testing.T) {
	const partitions = 12
	c := &client{cfg: testConfig(nil)}
	topic := "otlp.logs.v1"
	of := func(e envelope.Envelope, size int) map[int]bool {
		c.cfg.MaxRecordBytes = size
		records, _, err := c.records(t.Context(), e, nil)
		require.NoError(t, err)
		out := map[int]bool{}
		p := newRouter(&c.cfg.Topics) // of another run
		for _, r := range records {
			require.Equal(t, topic, r.kafka.Topic)
			out[int(p.partition(r.kafka, partitions))] = true
		}
		return out
	}
	used := map[int]bool{}
	for i := range 200 {
		e := numbered(t, "", i)
		require.Empty(t, otlpwire.Source(signal.Logs, e.Body))
		first := of(e, 1_000_000)
		require.Len(t, first, 1)
		require.Equal(t, first, of(e, 1_000_000))
		for p := range first {
			used[p] = true
		}
	}
	require.Len(t, used, partitions)

	e := equals(t, 5_000)
	e.Source = ""
	whole := of(e, 1_000_000)
	require.Equal(t, whole, of(e, 10_000), "split")
	d, err := eventid.Divide(e.Signal, e.Body, nil, e.Events)
	require.NoError(t, err)
	good, bad, err := otlpwire.Split(e.Signal, e.Body, func(i int) bool { return i < 2_000 })
	require.NoError(t, err)
	healthy, rest := d.Part(eventid.Range(0, 2_000)), d.Part(eventid.Range(2_000, 5_000))
	for _, part := range []envelope.Envelope{{Body: good, Request: healthy.Encode(), Events: 2_000}, {Body: bad, Request: rest.Encode(), Events: 3_000}} {
		part.Signal, part.Tenant = e.Signal, e.Tenant
		require.Equal(t, whole, of(part, 1_000_000), "a part of it")
	}
}

// What the exporter does to a request that passes whole, without Kafka. It must not depend on the size of the body: nothing of it is hashed.
func BenchmarkRecordsOfAWholeRequest(b *testing.B) {
	c := &client{cfg: testConfig(nil)}
	for _, n := range []int{1, 400} {
		e := request(signal.Logs, "acme", "agent", n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := c.records(b.Context(), e, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

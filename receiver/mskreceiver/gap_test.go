package mskreceiver

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Scenario: the Kafka client passes five records over, at the partition's beginning or between two fetches.
// Guarantees: each record is delivered, blocks tile, and the worker that it happened to is replaced.
func TestRecordsThatTheClientPassesOverAreDelivered(t *testing.T) {
	for _, before := range []int64{0, 10} {
		t.Run(fmt.Sprint(before), func(t *testing.T) {
			c := fakeCluster(t, 1)
			cl := testClient(t, c.ListenAddrs())
			s := newStore(nil)
			r, _ := run(t, testConfig(c.ListenAddrs(), "g"), s)
			eventually(t, "placed", func() bool { ps := r.group.partitions(); return len(ps) == 1 && ps[0].isPlaced() })
			first := r.group.partitions()[0]
			want := allBodies(produce(t, cl, "before", int(before), 1))
			eventually(t, "committed", func() bool { return before == 0 || committed(t, cl, "g")[0] == before })

			which := map[string][]int32{logsTopic: {0}}
			r.client.PauseFetchPartitions(which)
			want = append(want, allBodies(produce(t, cl, "then", 20, 1))...)
			eventually(t, "the client looks elsewhere", func() bool {
				r.client.SetOffsets(map[string]map[int32]kgo.EpochOffset{logsTopic: {0: {Epoch: -1, Offset: before + 5}}})
				return r.client.CommittedOffsets()[logsTopic][0].Offset == before+5
			})
			r.client.ResumeFetchPartitions(which)
			eventually(t, "all committed", func() bool { return committed(t, cl, "g")[0] == before+20 })
			require.True(t, s.hasAll(want))
			requireTiles(t, s.offered(0), 0, before+20)
			require.NotSame(t, first, r.group.partitions()[0])
			s.check(t)
		})
	}
}

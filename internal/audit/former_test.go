package audit

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// anew deletes the topic of the logs and makes it again; what the stores have stays.
func (r *rig) anew(t *testing.T) {
	t.Helper()
	_, err := r.admin.DeleteTopics(t.Context(), logsTopic)
	require.NoError(t, err)
	_, err = r.admin.CreateTopic(t.Context(), partitions, 1, map[string]*string{"message.timestamp.type": kadm.StringPtr("CreateTime"), "max.message.bytes": kadm.StringPtr("33554432")}, logsTopic)
	require.NoError(t, err)
	r.client.PurgeTopicsFromProducing(logsTopic)
	r.records[logsTopic] = make([][]*kgo.Record, partitions)
}

// Scenario: a topic with 10 records in each partition was deleted and made anew, and has 4 now. The stores have the rows of both.
// Guarantees: rows and ledger entries of the former topic are no difference, at places that the present one has and at those that it has not; they are counted and noted.
// What is wrong with the present topic's rows is found all the same.
func TestRowsOfAFormerTopicAreNoted(t *testing.T) {
	r := newRig(t, nil)
	table := columns.ForSignal(signal.Logs).Name
	produce := func(n, seed int) {
		for p := range int32(partitions) {
			for i := range n {
				r.produce(logsTopic, p, otlptest.Logs(uint64(seed+i)+1000*uint64(p), 3))
			}
		}
	}
	produce(10, 0)
	r.store()
	formerHot, formerLake := r.memoryHot.batches[table], r.memoryLake.batches[table]
	formerEntries := slices.Clone(r.memoryHot.entries)
	for i := range formerEntries {
		formerEntries[i].TopicID = block.TopicID{1}
	}
	r.anew(t)
	r.now = r.now.Add(time.Minute)
	r.memoryHot.batches[table], r.memoryHot.entries = nil, nil
	produce(1, 0) // the same events as in the former topic, at the same places
	produce(3, 50)
	r.store()
	r.memoryHot.batches[table] = append(r.memoryHot.batches[table], formerHot...)
	r.memoryHot.entries = append(r.memoryHot.entries, formerEntries...)
	r.memoryLake.batches[table] = append(r.memoryLake.batches[table], formerLake...)
	for _, quick := range []bool{false, true} {
		c := r.audit(func(c *Config) { c.Quick = quick })
		require.Equal(t, certificate.Equal, c.Verdict, shown(c))
		require.Equal(t, certificate.Faults{Former: 60}, totals(c, certificate.Hot).Faults)
		require.Contains(t, strings.Join(c.Notes, "\n"), fmt.Sprintf("lake: 60 rows are of a former topic %s", logsTopic))
	}

	// A row of the present topic is lost, and one of another event of it lies there twice.
	r.memoryHot.batches[table] = append(r.memoryHot.batches[table][1:], formerHot...)
	c := r.audit()
	require.Equal(t, certificate.Different, c.Verdict)
	require.Equal(t, int64(12), totals(c, certificate.Hot).Lost)

	// Without its first record nobody can tell when the topic began.
	offsets := kadm.Offsets{}
	offsets.AddOffset(logsTopic, 0, 1, -1)
	_, err := r.admin.DeleteRecords(t.Context(), offsets)
	require.NoError(t, err)
	c = r.audit(func(c *Config) { c.Ranges = []certificate.Range{{Topic: logsTopic, First: 1, Last: 3}} })
	require.Equal(t, certificate.Different, c.Verdict)
	require.Equal(t, int64(9), totals(c, certificate.Lake).Doubled)
}

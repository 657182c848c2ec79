package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/exporter/clickhouseexporter"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/kafkatest"
	"github.com/pulsegrid/pulsegrid/internal/topicreplay"
)

// lastValue is of a record that ends the reading of a partition: control records are behind the last copy.
const lastValue = "the end"

// committed are the records of a topic by partition, as sarama finds them that reads committed records only.
func committed(t *testing.T, brokers, topic string) map[int32][]*sarama.ConsumerMessage {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	defer client.Close()
	cfg := sarama.NewConfig()
	cfg.Version, cfg.Consumer.IsolationLevel = sarama.V3_6_0_0, sarama.ReadCommitted
	consumer, err := sarama.NewConsumer([]string{brokers}, cfg)
	require.NoError(t, err)
	defer consumer.Close()
	partitions, err := consumer.Partitions(topic)
	require.NoError(t, err)
	out := map[int32][]*sarama.ConsumerMessage{}
	for _, p := range partitions {
		require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Partition: p, Value: []byte(lastValue)}).FirstErr())
		pc, err := consumer.ConsumePartition(topic, p, sarama.OffsetOldest)
		require.NoError(t, err)
		for end := false; !end; {
			select {
			case m := <-pc.Messages():
				if end = string(m.Value) == lastValue; !end {
					out[p] = append(out[p], m)
				}
			case <-time.After(time.Minute):
				t.Fatalf("topic %s partition %d: no end", topic, p)
			}
		}
		require.NoError(t, pc.Close())
	}
	return out
}

// said is a record as a text, but for its place and time.
func said(m *sarama.ConsumerMessage, more ...string) string {
	headers := make([]string, 0, len(m.Headers)+len(more))
	for _, h := range m.Headers {
		headers = append(headers, fmt.Sprintf("%s=%q", h.Key, h.Value))
	}
	return fmt.Sprintf("%q %v %q", m.Key, append(headers, more...), m.Value)
}

// copies are what a replay must make of a topic's records of a tenant, by partition.
func copies(t *testing.T, brokers, topic, tenant string, partitions int32) map[int32][]string {
	t.Helper()
	out := map[int32][]string{}
	all := committed(t, brokers, topic)
	for p := range int32(len(all)) {
		for _, m := range all[p] {
			if slices.ContainsFunc(m.Headers, func(h *sarama.RecordHeader) bool {
				return string(h.Key) == envelope.HeaderTenant && string(h.Value) == tenant
			}) {
				out[p%partitions] = append(out[p%partitions], said(m, fmt.Sprintf("replayed=%q", fmt.Sprintf("%s/%d/%d", topic, m.Partition, m.Offset))))
			}
		}
	}
	return out
}

// found are a topic's records by partition.
func found(t *testing.T, brokers, topic string) map[int32][]string {
	t.Helper()
	out := map[int32][]string{}
	for p, messages := range committed(t, brokers, topic) {
		for _, m := range messages {
			out[p] = append(out[p], said(m))
		}
	}
	return out
}

// Scenario: real Kafka has records of two tenants and no OTLP; one tenant's are replayed into topics, by commands that are killed in and between their transactions, by two at a
// time, and then by one that is left alone. Another aggregator with stores of its own reads the topics.
// Guarantees: a reader of committed records (sarama) finds exactly that tenant's records once, in their order in each partition, byte for byte, with their headers and where they
// came from; the same command again copies nothing; the other aggregator's rows have the same ids and columns; a dry run counts and writes nothing.
func TestAReplayIntoATopicGivesTheSameEvents(t *testing.T) {
	brokers := kafkatest.Start(t, 1).Brokers()[0]
	y := newYesterday()
	more := y.records()
	for seed := range uint64(96) {
		tenant := []string{"acme", "globex"}[seed%2]
		r := received(signal.Logs, tenant, y.from.Add(time.Duration(seed)*time.Second), otlptest.Realistic(signal.Logs, 5000+seed, 3))
		r.Key = []byte{byte(seed), 1}
		if seed%3 == 0 { // the gateway says which request they are of
			request := eventid.Request{Digest: [16]byte{byte(seed)}, Whole: true}
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: envelope.HeaderRequest, Value: request.Encode()})
		}
		more = append(more, r)
	}
	a := storeAllOf(t, brokers, more...)
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers))
	require.NoError(t, err)
	defer client.Close()
	admin := kadm.NewClient(client)
	partitions := map[signal.Signal]int32{signal.Logs: 2, signal.Metrics: 2, signal.Traces: 3}
	for s, n := range partitions {
		_, err := admin.CreateTopic(t.Context(), n, 1, map[string]*string{"message.timestamp.type": kadm.StringPtr(map[bool]string{true: "CreateTime", false: "LogAppendTime"}[s == signal.Traces])}, "copy."+s.String())
		require.NoError(t, err)
	}
	config := a.configFile(t)
	args := func(s signal.Signal, more ...string) []string {
		return append([]string{"job", "run", "replay", "--quiet", "--config", config, "--yield-after", "0", "--tenant", "acme", "--to-topic", s.String() + "=copy." + s.String()}, more...)
	}
	want := copies(t, brokers, signal.Logs.Topic(), "acme", 2)
	total := len(want[0]) + len(want[1])
	require.Contains(t, ends(t, 0, args(signal.Logs, "--dry-run")...), fmt.Sprintf(" nothing was written\n%d records with ", total))
	topics, err := admin.ListTopics(t.Context())
	require.NoError(t, err)
	require.False(t, topics.Has(topicreplay.JournalTopic), "a dry run makes no journal")

	slowly := args(signal.Logs, "--rate", "200")
	for _, point := range []string{
		"replay-planned=kill",
		"journal-produced=kill@2", // in the first transaction of copies; the one before is of the opening of the journal
		"replay-copied=kill@2",
		"journal-produced=kill@3",
	} {
		killedAt(t, point, slowly...)
	}
	_, told, err := continuedAfter(t, "journal-produced@2", func() { ends(t, 0, args(signal.Logs)...) }, slowly...)
	require.Error(t, err, "another replay has begun: %s", told)
	require.Contains(t, told, "another replay into copy.logs has begun, and this one has stopped")
	again := ends(t, 0, slowly...)
	require.Contains(t, again, ": done before: nothing was left to copy\n"+strconv.Itoa(total)+" records with ")
	for _, s := range []signal.Signal{signal.Metrics, signal.Traces} {
		ends(t, 0, args(s)...)
	}

	// The other aggregator.
	stop := a.pipelineOf(t, map[string]any{"group_id": "second", "topics": map[string]any{"logs": []any{"copy.logs"}, "metrics": []any{"copy.metrics"}, "traces": []any{"copy.traces"}}},
		clickhouseexporter.NewFactory(), map[string]any{"endpoint": a.hot.URL, "database": "second"})
	// The columns of the place are the target's; the time of receipt is the gateway's only where a record says it.
	rows := func(database, table string) string {
		const columns = "event_id, event_index, * EXCEPT (event_id, event_index, kafka_topic, kafka_partition, kafka_offset, ingest_time)"
		out, err := a.hot.Try("SELECT count(), uniqExact(event_id), sum(cityHash64(" + columns + ")) FROM " + database + "." + table + " WHERE tenant_id = 'acme'")
		if err != nil {
			return err.Error()
		}
		return out
	}
	tables := []string{"logs", "metrics", "spans"}
	taken := func() bool {
		return !slices.ContainsFunc(tables, func(table string) bool { return rows("second", table) != rows("pulsegrid", table) })
	}
	for end := time.Now().Add(3 * time.Minute); !taken() && time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
	}
	stop()
	for _, table := range tables {
		require.Equal(t, rows("pulsegrid", table), rows("second", table), table)
		require.NotContains(t, rows("second", table), "0\t0\t")
		require.Equal(t, "0", strings.TrimSpace(a.hot.Query("SELECT count() FROM second."+table+" WHERE tenant_id != 'acme'")))
	}

	require.Equal(t, want, found(t, brokers, "copy.logs"))
	require.Equal(t, copies(t, brokers, signal.Metrics.Topic(), "acme", 2), found(t, brokers, "copy.metrics"))
	require.Equal(t, copies(t, brokers, signal.Traces.Topic(), "acme", 3), found(t, brokers, "copy.traces"))
	times := map[string]time.Time{}
	for p, messages := range committed(t, brokers, signal.Traces.Topic()) {
		for _, m := range messages {
			times[fmt.Sprintf("%s/%d/%d", m.Topic, p, m.Offset)] = m.Timestamp
		}
	}
	for _, messages := range committed(t, brokers, "copy.traces") {
		for _, m := range messages {
			place := string(m.Headers[len(m.Headers)-1].Value)
			require.Equal(t, times[place], m.Timestamp, "a topic of CreateTime has the time of the record %s", place)
		}
	}
}

// smallCell is a Kafka with a configuration of aggregators, and no stores.
func smallCell(t *testing.T) (admin *kadm.Client, config string) {
	t.Helper()
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, signal.Logs.Topic(), signal.Logs.OverflowTopic(), "spare.logs"))
	require.NoError(t, err)
	t.Cleanup(k.Close)
	client, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	config = filepath.Join(t.TempDir(), "aggregator.yaml")
	require.NoError(t, os.WriteFile(config, []byte(`
receivers:
  msk/hot: {brokers: [`+k.ListenAddrs()[0]+`], group_id: hot, topics: {logs: [otlp.logs.v1, otlp.logs.overflow.v1, premium]}}
  msk/quarantine: {brokers: [`+k.ListenAddrs()[0]+`], group_id: quarantine, topics: {quarantine: [held]}, quarantine_topic: refused}
exporters: {}
service: {pipelines: {}}
`), 0o600))
	for i, tenant := range []string{"acme", "globex", "acme", "acme", "globex", "globex", "acme", "globex"} {
		topic := []string{signal.Logs.Topic(), signal.Logs.OverflowTopic()}[i%2]
		r := received(signal.Logs, tenant, time.Now(), otlptest.Realistic(signal.Logs, uint64(i), 2))
		r.Topic, r.Partition = topic, 0
		require.NoError(t, client.ProduceSync(t.Context(), r).FirstErr())
	}
	return kadm.NewClient(client), config
}

// Scenario: replays into topics that do not fit, and of records that are in the topic already.
// Guarantees: each is refused as a wrong command line, with what is to be done, and nothing is written; --to-live takes a live topic; records that were declared as erased are
// left out; two tenants' replays into one topic are two jobs, and one of all tenants is refused then.
func TestWhatAReplayIntoATopicRefuses(t *testing.T) {
	admin, config := smallCell(t)
	replay := func(code int, to string, more ...string) string {
		t.Helper()
		args := append([]string{"job", "run", "replay", "--quiet", "--config", config, "--yield-after", "0", "--to-topic", to}, more...)
		out, got, err := run(t, args...)
		if err != nil && strings.Contains(err.Error(), kerr.OutOfOrderSequenceNumber.Message) { // the fake broker's, seldom; "the same command goes on from there"
			return ends(t, code, args...)
		}
		require.Equal(t, code, got, "%v\n%s", err, out)
		if err != nil {
			out += err.Error()
		}
		return out
	}
	size, compact := "1000", "compact,delete"
	_, err := admin.CreateTopic(t.Context(), 1, 1, map[string]*string{"max.message.bytes": &size}, "small")
	require.NoError(t, err)
	_, err = admin.CreateTopic(t.Context(), 1, 1, map[string]*string{"cleanup.policy": &compact}, "compacted")
	require.NoError(t, err)
	for _, topic := range []string{"premium", "otlp.logs.again.v1", "held", "refused"} {
		_, err = admin.CreateTopic(t.Context(), 1, 1, nil, topic)
		require.NoError(t, err)
	}
	for want, asked := range map[string][]string{
		"topic nowhere does not exist":                                           {"logs=nowhere"},
		"max.message.bytes is 1000, and otlp.logs.again.v1 has records of up to": {"logs=small"},
		"cleanup.policy is compact,delete, which keeps one record of each key":   {"logs=compacted"},
		"is read by receiver msk/hot, whose store may have these events already": {"logs=premium"},
		"is named like a topic of the gateways":                                  {"otlp.logs.again.v1"},
		"is the quarantine of receiver msk/quarantine":                           {"logs=held", "--to-live"},
		"receiver msk/hot reads logs there, not traces":                          {"traces=premium", "--to-live"},
		"otlp.logs.v1 cannot be copied into itself":                              {"otlp.logs.v1", "--topic", "otlp.logs.v1", "--to-live"},
		"does not tell its signal":                                               {"spare"},
		"--topic: otlp.traces.v1 has traces, and --to-topic takes logs":          {"logs=spare.logs", "--topic", "otlp.traces.v1"},
		"--from: \"2h\": want 2026-10-01 or RFC 3339":                            {"logs=spare.logs", "--from", "2h"},
		"is still to come":                      {"logs=spare.logs", "--to", "2190-01-01"},
		"is not after --from":                   {"logs=spare.logs", "--from", "2026-01-02", "--to", "2026-01-01"},
		"--source: lake: only Kafka's records":  {"logs=spare.logs", "--source", "lake"},
		"--signal: --to-topic names the signal": {"logs=spare.logs", "--signal", "logs"},
		"give one of them":                      {"logs=spare.logs", "--range", "otlp.logs.v1/0/0-1", "--from", "2026-01-01"},
		"the log has offsets 0 to":              {"logs=spare.logs", "--range", "otlp.logs.v1/0/0-999"},
		"no topic to copy has this partition":   {"logs=spare.logs", "--range", "otlp.logs.v1/9/0-1"},
		"the topic's name does not say that it has logs: name it with --topic": {"logs=spare.logs", "--range", "premium/0/0-1"},
		"--rate: -1: must not be negative":                                     {"logs=spare.logs", "--rate", "-1"},
		`--tenant: "\x1b" is not a tenant id`:                                  {"logs=spare.logs", "--tenant", "\x1b"},
	} {
		require.Contains(t, replay(exitUsage, asked[0], asked[1:]...), want)
	}
	require.Contains(t, ends(t, exitUsage, "job", "run", "replay", "--to-live"), "--to-live: is of a replay into a topic: name it with --to-topic")
	topics, err := admin.ListTopics(t.Context())
	require.NoError(t, err)
	require.False(t, topics.Has(topicreplay.JournalTopic))

	require.Contains(t, replay(0, "logs=spare.logs", "--tenant", "acme"), ": done\n4 records with 8 events")
	require.Contains(t, replay(exitUsage, "logs=spare.logs"), "two copies would be there: choose other records, or another topic")
	require.Contains(t, replay(exitUsage, "logs=spare.logs", "--tenant", "acme", "--from", "2020-01-01"), "two copies would be there")
	require.Contains(t, replay(0, "logs=spare.logs", "--tenant", "globex"), ": done\n4 records with 8 events")
	require.Contains(t, replay(0, "logs=spare.logs", "--tenant", "acme"), ": done before: nothing was left to copy\n4 records")

	erased := filepath.Join(t.TempDir(), "erased.yaml")
	declare := func(more string) {
		require.NoError(t, os.WriteFile(erased, []byte("format: 1\nerasures:\n  - {id: a, by: b, reason: c, tenant: acme, stores: [lake], "+more+"at: "+time.Now().Add(time.Hour).Format(time.RFC3339)+"}\n"), 0o600))
	}
	declare("from: 2026-01-01T00:00:00Z, ")
	require.Contains(t, replay(exitUsage, "logs=premium", "--to-live", "--erased", erased), "a has times of events, and records are copied whole")
	declare("erased: {lake: [otlp.logs.v1/0/0 0000000000000001]}, ")
	require.Contains(t, replay(exitUsage, "logs=premium", "--to-live", "--erased", erased), "a names single events, and records are copied whole")
	declare("")
	require.Contains(t, replay(0, "logs=premium", "--to-live", "--erased", erased), ": done\n4 records with 8 events, ")

	// A topic that is made anew has none of the copies.
	_, err = admin.DeleteTopic(t.Context(), "spare.logs")
	require.NoError(t, err)
	_, err = admin.CreateTopic(t.Context(), 1, 1, nil, "spare.logs")
	require.NoError(t, err)
	require.Contains(t, replay(0, "logs=spare.logs"), ": done\n8 records with 16 events")
}

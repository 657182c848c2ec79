package flow

import (
	"fmt"
	"testing"

	"github.com/IBM/sarama"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"

	"github.com/pulsegrid/pulsegrid/integration/rig"
)

// Scenario: a consumer of other make (sarama, as contrib used it) reads the logs topic.
// Guarantees: every record is a plain OTLP ExportLogsServiceRequest with its headers, and what was sent is all there.
func TestSaramaDecodesEveryRecordAsPlainOTLP(t *testing.T) {
	r := sharedRig(t)
	const service, requests = "sarama", 50
	d := newDriver(r, service)
	for i := range int64(requests) {
		if err := d.send(i); err != nil {
			t.Fatal(err)
		}
	}
	found := 0
	for _, m := range consumeAll(t, r, "otlp.logs.v1") {
		req := plogotlp.NewExportRequest()
		if err := req.UnmarshalProto(m.Value); err != nil {
			t.Fatalf("partition %d, offset %d: %v", m.Partition, m.Offset, err)
		}
		headers := map[string]string{}
		for _, h := range m.Headers {
			headers[string(h.Key)] = string(h.Value)
		}
		events := req.Logs().LogRecordCount()
		if headers["signal"] != "logs" || headers["tenant"] == "" || headers["events"] != fmt.Sprint(events) || len(m.Key) == 0 {
			t.Errorf("partition %d, offset %d: %d events, key %q, headers %v", m.Partition, m.Offset, events, m.Key, headers)
		}
		for _, rl := range req.Logs().ResourceLogs().All() {
			if v, ok := rl.Resource().Attributes().Get("service.name"); ok && v.Str() == service {
				found += rl.ScopeLogs().At(0).LogRecords().Len()
			}
		}
	}
	if found != requests*killBatch {
		t.Errorf("found %d events, want %d", found, requests*killBatch)
	}
}

// consumeAll reads a topic from its beginning to its present end.
func consumeAll(t *testing.T, r *rig.Rig, topic string) []*sarama.ConsumerMessage {
	t.Helper()
	cfg := sarama.NewConfig()
	cfg.Version = sarama.V3_6_0_0
	cl, err := sarama.NewClient(r.Kafka.Brokers(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	consumer, err := sarama.NewConsumerFromClient(cl)
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	partitions, err := cl.Partitions(topic)
	if err != nil {
		t.Fatal(err)
	}
	var all []*sarama.ConsumerMessage
	for _, p := range partitions {
		end, err := cl.GetOffset(topic, p, sarama.OffsetNewest)
		if err != nil {
			t.Fatal(err)
		}
		if end == 0 {
			continue
		}
		pc, err := consumer.ConsumePartition(topic, p, sarama.OffsetOldest)
		if err != nil {
			t.Fatal(err)
		}
		for m := range pc.Messages() {
			all = append(all, m)
			if m.Offset == end-1 {
				break
			}
		}
		if err := pc.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

package mskexporter

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumererror"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/kafka"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Scenario: a request and a part of it that was quarantined come together.
// Guarantees: when the call has returned, the one is in its topic and the other in the quarantine topic, byte for byte, with everything that is
// known of it; one that is larger than a record is refused as a whole.
func TestWhatIsQuarantinedGoesToItsTopicWithWhy(t *testing.T) {
	brokers := fake(t).ListenAddrs()
	r := newRig(t, brokers, nil)
	healthy := request(signal.Logs, "acme", "agent-1", 3)
	bad := request(signal.Logs, "acme", "agent-1", 2)
	bad.Lane = envelope.LaneQuarantine
	bad.Body = []byte("\xff anything, not only OTLP")
	bad.Findings = []byte(`[{"event":0}]`)
	bad.Quarantine = &envelope.Quarantine{Code: "undecodable", Reason: "not OTLP", ContentType: "application/json", ContentEncoding: "gzip", PII: true}
	require.NoError(t, r.send(healthy, bad))

	require.Len(t, readAll(t, brokers, signal.Logs.Topic()), 1)
	got := readAll(t, brokers, signal.QuarantineTopic)
	require.Len(t, got, 1)
	require.Equal(t, bad.Body, got[0].Value)
	require.Equal(t, "agent-1", string(got[0].Key))
	require.Equal(t, map[string]string{
		envelope.HeaderTenant: "acme", envelope.HeaderSignal: "logs", envelope.HeaderEvents: "2", envelope.HeaderLane: "quarantine",
		envelope.HeaderReceivedNanos: "1700000000000000042", envelope.HeaderGateway: gatewayName, envelope.HeaderSchemaVersion: "1.2.0",
		envelope.HeaderQuarantineCode: "undecodable", envelope.HeaderQuarantineReason: "not OTLP", envelope.HeaderSource: "agent-1",
		envelope.HeaderContentType: "application/json", envelope.HeaderContentEncoding: "gzip", envelope.HeaderPII: "true",
		envelope.HeaderFindings: `[{"event":0}]`,
	}, headersOf(got[0]))

	bad.Body = make([]byte, r.cfg.MaxRecordBytes)
	err := r.send(bad)
	require.True(t, consumererror.IsPermanent(err), err)
	require.ErrorContains(t, err, "max_record_bytes")
	require.Len(t, readAll(t, brokers, signal.QuarantineTopic), 1)
}

// Guarantees: events that are to be quarantined never reach the topics that stores take for good; their sender keeps them, since it is an operator who
// must mend the pipeline.
func TestFindingsThatNobodyTookOutAreRefusedAsRetryable(t *testing.T) {
	for _, lane := range []string{"", envelope.LaneFast, envelope.LaneOverflow} {
		k := fake(t)
		r := newRig(t, k.ListenAddrs(), nil)
		e := request(signal.Logs, "t1", "a", 5)
		e.Lane, e.Findings = lane, []byte("[]")
		f := requireRetryable(t, r.send(request(signal.Traces, "t1", "a", 5), e))
		require.ErrorContains(t, f, "put processor quarantine behind schema_validation")
		require.Equal(t, kafka.Retryable, f.class)
		require.EqualValues(t, 1, r.value("msk_exporter_failures", "reason=composition"))
		require.Zero(t, stored(k, "otlp.logs.v1")+stored(k, "otlp.traces.v1"))
	}
}

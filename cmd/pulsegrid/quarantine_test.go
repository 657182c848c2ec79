package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// quarantined starts a broker whose quarantine topic holds: a log of acme with two verdicts; the same of globex, marked as personal data; a
// body that is no OTLP.
func quarantined(t *testing.T) (brokers string) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, signal.QuarantineTopic))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	require.NoError(t, err)
	defer cl.Close()

	ld := plog.NewLogs()
	ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().Body().SetStr("secret body")
	body, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	require.NoError(t, err)
	findings := schema.Findings{{Event: 0, Verdicts: []schema.Verdict{
		{Code: schema.AttributeMissing, Path: "attributes[user.id]", Schema: "login", Version: "1.0.0"},
		{Code: schema.TimeTooOld, Path: "time"},
	}}}
	headers := func(kv ...string) (out []kgo.RecordHeader) {
		for i := 0; i < len(kv); i += 2 {
			out = append(out, kgo.RecordHeader{Key: kv[i], Value: []byte(kv[i+1])})
		}
		return out
	}
	log := func(tenant string, more ...string) *kgo.Record {
		return &kgo.Record{Topic: signal.QuarantineTopic, Value: body, Headers: append(headers(
			envelope.HeaderTenant, tenant, envelope.HeaderSignal, "logs", envelope.HeaderEvents, "1", envelope.HeaderQuarantineCode, "attribute_missing",
			envelope.HeaderQuarantineReason, "user.id is\nmissing", envelope.HeaderFindings, string(findings.Append(nil))), headers(more...)...)}
	}
	require.NoError(t, cl.ProduceSync(t.Context(),
		log("acme"), log("globex", envelope.HeaderPII, "true"),
		&kgo.Record{Topic: signal.QuarantineTopic, Value: []byte{0xff, 0}, Headers: headers(envelope.HeaderTenant, "acme", envelope.HeaderSignal, "logs", envelope.HeaderQuarantineCode, "undecodable",
			envelope.HeaderContentType, "application/json")},
	).FirstErr())
	return strings.Join(c.ListenAddrs(), ",")
}

func TestQuarantineListChoosesAndKeepsToOneLine(t *testing.T) {
	brokers := quarantined(t)
	out, code, err := run(t, "quarantine", "list", "--brokers", brokers)
	require.NoError(t, err)
	require.Zero(t, code)
	require.Len(t, strings.Split(strings.TrimSpace(out), "\n"), 3)
	require.Contains(t, out, "user.id is missing")
	for filter, want := range map[string]int{"--tenant=acme": 2, "--code=time_too_old": 2, "--code=undecodable": 1, "--signal=traces": 0, "--limit=1": 1, "--since=1h": 3} {
		out, _, err := run(t, "quarantine", "list", "--json", "--brokers", brokers, filter)
		require.NoError(t, err)
		require.Equal(t, want, strings.Count(out, "\n"), filter)
	}
}

func TestQuarantineShowGivesTheEventsButPersonalDataOnlyWhenAsked(t *testing.T) {
	brokers := quarantined(t)
	show := func(args ...string) map[string]any {
		out, _, err := run(t, append([]string{"quarantine", "show", "--brokers", brokers}, args...)...)
		require.NoError(t, err)
		var got map[string]any
		require.NoError(t, json.Unmarshal([]byte(out), &got))
		return got
	}
	got := show("0/0")
	require.Contains(t, got["body"], "resourceLogs")
	require.Len(t, got["findings"].([]any)[0].(map[string]any)["verdicts"], 2)
	require.NotContains(t, show("0/1")["body"], "secret")
	require.Contains(t, show("0/1", "--personal-data")["body"], "resourceLogs")
	require.Equal(t, map[string]any{"$bytes": "/wA="}, show("0/2")["body"])

	_, code, err := run(t, "quarantine", "show", "--brokers", brokers, "nowhere")
	require.Error(t, err)
	require.Equal(t, exitUsage, code)
}

func TestQuarantineStatsSayWhatToMend(t *testing.T) {
	out, _, err := run(t, "quarantine", "stats", "--json", "--brokers", quarantined(t))
	require.NoError(t, err)
	counts := map[string]int{}
	for line := range strings.Lines(out) {
		var s seen
		require.NoError(t, json.Unmarshal([]byte(line), &s))
		require.False(t, s.Last.Before(s.First))
		counts[s.Tenant+" "+s.Code+" "+s.Path] = s.Count
	}
	require.Equal(t, map[string]int{
		"acme attribute_missing attributes[user.id]": 1, "acme time_too_old time": 1, "acme undecodable ": 1,
		"globex attribute_missing attributes[user.id]": 1, "globex time_too_old time": 1,
	}, counts)
}

package quarantineprocessor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/processor/processortest"
	"go.uber.org/goleak"
	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/collectortest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(leaktest.Patient(m)) }

// next is what comes after: it keeps envelopes.
type next struct {
	calls int
	got   []envelope.Envelope
	last  plog.Logs
	do    func(context.Context) error // before it returns err
	err   error
}

func (*next) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (n *next) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	n.calls++
	n.last = ld
	if n.do != nil {
		if err := n.do(ctx); err != nil {
			return err
		}
	}
	if n.err != nil {
		return n.err
	}
	if envelope.Is(ld) {
		es, err := envelope.All(ld)
		n.got = append(n.got, es...)
		return err
	}
	return nil
}

type rig struct {
	*quarantineProcessor
	next      *next
	telemetry *componenttest.Telemetry
}

func start(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	cfg := createDefaultConfig()
	if change != nil {
		change(cfg)
	}
	require.NoError(t, cfg.Validate())
	r := &rig{next: &next{}, telemetry: componenttest.NewTelemetry()}
	set := processortest.NewNopSettings(metadata.Type())
	set.TelemetrySettings = r.telemetry.NewTelemetrySettings()
	p, err := NewFactory().CreateLogs(context.Background(), set, cfg, r.next)
	require.NoError(t, err)
	r.quarantineProcessor = p.(*quarantineProcessor)
	require.NoError(t, p.Start(context.Background(), componenttest.NewNopHost()))
	t.Cleanup(func() {
		require.NoError(t, p.Shutdown(context.Background()))
		require.NoError(t, p.Shutdown(context.Background()), "a second time")
		require.NoError(t, r.telemetry.Shutdown(context.Background()))
	})
	return r
}

func (r *rig) value(t *testing.T, name string) int64 {
	t.Helper()
	return collectortest.Sum(t, r.telemetry.Reader, name)
}

// at fault are these events of a request of n.
func request(sig signal.Signal, n int, atFault ...int) envelope.Envelope {
	e := envelope.Envelope{
		Signal: sig, Tenant: "acme", Source: "agent-7", Events: n, Received: time.Unix(1_780_000_000, 5).UTC(), Lane: envelope.LaneFast,
		SchemaVersion: "abc", Body: otlptest.Realistic(sig, 3, n),
	}
	var f schema.Findings
	for _, i := range atFault {
		f = append(f, schema.Finding{Event: i, PII: i == 4, Verdicts: []schema.Verdict{{Code: schema.AttributeType, Path: fmt.Sprintf("attributes[%q]", fmt.Sprint(i)), Schema: "s"}}})
	}
	if f != nil {
		e.Findings = f.Append(nil)
	}
	return e
}

func logsOf(es ...envelope.Envelope) plog.Logs {
	ld := plog.NewLogs()
	for _, e := range es {
		e.Append(ld)
	}
	return ld
}

func eventBytes(t *testing.T, sig signal.Signal, body []byte) (out []string) {
	t.Helper()
	_, err := otlpwire.Count(sig, body, otlpwire.Limits{})
	require.NoError(t, err)
	require.NoError(t, otlpwire.Walk(sig, body, func(e *otlpwire.Event) bool {
		out = append(out, fmt.Sprintf("%s %x %x %x", e.Metric.Name, e.Resource, e.Scope, e.Bytes))
		return true
	}))
	return out
}

// Guarantees: of each signal, both parts come in one call; each event is in one of them, byte for byte, with its resource, scope and metric; the part at
// fault carries all that is known of it and each of its verdicts at its event's new place.
func TestAnEnvelopeIsDividedWithoutLoss(t *testing.T) {
	for _, sig := range signal.All {
		t.Run(sig.String(), func(t *testing.T) {
			r := start(t, nil)
			e := request(sig, 30, 0, 4, 17, 29)
			ctx, result := envelope.WithResult(context.Background())
			require.NoError(t, r.ConsumeLogs(ctx, logsOf(e)))
			require.Equal(t, 1, r.next.calls)
			require.Len(t, r.next.got, 2)
			healthy, bad := r.next.got[0], r.next.got[1]
			var wantHealthy, wantBad []string
			for i, b := range eventBytes(t, sig, e.Body) {
				if i == 0 || i == 4 || i == 17 || i == 29 {
					wantBad = append(wantBad, b)
				} else {
					wantHealthy = append(wantHealthy, b)
				}
			}
			require.Equal(t, wantHealthy, eventBytes(t, sig, healthy.Body))
			require.Equal(t, wantBad, eventBytes(t, sig, bad.Body))

			want := e
			want.Body, want.Events, want.Findings, want.Request = healthy.Body, 26, nil, healthy.Request
			require.Equal(t, want, healthy)

			findings, err := schema.DecodeFindings(bad.Findings)
			require.NoError(t, err)
			require.Len(t, findings, 4)
			for i, was := range []int{0, 4, 17, 29} {
				require.Equal(t, i, findings[i].Event)
				require.Equal(t, fmt.Sprintf(`attributes["%d"]`, was), findings[i].Verdicts[0].Path)
			}
			want = e
			want.Lane, want.Body, want.Events, want.Findings, want.Request = envelope.LaneQuarantine, bad.Body, 4, bad.Findings, bad.Request
			want.Quarantine = &envelope.Quarantine{Code: "attribute_type", Reason: `attribute_type at attributes["0"] (s)`, ContentType: envelope.TypeOTLP, PII: true}
			require.Equal(t, want, bad)

			rejected, _, reasons := result.Read()
			require.Equal(t, 4, rejected)
			require.Equal(t, []string{`event 0: attribute_type at attributes["0"] (s)`, `event 4: attribute_type at attributes["4"] (s)`, `event 17: attribute_type at attributes["17"] (s)`}, reasons)
			require.EqualValues(t, 4, r.value(t, "quarantine_events"))
			require.EqualValues(t, 1, r.value(t, "quarantine_records"))
			require.EqualValues(t, len(bad.Body), r.value(t, "quarantine_bytes"))
		})
	}
}

func TestWhatIsHealthyPassesAsItIs(t *testing.T) {
	r := start(t, nil)
	ld := logsOf(request(signal.Logs, 5), request(signal.Traces, 3))
	require.NoError(t, r.ConsumeLogs(t.Context(), ld))
	require.Equal(t, ld, r.next.last)
	ordinary := plog.NewLogs()
	ordinary.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().Body().SetStr("x")
	require.NoError(t, r.ConsumeLogs(t.Context(), ordinary))
	require.Equal(t, ordinary, r.next.last)
	undecodable := envelope.Envelope{Signal: signal.Logs, Tenant: "t", Lane: envelope.LaneQuarantine, Body: []byte("?"), Quarantine: &envelope.Quarantine{Code: "undecodable"}}
	ld = logsOf(undecodable)
	require.NoError(t, r.ConsumeLogs(t.Context(), ld))
	require.Equal(t, ld, r.next.last)
	require.EqualValues(t, 1, r.value(t, "quarantine_records"))
	require.Zero(t, r.value(t, "quarantine_events"))
}

// Guarantees: a request of nothing but faults leaves no healthy envelope; of several envelopes each is divided by itself.
func TestEachEnvelopeIsDividedByItself(t *testing.T) {
	r := start(t, nil)
	require.NoError(t, r.ConsumeLogs(t.Context(), logsOf(request(signal.Logs, 2, 0, 1), request(signal.Metrics, 3), request(signal.Traces, 3, 1))))
	var got []string
	for _, e := range r.next.got {
		got = append(got, fmt.Sprintf("%s %s %d", e.Signal, e.Lane, e.Events))
	}
	require.Equal(t, []string{"logs quarantine 2", "metrics fast 3", "traces fast 2", "traces quarantine 1"}, got)
}

// Guarantees: as long as what comes next has not taken both parts, nothing is said to be quarantined: the sender sends all of it again.
func TestNothingIsQuarantinedBeforeItIsAcknowledged(t *testing.T) {
	r := start(t, nil)
	r.next.err = errors.New("kafka is down")
	ctx, result := envelope.WithResult(context.Background())
	require.ErrorIs(t, r.ConsumeLogs(ctx, logsOf(request(signal.Logs, 5, 1))), r.next.err)
	rejected, _, _ := result.Read()
	require.Zero(t, rejected)
	require.Zero(t, r.value(t, "quarantine_events"))
}

// Guarantees: however many events are at fault, and however much is said of them, each envelope stays within the bound, and all of them together are
// all of the events.
func TestQuarantinedEnvelopesAreBounded(t *testing.T) {
	r := start(t, func(c *Config) { c.MaxRecordBytes = 16 << 10 })
	all := make([]int, 200)
	for i := range all {
		all[i] = i
	}
	e := request(signal.Logs, 200, all...)
	long, err := schema.DecodeFindings(e.Findings)
	require.NoError(t, err)
	for i := range 20 {
		for range 15 {
			long[i].Verdicts = append(long[i].Verdicts, schema.Verdict{Code: schema.KeyTooLong, Path: strings.Repeat("p", 300)})
		}
	}
	e.Findings = long.Append(nil)
	require.NoError(t, r.ConsumeLogs(t.Context(), logsOf(e)))
	var bodies []string
	for _, q := range r.next.got {
		require.Equal(t, envelope.LaneQuarantine, q.Lane)
		require.LessOrEqual(t, len(q.Body)+len(q.Findings), 16<<10)
		findings, err := schema.DecodeFindings(q.Findings)
		require.NoError(t, err)
		events := eventBytes(t, signal.Logs, q.Body)
		require.Len(t, findings, len(events))
		require.Equal(t, q.Events, len(events))
		require.Equal(t, fmt.Sprintf(`attributes["%d"]`, len(bodies)), findings[0].Verdicts[0].Path, "verdicts stay with their events")
		bodies = append(bodies, events...)
	}
	require.Equal(t, eventBytes(t, signal.Logs, e.Body), bodies)
	require.EqualValues(t, 200, r.value(t, "quarantine_events"))
}

func TestFindingsThatCannotBeOfTheRequestAreRefused(t *testing.T) {
	r := start(t, nil)
	for name, spoil := range map[string]func(*envelope.Envelope){
		"not findings":        func(e *envelope.Envelope) { e.Findings = []byte("{") },
		"beyond the events":   func(e *envelope.Envelope) { e.Findings = request(signal.Logs, 9, 8).Findings },
		"fewer than is said":  func(e *envelope.Envelope) { e.Events = 9; e.Findings = request(signal.Logs, 9, 8).Findings },
		"a body that is none": func(e *envelope.Envelope) { e.Body = []byte{0x0a, 5} },
	} {
		t.Run(name, func(t *testing.T) {
			e := request(signal.Logs, 5, 1)
			spoil(&e)
			err := r.ConsumeLogs(t.Context(), logsOf(e))
			require.True(t, consumererror.IsPermanent(err), err)
			require.Zero(t, r.next.calls)
		})
	}
}

func TestRandomDivisionsKeepEveryEvent(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	g := rand.New(rand.NewPCG(seed, 0))
	for range 50 {
		sig := signal.All[g.IntN(len(signal.All))]
		n := 1 + g.IntN(60)
		var faulty []int
		for i := range n {
			if g.IntN(4) == 0 {
				faulty = append(faulty, i)
			}
		}
		r := start(t, func(c *Config) { c.MaxRecordBytes = 4 << 10 << g.IntN(5) })
		e := request(sig, n, faulty...)
		require.NoError(t, r.ConsumeLogs(t.Context(), logsOf(e)))
		events := 0
		for _, part := range r.next.got {
			require.Len(t, eventBytes(t, sig, part.Body), part.Events)
			events += part.Events
		}
		require.Equal(t, n, events)
	}
}

// Scenario: an event, and a body that is not OTLP, are larger than a record; the object store is up, or down.
// Guarantees: the bytes are in the store before the record that points to them goes on; personal data lies apart; who repeats himself writes no second object;
// what the store does not take is asked for again, with nothing handed on.
func TestWhatIsLargerThanARecordGoesToTheObjectStore(t *testing.T) {
	dir := t.TempDir()
	r := start(t, func(c *Config) { c.MaxRecordBytes, c.Oversized.URL = 4<<10, "file://"+dir+"?no_tmp_dir=true" })
	e := request(signal.Logs, 3, 1)
	big := otlptest.Logs(9, 1)
	body, err := otlpwire.SetResourceAttribute(signal.Logs, big, "big", strings.Repeat("x", 8<<10))
	require.NoError(t, err)
	e.Body = append(append([]byte(nil), e.Body...), body...) // two requests laid end to end are one, of four events
	e.Events = 4
	e.Findings = schema.Findings{{Event: 3, Verdicts: []schema.Verdict{{Code: schema.ValueTooLong, Path: "resource"}}}}.Append(nil)
	undecodable := envelope.Envelope{Signal: signal.Traces, Tenant: "../evil", Lane: envelope.LaneQuarantine, Body: []byte(strings.Repeat("?", 5<<10)), Quarantine: &envelope.Quarantine{Code: "undecodable", PII: true}}
	for range 2 {
		r.next.got = nil
		require.NoError(t, r.ConsumeLogs(t.Context(), logsOf(e, undecodable)))
		require.Len(t, r.next.got, 3)
		for i, want := range map[int][]byte{1: body, 2: undecodable.Body} {
			q := r.next.got[i]
			require.Empty(t, q.Body)
			path, ok := strings.CutPrefix(q.Quarantine.Object, "file://"+dir+"/")
			require.True(t, ok, q.Quarantine.Object)
			require.True(t, strings.HasPrefix(path, map[int]string{1: "plain/acme/logs/", 2: "pii/..%2Fevil/traces/"}[i]), path)
			kept, err := r.store.bucket.ReadAll(t.Context(), path)
			require.NoError(t, err)
			if i == 1 {
				require.Equal(t, eventBytes(t, signal.Logs, want), eventBytes(t, signal.Logs, kept))
			} else {
				require.Equal(t, want, kept)
			}
		}
	}
	objects := 0
	for it := r.store.bucket.List(nil); ; objects++ {
		if _, err := it.Next(t.Context()); err != nil {
			break
		}
	}
	require.Equal(t, 2, objects)
	require.EqualValues(t, 4, r.value(t, "quarantine_objects"))

	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.WriteFile(dir, nil, 0o600)) // no directory any more
	calls := r.next.calls
	err = r.ConsumeLogs(t.Context(), logsOf(undecodable))
	require.Error(t, err)
	require.False(t, consumererror.IsPermanent(err))
	require.Equal(t, calls, r.next.calls)
}

// Scenario: what comes next finds an event that is too large for a record, and has it kept.
// Guarantees: that is possible where there is a store, and then counted like what this processor quarantines itself, once it has been acknowledged.
func TestWhatComesNextMayHaveEventsKept(t *testing.T) {
	large := request(signal.Logs, 1)
	body, err := otlpwire.SetResourceAttribute(signal.Logs, large.Body, "big", strings.Repeat("x", 8<<10))
	require.NoError(t, err)
	large.Body = body
	for _, store := range []bool{false, true} {
		r := start(t, func(c *Config) {
			c.MaxRecordBytes = 4 << 10
			if store {
				c.Oversized.URL = "file://" + t.TempDir() + "?no_tmp_dir=true"
			}
		})
		var kept envelope.Envelope
		r.next.do = func(ctx context.Context) error {
			keep := envelope.KeeperOf(ctx)
			require.Equal(t, store, keep != nil)
			if keep == nil {
				return nil
			}
			kept = large
			kept.Lane, kept.Quarantine = envelope.LaneQuarantine, &envelope.Quarantine{Code: "event_too_large", PII: true}
			kept.Findings = schema.Findings{{Verdicts: []schema.Verdict{{Code: schema.EventTooLarge, Path: "event"}}}}.Append(nil)
			return keep(ctx, &kept)
		}
		require.NoError(t, r.ConsumeLogs(t.Context(), logsOf(large)))
		if !store {
			continue
		}
		require.Empty(t, kept.Body)
		require.Contains(t, kept.Quarantine.Object, "pii/acme/logs/")
		require.EqualValues(t, 1, r.value(t, "quarantine_objects"))
		require.EqualValues(t, 1, r.value(t, "quarantine_events"))

		r.next.err = errors.New("kafka is down")
		require.Error(t, r.ConsumeLogs(t.Context(), logsOf(large)))
		require.EqualValues(t, 1, r.value(t, "quarantine_events"), "it was not acknowledged")
	}
}

func TestConfig(t *testing.T) {
	require.ErrorContains(t, (&Config{MaxRecordBytes: 1 << 20, Oversized: OversizedConfig{URL: "ftp://x", Timeout: 1}}).Validate(), "oversized::url")
	require.ErrorContains(t, (&Config{MaxRecordBytes: 1 << 20}).Validate(), "oversized::timeout: is 0s")
	require.ErrorContains(t, (&Config{MaxRecordBytes: 1}).Validate(), "max_record_bytes: is 1")
	conf, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	for _, id := range []string{"quarantine", "quarantine/all"} {
		sub, err := conf.Sub(id)
		require.NoError(t, err)
		cfg := createDefaultConfig()
		require.NoError(t, sub.Unmarshal(cfg))
		require.Equal(t, createDefaultConfig(), cfg)
	}
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, example, found := strings.Cut(string(readme), "```yaml\n")
	require.True(t, found)
	example, _, _ = strings.Cut(example, "```")
	var all map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(example), &all))
	sub, err := confmap.NewFromStringMap(all).Sub("processors::quarantine")
	require.NoError(t, err)
	cfg := createDefaultConfig()
	require.NoError(t, sub.Unmarshal(cfg))
	require.NoError(t, confmap.Validate(cfg))
}

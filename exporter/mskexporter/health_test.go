package mskexporter

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/exporter/exportertest"

	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/spill"
	"github.com/pulsegrid/pulsegrid/internal/testkit/collectortest"
)

// accepting asks as the health check does.
func (r *rig) accepting() error {
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Second)
	defer cancel()
	return r.logs.client.accepting(ctx)
}

// Scenario: requests are refused by Kafka, by the sender's own fault, and taken again; then nobody sends.
// Guarantees: what requests have met decides, each time anew; without requests Kafka is asked.
func TestWhatRequestsMeetSaysWhetherSomethingCanBeAccepted(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), func(c *Config) { c.Timeout = time.Second })
	require.NoError(t, r.accepting(), "nobody has sent, Kafka is there")
	refuses := k.Fault(produceFault(kerr.NotEnoughReplicas, -1))
	_ = requireRetryable(t, r.send(request(signal.Logs, "t1", "a", 5)))
	require.ErrorContains(t, r.accepting(), "none of 1 requests was acknowledged")
	require.NoError(t, r.accepting(), "nobody has sent since")
	refuses.Remove()
	require.NoError(t, r.send(request(signal.Logs, "t1", "a", 5)))
	refuses = k.Fault(produceFault(kerr.NotEnoughReplicas, -1))
	_ = requireRetryable(t, r.send(request(signal.Logs, "t1", "a", 5)))
	require.NoError(t, r.accepting(), "one was taken")
	refuses.Remove()
	k.Fault(produceFault(kerr.MessageTooLarge, 1))
	requirePermanent(t, r.send(request(signal.Logs, "t1", "a", 5)))
	require.NoError(t, r.accepting(), "one that is too large says nothing of the cell")
}

// Scenario: Kafka is away, while nobody sends, of a gateway with a spill and of one without.
// Guarantees: without a spill nothing can be accepted; with one something can, until its store takes nothing or has reached its bound.
func TestWithoutRequestsKafkaAndTheStoreAreAsked(t *testing.T) {
	dir := t.TempDir()
	k := fake(t)
	without := newRig(t, k.ListenAddrs(), nil)
	r := newRig(t, k.ListenAddrs(), spilling(dir))
	r.direct()
	require.NoError(t, without.accepting())
	require.NoError(t, r.accepting())
	require.Zero(t, objects(t, dir), "the store is not asked while Kafka takes requests")
	k.Close()
	require.ErrorContains(t, without.accepting(), "kafka does not answer")
	require.NoError(t, r.accepting())
	require.Zero(t, objects(t, dir), "what it was asked with is no object of the spill")
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.WriteFile(dir, nil, 0o600)) // no directory any more
	err := r.accepting()
	require.ErrorContains(t, err, "kafka does not answer")
	require.ErrorContains(t, err, "the spill takes nothing")
	require.NoError(t, os.Remove(dir))
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, r.accepting(), "the store is back")
}

func TestASpillThatIsFullTakesNothing(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), func(c *Config) { spilling(t.TempDir())(c); c.Spill.MaxBytes = 1 })
	r.direct()
	k.Fault(produceFault(kerr.NotEnoughReplicas, -1))
	require.NoError(t, r.send(numbered(t, "a", 1)))
	require.NoError(t, r.accepting())
	k.Close()
	require.ErrorIs(t, r.accepting(), spill.ErrFull)
}

// Scenario: brokers answer, and no partition has as many replicas in sync as it needs, or a leader.
// Guarantees: nothing can be accepted; one partition of one topic is enough for something.
func TestPartitionsThatCannotBeWrittenAreNotEnough(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), nil)
	require.NoError(t, r.accepting())
	for _, topic := range []*TopicConfig{&r.cfg.Topics.Logs, &r.cfg.Topics.Metrics, &r.cfg.Topics.Traces} {
		topic.MinInSyncReplicas = 2 // kfake has one
	}
	require.ErrorContains(t, r.accepting(), "no partition of 3 topics has a leader and enough replicas in sync")
	r.cfg.Topics.Traces.MinInSyncReplicas = 1
	require.NoError(t, r.accepting())
}

// Guarantees: a gateway that started without Kafka says that nothing can be accepted, and that something can as soon as it is so.
func TestAGatewayWithoutVerifiedTopicsAcceptsNothing(t *testing.T) {
	k := fake(t)
	answers := make(chan struct{})
	k.ControlKey(int16(kmsg.Metadata), func(kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		select {
		case <-answers:
			return nil, nil, false
		default:
			return nil, kerr.BrokerNotAvailable, true
		}
	})
	r := newRig(t, k.ListenAddrs(), func(c *Config) { c.StartupTimeout = 50 * time.Millisecond })
	require.ErrorContains(t, r.accepting(), "no topic can be used")
	close(answers)
	require.Eventually(t, func() bool { return r.accepting() == nil }, eventuallyWithin, 50*time.Millisecond)
}

// board is a health check that keeps what it is to ask.
type board struct {
	component.StartFunc
	component.ShutdownFunc
	checks map[string]func(context.Context) error
}

func (b *board) Watch(name string, check func(context.Context) error) (forget func()) {
	b.checks[name] = check
	return func() { delete(b.checks, name) }
}

func (*board) Drained() bool { return false }

// Guarantees: all exporters of a component are one check, which is taken back before its client is closed.
func TestTheHealthCheckOfTheHostAsks(t *testing.T) {
	b := &board{checks: map[string]func(context.Context) error{}}
	k := fake(t)
	cfg := testConfig(k.ListenAddrs())
	set := exportertest.NewNopSettings(metadata.Type())
	logs, err := NewFactory().CreateLogs(t.Context(), set, cfg)
	require.NoError(t, err)
	traces, err := NewFactory().CreateTraces(t.Context(), set, cfg)
	require.NoError(t, err)
	host := &collectortest.Host{Extensions: map[component.ID]component.Component{component.MustNewID("cell_health"): b}}
	require.NoError(t, logs.Start(t.Context(), host))
	require.NoError(t, traces.Start(t.Context(), host))
	require.Len(t, b.checks, 1)
	require.NoError(t, b.checks[set.ID.String()](t.Context()))
	require.NoError(t, logs.Shutdown(t.Context()))
	require.Len(t, b.checks, 1)
	require.NoError(t, traces.Shutdown(t.Context()))
	require.Empty(t, b.checks)

	host.Extensions[component.MustNewIDWithName("cell_health", "2")] = b
	again, err := NewFactory().CreateLogs(t.Context(), set, testConfig(k.ListenAddrs()))
	require.NoError(t, err)
	require.ErrorContains(t, again.Start(t.Context(), host), "cell_health, cell_health/2")
	require.NoError(t, again.Shutdown(t.Context()))
}

package cellhealthextension

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/extension"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pulsegrid/pulsegrid/internal/cellhealth"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
	"github.com/pulsegrid/pulsegrid/internal/testkit/collectortest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = 30 * time.Second
	interval = 50 * time.Millisecond // of looks
)

type rig struct {
	*cellHealth
	t         *testing.T
	state     string // directory
	host      *collectortest.Host
	logs      *observer.ObservedLogs
	telemetry *componenttest.Telemetry
}

// newRig makes an extension of cell eu-1 that looks again and again.
func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	r := &rig{t: t, state: t.TempDir(), host: &collectortest.Host{}, logs: logs, telemetry: componenttest.NewTelemetry()}
	cfg := createDefaultConfig().(*Config)
	cfg.Endpoint, cfg.Cell, cfg.State.Location = "127.0.0.1:0", "eu-1", r.state
	cfg.Interval, cfg.Timeout, cfg.State.ReloadInterval, cfg.Hold = interval, interval, minInterval, interval
	if change != nil {
		change(cfg)
	}
	require.NoError(t, cfg.Validate())
	set := extension.Settings{ID: component.NewID(metadata.Type()), TelemetrySettings: r.telemetry.NewTelemetrySettings()}
	set.Logger = zap.New(core)
	e, err := NewFactory().Create(t.Context(), set, cfg)
	require.NoError(t, err)
	r.cellHealth = e.(*cellHealth)
	t.Cleanup(func() {
		require.NoError(t, r.Shutdown(context.Background()))
		require.NoError(t, r.Shutdown(context.Background()), "a second time")
		require.NoError(t, r.telemetry.Shutdown(context.Background()))
	})
	return r
}

func start(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	r := newRig(t, change)
	require.NoError(t, r.Start(t.Context(), r.host))
	return r
}

// ask returns what whoever asks is told.
func (r *rig) ask(method, path string) (int, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://"+r.address.String()+path, http.NoBody)
	require.NoError(r.t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(r.t, err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	require.True(r.t, resp.Close, "no connection lasts")
	return resp.StatusCode, string(text)
}

// until waits for an answer.
func (r *rig) until(code int) {
	r.t.Helper()
	require.Eventually(r.t, func() bool { got, _ := r.ask(http.MethodGet, "/"); return got == code }, patience, 5*time.Millisecond)
}

func (r *rig) told(to state) []string {
	var reasons []string
	for _, l := range r.logs.FilterMessage("cell health").FilterField(zap.String("to", string(to))).All() {
		reasons = append(reasons, fmt.Sprint(l.ContextMap()["reason"]))
	}
	return reasons
}

func (r *rig) transitions(to state) int64 {
	return collectortest.Sum(r.t, r.telemetry.Reader, "cell_health_transitions", "to="+string(to))
}

func (r *rig) write(s cellhealth.State) {
	r.t.Helper()
	collectortest.WriteFile(r.t, filepath.Join(r.state, cellhealth.StateFile), string(s.Marshal()))
}

// Scenario: a component finds that nothing can be accepted, and later that something can.
// Guarantees: the endpoint says so, without a reason; each change is in the log, with its reason, and counted; before the pipelines run and when they stop nobody is sent here.
func TestTheEndpointSaysWhatTheChecksFind(t *testing.T) {
	r := start(t, nil)
	var fault atomic.Pointer[error]
	var looks atomic.Int64
	forget := r.Watch("msk", func(context.Context) error {
		looks.Add(1)
		if err := fault.Load(); err != nil {
			return *err
		}
		return nil
	})
	code, text := r.ask(http.MethodGet, "/")
	require.Equal(t, http.StatusServiceUnavailable, code, "the pipelines do not run yet")
	require.Equal(t, "unavailable\n", text)
	require.Zero(t, looks.Load())
	require.NoError(t, r.Ready())
	r.until(http.StatusOK)
	_, text = r.ask(http.MethodGet, "/")
	require.Equal(t, "ok\n", text)
	require.EqualValues(t, 1, collectortest.Sum(t, r.telemetry.Reader, "cell_health_serving"))
	require.Equal(t, []string{"something can be accepted"}, r.told(serving))

	broken := errors.New("kafka and the spill are away: secret-bucket")
	fault.Store(&broken)
	r.until(http.StatusServiceUnavailable)
	_, text = r.ask(http.MethodGet, "/")
	require.Equal(t, "unavailable\n", text, "it does not say why")
	require.Zero(t, collectortest.Sum(t, r.telemetry.Reader, "cell_health_serving"))
	require.Equal(t, []string{"msk: kafka and the spill are away: secret-bucket"}, r.told(failing))
	fault.Store(nil)
	r.until(http.StatusOK)
	require.EqualValues(t, 2, r.transitions(serving))
	require.EqualValues(t, 1, r.transitions(failing))

	require.NoError(t, r.NotReady())
	code, _ = r.ask(http.MethodGet, "/")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Equal(t, []string{"the gateway stops"}, r.told(stopped))
	forget()
	n := looks.Load()
	time.Sleep(5 * interval)
	require.Equal(t, n, looks.Load(), "a check that is forgotten is not called")
}

// Scenario: a check does not come back, whatever its context says.
// Guarantees: that counts as failing; no second call is begun beside it; when it has come back all goes on.
func TestACheckThatDoesNotComeBackIsFailing(t *testing.T) {
	r := start(t, nil)
	release := make(chan struct{})
	var calls, hangs atomic.Int64
	forget := r.Watch("msk", func(context.Context) error {
		if calls.Add(1); hangs.Load() > 0 {
			<-release
		}
		return nil
	})
	require.NoError(t, r.Ready())
	r.until(http.StatusOK)
	hangs.Store(1)
	r.until(http.StatusServiceUnavailable)
	require.Contains(t, r.told(failing)[0], "msk: does not answer: the time of a look is over (timeout)")
	n := calls.Load()
	time.Sleep(5 * interval)
	require.Equal(t, n, calls.Load())
	hangs.Store(0)
	close(release)
	r.until(http.StatusOK)
	forget()
}

// registry is an extension with a registry of tenants.
type registry struct {
	component.StartFunc
	component.ShutdownFunc
	snapshot atomic.Pointer[tenant.Snapshot]
}

func (r *registry) Snapshot() *tenant.Snapshot { return r.snapshot.Load() }
func (*registry) Jurisdiction() string         { return "eu" }
func (*registry) Cell() string                 { return "eu-1" }

// Guarantees: while the registry of tenants was never read, nobody is sent here.
func TestWithoutARegistryNothingIsAccepted(t *testing.T) {
	r := newRig(t, nil)
	tenants := &registry{}
	r.host.Extensions = map[component.ID]component.Component{component.MustNewID("tenant_auth"): tenants}
	require.NoError(t, r.Start(t.Context(), r.host))
	require.NoError(t, r.Ready())
	require.Eventually(t, func() bool { return len(r.told(failing)) == 1 }, patience, time.Millisecond)
	require.Contains(t, r.told(failing)[0], "tenant_auth: the registry of tenants has not been read yet")
	r.until(http.StatusServiceUnavailable)
	tenants.snapshot.Store(&tenant.Snapshot{})
	r.until(http.StatusOK)
}

// Scenario: an operator drains the cell, writes nonsense, another cell's state, loses the directory, and ends the drain.
// Guarantees: the endpoint and the components are told; what cannot be read or is of another cell changes nothing, and is named.
func TestADrainIsFollowed(t *testing.T) {
	r := start(t, nil)
	require.NoError(t, r.Ready())
	r.until(http.StatusOK)
	require.False(t, r.Drained())

	drain := cellhealth.State{Cell: "eu-1", Drained: true, Since: begin, Reason: "kernel upgrade"}
	r.write(drain)
	r.until(http.StatusServiceUnavailable)
	require.True(t, r.Drained())
	require.Equal(t, []string{"an operator has drained the cell: kernel upgrade"}, r.told(drained))
	require.EqualValues(t, 1, collectortest.Sum(t, r.telemetry.Reader, "cell_health_drained"))
	require.EqualValues(t, 1, r.transitions(drained))

	file := filepath.Join(r.state, cellhealth.StateFile)
	for name, spoil := range map[string]func(){
		`cell: is "us-1", and not`:  func() { s := drain; s.Cell, s.Drained = "us-1", false; r.write(s) },
		"drained: is missing":       func() { collectortest.WriteFile(t, file, "cell: eu-1\nsince: 2026-11-30T02:40:00Z\n") },
		"no such file or directory": func() { require.NoError(t, os.Rename(r.state, r.state+".gone")) },
	} {
		spoil()
		require.Eventually(t, func() bool {
			for _, l := range r.logs.FilterLevelExact(zap.ErrorLevel).All() {
				if reason := fmt.Sprint(l.ContextMap()["reason"]); strings.Contains(reason, name) {
					return true
				}
			}
			return false
		}, patience, 5*time.Millisecond, name)
		require.Eventually(t, func() bool { return r.host.Status() == componentstatus.StatusRecoverableError }, patience, 5*time.Millisecond, name)
		require.True(t, r.Drained(), name)
		if _, err := os.Stat(r.state + ".gone"); err == nil {
			require.NoError(t, os.Rename(r.state+".gone", r.state))
		}
		r.write(drain)
		require.Eventually(t, func() bool { return r.host.Status() == componentstatus.StatusOK }, patience, 5*time.Millisecond, name)
	}

	end := cellhealth.State{Cell: "eu-1", Since: begin.Add(time.Hour)}
	r.write(end)
	r.until(http.StatusOK)
	require.False(t, r.Drained())
	r.write(drain)
	r.until(http.StatusServiceUnavailable)
	require.NoError(t, os.Remove(file))
	r.until(http.StatusOK)
}

// Guarantees: a gateway that starts in a drained cell is drained from its first moment; one that cannot read the state is not.
func TestAGatewayThatStartsFollowsTheState(t *testing.T) {
	r := newRig(t, nil)
	r.write(cellhealth.State{Cell: "eu-1", Drained: true, Since: begin})
	require.NoError(t, r.Start(t.Context(), r.host))
	require.True(t, r.Drained())
	require.NoError(t, r.Ready())
	r.until(http.StatusServiceUnavailable)

	blind := start(t, func(c *Config) { c.State.Location = filepath.Join(t.TempDir(), "nowhere") })
	require.False(t, blind.Drained())
	require.Equal(t, componentstatus.StatusRecoverableError, blind.host.Status())
	require.NoError(t, blind.Ready())
	blind.until(http.StatusOK)
}

func TestOnlyTheOnePathIsServed(t *testing.T) {
	r := start(t, nil)
	require.NoError(t, r.Ready())
	r.until(http.StatusOK)
	for _, c := range []struct {
		method, path string
		code         int
		text         string
	}{
		{http.MethodGet, "/", 200, "ok\n"}, {http.MethodHead, "/", 200, ""}, {http.MethodGet, "/?verbose=1", 200, "ok\n"},
		{http.MethodPost, "/", 405, "method not allowed\n"}, {http.MethodGet, "/metrics", 404, "not found\n"}, {http.MethodGet, "/healthz", 404, "not found\n"},
	} {
		code, text := r.ask(c.method, c.path)
		require.Equal(t, c.code, code, "%s %s", c.method, c.path)
		require.Equal(t, c.text, text, "%s %s", c.method, c.path)
	}
}

func TestLifecycle(t *testing.T) {
	newRig(t, nil) // is shut down without Start, twice
	taken := start(t, nil)
	r := newRig(t, func(c *Config) { c.Endpoint = taken.address.String() })
	require.ErrorContains(t, r.Start(t.Context(), r.host), "endpoint: ")
	_, err := NewFactory().Create(t.Context(), extension.Settings{ID: component.NewID(metadata.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}, createDefaultConfig())
	require.NoError(t, err)
}

// Guarantees: whoever asks gets what was found last, and costs no look.
func TestAskingCostsNoLook(t *testing.T) {
	r := start(t, func(c *Config) { c.Interval, c.Timeout = time.Minute, time.Second })
	var looks atomic.Int64
	defer r.Watch("msk", func(context.Context) error { looks.Add(1); return nil })()
	require.NoError(t, r.Ready())
	for range 100 {
		r.ask(http.MethodGet, "/")
	}
	require.Zero(t, looks.Load())
}

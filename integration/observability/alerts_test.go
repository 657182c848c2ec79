package observability_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/integration/rig"
)

const latencyAim = 30 * time.Second

// delivered is an alert as it came.
type delivered struct {
	Labels   map[string]string `json:"labels"`
	StartsAt time.Time         `json:"startsAt"`
	EndsAt   time.Time         `json:"endsAt"`
	came     time.Time
}

// Paths of a receiver.
const (
	alertsPath = "/api/v2/alerts" // Alertmanager's API
	hookPath   = "/hook"          // where Alertmanager's webhook goes
)

// receiver takes alerts as Alertmanager does, and from Alertmanager as whoever is told by it.
type receiver struct {
	*httptest.Server
	mu  sync.Mutex
	got []delivered
}

func receive(t *testing.T) *receiver {
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var hook struct {
			Alerts []delivered `json:"alerts"`
		}
		into := map[string]any{alertsPath: &hook.Alerts, hookPath: &hook}[req.URL.Path]
		if into == nil || json.NewDecoder(req.Body).Decode(into) != nil {
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, a := range hook.Alerts {
			a.came = time.Now()
			r.got = append(r.got, a)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// of returns what came of an alert of a service, in its order.
func (r *receiver) of(alert, service string) []delivered {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.got), func(d delivered) bool { return d.Labels["alertname"] != alert || d.Labels["service"] != service })
}

// declined is a rule that fires for each service of which an event of the last 10 s says so.
const declined = `groups:
  - name: e2e
    tenant: acme
    rules:
      - alert: Declined
        window: 10s
        sql: |
          SELECT service_name AS service, count() AS value FROM logs WHERE hasToken(body, 'declined') GROUP BY service
`

// decline sends an event that the rule is about, to a gateway's OTLP/HTTP, and tells when.
func decline(t *testing.T, gateway, service string) time.Time {
	t.Helper()
	body := `{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"` + service + `"}}]},"scopeLogs":[{"logRecords":[{"severityNumber":17,"body":{"stringValue":"payment declined"}}]}]}]}`
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+gateway+"/v1/logs", strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Pulsegrid-Tenant", "acme")
	sent := time.Now()
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	return sent
}

// evaluate runs rules, without any the shipped ones, on the cell whose data directory is in dir, until the test ends. It returns when it evaluates, and where its metrics are.
func evaluate(t *testing.T, dir, alertmanager, state string, rules ...string) (evaluator *rig.Process, metrics string) {
	t.Helper()
	metrics = rig.FreeAddr()
	argv := append([]string{filepath.Join(rig.Root(), "_build", "pulsegrid"), "alerts", "run"}, rules...)
	evaluator = rig.NewProcess(nil, []string{metrics}, append(argv, "--data", filepath.Join(dir, "pulsegrid-data"), "--alertmanager", alertmanager, "--state", filepath.Join(dir, state), "--metrics", metrics)...)
	require.NoError(t, evaluator.Start(starts))
	stopAfter(t, evaluator)
	return evaluator, metrics
}

// Scenario: on a running cell, two evaluators with the same rule; an agent sends events that it is about, 3 times. One evaluator is killed while the alert fires, and started again.
// Guarantees: each time the alert is delivered within 30 s of the first event, on a machine that does nothing else; both say the same begin; the one that was killed goes on with it; the alert is resolved when the events end. The
// commands that check rules and try them on the past say so, too.
func TestAnAlertOnStoredEventsIsDelivered(t *testing.T) {
	c := start(t)
	gateway := c.state().Endpoints.HTTP
	require.NoError(t, os.WriteFile(filepath.Join(c.shell.Dir, "rules.yaml"), []byte(declined), 0o600))
	out, err := c.shell.Run("pulsegrid alerts check rules.yaml")
	require.NoError(t, err, out)
	require.Contains(t, out, "1 rules of 1 groups are right")
	out, err = c.shell.Run("pulsegrid alerts check")
	require.NoError(t, err, out)

	peers := []*receiver{receive(t), receive(t)}
	evaluators := make([]*rig.Process, 2)
	for i, peer := range peers {
		evaluators[i], _ = evaluate(t, c.shell.Dir, peer.URL, fmt.Sprintf("states-%d.json", i), filepath.Join(c.shell.Dir, "rules.yaml"))
	}
	require.Eventually(t, func() bool {
		_, first := os.Stat(filepath.Join(c.shell.Dir, "states-0.json"))
		_, second := os.Stat(filepath.Join(c.shell.Dir, "states-1.json"))
		return first == nil && second == nil
	}, patience, 100*time.Millisecond)
	send := func(service string) time.Time { return decline(t, gateway, service) }
	var took []time.Duration
	for n := range 3 {
		service := fmt.Sprintf("shop%d", n)
		sent := send(service)
		for i, peer := range peers {
			require.Eventually(t, func() bool { return len(peer.of("Declined", service)) > 0 }, patience, 50*time.Millisecond)
			took = append(took, peer.of("Declined", service)[0].came.Sub(sent))
			require.Equal(t, peers[0].of("Declined", service)[0].StartsAt, peer.of("Declined", service)[0].StartsAt, i)
		}
		time.Sleep(1700 * time.Millisecond) // another place in the bucket
	}
	slices.Sort(took)
	t.Logf("from event to Alertmanager: %v", took)
	require.Less(t, took[len(took)-1], time.Duration(rig.Busy()*float64(latencyAim)))

	// The last alert fires still, or has just ended.
	sent := send("again")
	require.Eventually(t, func() bool { return len(peers[1].of("Declined", "again")) > 0 }, patience, 50*time.Millisecond)
	first := peers[1].of("Declined", "again")[0]
	evaluators[1].Kill()
	require.NoError(t, evaluators[1].Start(starts))
	require.Eventually(t, func() bool {
		all := peers[1].of("Declined", "again")
		return !all[len(all)-1].EndsAt.After(time.Now())
	}, patience, 100*time.Millisecond)
	all := peers[1].of("Declined", "again")
	require.Equal(t, first.StartsAt, all[len(all)-1].StartsAt)

	out, err = c.shell.Run("pulsegrid alerts test rules.yaml --quiet --from " + sent.Add(-time.Minute).UTC().Format(time.RFC3339))
	require.NoError(t, err, out)
	require.Contains(t, out, "service=again")
	require.Contains(t, out, first.StartsAt.UTC().Format(time.RFC3339))
}

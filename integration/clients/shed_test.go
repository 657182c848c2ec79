package clients

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// shedFor is how long the cell sheds. Clients are told to come again later than that, after 30 seconds at least.
const shedFor = 20 * time.Second

// Scenario: a cell sheds the class of the clients' tenant when they begin to send, and takes it again after a while.
// Guarantee: both stores have exactly the events that a client did not give up, by its own count.
func TestWhatAClientGivesUpWhileItsClassIsShedIsInNoStore(t *testing.T) {
	dir := t.TempDir()
	key, id, hash := tenant.NewKey()
	registry := filepath.Join(dir, "tenants")
	require.NoError(t, os.Mkdir(registry, 0o755))
	write := func(shed string) error {
		text := fmt.Sprintf("cells:\n  us-1: {jurisdiction: us, endpoint: https://us-1.ingest.example.com, shed: {%s}}\ntenants:\n  - {id: trial-co, class: trial, keys: [{id: %s, hash: %q}]}\n", shed, id, hash)
		return os.WriteFile(filepath.Join(registry, "tenants.yaml"), []byte(text), 0o644)
	}
	require.NoError(t, write("trial: refuse"))
	r, err := rig.New(rig.Options{
		Dir: filepath.Join(dir, "cell"), Secured: true, GatewayConfigs: []string{filepath.Join("..", "rig", "testdata", "plaintext.yaml")},
		Env: map[string]string{"PULSEGRID_TENANTS": registry, "PULSEGRID_CELL": "us-1", "PULSEGRID_JURISDICTION": "us"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	require.NoError(t, r.Start())
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key="+key)

	var outcomes []*outcome
	var running sync.WaitGroup
	for _, c := range clients(t) {
		if !strings.HasSuffix(c.name, "-batch") {
			continue
		}
		o := &outcome{client: c, way: "shed", service: c.name + "-shed"}
		outcomes = append(outcomes, o)
		running.Go(func() {
			t.Run(c.name, func(t *testing.T) { o.count = c.run(t, address{http: r.HTTP, grpc: r.GRPC}, o.service) })
		})
	}
	time.Sleep(shedFor)
	lifted := write("")
	running.Wait()
	require.NoError(t, lifted)
	require.False(t, t.Failed())
	wait(t, r, outcomes)
	gaveUp := 0
	for _, o := range outcomes {
		t.Logf("%v, gave up %v", o, o.gaveUp)
		for _, s := range signals {
			gaveUp += o.gaveUp[s]
			assert.Equal(t, o.emitted[s]-o.gaveUp[s], o.hot[s], "%s: %s in ClickHouse; it said (the end): %s", o.service, s, o.said)
			assert.Equal(t, o.hot[s], o.lake[s], "%s: %s in the lake", o.service, s)
		}
	}
	require.Positive(t, gaveUp, "nothing was sent back")
}

package privilege

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// ofGateway names the gateways' configuration to a job.
var ofGateway = strings.Split(strings.ReplaceAll(strings.Join(gatewayConfigs, "\n"), "--config", "--gateway"), "\n")

// jobs runs each kind of job that a worker runs, by the command that it runs it by.
func (c *cell) jobs(adm *kadm.Client) {
	worker := func(args ...string) {
		c.t.Helper()
		c.command("worker", append(args, aggregatorConfigs...)...)
	}
	schemas := c.registry("worker", "schemas")

	// What the stores have lost comes back, from Kafka and from the lake; copies go into a topic.
	c.clickhouse.Exec("DELETE FROM pulsegrid.logs WHERE event_index % 3 = 1")
	worker("job", "run", "replay", "--quiet", "--from", "2h")
	c.clickhouse.Exec("DELETE FROM pulsegrid.metrics WHERE event_index % 3 = 1")
	worker("job", "run", "replay", "--quiet", "--source", "lake", "--from", "2h")
	_, err := adm.CreateTopic(c.t.Context(), 2, 1, nil, "replays.incident.logs")
	require.NoError(c.t, err)
	worker("job", "run", "replay", "--quiet", "--to-topic", "logs=replays.incident.logs", "--from", time.Now().Add(-2*time.Hour).UTC().Format(time.RFC3339), "--to", time.Now().UTC().Format(time.RFC3339))
	worker("audit", "--quiet", "--rollups")

	// History of the old collectors.
	var lines bytes.Buffer
	z := gzip.NewWriter(&lines)
	for i := range 20 {
		_, err := fmt.Fprintf(z, `{"type":"log","service":"checkout","time":%d,"message":"payment %d","event_id":"e-%d"}`+"\n", time.Now().Add(-30*time.Hour).UnixMilli(), i, i)
		require.NoError(c.t, err)
	}
	_, err = z.Write([]byte("no JSON\n"))
	require.NoError(c.t, errors.Join(err, z.Close()))
	_, err = c.objects.Client().PutObject(c.t.Context(), &s3.PutObjectInput{Bucket: aws.String("history"), Key: aws.String("acme/2026/events.json.gz"), Body: bytes.NewReader(lines.Bytes())})
	require.NoError(c.t, err)
	worker("job", "run", "backfill", "--quiet", "--objects", c.location("worker", "history", ""), "--tenant", "acme", "--state", c.location("worker", "lake", "prefix=warehouse/pulsegrid-jobs/&"))

	// Tables that are made of others, and their files.
	c.clickhouse.Exec("INSERT INTO pulsegrid.spans SELECT * REPLACE (time - INTERVAL 1 DAY AS time) FROM pulsegrid.spans")
	worker("job", "run", "rollups", "--quiet")
	now := time.Now().UTC().Format(time.RFC3339)
	worker("job", "run", "aggregate", "--quiet", "--complete-through", now)
	worker("job", "run", "upkeep", "--keep", "1s", "--retain-last", "1")
	worker("job", "run", "expiry", "--keep", "168h")

	// Schemas.
	proposed := filepath.Dir(c.file("proposed.yaml", otlptest.HandledSchema+"\n# proposed\n"))
	rehearse := c.operator("worker", slices.Concat([]string{"job", "run", "rehearsal", "--quiet", "--json", "--current", schemas, "--proposed", proposed, "--from", "1h", "--tenants", c.registry("worker", "tenants")}, aggregatorConfigs, ofGateway)...)
	report, err := rehearse.Output()
	require.NoError(c.t, err, "%s", report)
	plan := c.file("plan.yaml", fmt.Sprintf("proposed: %s\ncells:\n  - {name: eu-1, registry: '%s', gateways: ['http://%s/metrics'], rehearsed: %s}\nwarn_for: 4s\nenforce_for: 4s\nmin_events: 1\n",
		proposed, schemas, c.metrics["gateway"], c.file("rehearsed.json", string(report))))
	c.rollOut(plan)
	c.command("worker", slices.Concat([]string{"job", "run", "rollout", "--plan", plan, "--rollback"}, ofGateway)...)

	// What lies aside.
	c.command("worker", slices.Concat([]string{"job", "run", "spill-check"}, ofGateway)...)
	worker("quarantine", "stats")
	rules := c.file("rules.yaml", "version: 1\nrules:\n  - {name: again, when: {tenant: acme}}\n")
	worker("quarantine", "repair", rules, "--no-schemas", "--apply")

	// Somebody leaves. ClickHouse may keep what it has rewritten for longer than this waits.
	for _, of := range [][]string{{"--attribute", "user.id=u-1"}, nil} {
		out, err := c.operator("worker", slices.Concat([]string{"job", "run", "erasure", "--tenant", "acme", "--id", fmt.Sprintf("e-%d", len(of)), "--by", "me", "--reason", "asked", "--declare", filepath.Join(c.t.TempDir(), "erasures.yaml"), "--wait", "1s"}, of, aggregatorConfigs)...).CombinedOutput()
		if err != nil {
			require.Contains(c.t, string(out), "has not removed")
		}
	}
}

// rollOut brings a version into force. A stage in which gateways had no traffic, or did not follow yet, pauses; the same command goes on.
func (c *cell) rollOut(plan string) {
	for deadline := time.Now().Add(soon); ; {
		ended := make(chan error, 1)
		var said []byte
		go func() {
			var err error
			said, err = c.operator("worker", slices.Concat([]string{"job", "run", "rollout", "--plan", plan, "--yes"}, ofGateway)...).CombinedOutput()
			ended <- err
		}()
		for running := true; running; {
			select {
			case err := <-ended:
				if err == nil {
					return
				}
				require.Contains(c.t, string(said), "paused in stage")
				require.True(c.t, time.Now().Before(deadline), "%s", said)
				running = false
			case <-time.After(100 * time.Millisecond):
				c.post("/v1/logs", otlptest.Realistic(signal.Logs, uint64(time.Now().UnixNano()), 20))
			}
		}
	}
}

// drainAndBack is what an operator does beside jobs.
func (c *cell) drainAndBack() {
	state := c.registry("operator", "cell")
	cells := c.file("cells.yaml", fmt.Sprintf("cells:\n  - {name: eu-1, jurisdiction: eu, state: '%s', gateways: ['http://%s/metrics'], kafka: {brokers: [%q]}}\n",
		state, c.metrics["gateway"], c.kafka.BrokersOn("OPERATOR")[0]))
	c.command("operator", "cell", "drain", "eu-1", "--cells", cells, "--reason", "a test", "--although-last")
	out, err := c.operator("operator", "cell", "status", "eu-1", "--cells", cells).CombinedOutput()
	require.Contains(c.t, string(out), "drained", "%v", err) // whether it is safe is not asked
	c.command("operator", "cell", "undrain", "eu-1", "--cells", cells)
	out, err = c.operator("operator", slices.Concat([]string{"cell", "inventory", "eu-1", "--cells", cells, "--day", time.Now().UTC().Format(time.DateOnly)}, aggregatorConfigs, ofGateway)...).CombinedOutput()
	require.NoError(c.t, err, "%s", out)
}

package guards

import (
	"bytes"
	"encoding/base64"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

const sdkTimeout = time.Minute // of an export with all its attempts

// count is how many events records of a tenant hold. Copies, which a slow Kafka brings about, do not count.
func count(t *testing.T, records []*kgo.Record, id string) (n int) {
	t.Helper()
	seen := map[string]bool{}
	for _, r := range records {
		if seen[string(r.Value)] {
			continue
		}
		seen[string(r.Value)] = true
		h := map[string]string{}
		for _, header := range r.Headers {
			h[header.Key] = string(header.Value)
		}
		if h[envelope.HeaderTenant] != id {
			continue
		}
		events, err := strconv.Atoi(h[envelope.HeaderEvents])
		require.NoError(t, err)
		n += events
	}
	return n
}

// arrives waits until topics hold so many events of a tenant, and no more: what Kafka was too slow for comes by the spill, after its answer.
func (c *cell) arrives(t *testing.T, id string, events int, topics ...string) {
	t.Helper()
	n := 0
	require.Eventually(t, func() bool { n = count(t, c.records(t, topics...), id); return n >= events }, patience, 500*time.Millisecond, "events of %s in %v", id, topics)
	require.Equal(t, events, n)
}

func zeros(n int) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(make([]byte, n)) // into memory
	_ = w.Close()
	return out.Bytes()
}

// Scenario: each row of the gateway's checks, in their order, by the Python SDK over HTTP and gRPC; what no SDK sends, by plain HTTP.
// Guarantees: the client sees the documented code, reason and advice; it tries again exactly where it may succeed, no sooner than it was told; what was
// refused is in no topic, what was accepted is there once.
func TestEachRowOfTheChecksAsAStockClientSeesIt(t *testing.T) {
	c := newCell(t, nil)
	c.startGateway(t)
	shed := c.whileShed(t)
	t.Run("transport", c.testTransport)
	for protocol, code := range map[string]map[string]text{
		"http": {"Unauthenticated": "401", "PermissionDenied": "403", "ResourceExhausted": "429", "Unavailable": "503", "OK": "200"},
		"grpc": {"Unauthenticated": "UNAUTHENTICATED", "PermissionDenied": "PERMISSION_DENIED", "ResourceExhausted": "RESOURCE_EXHAUSTED", "Unavailable": "UNAVAILABLE", "OK": "OK"},
	} {
		t.Run(protocol, func(t *testing.T) {
			t.Run("credentials", func(t *testing.T) { c.testCredentials(t, protocol, code) })
			t.Run("quota", func(t *testing.T) { c.testQuota(t, protocol, code) })
			t.Run("schema", func(t *testing.T) { c.testSchema(t, protocol, code) })
			t.Run("kafka and spill down", func(t *testing.T) { c.testNothingDurable(t, protocol, code) })
		})
	}
	t.Run("telemetrygen", c.testTelemetrygen)
	t.Run("shed", func(t *testing.T) { c.testShed(t, shed) })
}

// testTransport: size, method, content type, and a body that is not OTLP. No SDK sends such requests, so plain HTTP does.
func (c *cell) testTransport(t *testing.T) {
	before := count(t, c.records(t, "otlp.logs.v1"), "acme")
	undecodable := []byte("\xff\xff no OTLP, and kept")
	for _, row := range []struct {
		name, method, contentType, encoding string
		body                                []byte
		code                                text
		message                             string
	}{
		{"method", "GET", "application/x-protobuf", "", nil, "405", "POST"},
		{"content type", "POST", "text/plain", "", []byte("x"), "415", "content type"},
		{"content encoding", "POST", "application/x-protobuf", "br", []byte("x"), "415", "br"},
		{"bomb", "POST", "application/x-protobuf", "gzip", zeros(5_000_000), "413", "more than the 4000000 bytes that are allowed"},
		{"not OTLP", "POST", "application/x-protobuf", "", undecodable, "400", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			headers := c.as("acme", map[string]string{"Content-Type": row.contentType})
			if row.encoding != "" {
				headers["Content-Encoding"] = row.encoding
			}
			got := ask(t, map[string]any{"protocol": "raw", "method": row.method, "endpoint": "http://" + c.HTTP + "/v1/logs", "headers": headers, "body": base64.StdEncoding.EncodeToString(row.body)})
			require.Len(t, got.Answers, 1)
			require.Equal(t, row.code, got.Answers[0].Code)
			require.Contains(t, strings.ToLower(got.Answers[0].Message), strings.ToLower(row.message))
			require.Zero(t, got.Answers[0].RetryAfter, "it cannot succeed later")
		})
	}
	require.Equal(t, before, count(t, c.records(t, "otlp.logs.v1"), "acme"))
	var kept []*kgo.Record
	require.Eventually(t, func() bool { kept = c.records(t, "quarantine.v1"); return len(kept) > 0 }, patience, 500*time.Millisecond)
	for _, k := range kept { // more than one where Kafka was too slow, and the spill took it too
		require.Equal(t, undecodable, k.Value)
	}
}

// testCredentials: who it is, whether it may send this here. No attempt but the first: none of it can succeed by trying again.
func (c *cell) testCredentials(t *testing.T, protocol string, code map[string]text) {
	before := c.records(t, "otlp.logs.v1")
	for _, row := range []struct{ name, id, code, reason string }{
		{"none", "nobody", "Unauthenticated", "CREDENTIALS_MISSING"},
		{"suspended", "gone", "PermissionDenied", tenant.ReasonSuspended},
		{"signal", "metrics-only", "PermissionDenied", tenant.ReasonSignal},
		{"jurisdiction", "europe", "PermissionDenied", tenant.ReasonJurisdiction},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := c.export(t, protocol, row.id, sdkTimeout, events(3))
			require.Equal(t, []string{"FAILURE"}, got.Results)
			require.Len(t, got.Answers, 1, "%+v", got)
			a := got.Answers[0]
			require.Equal(t, code[row.code], a.Code)
			require.Equal(t, row.reason, a.Reason)
			require.NotEmpty(t, a.Message)
			require.NotEmpty(t, got.Said, "the client logs it")
			if row.name == "jurisdiction" {
				require.Equal(t, "https://ingest.eu.example.com", a.Metadata["endpoint"])
				require.Contains(t, a.Message, "https://ingest.eu.example.com")
			}
		})
	}
	require.Equal(t, count(t, before, "acme"), count(t, c.records(t, "otlp.logs.v1"), "acme"), "what was refused is not in Kafka")
	require.Equal(t, []string{"SUCCESS"}, c.export(t, protocol, "acme", sdkTimeout, events(3)).Results)
	c.arrives(t, "acme", count(t, before, "acme")+3, "otlp.logs.v1")
}

// obeyed asserts that each attempt after an answer with advice came no sooner than advised.
func obeyed(t *testing.T, answers []answer) (refused int) {
	t.Helper()
	for i, a := range answers {
		if a.Code == "200" || a.Code == "OK" {
			continue
		}
		refused++
		require.Positive(t, a.RetryAfter, "a refusal that may succeed later says when: %+v", a)
		if i+1 < len(answers) {
			require.GreaterOrEqual(t, answers[i+1].At-a.At, a.RetryAfter-0.01)
		}
	}
	return refused
}

// testQuota: the fast lane, the overflow lane, then 429. The client that obeys gets everything through.
func (c *cell) testQuota(t *testing.T, protocol string, code map[string]text) {
	id := map[string]string{"http": "small", "grpc": "small-grpc"}[protocol]
	exports := make([][]event, 12) // many, since what a slow client sends is within its quota again
	for i := range exports {
		exports[i] = events(50)
	}
	got := c.export(t, protocol, id, time.Minute, exports...)
	for _, r := range got.Results {
		require.Equal(t, "SUCCESS", r, "%+v", got)
	}
	require.Positive(t, obeyed(t, got.Answers), "nothing was refused")
	for _, a := range got.Answers {
		require.Contains(t, []text{code["OK"], code["ResourceExhausted"]}, a.Code)
	}
	c.arrives(t, id, 50*len(exports), "otlp.logs.v1", "otlp.logs.overflow.v1")
	require.Positive(t, count(t, c.records(t, "otlp.logs.v1"), id))
	require.Positive(t, count(t, c.records(t, "otlp.logs.overflow.v1"), id))
}

// testSchema: of five events two violate their schema.
func (c *cell) testSchema(t *testing.T, protocol string, code map[string]text) {
	order := func(amount any) event {
		return event{Body: "order", Event: "order.placed", Attributes: map[string]any{"amount": amount}}
	}
	mixed := []event{order(1), order("two"), order(3), {Body: "order", Event: "order.placed"}, order(5)}
	for _, row := range []struct {
		id               string
		stored, rejected int
		warning          string
	}{{"acme", 3, 2, "attribute"}, {"lenient", 5, 0, "attribute"}, {"unchecked", 5, 0, ""}} {
		t.Run(row.id, func(t *testing.T) {
			before, quarantined := count(t, c.records(t, "otlp.logs.v1"), row.id), count(t, c.records(t, "quarantine.v1"), row.id)
			got := c.export(t, protocol, row.id, sdkTimeout, mixed)
			require.Equal(t, []string{"SUCCESS"}, got.Results)
			require.Len(t, got.Answers, 1)
			require.Equal(t, code["OK"], got.Answers[0].Code)
			require.Equal(t, row.rejected, got.Answers[0].Rejected)
			if row.warning == "" {
				require.Empty(t, got.Answers[0].Warning)
			} else {
				require.Contains(t, got.Answers[0].Warning, row.warning)
			}
			c.arrives(t, row.id, before+row.stored, "otlp.logs.v1")
			c.arrives(t, row.id, quarantined+row.rejected, "quarantine.v1")
		})
	}
}

// testNothingDurable: Kafka is killed and the spill's directory is gone. The client is told to come again, does, and gets through when Kafka is back.
func (c *cell) testNothingDurable(t *testing.T, protocol string, code map[string]text) {
	before := count(t, c.records(t, "otlp.logs.v1"), "acme")
	require.NoError(t, c.Kafka.Kill(0))
	require.NoError(t, os.Rename(c.path("spill"), c.path("spill.gone")))
	require.NoError(t, os.WriteFile(c.path("spill"), nil, 0o600)) // no directory: nothing can be put there
	refused := c.refusals(t, "downstream_retry")
	done := make(chan told, 1)
	go func() { done <- c.export(t, protocol, "acme", patience, events(7)) }()
	require.Eventually(t, func() bool { return c.refusals(t, "downstream_retry") > refused }, patience, 200*time.Millisecond)
	require.NoError(t, os.Remove(c.path("spill")))
	require.NoError(t, os.Rename(c.path("spill.gone"), c.path("spill")))
	require.NoError(t, c.Kafka.Restart(0))
	got := <-done
	require.Equal(t, []string{"SUCCESS"}, got.Results, "%+v", got)
	require.Positive(t, obeyed(t, got.Answers))
	require.Equal(t, code["Unavailable"], got.Answers[0].Code)
	require.Eventually(t, func() bool { return count(t, c.records(t, "otlp.logs.v1"), "acme") >= before+7 }, patience, 500*time.Millisecond)
}

// whileShed has four clients send while the cell sheds their class, and then ends the shedding. The impatient ones have the SDK's own timeout; the patient ones have time to come again.
func (c *cell) whileShed(t *testing.T) map[string]chan told {
	t.Helper()
	out := map[string]chan told{}
	for _, protocol := range []string{"http", "grpc"} {
		for who, timeout := range map[string]time.Duration{"impatient": 10 * time.Second, "patient": patience} {
			done := make(chan told, 1)
			out[protocol+", "+who] = done
			go func() { done <- c.export(t, protocol, "trial-co", timeout, events(3)) }()
		}
	}
	require.Eventually(t, func() bool { return c.refusals(t, "shed") >= len(out) }, patience, 200*time.Millisecond)
	c.shed(t, "{}")
	return out
}

// testShed: the cell sent everything of a class back for a moment.
func (c *cell) testShed(t *testing.T, clients map[string]chan told) {
	for name, done := range clients {
		got := <-done
		require.NotEmpty(t, got.Answers, name)
		a := got.Answers[0]
		require.Contains(t, []text{"429", "RESOURCE_EXHAUSTED"}, a.Code, name)
		require.Equal(t, tenant.ReasonShed, a.Reason, name)
		require.GreaterOrEqual(t, a.RetryAfter, 30.0, name)
		require.LessOrEqual(t, a.RetryAfter, 90.0, name)
		if strings.HasSuffix(name, "impatient") {
			require.Equal(t, []string{"FAILURE"}, got.Results, name)
			require.Len(t, got.Answers, 1, "%s: it does not come again: it would have to wait for longer than its timeout", name)
			continue
		}
		require.Equal(t, []string{"SUCCESS"}, got.Results, "%s: %+v", name, got)
		require.Positive(t, obeyed(t, got.Answers), name)
	}
	c.arrives(t, "trial-co", 2*3, "otlp.logs.v1") // of the patient ones
}

// refusals counts requests that were refused for a reason.
func (c *cell) refusals(t *testing.T, reason string) (n int) {
	t.Helper()
	metrics, err := c.Metrics("gateway")
	require.NoError(t, err)
	for line := range strings.SplitSeq(metrics, "\n") {
		if strings.HasPrefix(line, "otelcol_ingest_refused{") && strings.Contains(line, `reason="`+reason+`"`) {
			v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			require.NoError(t, err)
			n += int(v)
		}
	}
	return n
}

// testTelemetrygen: the Collector's load generator, beyond its quota and without credentials.
func (c *cell) testTelemetrygen(t *testing.T) {
	generate, err := rig.Tool("telemetrygen")
	require.NoError(t, err)
	args := []string{"logs", "--otlp-insecure", "--otlp-endpoint", c.GRPC, "--logs", "300", "--rate", "0", "--workers", "1"}
	out, err := exec.Command(generate, append(args, "--otlp-header", `x-api-key="`+c.keys["generator"]+`"`)...).CombinedOutput()
	require.NoError(t, err, string(out))
	c.arrives(t, "generator", 300, "otlp.logs.v1", "otlp.logs.overflow.v1")
	require.Positive(t, count(t, c.records(t, "otlp.logs.overflow.v1"), "generator"), string(out))

	out, _ = exec.Command(generate, args...).CombinedOutput() // how it ends is its own affair
	require.Contains(t, string(out), "Unauthenticated")
}

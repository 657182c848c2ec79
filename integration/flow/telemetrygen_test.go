package flow

import (
	"os"
	"os/exec"
	"strconv"
	"testing"
)

// Scenario: the Collector's own load generator sends each signal over each transport.
// Guarantees: both stores hold exactly as many events as it sent, each at a place of its own.
func TestTelemetrygensEventsAreInBothStoresExactlyOnce(t *testing.T) {
	n := 50_000 // by transport: 100,000 of each signal
	if testing.Short() {
		n = 5_000
	}
	r := sharedRig(t)
	generate := tool(t, "telemetrygen")
	for _, transport := range []struct {
		name string
		args []string
	}{{"grpc", []string{"--otlp-endpoint", r.GRPC}}, {"http", []string{"--otlp-endpoint", r.HTTP, "--otlp-http"}}} {
		for signal, args := range map[string][]string{
			"logs":    {"logs", "--rate", "0", "--logs", strconv.Itoa(n)},
			"metrics": {"metrics", "--rate", "0", "--metrics", strconv.Itoa(n)},
			// A trace has a parent and a child.
			"spans": {"traces", "--traces", strconv.Itoa(n / 2), "--rate", "4000"},
		} {
			service := "telemetrygen-" + signal + "-" + transport.name
			args = append(append(args, transport.args...), "--otlp-insecure", "--timeout", "1m", "--workers", "1", "--service", service, "--otlp-attributes", `service.name="`+service+`"`)
			cmd := exec.Command(generate, args...)
			cmd.Env = append(os.Environ(), "OTEL_BSP_MAX_QUEUE_SIZE="+strconv.Itoa(n)) // the SDK drops spans that its queue does not hold
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", service, err, out)
			}
		}
	}
	for _, signal := range []string{"logs", "metrics", "spans"} {
		for _, transport := range []string{"grpc", "http"} {
			inBothStores(t, r, signal, "telemetrygen-"+signal+"-"+transport, n)
		}
	}
}

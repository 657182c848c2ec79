package gateway_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Scenario: a batch of 16 spans in JSON. One is larger than a Kafka record, by an attribute that is beyond the schema's limits too, or by many span events,
// none of which is; another one has a flag that is no number. With and without a store for what is too large.
// Guarantees: the others are stored. The sender hears how many were rejected and why; they are in quarantine, where there is room for them.
func TestAnEventThatCannotBeStoredCostsNoOther(t *testing.T) {
	at := time.Now().UnixNano()
	span := func(i int, more string) string {
		return fmt.Sprintf(`{"traceId":"0102030405060708090a0b0c0d0e0f10","spanId":"01020304050607%02x","name":"n","kind":1,"startTimeUnixNano":"%d","endTimeUnixNano":"%d"%s}`, i, at, at+1, more)
	}
	attribute := func(size int) string {
		return `"attributes":[{"key":"a","value":{"stringValue":"` + strings.Repeat("A", size) + `"}}]`
	}
	for name, more := range map[string]string{
		"no limit of the schema": `,"events":[` + strings.TrimSuffix(strings.Repeat(fmt.Sprintf(`{"timeUnixNano":"%d",`, at)+attribute(1000)+`},`, 1050), ",") + `]`,
		"an attribute":           "," + attribute(1_050_000),
	} {
		for _, stored := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, stored %t", name, stored), func(t *testing.T) {
				dir, store := t.TempDir(), ""
				if stored {
					store = "file://" + dir + "?no_tmp_dir=true"
				}
				g := start(t, store)
				spans := make([]string, 16)
				for i := range spans {
					spans[i] = span(i, "")
				}
				spans[10], spans[12] = span(10, more), span(12, `,"flags":"x"`)
				body := `{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"s"}}]},"scopeSpans":[{"spans":[` + strings.Join(spans, ",") + `]}]}]}`
				code, answer := g.post(t, signal.Traces, []byte(body), "")
				require.Equal(t, http.StatusOK, code, string(answer))
				resp := ptraceotlp.NewExportResponse()
				require.NoError(t, resp.UnmarshalJSON(answer))
				require.EqualValues(t, 2, resp.PartialSuccess().RejectedSpans())
				text := resp.PartialSuccess().ErrorMessage()
				require.NotContains(t, text, "Permanent error")
				require.Contains(t, text, "event 12: spans[12].flags")
				require.Contains(t, text, "event 10: ")
				require.Equal(t, !stored, strings.Contains(text, "1 events were refused and are kept nowhere"), text)

				events := 0
				for _, r := range g.records(t, "otlp.traces.v1") {
					n, err := otlpwire.Count(signal.Traces, r.Value, otlpwire.Limits{})
					require.NoError(t, err)
					events += n
				}
				require.Equal(t, 14, events)
				objects, lines := 0, 0
				for _, r := range g.records(t, "quarantine.v1") {
					path, ok := strings.CutPrefix(headers(r)[envelope.HeaderObject], "file://"+dir)
					if !ok {
						require.Contains(t, string(r.Value), `"flags":"x"`)
						lines++
						continue
					}
					object, err := os.ReadFile(filepath.Join(dir, path))
					require.NoError(t, err)
					n, err := otlpwire.Count(signal.Traces, object, otlpwire.Limits{})
					require.NoError(t, err)
					require.Equal(t, 1, n)
					require.Greater(t, len(object), 1_000_000)
					objects++
				}
				require.Equal(t, 1, lines)
				require.Equal(t, stored, objects == 1)
			})
		}
	}
}

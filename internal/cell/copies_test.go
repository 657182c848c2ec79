package cell

import (
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
)

// Guarantees: copies are those of one store's dedupe, by signal and rule, the one that is ahead; items of the quarantine are no events.
func TestCopiesComeFromTheDedupeThatIsAhead(t *testing.T) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	m, err := parser.TextToMetricFamilies(strings.NewReader(`# TYPE otelcol_dedupe_events counter
otelcol_dedupe_events{processor="dedupe/hot",signal="logs"} 1000
otelcol_dedupe_events{processor="dedupe/lake",signal="logs"} 900
otelcol_dedupe_events{processor="dedupe/hot",signal="traces"} 50
otelcol_dedupe_events{processor="dedupe/quarantine-hot",signal="logs"} 5000
# TYPE otelcol_dedupe_duplicates counter
otelcol_dedupe_duplicates{processor="dedupe/hot",rule="request",signal="logs"} 60
otelcol_dedupe_duplicates{processor="dedupe/hot",rule="content",signal="logs"} 40
otelcol_dedupe_duplicates{processor="dedupe/hot",rule="uid",signal="logs"} 0
otelcol_dedupe_duplicates{processor="dedupe/lake",rule="content",signal="logs"} 39
`))
	require.NoError(t, err)
	none := []certificate.RuleCopies{}
	require.Equal(t, []certificate.SignalCopies{
		{Signal: "traces", Events: 50, Rules: none}, {Signal: "metrics", Rules: none},
		{Signal: "logs", Events: 1000, Copies: 100, Rules: []certificate.RuleCopies{
			{Rule: "content", Copies: 40, Examples: []certificate.CopyExample{}}, {Rule: "request", Copies: 60, Examples: []certificate.CopyExample{}},
		}},
	}, copiesOf(metrics(m)))
	require.Len(t, copiesOf(nil), 3, "an aggregator that does not answer has found none")
}

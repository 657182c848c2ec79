package signal

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseIsStringsInverse(t *testing.T) {
	for _, s := range All {
		got, err := Parse(s.String())
		require.NoError(t, err)
		require.Equal(t, s, got)
	}
}

func TestParseNamesWhatItRefuses(t *testing.T) {
	for _, name := range []string{"", "Logs", "profiles", "signal(0)"} {
		_, err := Parse(name)
		require.ErrorContains(t, err, "want traces, metrics or logs")
	}
	require.Equal(t, "signal(0)", Signal(0).String(), "the zero value is no signal")
}

// Consumers of the topics outside this repository rely on these names.
func TestTopicNamesAreAContract(t *testing.T) {
	require.Equal(t, "otlp.traces.v1", Traces.Topic())
	require.Equal(t, "otlp.metrics.v1", Metrics.Topic())
	require.Equal(t, "otlp.logs.v1", Logs.Topic())
	require.Equal(t, "quarantine.v1", QuarantineTopic)
	require.Equal(t, Logs, OfTopic("otlp.logs.premium.v1"))
	require.Zero(t, OfTopic("otlp.logs"))
	require.Zero(t, OfTopic(QuarantineTopic))
}

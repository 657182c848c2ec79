package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Scenario: a container without files has its configuration in variables, one merged over the other.
// Guarantees: they are read as files are, with the variables that they name.
func TestAConfigurationMayBeAVariable(t *testing.T) {
	t.Setenv("PULSEGRID_CONFIG", "receivers:\n  msk/hot:\n    brokers: ${env:BROKERS}\n    group_id: hot\n")
	t.Setenv("BROKERS", "kafka:9098")
	over := filepath.Join(t.TempDir(), "over.yaml")
	require.NoError(t, os.WriteFile(over, []byte("receivers:\n  msk/hot: {group_id: other}\n"), 0o600))
	conf, err := resolve(t.Context(), "env:PULSEGRID_CONFIG", over)
	require.NoError(t, err)
	require.Equal(t, map[string]any{"receivers": map[string]any{"msk/hot": map[string]any{"brokers": "kafka:9098", "group_id": "other"}}}, conf.ToStringMap())
}

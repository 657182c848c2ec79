package observability_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/observability"
)

// Scenario: rules and configurations are shortened, so that a test need not wait as long as an operator.
// Guarantees: Prometheus and Alertmanager take them; no duration is left as it was, and nothing but durations is changed; by a factor of 1 nothing is.
func TestShortenedRulesDecideTheSameSooner(t *testing.T) {
	const factor = 20
	dir := t.TempDir()
	var files []string
	for _, pattern := range []string{"prometheus.yaml", "alertmanager.yaml", "rules/*.yaml", "alerts/*.yaml"} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, found, pattern)
		files = append(files, found...)
	}
	duration := regexp.MustCompile(`\b[0-9]+(ms|[smhdwy])\b`)
	for _, file := range files {
		content := read(t, "observability/"+file)
		same, err := observability.Shorten([]byte(content), 1)
		require.NoError(t, err)
		require.Equal(t, content, string(same))
		short, err := observability.Shorten([]byte(content), factor)
		require.NoError(t, err)
		path := filepath.Join(dir, file)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, short, 0o600))
		if file == "prometheus.yaml" || file == "alertmanager.yaml" {
			continue
		}
		before, err := observability.ParseRules(file, []byte(content))
		require.NoError(t, err)
		after, err := observability.ParseRules(file, short)
		require.NoError(t, err)
		require.Len(t, after, len(before))
		for i, b := range before {
			a := after[i]
			for _, d := range duration.FindAllString(b.For+" "+b.Expr, -1) {
				require.NotContains(t, " "+a.For+" "+a.Expr+" ", "["+d+"]", b.Alert)
				require.NotEqual(t, d, a.For, b.Alert)
			}
			require.Equal(t, duration.ReplaceAllString(b.For+" "+b.Expr, "D"), duration.ReplaceAllString(a.For+" "+a.Expr, "D"))
			a.For, a.Expr, b.For, b.Expr = "", "", "", ""
			require.Equal(t, b, a)
		}
	}
	silent, err := os.ReadFile(filepath.Join(dir, "alerts", "symptoms.yaml"))
	require.NoError(t, err)
	require.Contains(t, strings.Join(strings.Fields(string(silent)), " "), `[4320000ms] offset 180000ms)`)
	promtool(t, "check", "config", filepath.Join(dir, "prometheus.yaml"))
	checkAlertmanager(t, filepath.Join(dir, "alertmanager.yaml"))

	for what, content := range map[string]string{"for: 1m30s": "1m30s", "interval: soon": "soon", "repeat_interval: 1ms": "millisecond", "a: [": "shorten"} {
		_, err := observability.Shorten([]byte(what), factor)
		require.ErrorContains(t, err, content)
	}
	_, err = observability.Shorten(nil, 0)
	require.ErrorContains(t, err, "factor 0")
}

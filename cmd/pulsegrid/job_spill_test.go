package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/orchestration"
)

// Scenario: the gateways' spill is empty; something waits for some minutes; for hours; something was set aside; the configuration's variable is not set.
// Guarantees: what is late and what was set aside make the check fail, and its job end as differs, with the reason; what is young does not; a configuration without a spill
// does not pass for an empty one; the check leaves the objects as they are.
func TestASpillIsChecked(t *testing.T) {
	dir := t.TempDir()
	config, store := filepath.Join(dir, "gateway.yaml"), filepath.Join(dir, "spill")
	require.NoError(t, os.WriteFile(config, []byte("exporters: {msk: {brokers: [127.0.0.1:9092], spill: {url: \"${env:TEST_SPILL:-}\"}}}\n"), 0o600))
	check := func(code int, more ...string) string {
		t.Helper()
		return ends(t, code, append([]string{"job", "run", "spill-check", "--gateway", config}, more...)...)
	}
	put := func(name string) {
		t.Helper()
		path := filepath.Join(store, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte("spilled"), 0o600))
	}
	object := func(age time.Duration) string {
		return fmt.Sprintf("gw-7/v2-%013d-00000001-many", time.Now().Add(-age).UnixMilli())
	}

	require.Contains(t, check(exitFailed), "has no spill::url: nothing was looked at")
	t.Setenv("TEST_SPILL", "file://"+store)
	require.Contains(t, check(exitFailed), "no such file or directory", "a directory that is not there is not an empty spill")
	put("gw-7/lease")
	require.Contains(t, check(0), "nothing waits")
	put(object(10 * time.Minute))
	require.Regexp(t, `(?m)^gw-7 +1 +7 +\S+ +spilled \S+$`, check(0))
	require.Contains(t, check(exitFailed, "--late-after", "5m"), "objects of 1 gateways have waited for longer than 5m0s")
	put(object(3 * time.Hour))
	put("bad/gw-7/v2-1-1-many")
	out := check(exitFailed)
	require.Contains(t, out, "objects of 1 gateways have waited for longer than 1h0m0s; 1 objects lie under bad/")
	require.Contains(t, out, "set aside: bad/gw-7/v2-1-1-many\n")
	require.Contains(t, check(exitFailed, "--json"), `"late": [`)
	require.Contains(t, ends(t, exitUsage, "job", "run", "spill-check", "--gateway", config, "--late-after", "1s"), "want at least 1m")

	w := &jobRunner{gateway: []string{config}}
	done, err := w.Run(t.Context(), orchestration.Command{Kind: orchestration.KindSpillCheck}, false, func(string) {})
	require.NoError(t, err)
	require.Equal(t, orchestration.StateDiffers, done.State)
	require.Contains(t, done.Text, "1 objects lie under bad/\n")
	found, err := filepath.Glob(filepath.Join(store, "*", "*"))
	require.NoError(t, err)
	require.Len(t, found, 4)
}

// Package ml runs examples/ml as a newcomer does: the commands of its README, in a local cell.
package ml

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

const (
	localStarts   = 5 * time.Minute
	localStopping = 2 * time.Minute
	// ahead is by how much the model's average precision must pass that of the baselines.
	ahead = 0.2
)

// commands are those of the example's README that are run beside the cell.
func commands(t *testing.T) (out []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(rig.Root(), "examples", "ml", "README.md"))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		command := strings.TrimSpace(line)
		if strings.HasPrefix(line, "    ") && (strings.HasPrefix(command, "_build/pulsegrid") || strings.HasPrefix(command, "python3 ")) {
			out = append(out, command)
		}
	}
	require.NotEmpty(t, out)
	return out
}

// Scenario: the commands of the example's README in a fresh cell; then the features are built without their cut-off.
// Guarantees: the model beats both baselines on hours that it has not seen; each row of the lake is a recount of the records that had arrived before its cut-off; the recount
// finds the rows that use later ones.
func TestTheExampleTrainsAModelOnTheLake(t *testing.T) {
	home := t.TempDir()
	for _, dir := range []string{"_build", "examples"} {
		require.NoError(t, os.Symlink(filepath.Join(rig.Root(), dir), filepath.Join(home, dir)))
	}
	_, grpcPort, _ := strings.Cut(rig.FreeAddr(), ":")
	_, httpPort, _ := strings.Cut(rig.FreeAddr(), ":")
	local := rig.NewProcess(nil, nil, filepath.Join(rig.Root(), "_build", "pulsegrid"), "local",
		"--data", filepath.Join(home, "pulsegrid-data"), "--grpc", "127.0.0.1:"+grpcPort, "--http", "127.0.0.1:"+httpPort)
	require.NoError(t, local.Start(localStarts))
	t.Cleanup(func() {
		local.Stop(localStopping)
		if t.Failed() {
			t.Log(local.Log())
		}
	})
	shell := func(command string) string {
		t.Helper()
		cmd := exec.Command("sh", "-c", command)
		cmd.Dir = home
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(pytest.Python(t))+":"+os.Getenv("PATH"))
		out, err := cmd.Output()
		t.Logf("%s\n%s", command, out)
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Logf("%s", exit.Stderr)
		}
		require.NoError(t, err, command)
		return string(out)
	}
	require.Eventually(t, func() bool {
		status := exec.Command("_build/pulsegrid", "status")
		status.Dir = home
		return status.Run() == nil
	}, localStarts, time.Second, "the cell is ready")
	var said string
	for _, command := range commands(t) {
		said = shell(command)
	}
	precision := func(of string) float64 {
		found := regexp.MustCompile(`(?m)^  ` + of + ` +(\d\.\d\d)$`).FindStringSubmatch(said)
		require.NotNil(t, found, of)
		value, err := strconv.ParseFloat(found[1], 64)
		require.NoError(t, err)
		return value
	}
	require.Greater(t, precision("model"), precision("errors of the hour")+ahead)
	require.Greater(t, precision("model"), precision("chance")+ahead)

	const records = "SELECT tenant_id, attributes_string['device.id'], toUnixTimestamp64Micro(time), toUnixTimestamp64Micro(ingest_time), severity_number FROM logs WHERE tenant_id = 'ml-example'"
	script := filepath.Join(rig.Root(), "integration", "ml", "testdata", "recount.py")
	recount := func() (out struct{ Rows, Wrong int }) {
		said := shell("_build/pulsegrid query --format TabSeparated \"" + records + "\" | python3 " + script)
		require.NoError(t, json.Unmarshal([]byte(said), &out))
		return out
	}
	right := recount()
	require.Greater(t, right.Rows, 3_000)
	require.Zero(t, right.Wrong)

	models := filepath.Join(rig.Root(), "internal", "aggregate", "models")
	blind := t.TempDir()
	for _, ext := range []string{".sql", ".duckdb.sql", ".yaml"} {
		text, err := os.ReadFile(filepath.Join(models, "device_features_1h"+ext))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(blind, "device_features_1h"+ext), []byte(strings.Replace(string(text), ", cutoff: partition_end", "", 1)), 0o600))
	}
	shell("_build/pulsegrid job run aggregate --quiet --models " + blind)
	require.Greater(t, recount().Wrong, right.Rows/10, "the recount above rests on the cut-off")
}

package tools_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// Guarantees: who waits for a step hears what it is for, how long it usually takes, and how far it is; its whole output only where it fails, and then its exit status.
func TestAStepThatTakesLongIsNotSilent(t *testing.T) {
	run := func(script string) (string, error) {
		cmd := exec.Command("bash", "step.sh", "building x: a part", "1 min", "bash", "-c", script)
		cmd.Env = append(os.Environ(), "STEP_EVERY=0.1")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run("echo first; echo second; sleep 2; echo third")
	require.NoError(t, err)
	require.Regexp(t, `^building x: a part; usually 1 min\n(  .*\n)*  0:\d\d  building x: second\n(  .*\n)*  0:\d\d  building x: done\n$`, out)
	require.NotContains(t, out, "first")

	out, err = run("echo first; echo second; exit 7")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 7, exit.ExitCode())
	require.Regexp(t, `first\nsecond\n  0:\d\d  building x: failed\n$`, out)
}

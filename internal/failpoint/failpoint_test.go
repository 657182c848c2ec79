package failpoint

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// goesOn is the environment variable that makes this program hit a point and then say that it went on.
const goesOn = "PULSEGRID_TEST_FAILPOINT_GOES_ON"

func TestMain(m *testing.M) {
	if os.Getenv(goesOn) != "" {
		hitAndGoOn()
	}
	os.Exit(m.Run())
}

// hitAndGoOn hits a point by another thread than the first one, which is the one that the system wakes for a signal.
func hitAndGoOn() {
	runtime.LockOSThread()
	go func() {
		Hit("here")
		_, _ = os.Stdout.WriteString("went on\n") // to whoever tests
		os.Exit(0)
	}()
	select {}
}

// Guarantees: a program that is stopped at a point stands still as a whole, has not done its next step, and does it when it is continued.
func TestAStoppedProgramGoesNoStepFurther(t *testing.T) {
	out, in, err := os.Pipe()
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), goesOn+"=1", Variable+"=here=stop")
	cmd.Stdout = in
	said, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	require.NoError(t, in.Close())
	_, err = bufio.NewReader(said).ReadString('\n')
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		return err == nil && bytes.Contains(stat, []byte(") T "))
	}, time.Minute, time.Millisecond)

	require.NoError(t, out.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	text := make([]byte, 100)
	n, err := out.Read(text)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "%s", text[:n])
	require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
	require.NoError(t, out.SetReadDeadline(time.Now().Add(time.Minute)))
	n, err = out.Read(text)
	require.NoError(t, err)
	require.Equal(t, "went on\n", string(text[:n]))
	require.NoError(t, cmd.Wait())
	require.NoError(t, out.Close())
}

func TestParseTakesWhatIsDocumentedAndNothingElse(t *testing.T) {
	p, err := parse("clickhouse-inserted=kill@3")
	require.NoError(t, err)
	require.Equal(t, "clickhouse-inserted", p.name)
	require.Equal(t, syscall.SIGKILL, p.signal)
	require.EqualValues(t, 3, p.left.Load())

	p, err = parse("a=stop")
	require.NoError(t, err)
	require.Equal(t, syscall.SIGSTOP, p.signal)
	require.EqualValues(t, 1, p.left.Load())

	p, err = parse("")
	require.NoError(t, err)
	require.Nil(t, p)

	for _, bad := range []string{"a", "=kill", "a=die", "a=kill@0", "a=kill@x", "a=kill@"} {
		_, err := parse(bad)
		require.Error(t, err, bad)
	}
}

func TestAPointThatIsNotArmedDoesNothing(t *testing.T) {
	Hit("anything")
}

package failpoint

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

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

package schema

import (
	"bytes"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTextualSeesEveryByte(t *testing.T) {
	for n := range 100 {
		s := bytes.Repeat([]byte("a"), n)
		require.True(t, textual(s, math.MaxInt))
		require.True(t, textual(s, n))
		require.False(t, textual(append(s, 'a'), n), "longer than allowed")
		for i := range n {
			s[i] = 0xff
			require.False(t, textual(s, n), "byte %d of %d", i, n)
			s[i] = 'a'
		}
		for i := range max(n-1, 0) {
			copy(s[i:], "é")
			require.True(t, textual(s, n), "é at byte %d of %d", i, n)
			copy(s[i:], "aa")
		}
	}
}

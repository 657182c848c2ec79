package hostile

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
)

// Guarantees: each shape is OTLP, as pdata reads it, of about the size that is asked for, and equal choices make equal requests.
func TestEachShapeIsOTLP(t *testing.T) {
	for _, s := range Shapes() {
		for _, size := range []int{1000, 64 << 10, 1 << 20} {
			b := s.Make(rand.New(rand.NewPCG(1, 1)), size, 1)
			require.Equal(t, b, s.Make(rand.New(rand.NewPCG(1, 1)), size, 1), s.Name)
			require.Greater(t, len(b), size/3, s.Name)
			require.Less(t, len(b), 3*size+1000, s.Name)
			req := otlptest.NewRequest(s.Signal)
			if s.JSON {
				require.NoError(t, req.UnmarshalJSON(b), s.Name)
			} else {
				require.NoError(t, req.UnmarshalProto(b), s.Name)
			}
		}
	}
}

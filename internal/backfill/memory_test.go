package backfill

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/testkit/heaptest"
)

// Guarantee: a line that is too long costs no memory: it is read to its end, counted, and its beginning is in quarantine.
func TestALongLineIsNotHeld(t *testing.T) {
	const length = 1 << 26
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	require.NoError(t, err)
	_, err = io.CopyN(z, endless('x'), length)
	_, err2 := z.Write([]byte("\n" + logLine(1)))
	require.NoError(t, errors.Join(err, err2, z.Close()))
	bench := newBench(t)
	bench.put("o", b.Bytes())
	s, j := newStore(), bench.open(bench.plan())
	o := options(t, s)
	took := heaptest.Peak(func() { require.NoError(t, j.Run(t.Context(), o)) })
	require.Less(t, took, int64(16<<20))
	require.Equal(t, []string{"0:2 m1", "mem://o:1 limit_exceeded 200"}, s.all())
}

type endless byte

func (e endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(e)
	}
	return len(b), nil
}

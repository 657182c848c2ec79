package yield

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestTheShareOfAJobIsTold(t *testing.T) {
	c := NewCourtesy()
	require.Empty(t, c.String())
	c.heard("group g is late")
	require.Equal(t, "works 50% of the time: group g is late", c.String())
	for range 10 {
		c.heard("group g is late")
	}
	require.Equal(t, "works 3% of the time: group g is late", c.String())
	for range 20 {
		c.heard("")
	}
	require.Empty(t, c.String())
	require.EqualValues(t, 1, c.Worked())
}

// Guarantee: a Kafka that does not answer stops no job, and is told once.
func TestLiveTrafficThatCannotBeLookedAtIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.WarnLevel)
		ctx, stop := context.WithCancel(t.Context())
		c := NewCourtesy()
		go c.Observe(ctx, func(context.Context) (string, error) { return "", errors.New("no broker answers") }, zap.New(core))
		time.Sleep(time.Minute)
		stop()
		synctest.Wait()
		require.Equal(t, 1, logs.Len())
		require.Empty(t, c.String())
	})
}

package leaktest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// tests pass with code 0, and leave a goroutine that ends when left is closed.
type tests struct {
	code int
	left chan struct{}
}

func (t tests) Run() int {
	go func() { <-t.left }()
	return t.code
}

// Guarantees: a goroutine that ends after goleak would have given up is waited for; one that stays is not waited for for ever, and goleak finds it; tests that have failed are not waited for.
func TestGoroutinesThatAreEndingAreWaitedFor(t *testing.T) {
	ends := tests{left: make(chan struct{})}
	time.AfterFunc(time.Second, func() { close(ends.left) })
	require.Zero(t, Patient(ends).Run())
	require.NoError(t, goleak.Find())

	failed := tests{code: 1, left: make(chan struct{})}
	require.Equal(t, 1, Patient(failed).Run())
	close(failed.left)

	stays := tests{left: make(chan struct{})}
	require.Zero(t, patient{tests: stays, most: time.Millisecond}.Run())
	require.Error(t, goleak.Find())
	close(stays.left)
}

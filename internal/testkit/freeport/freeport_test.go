package freeport_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/testkit/freeport"
)

const (
	child = "PULSEGRID_FREEPORT_TEST_CHILD"
	each  = 2000 // of 22,000: without the locks some would be given twice
)

// No two processes have the same port, though none of them listens yet.
func TestAPortIsGivenOnceHoweverManyProcessesAsk(t *testing.T) {
	if os.Getenv(child) != "" {
		for range each {
			addr, err := freeport.Addr()
			require.NoError(t, err)
			_, err = fmt.Fprintln(os.Stdout, "got", addr)
			require.NoError(t, err)
		}
		_, _ = os.Stdin.Read(make([]byte, 1)) // until the parent has all
		return
	}
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	for range 3 {
		cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), child+"=1")
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
		wg.Go(func() {
			lines := bufio.NewScanner(out)
			for n := 0; n < each && lines.Scan(); {
				var addr string
				if _, err := fmt.Sscanf(lines.Text(), "got %s", &addr); err == nil {
					mu.Lock()
					seen[addr]++
					mu.Unlock()
					n++
				}
			}
		})
	}
	wg.Wait()
	require.Len(t, seen, 3*each)
}

func TestATakenPortIsNotGiven(t *testing.T) {
	addr, err := freeport.Addr()
	require.NoError(t, err)
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	defer l.Close()
	for range 100 {
		other, err := freeport.Addr()
		require.NoError(t, err)
		require.NotEqual(t, addr, other)
	}
}

// Package failpoint stops the program at a named point, so that the fault tests (integration/fault) can try every gap between two
// steps on the very binary that users run. Nothing happens unless the environment variable PULSEGRID_FAILPOINT names a point:
//
//	PULSEGRID_FAILPOINT=clickhouse-inserted=kill@3      SIGKILL the process at the third hit
//	PULSEGRID_FAILPOINT=iceberg-committed=stop          SIGSTOP it at the first hit; whoever tests sends SIGCONT
//
// Points are listed where they are hit: grep for failpoint.Hit.
package failpoint

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Variable is the environment variable that arms a point.
const Variable = "PULSEGRID_FAILPOINT"

type point struct {
	name   string
	signal syscall.Signal
	left   atomic.Int64 // hits until it acts
}

// armed is nil in every process but a test's.
var armed = mustParse(os.Getenv(Variable))

func mustParse(text string) *point {
	p, err := parse(text)
	if err != nil {
		panic(err) // a fault test that tests nothing must not pass
	}
	return p
}

func parse(text string) (*point, error) {
	if text == "" {
		return nil, nil
	}
	bad := fmt.Errorf("%s=%q: want POINT=kill|stop[@HIT]", Variable, text)
	name, rest, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return nil, bad
	}
	action, at, counted := strings.Cut(rest, "@")
	p := &point{name: name}
	switch action {
	case "kill":
		p.signal = syscall.SIGKILL
	case "stop":
		p.signal = syscall.SIGSTOP
	default:
		return nil, bad
	}
	hit := int64(1)
	if counted {
		var err error
		if hit, err = strconv.ParseInt(at, 10, 64); err != nil || hit < 1 {
			return nil, bad
		}
	}
	p.left.Store(hit)
	return p, nil
}

// Hit is called at the point of that name. The caller goes no step further until the process is continued: a signal to a process of many threads reaches each of them a little later.
func Hit(name string) {
	if armed == nil || armed.name != name || armed.left.Add(-1) != 0 {
		return
	}
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, syscall.SIGCONT)
	defer signal.Stop(continued)
	fmt.Fprintf(os.Stderr, "failpoint %s: %v\n", name, armed.signal)
	if err := syscall.Kill(os.Getpid(), armed.signal); err != nil {
		panic(fmt.Sprintf("failpoint %s: %v", name, err))
	}
	<-continued
}

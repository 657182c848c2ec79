package fileset

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
)

// Watch looks at files again and again, and tells what is wrong with them when that changes, not at each look. The zero value is ready. Tell is called by
// looks only, and by what comes before Start.
type Watch struct {
	stop    context.CancelFunc // nil: not started
	working sync.WaitGroup
	told    []string
}

// Start calls look every interval until Stop.
func (w *Watch) Start(interval time.Duration, look func(context.Context)) {
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	w.working.Go(func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				look(ctx)
			}
		}
	})
}

// Stop ends a look that runs and returns when it has. It may be called without Start, and twice.
func (w *Watch) Stop() {
	if w.stop != nil {
		w.stop()
	}
	w.working.Wait()
}

// Tell logs each reason, if they are others than last time, and tells the host when the first comes and the last goes; status makes its error.
func (w *Watch) Tell(host component.Host, wrong []string, log func(reason string), status func(reason string) error) {
	if slices.Equal(wrong, w.told) {
		return
	}
	ailed, ails := len(w.told) > 0, len(wrong) > 0
	w.told = wrong
	for _, reason := range wrong {
		log(reason)
	}
	switch {
	case ails && !ailed:
		componentstatus.ReportStatus(host, componentstatus.NewRecoverableErrorEvent(status(wrong[0])))
	case ailed && !ails:
		componentstatus.ReportStatus(host, componentstatus.NewEvent(componentstatus.StatusOK))
	}
}

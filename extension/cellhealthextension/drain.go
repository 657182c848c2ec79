package cellhealthextension

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/cellhealth"
)

// follow looks at the cell's state. One that cannot be read, or understood, changes nothing.
func (e *cellHealth) follow(ctx context.Context) {
	look, cancel := context.WithTimeout(ctx, e.cfg.State.Timeout)
	defer cancel()
	state, err := cellhealth.Read(look, e.source, e.cfg.Cell)
	if errors.Is(ctx.Err(), context.Canceled) {
		return // shutting down
	}
	var wrong []string
	if err != nil {
		wrong = []string{err.Error()}
	} else {
		e.become(why(state), func(s *situation) { s.drained = state.Drained })
	}
	e.watch.Tell(e.host, wrong, func(reason string) {
		e.log.Error("cell health: whether the cell is drained stays as it was read last", zap.String("reason", reason), zap.Bool("drained", e.Drained()))
	}, func(reason string) error { return fmt.Errorf("state of the cell: %s", reason) })
}

// why says for the log what the state of a cell asks for.
func why(s cellhealth.State) string {
	switch {
	case s.Drained && s.Reason != "":
		return "an operator has drained the cell: " + s.Reason
	case s.Drained:
		return "an operator has drained the cell"
	}
	return "the cell is not drained"
}

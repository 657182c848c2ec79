package ingestreceiver

import (
	"context"
	"fmt"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/composition"
)

// compose asks the components behind the receiver, which have started before it, whether they are those that envelopes need, in the right
// order. A gateway that would write invalid events where stores take them for good must not start.
func (r *ingestReceiver) compose(ctx context.Context) error {
	if r.cfg.Output != outputEnvelope || r.next.logs == nil {
		return nil
	}
	ctx, walk := composition.Begin(ctx, composition.Step{ID: r.set.ID.String()})
	if err := r.next.logs.ConsumeLogs(ctx, plog.NewLogs()); err != nil {
		r.set.Logger.Warn("the pipeline's composition was not checked: a component refuses even a batch without data", zap.Error(err))
	}
	if err := walk.Err(); err != nil {
		return fmt.Errorf("the pipeline behind receiver %s would not keep what it acknowledges: %w", r.set.ID, err)
	}
	return nil
}

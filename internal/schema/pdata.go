package schema

import (
	"fmt"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Decoded requests are checked as the bytes that they would be sent as: there is one reading of a schema, and decoded requests are not what a
// gateway is fast with. Findings count events in the order in which pdata holds them.

// CheckLogs checks decoded log records.
func (c *Checker) CheckLogs(ld plog.Logs, unknown Unknown, now time.Time) (Result, error) {
	b, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	return c.marshalled(signal.Logs, b, err, unknown, now)
}

// CheckMetrics checks decoded metrics.
func (c *Checker) CheckMetrics(md pmetric.Metrics, unknown Unknown, now time.Time) (Result, error) {
	b, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	return c.marshalled(signal.Metrics, b, err, unknown, now)
}

// CheckTraces checks decoded spans.
func (c *Checker) CheckTraces(td ptrace.Traces, unknown Unknown, now time.Time) (Result, error) {
	b, err := ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
	return c.marshalled(signal.Traces, b, err, unknown, now)
}

func (c *Checker) marshalled(sig signal.Signal, req []byte, err error, unknown Unknown, now time.Time) (Result, error) {
	if err != nil {
		return Result{}, fmt.Errorf("check %s: encode: %w", sig, err)
	}
	return c.Check(sig, req, unknown, now)
}

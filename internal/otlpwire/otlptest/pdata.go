package otlptest

import (
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Request is what pdata's three requests have in common: plogotlp's, pmetricotlp's and ptraceotlp's ExportRequest.
type Request interface {
	MarshalProto() ([]byte, error)
	UnmarshalProto([]byte) error
	MarshalJSON() ([]byte, error)
	UnmarshalJSON([]byte) error
}

// NewRequest returns pdata's request of a signal, empty.
func NewRequest(s signal.Signal) Request {
	switch s {
	case signal.Logs:
		return plogotlp.NewExportRequest()
	case signal.Metrics:
		return pmetricotlp.NewExportRequest()
	case signal.Traces:
		return ptraceotlp.NewExportRequest()
	}
	panic("otlptest: " + s.String())
}

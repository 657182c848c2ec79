package otlpdecode

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// BenchmarkDecoders sets this package beside pdata's own decoder. Compare the two of one run only: the machine's speed drifts by
// more than they differ.
//
//	go test -run - -bench Decoders -benchmem -count 6 ./internal/otlpdecode
func BenchmarkDecoders(b *testing.B) {
	const events = 500
	for _, sig := range decoded {
		req, d := otlptest.Realistic(sig, 1, events), &Decoder{}
		for _, side := range []struct {
			name   string
			decode func() error
		}{
			{"pdata", func() error {
				if sig == signal.Logs {
					return plogotlp.NewExportRequest().UnmarshalProto(req)
				}
				return ptraceotlp.NewExportRequest().UnmarshalProto(req)
			}},
			{"otlpdecode", func() (err error) {
				if sig == signal.Logs {
					_, err = d.Logs(req)
				} else {
					_, err = d.Traces(req)
				}
				return err
			}},
		} {
			b.Run(sig.String()+"/"+side.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					require.NoError(b, side.decode())
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/events, "ns/event")
			})
		}
	}
}

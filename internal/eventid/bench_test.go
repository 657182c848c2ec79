package eventid_test

import (
	"fmt"
	"testing"

	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// BenchmarkRead makes the identities of one request's events; "ids" with the digest that their ids need.
//
//	go test -run - -bench Read -benchmem ./internal/eventid
func BenchmarkRead(b *testing.B) {
	for _, sig := range signal.All {
		for _, events := range []int{1, 50, 500} {
			value := otlptest.Realistic(sig, 1, events)
			for _, ids := range []bool{false, true} {
				b.Run(fmt.Sprintf("%s/events=%d/ids=%v", sig, events, ids), func(b *testing.B) {
					r := eventid.NewReader(sig, ids)
					var rec eventid.Record
					b.ReportAllocs()
					for b.Loop() {
						rec.Rules, rec.Keys = rec.Rules[:0], rec.Keys[:0]
						if err := r.Read(&rec, value, events, eventid.From{Tenant: "acme", Source: []byte("agent")}); err != nil {
							b.Fatal(err)
						}
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(events), "ns/event")
				})
			}
			b.Run(fmt.Sprintf("%s/events=%d/count", sig, events), func(b *testing.B) {
				for b.Loop() {
					if _, err := otlpwire.Count(sig, value, otlpwire.Limits{}); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(events), "ns/event")
			})
		}
	}
}

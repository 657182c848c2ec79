package envelope

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
)

func quarantined() Envelope {
	e := sample("\xff any bytes")
	e.Lane, e.Findings = LaneQuarantine, []byte(`[{"event":0}]`)
	e.Quarantine = &Quarantine{Code: "undecodable", Reason: "why", ContentType: "application/json", ContentEncoding: "gzip", PII: true, Object: "s3://b/o"}
	return e
}

func TestWhatIsSaidOfQuarantinedEventsIsKept(t *testing.T) {
	withCopies(t, func(t *testing.T) {
		found := sample("healthy and not")
		found.Findings = []byte("findings")
		plain := quarantined()
		plain.Quarantine = &Quarantine{ContentType: TypeOTLP}
		want := []Envelope{quarantined(), found, plain}
		ld := plog.NewLogs()
		for _, e := range want {
			e.Append(ld)
		}
		got, err := All(ld)
		require.NoError(t, err)
		require.Equal(t, want, got)
	})
}

// Guarantees: an envelope is in the quarantine lane exactly where it says why: one without a reason would reach the quarantine topic unexplained, one of
// another lane the stores.
func TestTheQuarantineLaneAndItsReasonBelongTogether(t *testing.T) {
	for _, spoil := range []func(*Envelope){
		func(e *Envelope) { e.Lane = LaneFast },
		func(e *Envelope) { e.Quarantine = nil },
	} {
		e := quarantined()
		spoil(&e)
		ld := plog.NewLogs()
		e.Append(ld)
		_, err := All(ld)
		require.ErrorIs(t, err, ErrNotEnvelope)
	}
	for _, attr := range []string{attrFindings, attrCode, attrReason, attrContentType, attrContentEncoding, attrObject} {
		ld := plog.NewLogs()
		quarantined().Append(ld)
		ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes().PutInt(attr, 1)
		_, err := All(ld)
		require.ErrorContains(t, err, attr)
	}
}

func TestQuarantineHeadersAreTold(t *testing.T) {
	for _, h := range []string{HeaderQuarantineCode, HeaderQuarantineReason, HeaderFindings, HeaderSource, HeaderContentType, HeaderContentEncoding, HeaderPII, HeaderObject, HeaderOriginTopic} {
		require.True(t, QuarantineHeader(h), h)
	}
	require.False(t, QuarantineHeader(HeaderTenant))
}

// Guarantees: what any part of a pipeline says reaches the receiver, whoever says it at once, and no more reasons than a sender is told; where nobody
// listens saying it does no harm.
func TestAResultComesBack(t *testing.T) {
	ctx, r := WithResult(context.Background())
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() { ResultOf(ctx).Reject(2, fmt.Sprint("reason ", i), "another") })
		wg.Go(func() { ResultOf(ctx).Flag(1) })
	}
	wg.Wait()
	rejected, flagged, reasons := r.Read()
	require.Equal(t, 20, rejected)
	require.Equal(t, 10, flagged)
	require.Len(t, reasons, maxReasons)
	ResultOf(context.Background()).Reject(1, "nobody hears it")
	rejected, _, _ = r.Read()
	require.Equal(t, 20, rejected)
}

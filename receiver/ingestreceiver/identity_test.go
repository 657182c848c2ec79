package ingestreceiver

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	grpcmetadata "google.golang.org/grpc/metadata"

	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Scenario: a client sends a request again, in another encoding, with another compression, or by the other protocol.
// Guarantees: it is the same request to whoever looks at its digest; nothing is put beside a body that passes as it was sent.
func TestARequestHasOneDigestHoweverItIsSent(t *testing.T) {
	next := &sink{}
	r := start(t, testConfig(), next, nil)
	conn := r.dial()
	for _, s := range signal.All {
		// Encoders differ in the order of fields: this body is as the Collector's encoder writes it, as what is made of JSON is.
		body := asPdataWritesIt(t, s, otlptest.Realistic(s, 5, 20))
		want := eventid.Digest(body)
		check := func(how string) {
			t.Helper()
			got := next.take()
			require.Len(t, got, 1, how)
			require.Nil(t, got[0].Request, how)
			of := eventid.OfBody(got[0].Body, got[0].Request, got[0].Events)
			require.Equal(t, want, of.Digest, how)
			require.True(t, of.Whole, how)
		}
		for contentType, sent := range map[string][]byte{typeProtobuf: body, typeJSON: toJSON(t, s, body)} {
			for _, encoding := range []string{encodingNone, encodingGzip, encodingZstd} {
				headers := []string{"Content-Type", contentType, "X-Pulsegrid-Tenant", "acme"}
				if encoding != encodingNone {
					headers = append(headers, "Content-Encoding", encoding)
				}
				answer := r.post("/v1/"+s.String(), bytes.NewReader(compress(t, encoding, sent)), headers...)
				require.Equal(t, 200, answer.code, string(answer.body))
				check(contentType + " " + encoding)
			}
		}
		for _, compressor := range []string{"identity", "gzip", "zstd", "snappy"} {
			ctx := grpcmetadata.AppendToOutgoingContext(t.Context(), "x-pulsegrid-tenant", "acme")
			require.NoError(t, raw(ctx, conn, s, body, grpc.UseCompressor(compressor)))
			check("grpc " + compressor)
		}
	}
}

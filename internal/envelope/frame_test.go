package envelope

import (
	"bytes"
	"context"
	"testing"

	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Scenario: a body travels through a pipeline, unchanged or replaced.
// Guarantees: its frame is found only for the very bytes that came out of it.
func TestAFrameBelongsToItsBodyOnly(t *testing.T) {
	body, frames := []byte("a request"), []byte("frames")
	ctx := WithFrame(context.Background(), body, frames)
	ld := plog.NewLogs()
	Envelope{Signal: signal.Logs, Tenant: "t", Body: body}.Append(ld)
	es, err := All(ld)
	if err != nil {
		t.Fatal(err)
	}
	if got := Frame(ctx, es[0].Body); !bytes.Equal(got, frames) {
		t.Errorf("the frame of the unchanged body is %q", got)
	}
	for name, other := range map[string][]byte{"a copy": bytes.Clone(body), "a part": body[:3], "a later part": body[1:], "nothing": nil} {
		if got := Frame(ctx, other); got != nil {
			t.Errorf("%s of the body has the frame %q", name, got)
		}
	}
	if got := Frame(context.Background(), body); got != nil {
		t.Errorf("without a frame: %q", got)
	}
}

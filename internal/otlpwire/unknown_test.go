package otlpwire

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

func TestFieldsAroundEventsThatOTLPDoesNotHaveAreNamed(t *testing.T) {
	wrap := func(num protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), b)
	}
	for _, sig := range signal.All {
		require.Empty(t, Unknown(sig, nil))
		require.Empty(t, Unknown(sig, otlptest.Full(sig, 1)))
		require.Empty(t, Unknown(sig, wrap(1, wrap(oldField, nil))), "scopes from before OTLP 0.15")
		require.Equal(t, "field 9", Unknown(sig, wrap(9, nil)))
		require.Contains(t, Unknown(sig, wrap(1, wrap(2, wrap(9, nil)))), ".field 9")
		require.Contains(t, Unknown(sig, wrap(1, wrap(1, wrap(9, nil)))), "resource.field 9")
	}
}

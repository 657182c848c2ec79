package distributions_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

func TestTheExampleRegistryLoads(t *testing.T) {
	source, err := fileset.OpenTree(t.Context(), "gateway/schemas")
	require.NoError(t, err)
	l := schema.NewLoader(source)
	report, err := l.Reload(t.Context())
	require.NoError(t, err)
	require.Empty(t, report.Refused)
	require.Equal(t, 3, l.Registry().Schemas())
	require.Equal(t, []schema.Promotion{{Key: "shop.order.id", Type: "string"}}, l.Registry().Promoted(signal.Logs))
}

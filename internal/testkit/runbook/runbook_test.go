package runbook

import (
	"testing"

	"github.com/stretchr/testify/require"
)

const page = `# A page

    pulsegrid status

## It is down (really)

` + "`ItIsDown`" + `

**What to do.** Look, not here: pulsegrid status

    pulsegrid audit --from 2h
      pulsegrid indented
    kubectl get pods
    pulsegrid query "SELECT 1"

### A part of it

    pulsegrid tenant show default

## Kafka: what's up?

Nothing.
`

// Guarantees: a section is found by the anchor that GitHub gives its heading, ends at the next heading of its level, and has its commands as they are written.
func TestASectionIsFoundByItsAnchor(t *testing.T) {
	section := Section(page, "it-is-down-really")
	require.Contains(t, section, "`ItIsDown`")
	require.NotContains(t, section, "Kafka")
	require.Equal(t, []string{"pulsegrid audit --from 2h", `pulsegrid query "SELECT 1"`, "pulsegrid tenant show default"}, Commands(section))
	require.Contains(t, Section(page, "kafka-whats-up"), "Nothing.")
	require.Empty(t, Commands(Section(page, "kafka-whats-up")))
	for _, none := range []string{"", "a-page", "a-part-of-it", "It-is-down-really", "it-is-down"} {
		require.Empty(t, Section(page, none), none)
	}
	require.Len(t, Commands(page), 4)
}

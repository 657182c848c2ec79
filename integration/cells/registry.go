package cells

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// Tenants of the registry.
const (
	Europe   = "europe"   // jurisdiction eu, at home in eu-central, and may be in both cells of the EU
	America  = "america"  // jurisdiction us
	Anywhere = "anywhere" // of no jurisdiction, at home in eu-central
)

// writeRegistry makes a key for each tenant, and gives each cell a copy of the registry of its own.
func (c *Cells) writeRegistry() error {
	var b strings.Builder
	b.WriteString("jurisdictions:\n")
	for _, j := range jurisdictions {
		fmt.Fprintf(&b, "  %s: {endpoint: %q}\n", j, c.Endpoint(j))
	}
	b.WriteString("cells:\n")
	var eu []string
	for _, cell := range c.All {
		fmt.Fprintf(&b, "  %s: {jurisdiction: %s, endpoint: %q}\n", cell.Name, cell.Jurisdiction, c.Endpoint(cell.Name))
		if cell.Jurisdiction == "eu" {
			eu = append(eu, cell.Name)
		}
	}
	b.WriteString("tenants:\n")
	for _, t := range []struct{ id, more string }{
		{Europe, fmt.Sprintf("jurisdiction: eu, home: %s, cells: [%s], ", eu[0], strings.Join(eu, ", "))}, {America, "jurisdiction: us, "}, {Anywhere, fmt.Sprintf("home: %s, ", eu[0])},
	} {
		key, id, hash := tenant.NewKey()
		c.Keys[t.id] = key
		fmt.Fprintf(&b, "  - {id: %s, %skeys: [{id: %s, hash: %q}]}\n", t.id, t.more, id, hash)
	}
	for _, cell := range c.All {
		if err := os.WriteFile(filepath.Join(cell.Registry, "tenants.yaml"), []byte(b.String()), 0o600); err != nil {
			return err
		}
	}
	return nil
}

package settle

import (
	"fmt"

	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// Place is a cell as the list of cells has it.
type Place struct {
	Name, Jurisdiction string
	// MayLeave allows identities of this cell's events, of tenants without a jurisdiction, to go to another jurisdiction.
	MayLeave bool
}

// Allowed tells why identities of a tenant's events may not go from the guest to the home. here is the jurisdiction that this process runs in; reads are the places whose stores it reads.
// What is not known is not allowed.
func Allowed(t *tenant.Tenant, home, guest Place, here string, reads ...Place) error {
	switch {
	case home.Name == guest.Name:
		return fmt.Errorf("cell %s is both home and guest", home.Name)
	case t.Home == "":
		return fmt.Errorf("the registry names no home of tenant %q: nobody can tell which copies are to stay", t.ID)
	case t.Home != home.Name:
		return fmt.Errorf("the home of tenant %q is cell %s, and not %s", t.ID, t.Home, home.Name)
	case here == "":
		return fmt.Errorf("where this process runs is not known: identities could leave %s", guest.Jurisdiction)
	case t.Jurisdiction != "" && t.Jurisdiction != home.Jurisdiction:
		return leaves(t, home.Name, home.Jurisdiction)
	case t.Jurisdiction != "" && t.Jurisdiction != guest.Jurisdiction:
		return leaves(t, guest.Name, guest.Jurisdiction)
	case t.Jurisdiction != "" && t.Jurisdiction != here:
		return leaves(t, "this process", here)
	case home.Jurisdiction != guest.Jurisdiction && !guest.MayLeave:
		return fmt.Errorf("identities of events in cell %s may not leave %s for %s: identities_may_leave of the cell is false", guest.Name, guest.Jurisdiction, home.Jurisdiction)
	}
	for _, r := range reads {
		if r.Jurisdiction != here && (r.Name == home.Name || !guest.MayLeave || here != home.Jurisdiction) {
			return fmt.Errorf("this process is in %s, and would read cell %s in %s: run each side in its own cell", here, r.Name, r.Jurisdiction)
		}
	}
	return nil
}

func leaves(t *tenant.Tenant, where, jurisdiction string) error {
	return fmt.Errorf("data of tenant %q must stay in jurisdiction %q, its identities too, and %s is in %q: nothing was read", t.ID, t.Jurisdiction, where, jurisdiction)
}

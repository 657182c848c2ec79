package tenant

import (
	"fmt"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/component"
)

// Registry is what an extension offers to other components.
type Registry interface {
	// Snapshot is nil until the registry has been read for the first time: then nothing may be accepted.
	Snapshot() *Snapshot
	// Jurisdiction of this cell; empty: it has none, and takes only tenants that have none.
	Jurisdiction() string
	// Cell is the name of this cell; empty: it has none, and takes only tenants that may be in all cells of their jurisdictions.
	Cell() string
}

// Find returns the registry that a host's extensions offer: that of id, or of the only one that has one where id is nil.
func Find(host component.Host, id *component.ID) (Registry, error) {
	extensions := host.GetExtensions()
	if id != nil {
		ext, ok := extensions[*id]
		if !ok {
			return nil, fmt.Errorf("extension %q is not there: list it under service::extensions", id)
		}
		r, ok := ext.(Registry)
		if !ok {
			return nil, fmt.Errorf("extension %q is no registry of tenants", id)
		}
		return r, nil
	}
	var found Registry
	var names []string
	for name, ext := range extensions {
		if r, ok := ext.(Registry); ok {
			found = r
			names = append(names, name.String())
		}
	}
	slices.Sort(names)
	switch len(names) {
	case 1:
		return found, nil
	case 0:
		return nil, fmt.Errorf("no extension is a registry of tenants: list tenant_auth under service::extensions")
	}
	return nil, fmt.Errorf("extensions %s are all registries of tenants: name one", strings.Join(names, ", "))
}

// Package residency says of each tenant and day where its bytes are, and whether they may be there.
//
// Each cell takes an Inventory of its own: topics, tables, the lake's objects, spill, quarantine and backups, as they lie there, with the tenants that they name. Only counts and
// names leave the cell, signed. Judge puts the inventories of all declared cells beside the registry, and makes one Statement of each tenant. It denies by default: a cell without an
// inventory, a place that could not be read, and bytes of nobody known outside of a tenant's jurisdiction leave that tenant unproven.
//
// Nothing here asks the catalog of the lake, or the ledger, which objects there are: objects that no snapshot names hold bytes too.
package residency

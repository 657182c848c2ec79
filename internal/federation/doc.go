// Package federation reads rollups over cells: each cell's ClickHouse adds up what it has, the answers are added, and the freshness of each cell stands beside them. A cell that does not answer is named, and its rows are
// in no sum.
//
// A reader is in one jurisdiction. From a cell of another one it asks for tenants only that the registry knows and pins to none, and the cell's own answer has no others: rows of a pinned tenant, and sums of them, do not
// leave its jurisdiction.
package federation

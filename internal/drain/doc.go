// Package drain takes a cell out of service and back, and says when nothing is left in the cell that is nowhere else.
//
//	cells.go    the operator's list of cells, a file
//	drain.go    drain.yaml, which gateways follow, written
//	kafka.go    what consumer groups have not stored yet
//	status.go   a look at a cell: its gateways, its spill, its groups; whether it is safe to take it away
package drain

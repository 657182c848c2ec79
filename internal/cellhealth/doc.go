// Package cellhealth is what a cell's health check and the components of its gateways owe each other, and the file by which an operator drains a cell.
//
//	board.go   checks that components offer to the extension, and what it tells them
//	state.go   drain.yaml
package cellhealth

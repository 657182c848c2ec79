package rig

import (
	"net"

	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/orchestration"
)

// NewTemporal describes a Temporal server for jobs, which keeps what it knows in the file db. Its UI listens beside the address.
func NewTemporal(db string) (server *Process, address string, err error) {
	program, err := cell.FindDevServer()
	if err != nil {
		return nil, "", err
	}
	address, ui := FreeAddr(), FreeAddr()
	_, port, _ := net.SplitHostPort(address) // FreeAddr's are addresses
	_, uiPort, _ := net.SplitHostPort(ui)
	argv := []string{program, "-port", port, "-ui-port", uiPort, "-db", db}
	for _, name := range orchestration.SearchAttributes() {
		argv = append(argv, "-keyword", name)
	}
	return NewProcess(nil, []string{address, ui}, argv...), address, nil
}

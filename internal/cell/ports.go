package cell

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
)

// ports are the loopback ports that outlive a run, so that a client's settings stay good over restarts.
type ports struct {
	Kafka      int `json:"kafka"`
	ClickHouse int `json:"clickhouse"` // HTTP
	Temporal   int `json:"temporal,omitempty"`
	TemporalUI int `json:"temporal_ui,omitempty"`
}

func loadPorts(l layout) ports {
	var p ports
	if b, err := os.ReadFile(l.ports()); err == nil {
		_ = json.Unmarshal(b, &p) // unreadable: as if there were none
	}
	return p
}

func (p ports) save(l layout) error { return writeJSON(l.ports(), p) }

// choosePort gives the port that a flag asks for, which must be free; else last, if that is free; else any free one.
func choosePort(flag string, asked, last int) (int, error) {
	if asked != 0 {
		return asked, checkFree(flag, net.JoinHostPort("127.0.0.1", strconv.Itoa(asked)))
	}
	if last != 0 && checkFree(flag, net.JoinHostPort("127.0.0.1", strconv.Itoa(last))) == nil {
		return last, nil
	}
	addr, err := freeAddress("127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return portOf(addr), nil
}

// checkFree fails where nobody could listen on addr, and names the flag to change.
func checkFree(flag, addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%s: %s cannot be listened on: %w: free it, or choose another with %s", flag, addr, errors.Unwrap(err), flag)
	}
	return ln.Close()
}

// freeAddress replaces port 0 by a port that is free now.
func freeAddress(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port != "0" {
		return addr, err
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = ln.Close() }()
	return net.JoinHostPort(host, strconv.Itoa(portOf(ln.Addr().String()))), nil
}

func portOf(addr string) int {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(port) // not a number: 0, no port
	return n
}

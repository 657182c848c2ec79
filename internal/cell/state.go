package cell

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/wholefile"
)

// State is what a running cell tells other commands, in state.json of its data directory.
type State struct {
	Version   string    `json:"version"`
	PID       int       `json:"pid"`
	Started   time.Time `json:"started"`
	DataDir   string    `json:"data_dir"`
	Ready     bool      `json:"ready"` // every part has answered its health check once
	Endpoints Endpoints `json:"endpoints"`
	Processes []Process `json:"processes"`
}

// Endpoints are the addresses of a cell's parts.
type Endpoints struct {
	GRPC               string `json:"otlp_grpc"`       // host:port
	HTTP               string `json:"otlp_http"`       // host:port
	Kafka              string `json:"kafka"`           // host:port
	ClickHouseHTTP     string `json:"clickhouse_http"` // host:port
	ClickHouseUser     string `json:"clickhouse_user"`
	ClickHousePassword string `json:"clickhouse_password"`      // of the user; another at each start
	GatewayHealth      string `json:"gateway_health"`           // URL
	GatewayMetrics     string `json:"gateway_metrics"`          // URL
	AggregatorHealth   string `json:"aggregator_health"`        // URL
	AggregatorMetrics  string `json:"aggregator_metrics"`       // URL
	Warehouse          string `json:"lake_warehouse"`           // URI
	Catalog            string `json:"lake_catalog"`             // URI, as pyiceberg's SqlCatalog takes it
	Temporal           string `json:"temporal,omitempty"`       // host:port; empty: the cell runs without
	TemporalUI         string `json:"temporal_ui,omitempty"`    // URL
	WorkerMetrics      string `json:"worker_metrics,omitempty"` // URL
}

// Process is one child process.
type Process struct {
	Name      string `json:"name"`
	PID       int    `json:"pid"` // 0: not running
	Restarts  int    `json:"restarts"`
	LastError string `json:"last_error,omitempty"`
	Log       string `json:"log"`
}

// ErrNotRunning is returned where no cell runs in the data directory.
var ErrNotRunning = errors.New("no cell is running")

// ReadState returns the state of the cell that runs in the data directory, else ErrNotRunning.
func ReadState(dataDir string) (State, error) {
	var s State
	abs, err := filepath.Abs(dataDir)
	if err != nil {
		return s, fmt.Errorf("--data %q: %w", dataDir, err)
	}
	l := layout(abs)
	b, err := os.ReadFile(l.state())
	if errors.Is(err, fs.ErrNotExist) || (err == nil && !locked(l)) {
		return s, fmt.Errorf("%w in %s: start one with `pulsegrid local`, or name its data directory with --data", ErrNotRunning, abs)
	}
	if err != nil {
		return s, fmt.Errorf("state of the cell: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("state of the cell: %s: %w", l.state(), err)
	}
	return s, nil
}

// writeJSON replaces a file at once.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := wholefile.Write(path, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

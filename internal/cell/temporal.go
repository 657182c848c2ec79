package cell

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/pulsegrid/pulsegrid/internal/chengine"
)

// devServerSum is of the folder in which tools/install.sh keeps the Temporal server: of orchestration/devserver, which a test compares.
const devServerSum = "7d68b5f55312"

// FindDevServer returns the path of the Temporal server that tools/install.sh builds from orchestration/devserver. Where there is none, the error says how to install it.
func FindDevServer() (string, error) {
	path, err := chengine.Installed("temporal-"+devServerSum, "devserver")
	if err != nil {
		return "", fmt.Errorf("--orchestration: the Temporal server is not installed: run `tools/install.sh temporal` (some minutes, once): %w", err)
	}
	return path, nil
}

func (l layout) temporal() string { return l.path("temporal", "server.db") }

// startTemporal starts the Temporal server. The worker follows when the cell's state can be read.
func (c *Cell) startTemporal(p *ports) error {
	program, err := FindDevServer()
	if err != nil {
		return err
	}
	if p.Temporal, err = choosePort("", 0, p.Temporal); err != nil {
		return err
	}
	if p.TemporalUI, err = choosePort("", 0, p.TemporalUI); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(c.layout.temporal()), 0o700); err != nil {
		return err
	}
	log, err := openLog(c.layout.log("temporal"))
	if err != nil {
		return err
	}
	at := func(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
	c.state.Endpoints.Temporal, c.state.Endpoints.TemporalUI = at(p.Temporal), "http://"+at(p.TemporalUI)
	command := []string{program, "-port", strconv.Itoa(p.Temporal), "-ui-port", strconv.Itoa(p.TemporalUI), "-db", c.layout.temporal()}
	for _, name := range c.options.SearchAttributes {
		command = append(command, "-keyword", name)
	}
	c.temporal = newChild("temporal", command, nil, log, c.screen.event)
	c.temporal.start()
	return nil
}

// startWorker starts the process that does what jobs need.
func (c *Cell) startWorker() error {
	log, err := openLog(c.layout.log("worker"))
	if err != nil {
		return err
	}
	metrics, err := freeAddress("127.0.0.1:0")
	if err != nil {
		return err
	}
	c.state.Endpoints.WorkerMetrics = "http://" + metrics + "/metrics"
	// Settings of another Temporal in the surroundings are not for this one.
	env := []string{
		"TEMPORAL_ADDRESS=" + c.state.Endpoints.Temporal, "TEMPORAL_NAMESPACE=default", "TEMPORAL_API_KEY=", "TEMPORAL_TLS=false",
		"TEMPORAL_CONFIG_FILE=" + os.DevNull, "TEMPORAL_PROFILE=",
	}
	c.worker = newChild("worker", append(c.options.Worker, "--data", c.options.DataDir, "--metrics", metrics), env, log, c.screen.event)
	c.worker.start()
	return nil
}

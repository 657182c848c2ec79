package rig

import (
	"fmt"
	"net/http"
	"time"
)

// Server is a program of the monitoring.
type Server struct {
	*Process
	URL string // where it is reached
}

// StartPrometheus runs Prometheus (`tools/install.sh prometheus`) with a configuration. Its data lie in data.
func StartPrometheus(config, data string) (*Server, error) {
	return startServer("prometheus", "/-/ready", func(addr string) []string {
		return []string{"--config.file=" + config, "--storage.tsdb.path=" + data, "--web.listen-address=" + addr, "--log.level=warn"}
	})
}

// StartAlertmanager runs Alertmanager (`tools/install.sh alertmanager`) with a configuration, alone. Its data lie in data.
func StartAlertmanager(config, data string) (*Server, error) {
	return startServer("alertmanager", "/-/ready", func(addr string) []string {
		return []string{"--config.file=" + config, "--storage.path=" + data, "--web.listen-address=" + addr, "--cluster.listen-address=", "--log.level=warn"}
	})
}

// StartNodeExporter runs the node exporter (`tools/install.sh node_exporter`), which reads the files *.prom of a directory and, with further flags, what these name.
func StartNodeExporter(textfiles string, further ...string) (*Server, error) {
	return startServer("node_exporter", "/metrics", func(addr string) []string {
		return append([]string{"--web.listen-address=" + addr, "--collector.disable-defaults", "--collector.textfile", "--collector.textfile.directory=" + textfiles, "--log.level=warn"}, further...)
	})
}

// startServer runs a program on a free port of this host, and returns when it answers at the path.
func startServer(name, ready string, args func(addr string) []string) (*Server, error) {
	binary, err := Tool(name)
	if err != nil {
		return nil, err
	}
	addr := FreeAddr()
	s := &Server{NewProcess(nil, []string{addr}, append([]string{binary}, args(addr)...)...), "http://" + addr}
	if err := s.Start(startTimeout); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(100 * time.Millisecond) {
		resp, err := http.Get(s.URL + ready)
		if err == nil {
			_ = resp.Body.Close() // its status says all
			if resp.StatusCode == http.StatusOK {
				return s, nil
			}
			err = fmt.Errorf("status %s", resp.Status)
		}
		if time.Now().After(deadline) {
			s.Kill()
			return nil, fmt.Errorf("%s is not ready after %v: %w\n%s", name, startTimeout, err, s.Log())
		}
	}
}

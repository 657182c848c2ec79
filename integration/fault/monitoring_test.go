package fault

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/observability"
)

// monitoring watches a rig as production is watched: Prometheus and Alertmanager with the files of observability/, and the node exporter for the audit's verdicts.
type monitoring struct {
	*pager
	prometheus *rig.Server
	targets    int
}

const monitored = "rehearsal" // label cell of the targets

// monitor starts it. Of the files only addresses are changed, and their durations divided by factor. *.prom of dir are the audit's, further are URLs by the job that scrapes them, and
// disks the mount points that the node exporter looks at.
func (r *run) monitor(dir string, factor int, further map[string][]string, disks ...string) *monitoring {
	r.t.Helper()
	m := &monitoring{pager: newPager()}
	r.t.Cleanup(m.server.Close)
	files := filepath.Join(dir, "observability")
	key := filepath.Join(files, "pager.key")
	r.deploy(files, "alertmanager.yaml", factor, map[string]string{
		"routing_key_file: /etc/alertmanager/pager.key": "routing_key_file: " + key + "\n        url: " + m.server.URL + pagePath,
		"http://127.0.0.1:9099/tickets":                 m.server.URL + ticketPath,
	})
	r.must(os.WriteFile(key, []byte("rehearsal\n"), 0o600))
	alertmanager := r.serve(rig.StartAlertmanager(filepath.Join(files, "alertmanager.yaml"), filepath.Join(dir, "alertmanager")))
	var flags []string
	if len(disks) > 0 {
		// It reads the mounts of process 1, which is in another mount namespace than this program. Without a process 1 in its procfs it reads its own.
		proc := filepath.Join(dir, "proc")
		r.must(errors.Join(os.Mkdir(proc, 0o755), os.Symlink("/proc/self", filepath.Join(proc, "self"))))
		flags = []string{"--path.procfs=" + proc, "--collector.filesystem", "--collector.filesystem.mount-points-include=^(" + strings.Join(disks, "|") + ")$"}
	}
	node := r.serve(rig.StartNodeExporter(dir, flags...))

	r.deploy(files, "prometheus.yaml", factor, map[string]string{"127.0.0.1:9093": strings.TrimPrefix(alertmanager.URL, "http://")})
	for _, pattern := range []string{"rules/*.yaml", "alerts/*.yaml"} {
		found, err := filepath.Glob(filepath.Join(rig.Root(), "observability", pattern))
		r.must(err)
		for _, path := range found {
			name, err := filepath.Rel(filepath.Join(rig.Root(), "observability"), path)
			r.must(err)
			r.deploy(files, name, factor, nil)
		}
	}
	target := func(job string, urls ...string) {
		var targets []map[string]any
		for _, u := range urls {
			parsed, err := url.Parse(u)
			r.must(err)
			labels := map[string]string{"cell": monitored}
			if parsed.Path != "" {
				labels["__metrics_path__"] = parsed.Path
			}
			for name := range parsed.Query() {
				labels["__param_"+name] = parsed.Query().Get(name)
			}
			targets = append(targets, map[string]any{"targets": []string{parsed.Host}, "labels": labels})
		}
		m.targets += len(urls)
		text, err := json.Marshal(targets)
		r.must(err)
		r.must(os.MkdirAll(filepath.Join(files, "targets"), 0o755))
		r.must(os.WriteFile(filepath.Join(files, "targets", job+".yaml"), text, 0o600)) // JSON is YAML
	}
	var gateways, aggregators []string
	for _, g := range r.Gateways {
		gateways = append(gateways, g.MetricsURL())
	}
	for _, a := range r.Aggregators[:len(r.Aggregators)-1] { // the last one is a spare
		aggregators = append(aggregators, a.MetricsURL())
	}
	target("gateway", gateways...)
	target("aggregator", aggregators...)
	target("node", node.URL)
	for job, urls := range further {
		target(job, urls...)
	}
	m.prometheus = r.serve(rig.StartPrometheus(filepath.Join(files, "prometheus.yaml"), filepath.Join(dir, "prometheus")))
	return m
}

// deploy writes a file of observability/, with addresses replaced and durations divided.
func (r *run) deploy(to, name string, factor int, replace map[string]string) {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join(rig.Root(), "observability", name))
	r.must(err)
	content := string(text)
	for from, with := range replace {
		if strings.Count(content, from) != 1 {
			r.t.Fatalf("observability/%s: %q must be there once", name, from)
		}
		content = strings.Replace(content, from, with, 1)
	}
	short, err := observability.Shorten([]byte(content), factor)
	r.must(err)
	path := filepath.Join(to, name)
	r.must(os.MkdirAll(filepath.Dir(path), 0o755))
	r.must(os.WriteFile(path, short, 0o600))
}

// serve stops a server when the test ends.
func (r *run) serve(s *rig.Server, err error) *rig.Server {
	r.t.Helper()
	r.must(err)
	r.t.Cleanup(func() {
		s.Stop(stopGrace)
		if r.t.Failed() {
			r.t.Log(s.Log())
		}
	})
	return s
}

// query returns the value of an expression of one series; none: 0.
func (m *monitoring) query(expr string) (string, error) {
	resp, err := http.Get(m.prometheus.URL + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	var answer struct {
		Data struct {
			Result []struct{ Value [2]any }
		}
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s: %s", expr, resp.Status, body)
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", fmt.Errorf("%s: %s: %w", expr, body, err)
	}
	if len(answer.Data.Result) == 0 {
		return "0", nil
	}
	return fmt.Sprint(answer.Data.Result[0].Value[1]), nil
}

// waitUp returns when every target is scraped.
func (m *monitoring) waitUp(timeout time.Duration) error {
	var up string
	var err error
	if !until(func() bool {
		up, err = m.query("count(up == 1)")
		return err == nil && up == fmt.Sprint(m.targets)
	}, timeout) {
		return errors.Join(fmt.Errorf("%q of %d targets are scraped", up, m.targets), err)
	}
	return nil
}

package rig

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"go.opentelemetry.io/collector/confmap"
	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/internal/testkit/s3test"
)

// Shell is an operator's: it stands in a directory in which pulsegrid-data tells of a running cell, and finds the pulsegrid command that was built.
type Shell struct {
	Dir string
	Env map[string]string // further variables
}

// Run runs a command line and returns what it printed, on both streams.
func (s Shell) Run(command string) (string, error) {
	cmd := exec.Command("sh", "-c", command)
	cmd.Dir = s.Dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(Root(), "_build")+":"+os.Getenv("PATH"))
	for name, value := range s.Env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Runbook is a page of docs/runbooks.
func Runbook(page string) (string, error) {
	text, err := os.ReadFile(filepath.Join(Root(), "docs", "runbooks", page))
	return string(text), err
}

// Operator makes dir a place in which commands find the rig as they find the cell of `pulsegrid local`, until leave is called: so runbooks can be followed as they are written.
// The commands reach the parts without the rig's links; of gateways and aggregators they look at the first. gateway.yaml and aggregator.yaml in dir are those of distributions/.
func (r *Rig) Operator(dir string) (s Shell, leave func(), err error) {
	data := filepath.Join(dir, "pulsegrid-data")
	if err := os.MkdirAll(filepath.Join(data, "config"), 0o700); err != nil {
		return s, nil, err
	}
	gateway, aggregator := r.Gateways[0], r.Aggregators[0]
	state, err := json.Marshal(cell.State{Version: "rig", PID: os.Getpid(), Started: time.Now(), DataDir: data, Ready: true, Endpoints: cell.Endpoints{
		GRPC: gateway.GRPC, HTTP: gateway.HTTP, Kafka: r.Kafka.Brokers()[0], ClickHouseHTTP: r.chHTTP,
		GatewayHealth: "http://" + gateway.health, GatewayMetrics: gateway.MetricsURL(),
		AggregatorHealth: "http://" + aggregator.health, AggregatorMetrics: aggregator.MetricsURL(),
		Warehouse: r.Warehouse(), Catalog: r.Catalog(),
	}})
	if err != nil {
		return s, nil, err
	}
	config := func(tier string) string { return filepath.Join(Root(), "distributions", tier, "config.yaml") }
	merged, err := mergedConfig(append([]string{config("aggregator")}, r.opts.AggregatorConfigs...))
	if err != nil {
		return s, nil, err
	}
	ofGateways, err := mergedConfig(append([]string{config("gateway")}, r.opts.GatewayConfigs...))
	if err != nil {
		return s, nil, err
	}
	files := map[string][]byte{"pulsegrid-data/state.json": state, "pulsegrid-data/config/aggregator.yaml": merged, "pulsegrid-data/config/gateway.yaml": ofGateways}
	for _, tier := range []string{"gateway", "aggregator"} {
		if files[tier+".yaml"], err = os.ReadFile(config(tier)); err != nil {
			return s, nil, err
		}
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return s, nil, err
		}
	}
	lock, err := os.Create(filepath.Join(data, "lock"))
	if err != nil {
		return s, nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil { // held by whoever runs the cell
		return s, nil, errors.Join(err, lock.Close())
	}
	s.Dir, s.Env = dir, r.objectEnv()
	return s, func() { _ = lock.Close() }, nil // which gives the lock back
}

// objectEnv are the variables by which commands find the object store, without the rig's links.
func (r *Rig) objectEnv() map[string]string {
	if r.Objects == nil {
		return map[string]string{}
	}
	endpoint := r.CatalogProperties()["s3.endpoint"]
	return map[string]string{
		"AWS_S3_ENDPOINT": endpoint, "AWS_REGION": s3test.Region, "AWS_ACCESS_KEY_ID": s3test.AccessKey, "AWS_SECRET_ACCESS_KEY": s3test.SecretKey,
		"PULSEGRID_S3_ENDPOINT": endpoint, "PULSEGRID_S3_REGION": s3test.Region, "PULSEGRID_S3_ACCESS_KEY_ID": s3test.AccessKey, "PULSEGRID_S3_SECRET_ACCESS_KEY": s3test.SecretKey,
		"PULSEGRID_GATEWAY": "operator", "PULSEGRID_SPILL_URL": bucketURL(spillBucket, endpoint), "PULSEGRID_OVERSIZED_URL": bucketURL(oversizedBucket, endpoint),
	}
}

var variable = regexp.MustCompile(`\$\{env:(\w+)(?::-([^}]*))?\}`)

// AggregatorFile writes the configuration of the rig's aggregators into a file, with what its variables stand for: it leads to the rig's stores, without its links.
func (r *Rig) AggregatorFile(path string) error {
	merged, err := mergedConfig(append([]string{filepath.Join(Root(), "distributions", "aggregator", "config.yaml")}, r.opts.AggregatorConfigs...))
	if err != nil {
		return err
	}
	values := map[string]string{
		"PULSEGRID_KAFKA_BROKERS": strings.Join(r.Kafka.Brokers(), ","), "PULSEGRID_CLICKHOUSE_HTTP": r.chHTTP, "PULSEGRID_LAKE_CATALOG": r.CatalogFile(), "PULSEGRID_LAKE_WAREHOUSE": r.Warehouse(),
	}
	maps.Copy(values, r.objectEnv())
	text := variable.ReplaceAllStringFunc(string(merged), func(found string) string {
		parts := variable.FindStringSubmatch(found)
		return cmp.Or(values[parts[1]], parts[2])
	})
	return os.WriteFile(path, []byte(text), 0o600)
}

// mergedConfig is what the Collector makes of several --config.
func mergedConfig(files []string) ([]byte, error) {
	all := confmap.New()
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var values map[string]any
		if err := yaml.Unmarshal(text, &values); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if err := all.Merge(confmap.NewFromStringMap(values)); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return yaml.Marshal(all.ToStringMap())
}

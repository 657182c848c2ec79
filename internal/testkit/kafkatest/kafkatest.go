// Package kafkatest runs Apache Kafka itself, for tests, benchmarks and the fault rig: KRaft nodes, each broker and controller
// at once, on free loopback ports, in a directory of their own, as children that die with their parent.
//
// The jars are those that tools/install.sh installs; a java of version 17 or later must be in the PATH or below $JAVA_HOME.
package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/pulsegrid/pulsegrid/internal/testkit/freeport"
)

// Options of a cluster.
type Options struct {
	// Nodes is how many; 0: 1. Topics without a replication factor of their own get min(Nodes, 3) replicas.
	Nodes int
	// Dir holds the nodes' logs and data, and stays. Empty: a temporary directory, removed by Close.
	Dir string
	// Secure adds two SASL_SSL listeners: one of SCRAM-SHA-512 with Username and Password, one of AWS MSK's IAM tokens.
	Secure bool
	// Properties are added to every node's server.properties.
	Properties map[string]string
	// Listeners are further plaintext listeners, by name (capital letters and digits). Each one's function is given a node and the
	// address that it listens on, and returns the address that the node advertises: a proxy's, for instance.
	Listeners map[string]func(node int, address string) (advertised string, err error)
	// InterBroker is which of Listeners the nodes talk to each other by. Empty: the one that Brokers names.
	InterBroker string
	// Metrics has every node serve its MBeans to Prometheus, at MetricsURL, under the names that Amazon MSK's open monitoring gives them: by the JMX exporter
	// (tools/install.sh jmx_exporter).
	Metrics bool
}

// Credentials of the SCRAM listener.
const (
	Username = "app"
	Password = "app-secret"
)

// Limits of waiting.
const (
	startTimeout = 5 * time.Minute // a node serves after seconds; three of them on cores that do much else take minutes
	stopTimeout  = time.Minute
	startTries   = 3 // a port that was free may be taken before the node takes it
)

const clusterID = "MkU3OEVBNTcwNTJENDM2Qg"

// Cluster is a running cluster. Its nodes' indexes are also their Kafka node ids, from 0. Its methods may be called from
// several goroutines, but two calls about the same node may not overlap.
type Cluster struct {
	opts      Options
	dir       string
	removeDir bool
	tools     tools
	nodes     []*node
	closeOnce sync.Once
	closeErr  error
}

// Start runs a cluster until the test ends; a failed test's log shows the end of each node's log.
func Start(t testing.TB, nodes int) *Cluster {
	t.Helper()
	return StartWith(t, Options{Nodes: nodes})
}

// StartWith is Start with options.
func StartWith(t testing.TB, opts Options) *Cluster {
	t.Helper()
	c, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for i := range c.nodes {
				t.Logf("kafka node %d, end of its log:\n%s", i, c.LogTail(i))
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// New runs a cluster and returns when every node serves.
func New(opts Options) (*Cluster, error) {
	if opts.Nodes == 0 {
		opts.Nodes = 1
	}
	tl, err := findTools()
	if err == nil && opts.Metrics {
		tl.exporter, err = findExporter()
	}
	if err != nil {
		return nil, err
	}
	var errs []error
	for range startTries {
		c, err := start(opts, tl)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
		if !strings.Contains(err.Error(), "BindException") {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func start(opts Options, tl tools) (*Cluster, error) {
	c := &Cluster{opts: opts, dir: opts.Dir, tools: tl}
	if c.dir == "" {
		dir, err := os.MkdirTemp("", "kafka-")
		if err != nil {
			return nil, err
		}
		c.dir, c.removeDir = dir, true
	}
	if err := c.up(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) up() error {
	if c.opts.Secure {
		if err := c.makeSecrets(); err != nil {
			return err
		}
	}
	if err := os.WriteFile(c.path("log4j2.yaml"), log4j2, 0o600); err != nil {
		return err
	}
	if c.tools.exporter != "" {
		if err := os.WriteFile(c.path(exporterConfig), exported, 0o600); err != nil {
			return err
		}
	}
	each := portsPerNode + len(c.opts.Listeners)
	ports := make([]int, c.opts.Nodes*each)
	for i := range ports {
		var err error
		if ports[i], err = freeport.Port(); err != nil {
			return err
		}
	}
	for i := range c.opts.Nodes {
		n := &node{id: i, dir: c.path("node" + strconv.Itoa(i)), ports: [portsPerNode]int(ports[i*each:])}
		if err := c.advertise(n, ports[i*each+portsPerNode:(i+1)*each]); err != nil {
			return err
		}
		c.nodes = append(c.nodes, n)
	}
	if err := c.forEach(func(n *node) error { return c.format(n) }); err != nil {
		return err
	}
	return c.forEach(func(n *node) error {
		if err := c.spawn(n); err != nil {
			return err
		}
		return c.ready(n, c.opts.Nodes)
	})
}

// advertise gives each of Options.Listeners a port of node n and asks what the node is to advertise for it.
func (c *Cluster) advertise(n *node, ports []int) error {
	for i, name := range slices.Sorted(maps.Keys(c.opts.Listeners)) {
		l := listener{name: name, address: net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[i]))}
		var err error
		if l.advertised, err = c.opts.Listeners[name](n.id, l.address); err != nil {
			return fmt.Errorf("listener %s of kafka node %d: %w", name, n.id, err)
		}
		n.listeners = append(n.listeners, l)
	}
	return nil
}

func (c *Cluster) path(name string) string { return filepath.Join(c.dir, name) }

func (c *Cluster) forEach(do func(*node) error) error {
	errs := make([]error, len(c.nodes))
	var wg sync.WaitGroup
	for i, n := range c.nodes {
		wg.Go(func() { errs[i] = do(n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Brokers are the plaintext addresses.
func (c *Cluster) Brokers() []string { return c.addresses(portClient) }

// BrokersOn are the addresses that the nodes advertise on one of Options.Listeners.
func (c *Cluster) BrokersOn(name string) []string {
	var out []string
	for _, n := range c.nodes {
		for _, l := range n.listeners {
			if l.name == name {
				out = append(out, l.advertised)
			}
		}
	}
	return out
}

// DataDir is where node i keeps its logs: a directory "topic-partition" each.
func (c *Cluster) DataDir(i int) string { return c.nodes[i].data() }

// ScramBrokers are the addresses of the SASL_SSL listener for SCRAM-SHA-512; with Options.Secure only.
func (c *Cluster) ScramBrokers() []string { return c.addresses(portScram) }

// IAMBrokers are the addresses of the SASL_SSL listener for AWS MSK's IAM tokens; with Options.Secure only.
func (c *Cluster) IAMBrokers() []string { return c.addresses(portIAM) }

// CAFile is the certificate that the SASL_SSL listeners' certificate is signed by; with Options.Secure only.
func (c *Cluster) CAFile() string { return c.path(caFile) }

func (c *Cluster) addresses(port int) []string {
	out := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		out[i] = n.address(port)
	}
	return out
}

// PID is node i's process, while it runs.
func (c *Cluster) PID(i int) int { return c.nodes[i].process.Pid }

// Kill ends node i at once (SIGKILL) and returns when it has gone.
func (c *Cluster) Kill(i int) error { return c.nodes[i].end(true) }

// Terminate asks node i to leave (SIGTERM: leaders move, logs are closed) and returns when it has gone.
func (c *Cluster) Terminate(i int) error { return c.nodes[i].end(false) }

// MetricsURLs are where the nodes serve metrics, with Options.Metrics.
func (c *Cluster) MetricsURLs() (urls []string) {
	for _, n := range c.nodes {
		urls = append(urls, "http://"+n.address(portMetrics)+"/metrics")
	}
	return urls
}

// Restart starts node i, which must have been ended, on its own ports and data, and returns when it serves.
func (c *Cluster) Restart(i int) error {
	if err := c.spawn(c.nodes[i]); err != nil {
		return err
	}
	return c.ready(c.nodes[i], 1)
}

// Pause freezes node i (SIGSTOP): its connections stay open, and nothing answers. Undo it with Resume.
func (c *Cluster) Pause(i int) error { return c.nodes[i].freeze(true) }

// Resume undoes Pause.
func (c *Cluster) Resume(i int) error { return c.nodes[i].freeze(false) }

// LogTail returns the last lines of node i's log.
func (c *Cluster) LogTail(i int) string { return tail(filepath.Join(c.nodes[i].dir, "log"), 20) }

// Close ends every node. It may be called more than once.
func (c *Cluster) Close() error {
	c.closeOnce.Do(func() {
		// SIGKILL: nobody reads the data again, and an orderly end takes seconds.
		c.closeErr = c.forEach(func(n *node) error { return n.end(true) })
		if c.removeDir {
			c.closeErr = errors.Join(c.closeErr, os.RemoveAll(c.dir))
		}
	})
	return c.closeErr
}

// ready waits until node n itself answers and knows of the given number of brokers, itself among them.
func (c *Cluster) ready(n *node, brokers int) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(n.address(portClient)), kgo.DialTimeout(time.Second), kgo.RequestTimeoutOverhead(2*time.Second), kgo.RequestRetries(0))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		if n.gone() {
			return fmt.Errorf("kafka node %d ended while starting:\n%s", n.id, c.LogTail(n.id))
		}
		if knows(ctx, client, int32(n.id)) >= brokers {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kafka node %d does not serve after %v:\n%s", n.id, startTimeout, c.LogTail(n.id))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// knows asks the seed how many brokers it knows of; 0 unless it has a controller and id is among them.
func knows(ctx context.Context, client *kgo.Client, id int32) int {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	resp, err := client.SeedBrokers()[0].Request(ctx, req)
	if err != nil {
		return 0
	}
	md := resp.(*kmsg.MetadataResponse)
	if md.ControllerID < 0 {
		return 0
	}
	for _, b := range md.Brokers {
		if b.NodeID == id {
			return len(md.Brokers)
		}
	}
	return 0
}

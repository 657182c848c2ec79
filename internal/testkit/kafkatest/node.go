package kafkatest

import (
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

//go:embed testdata/log4j2.yaml
var log4j2 []byte

// exported is the JMX exporter's configuration: of the MBeans that rules name, all attributes by their names, as Amazon MSK has them.
var exported = []byte("includeObjectNames: ['kafka.server:type=ReplicaManager,*']\nrules: [{pattern: '.*'}]\n")

const exporterConfig = "jmx_exporter.yaml"

// Ports of a node.
const (
	portClient = iota
	portController
	portScram
	portIAM
	portMetrics
	portsPerNode
)

type node struct {
	id        int
	dir       string
	ports     [portsPerNode]int
	listeners []listener // by name

	process *os.Process
	exited  chan struct{} // closed when the process has been waited for; nil: never started
}

// listener is one of Options.Listeners.
type listener struct {
	name       string
	address    string // that the node listens on
	advertised string
}

func (n *node) data() string { return filepath.Join(n.dir, "data") }

func (n *node) address(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(n.ports[port]))
}

func (n *node) gone() bool {
	select {
	case <-n.exited:
		return true
	default:
		return n.exited == nil
	}
}

// end stops the process and waits for it. A process that is gone, or never was, is ended.
func (n *node) end(kill bool) error {
	if n.gone() {
		return nil
	}
	sig := syscall.SIGTERM
	if kill {
		sig = syscall.SIGKILL
	}
	if err := n.process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("ending kafka node %d: %w", n.id, err)
	}
	select {
	case <-n.exited:
		return nil
	case <-time.After(stopTimeout):
		_ = n.process.Kill()
		<-n.exited
		return fmt.Errorf("kafka node %d did not end within %v and was killed", n.id, stopTimeout)
	}
}

func (n *node) freeze(on bool) error {
	if n.gone() {
		return fmt.Errorf("kafka node %d is not running", n.id)
	}
	sig := syscall.SIGCONT
	if on {
		sig = syscall.SIGSTOP
	}
	return n.process.Signal(sig)
}

// spawn starts the broker. The goroutine that forks it stays on its thread until the child has ended: the kernel kills the child
// when the *thread* that made it dies (Pdeathsig), and so the child lives exactly as long as this process, SIGKILL included.
func (c *Cluster) spawn(n *node) error {
	if !n.gone() {
		return fmt.Errorf("kafka node %d is running", n.id)
	}
	log, err := os.OpenFile(filepath.Join(n.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	args := c.javaArgs()
	if c.tools.exporter != "" {
		args = append([]string{"-javaagent:" + c.tools.exporter + "=" + n.address(portMetrics) + ":" + c.path(exporterConfig)}, args...)
	}
	cmd := exec.Command(c.tools.java, append(args, "kafka.Kafka", n.properties())...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + n.dir}
	// A group of its own: a terminal's interrupt must not reach the broker before the test has cleaned up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started, exited := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(exited)
		defer log.Close()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its log
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("starting kafka node %d: %w", n.id, err)
	}
	n.process, n.exited = cmd.Process, exited
	return nil
}

// javaArgs: a small heap, the collector and compiler that start fastest, and the class archive where there is one. Measured on
// two cores: one node serves after 4.8 s instead of 14 s.
func (c *Cluster) javaArgs() []string {
	args := []string{"-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Djava.awt.headless=true", "-Dlog4j2.configurationFile=" + c.path("log4j2.yaml")}
	if c.tools.archive != "" {
		args = append(args, "-XX:SharedArchiveFile="+c.tools.archive)
	}
	classpath := c.tools.classpath
	if c.opts.Secure {
		classpath += ":" + c.path(validatorJar)
	}
	return append(args, "-cp", classpath)
}

func (n *node) properties() string { return filepath.Join(n.dir, "server.properties") }

// format writes the node's properties and its empty data directory.
func (c *Cluster) format(n *node) error {
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(n.properties(), []byte(c.serverProperties(n)), 0o600); err != nil {
		return err
	}
	args := append(c.javaArgs(), "kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", clusterID, "-c", n.properties())
	if c.opts.Secure {
		args = append(args, "--add-scram", "SCRAM-SHA-512=[name="+Username+",password="+Password+"]")
	}
	out, err := exec.Command(c.tools.java, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("formatting kafka node %d: %w: %s", n.id, err, out)
	}
	return nil
}

func (c *Cluster) serverProperties(n *node) string {
	var voters []string
	for _, v := range c.nodes {
		voters = append(voters, fmt.Sprintf("%d@%s", v.id, v.address(portController)))
	}
	replicas := min(len(c.nodes), 3)
	minISR := max(1, replicas-1)
	client, secure := "CLIENT://"+n.address(portClient), ""
	protocols := "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT"
	p := map[string]string{
		"process.roles":                    "broker,controller",
		"node.id":                          strconv.Itoa(n.id),
		"controller.quorum.voters":         strings.Join(voters, ","),
		"inter.broker.listener.name":       "CLIENT",
		"controller.listener.names":        "CONTROLLER",
		"log.dirs":                         n.data(),
		"broker.rack":                      fmt.Sprintf("rack%d", n.id),
		"replica.selector.class":           "org.apache.kafka.common.replica.RackAwareReplicaSelector",
		"default.replication.factor":       strconv.Itoa(replicas),
		"min.insync.replicas":              strconv.Itoa(minISR),
		"num.partitions":                   "4",
		"auto.create.topics.enable":        "false",
		"group.initial.rebalance.delay.ms": "0",
		"message.max.bytes":                "8388608",
		"replica.fetch.max.bytes":          "8388608",
		// A killed broker's leaders move, and it may come back itself, only when its session is over.
		"broker.session.timeout.ms":    "4000",
		"broker.heartbeat.interval.ms": "500",
		"log.segment.bytes":            "67108864",
	}
	for _, t := range []string{"offsets.topic", "transaction.state.log", "share.coordinator.state.topic"} {
		p[t+".replication.factor"] = strconv.Itoa(replicas)
		p[t+".num.partitions"] = "4"
	}
	p["transaction.state.log.min.isr"] = strconv.Itoa(minISR)
	p["share.coordinator.state.topic.min.isr"] = strconv.Itoa(minISR)
	if c.opts.Secure {
		secure = ",SCRAM://" + n.address(portScram) + ",IAM://" + n.address(portIAM)
		protocols += ",SCRAM:SASL_SSL,IAM:SASL_SSL"
		maps.Copy(p, c.secureProperties())
	}
	further, advertised := "", ""
	for _, l := range n.listeners {
		further += "," + l.name + "://" + l.address
		advertised += "," + l.name + "://" + l.advertised
		protocols += "," + l.name + ":PLAINTEXT"
	}
	if c.opts.InterBroker != "" {
		p["inter.broker.listener.name"] = c.opts.InterBroker
	}
	p["listeners"] = client + ",CONTROLLER://" + n.address(portController) + secure + further
	p["advertised.listeners"] = client + secure + advertised
	p["listener.security.protocol.map"] = protocols
	maps.Copy(p, c.opts.Properties)
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(p)) {
		b.WriteString(k + "=" + p[k] + "\n")
	}
	return b.String()
}

func tail(path string, lines int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

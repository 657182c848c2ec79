package cell

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Options say what cell to run.
type Options struct {
	DataDir        string   // everything durable and the logs; created if missing
	GRPC           string   // host:port of OTLP/gRPC; port 0 takes a free one
	HTTP           string   // host:port of OTLP/HTTP; port 0 takes a free one
	CORS           []string // origins of web pages that may send by OTLP/HTTP; * in one stands for any text
	Hosts          []string // names of this machine by which programs may ask for OTLP/HTTP, beside localhost, its own and IP addresses
	KafkaPort      int      // 0: the data directory's last one, else a free one
	ClickHousePort int      // of ClickHouse's HTTP interface; 0: as KafkaPort

	Collector        string // path of the built Collector
	GatewayConfig    []byte
	AggregatorConfig []byte
	Version          string

	Worker           []string // command of a worker of jobs, which takes --data and --metrics; none: neither that nor Temporal runs
	SearchAttributes []string // that Temporal's namespace has, of type Keyword

	Output   io.Writer // where the screen goes
	Terminal bool      // Output is a terminal: redraw in place
}

// OptionError is an option that cannot be used as it is given.
type OptionError struct{ error }

func (o *Options) validate() error {
	for _, a := range []struct{ flag, addr string }{{"--grpc", o.GRPC}, {"--http", o.HTTP}} {
		if err := checkAddress(a.addr); err != nil {
			return OptionError{fmt.Errorf("%s %q: %w", a.flag, a.addr, err)}
		}
	}
	for _, p := range []struct {
		flag string
		port int
	}{{"--kafka-port", o.KafkaPort}, {"--clickhouse-port", o.ClickHousePort}} {
		if p.port < 0 || p.port > 65535 {
			return OptionError{fmt.Errorf("%s %d: want 0 to 65535", p.flag, p.port)}
		}
	}
	for _, origin := range o.CORS {
		if err := checkOrigin(origin); err != nil {
			return OptionError{fmt.Errorf("--cors %q: %w", origin, err)}
		}
	}
	for _, name := range o.Hosts {
		if err := checkHost(name); err != nil {
			return OptionError{fmt.Errorf("--host %q: %w", name, err)}
		}
	}
	if o.DataDir == "" {
		return OptionError{errors.New("--data is empty: name a directory")}
	}
	abs, err := filepath.Abs(o.DataDir)
	if err != nil {
		return fmt.Errorf("--data %q: %w", o.DataDir, err)
	}
	o.DataDir = abs
	info, err := os.Stat(o.Collector)
	if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("no Collector at %s: run `make build`, or name one with --collector", o.Collector)
	}
	if o.Worker != nil {
		_, err = FindDevServer()
	}
	return err
}

func checkAddress(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("want HOST:PORT: %w", err)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("port %q: want a number from 0 to 65535", port)
	}
	return nil
}

// checkOrigin: browsers send scheme, host and port, no path.
func checkOrigin(origin string) error {
	if origin == "*" {
		return nil
	}
	scheme, host, ok := strings.Cut(origin, "://")
	if !ok || scheme != "http" && scheme != "https" || host == "" || strings.ContainsAny(host, "/ \"$") {
		return errors.New("want * or an origin such as http://localhost:3000, without a path")
	}
	return nil
}

func checkHost(name string) error {
	if name == "" || strings.ContainsAny(name, ":/[]\" $") {
		return errors.New("want the name of a host, without a port")
	}
	return nil
}

// layout is where things lie below the data directory.
type layout string

func (l layout) path(elem ...string) string {
	return filepath.Join(append([]string{string(l)}, elem...)...)
}

func (l layout) lock() string              { return l.path("lock") }
func (l layout) state() string             { return l.path("state.json") }
func (l layout) ports() string             { return l.path("ports.json") }
func (l layout) kafka() string             { return l.path("kafka") }
func (l layout) clickhouse() string        { return l.path("clickhouse") }
func (l layout) warehouse() string         { return l.path("lake", "warehouse") }
func (l layout) catalog() string           { return l.path("lake", "catalog.db") }
func (l layout) log(name string) string    { return l.path("log", name+".log") }
func (l layout) config(name string) string { return l.path("config", name+".yaml") }

func (l layout) create() error {
	// Nobody else reads what agents send. An earlier version's directories were open to all.
	for _, dir := range []string{l.path("log"), l.path("config"), l.kafka(), l.clickhouse(), l.path("lake"), l.warehouse()} {
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chmod(dir, 0o700)); err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
	}
	return nil
}

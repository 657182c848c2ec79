package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/distributions"
	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/orchestration"
)

func newLocal() *cobra.Command {
	o := cell.Options{GatewayConfig: distributions.LocalGateway, AggregatorConfig: distributions.LocalAggregator, Version: version}
	var collector string
	var orchestrated bool
	cmd := &cobra.Command{
		Use:   "local",
		Short: "Run a whole cell on this machine",
		Long: `Run a whole cell on this machine, out of embedded parts: gateway, Kafka, aggregator, ClickHouse and an Iceberg lake. It needs
nothing else installed. This host's metrics and the cell's own telemetry flow through it at once; send more with any OTLP client.

What a client has been told is accepted is on disk. Ctrl-C stops everything in order, a second one by force, and the next start
with the same --data goes on where this one was. Ports given as 0 are chosen at the first start and kept.

With --orchestration a Temporal server with its UI, on 127.0.0.1 only, and a worker run too, for ` + "`pulsegrid job start`" + ` and the
standing jobs (` + "`pulsegrid job schedule list`" + `): aggregates every 10 minutes, upkeep, an audit and a check of the spill every hour, expiry of the lake's quarantine. What Temporal knows is in the data directory, and so are the audits' certificates.`,
		Example: `  pulsegrid local
  pulsegrid local --data /var/lib/pulsegrid --grpc 0.0.0.0:4317 --http 0.0.0.0:4318
  pulsegrid local --cors http://localhost:3000
  pulsegrid local --orchestration                   # jobs by Temporal`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Collector, err = findCollector(collector); err != nil {
				return err
			}
			if orchestrated {
				self, err := os.Executable()
				if err != nil {
					return err
				}
				o.Worker = []string{self, "job", "worker", "--schedule", "--certificates", filepath.Join(o.DataDir, "certificates")}
				o.SearchAttributes = orchestration.SearchAttributes()
			}
			o.Output = cmd.OutOrStdout()
			o.Terminal = o.Output == os.Stdout && isatty.IsTerminal(os.Stdout.Fd())
			force, release := forced()
			defer release()
			return cell.Run(cmd.Context(), force, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.DataDir, "data", defaultDataDir, "directory of everything durable, and of the logs")
	f.StringVar(&o.GRPC, "grpc", "127.0.0.1:4317", "HOST:PORT of OTLP/gRPC; port 0: a free one")
	f.StringVar(&o.HTTP, "http", "127.0.0.1:4318", "HOST:PORT of OTLP/HTTP; port 0: a free one")
	f.StringSliceVar(&o.CORS, "cors", nil, "origin of web pages that may send by OTLP/HTTP, as http://localhost:3000; *: all; may be repeated")
	f.StringSliceVar(&o.Hosts, "host", nil, "name by which programs reach OTLP/HTTP of this machine, beside localhost, `hostname` and IP addresses; may be repeated")
	f.IntVar(&o.KafkaPort, "kafka-port", 0, "port of Kafka on 127.0.0.1; 0: the one of the last run, else a free one")
	f.IntVar(&o.ClickHousePort, "clickhouse-port", 0, "port of ClickHouse's HTTP interface on 127.0.0.1; 0: as --kafka-port")
	f.BoolVar(&orchestrated, "orchestration", false, "run a Temporal server and a worker of jobs too (tools/install.sh temporal installs the server)")
	f.StringVar(&collector, "collector", "", "path of the Collector (default: collector/"+collectorName+" beside this program)")
	return cmd
}

// forced is done at the second signal. The first is main's.
func forced() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, stopSignals()...)
	go func() {
		for range 2 {
			select {
			case <-signals:
			case <-ctx.Done():
				return
			}
		}
		cancel()
	}()
	return ctx, func() { signal.Stop(signals); cancel() }
}

// stopSignals are the signals that end a run. A hangup is one, unless the caller (nohup) has it ignored.
func stopSignals() []os.Signal {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"

	"github.com/pulsegrid/pulsegrid/orchestration"
)

type workerOptions struct {
	temporalOptions
	stores       storesOptions
	gateway      []string
	certificates string
	reports      string
	metrics      string
	hosts        []string
	schedule     bool
}

func newJobWorker() *cobra.Command {
	var o workerOptions
	cmd := &cobra.Command{
		Use:   "worker",
		Short: "Run a worker, which does what jobs of Temporal need",
		Long: `Run a worker until it is stopped (Ctrl-C, SIGTERM). Any number may run. Each takes two loads and two other jobs at a time; give it the memory that ` + "`job run`" + ` needs, four times.

A namespace is of one cell: a worker works on the stores of its own configuration with any job of the namespace. The namespace must have these search attributes, of
type Keyword: ` + strings.Join(orchestration.SearchAttributes(), ", ") + `. The local cell's has; elsewhere make them once:
  temporal operator search-attribute create --name JobKind --type Keyword

It serves metrics for Prometheus: how old the last success of each standing job is and how old it may be, and what became of the jobs that this worker ran.

` + temporalHelp + `

` + jobExitCodes,
		Example: `  pulsegrid job worker                              # of the local cell
  TEMPORAL_ADDRESS=temporal.internal:7233 TEMPORAL_NAMESPACE=cell-eu pulsegrid job worker --config aggregator.yaml --gateway gateway.yaml --metrics 0.0.0.0:8890 \
    --certificates /var/lib/pulsegrid/certificates --reports /var/lib/pulsegrid/reports`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runWorker(cmd, o) },
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&o.stores.config, "config", nil, configHelp)
	f.StringArrayVar(&o.gateway, "gateway", nil, "configuration of the gateways, for rehearsals, rollouts and checks of the spill; may be repeated, as for the Collector")
	f.StringVar(&o.reports, "reports", "", "directory to which rehearsals write their reports (default: they keep none)")
	f.StringVar(&o.certificates, "certificates", "", "directory to which audits add their certificates (default: they keep none)")
	f.StringVar(&o.metrics, "metrics", "127.0.0.1:0", "HOST:PORT on which metrics are served, at /metrics; port 0: a free one")
	f.StringSliceVar(&o.hosts, "metrics-host", nil, "name by which programs reach the metrics, beside localhost and IP addresses; may be repeated")
	f.BoolVar(&o.schedule, "schedule", false, "schedule the standing jobs that come with PulseGrid first, where the namespace has none")
	return cmd
}

func runWorker(cmd *cobra.Command, o workerOptions) error {
	o.stores.data = o.data
	w := &jobRunner{stores: o.stores, gateway: o.gateway, certificates: o.certificates, reports: o.reports, log: jobLogger(cmd)}
	if _, err := w.stores.pipelines(cmd); err != nil { // say so now, not in a job
		return err
	}
	return o.asking(cmd, func(ctx context.Context, c client.Client) (err error) {
		m, err := orchestration.ServeMetrics(o.metrics, o.hosts, func(ctx context.Context) ([]orchestration.StandingState, error) {
			return orchestration.ListStanding(ctx, c)
		})
		if err != nil {
			return fmt.Errorf("--metrics: %w", err)
		}
		defer func() { err = errors.Join(err, m.Close()) }()
		if o.schedule {
			if err := scheduleDefault(ctx, c, o.namespace); err != nil {
				return err
			}
		}
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		worker, err := orchestration.StartWorker(c, w, m, cancel)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "the worker takes jobs; its metrics: %s\n", m.URL())
		<-ctx.Done()
		worker.Stop()
		if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
			err = errors.Join(err, fmt.Errorf("the worker cannot go on: %w", cause))
		}
		return err
	})
}

// scheduleDefault leaves a namespace alone that has standing jobs: somebody has chosen them.
func scheduleDefault(ctx context.Context, c client.Client, namespace string) error {
	there, err := orchestration.ListStanding(ctx, c)
	if err != nil || len(there) > 0 {
		return err
	}
	file, err := readStanding("")
	if err != nil {
		return err
	}
	_, err = orchestration.Apply(ctx, c, namespace, file, false)
	return err
}

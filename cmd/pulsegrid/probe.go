package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/audit"
	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/internal/metricserver"
	"github.com/pulsegrid/pulsegrid/internal/probe"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// keyVariable holds the API key; a flag would show in the list of processes.
const keyVariable = "PULSEGRID_API_KEY"

type probeOptions struct {
	http, grpc                           string
	ca, keyFile                          string
	stores                               storesOptions
	clickhouse, clickhouseUser, database string
	look                                 []string
	metrics                              string
	hosts                                []string
	once, json                           bool
	config                               probe.Config
}

func newProbe() *cobra.Command {
	var o probeOptions
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Measure a cell from outside: send, wait for the rows in both stores, count them",
		Long: `Send an event of each signal in each way (OTLP/HTTP protobuf, OTLP/HTTP JSON, gRPC; gzip and plain) every few seconds, each in a request of its own, and count the rows that become
of it in ClickHouse and in the lake: exactly one. It opens new connections for each round, sends nothing again, and has none of the gateway's code. Run one beside each cell and one in
another region.

It runs until it is stopped (Ctrl-C, SIGTERM), prints a line for each failure, and serves metrics for Prometheus (docs/metrics.md, alerts in observability/alerts/probe.yaml). An event is
judged at its deadline: exact, missing, doubled, or unjudged where the store could not be read. With --once it sends one round, waits, and prints a table.

It needs a tenant of its own: its quota must allow ` + `18 requests in each interval, and no schema may refuse its events (service.name pulsegrid-probe). Credentials are an API key in
` + keyVariable + ` or a file; without one it names its tenant in a header, as the local cell wants it. Where the stores are is said by the aggregators' configuration, or for ClickHouse
alone by --clickhouse; its password is read from ` + passwordVariable + `.

Without flags it probes the running local cell.

Memory: 300 bytes for each event that is waited for; these are at most twice those of one deadline.

Exit codes: 0 stopped, or with --once all exact; 1 with --once a request failed, or a row is missing, doubled or unjudged; 2 wrong command line; 3 no cell is running.`,
		Example: `  pulsegrid probe --once
  PULSEGRID_API_KEY=... pulsegrid probe --http https://otlp.example.com:4318 --grpc https://otlp.example.com:4317 --tenant probe --config aggregator.yaml --metrics 0.0.0.0:8891
  pulsegrid probe --http https://otlp.example.com:4318 --grpc https://otlp.example.com:4317 --api-key-file key --stores clickhouse --clickhouse https://clickhouse.example.com:8443 --clickhouse-user probe
  pulsegrid probe --http https://otlp.example.com:4318 --grpc https://otlp.example.com:4317 --api-key-file key --stores none --metrics 0.0.0.0:8891`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runProbe(cmd, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.http, "http", "", "URL of OTLP/HTTP, as agents have it: https://HOST:PORT (default: the local cell's)")
	f.StringVar(&o.grpc, "grpc", "", "URL of OTLP/gRPC; https is TLS, http is none (default: the local cell's)")
	f.StringVar(&o.ca, "ca", "", "PEM file of the authorities that may have signed the certificate of these (default: the system's)")
	f.StringVar(&o.config.Tenant, "tenant", "probe", "the probe's tenant: that of the API key, if there is one")
	f.StringVar(&o.keyFile, "api-key-file", "", "file that holds the API key, instead of "+keyVariable)
	f.DurationVar(&o.config.Interval, "interval", 10*time.Second, "time between two rounds")
	f.DurationVar(&o.config.Timeout, "timeout", 10*time.Second, "how long a request may take, with its connection; a later answer is a failure")
	f.DurationVar(&o.config.Deadline, "deadline", 10*time.Minute, "when the row of an acknowledged event must be there, from its sending: then it is judged")
	f.StringSliceVar(&o.look, "stores", []string{certificate.Hot, certificate.Lake}, "stores to look into; none: only send")
	o.stores.flags(cmd, "configuration of the aggregators that fill the stores (default: the local cell's); may be repeated, as for the Collector")
	f.StringVar(&o.clickhouse, "clickhouse", "", "URL of ClickHouse's HTTP interface (default: as the aggregators' configuration says)")
	f.StringVar(&o.clickhouseUser, "clickhouse-user", "", "user of --clickhouse, which needs to read the tables logs, metrics and spans")
	f.StringVar(&o.database, "database", audit.DefaultDatabase, "database of --clickhouse")
	f.StringVar(&o.metrics, "metrics", "127.0.0.1:0", "HOST:PORT on which metrics are served, at /metrics; port 0: a free one")
	f.StringSliceVar(&o.hosts, "metrics-host", nil, "name by which programs reach the metrics, beside localhost and IP addresses; may be repeated")
	f.BoolVar(&o.once, "once", false, "send one round, wait for its rows, print a table, and end")
	f.BoolVar(&o.json, "json", false, "with --once, print JSON instead of the table; durations are nanoseconds")
	return cmd
}

func runProbe(cmd *cobra.Command, o probeOptions) (err error) {
	if o.json && !o.once {
		return usageError{errors.New("--json: is of no use without --once")}
	}
	if err := o.resolve(); err != nil {
		return err
	}
	closeStores, err := o.openStores(cmd)
	defer closeStores()
	if err != nil {
		return err
	}
	var printing sync.Mutex
	o.config.Report = func(line string) {
		printing.Lock()
		defer printing.Unlock()
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), line) // the metrics have it too
	}
	p, err := probe.New(o.config)
	if err != nil {
		return usageError{fmt.Errorf("--%w", err)}
	}
	if o.once {
		return o.probeOnce(cmd, p)
	}
	m, err := metricserver.Serve(o.metrics, o.hosts, p.Gather)
	if err != nil {
		return fmt.Errorf("--metrics: %w", err)
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "probing %s and %s every %s; metrics: %s\n", o.config.HTTP, o.config.GRPC, o.config.Interval, m.URL()); err != nil {
		return err
	}
	p.Run(cmd.Context())
	return nil
}

// resolve completes the configuration but for the stores.
func (o *probeOptions) resolve() error {
	c := &o.config
	wrong := func(flag, format string, args ...any) error {
		return usageError{fmt.Errorf("--%s: %w", flag, fmt.Errorf(format, args...))}
	}
	if !tenant.ValidID(c.Tenant) {
		return wrong("tenant", "%q is not a tenant id: "+tenant.WantID, c.Tenant)
	}
	if (o.http == "") != (o.grpc == "") {
		return wrong("http", "goes with --grpc: give both, or none for the local cell")
	}
	c.HTTP, c.GRPC, c.Agent = o.http, o.grpc, "pulsegrid-probe/"+version
	if o.http == "" {
		state, err := cell.ReadState(o.stores.data)
		if err != nil {
			return fmt.Errorf("%w; or name another cell's --http and --grpc", err)
		}
		c.HTTP, c.GRPC = httpURL(state.Endpoints.HTTP), httpURL(state.Endpoints.GRPC)
	}
	if o.ca != "" {
		pem, err := os.ReadFile(o.ca)
		if err != nil {
			return wrong("ca", "%w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return wrong("ca", "%s holds no certificate in PEM", o.ca)
		}
		c.TLS = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	key := os.Getenv(keyVariable)
	if o.keyFile != "" {
		text, err := os.ReadFile(o.keyFile)
		if err != nil {
			return wrong("api-key-file", "%w", err)
		}
		if key = strings.TrimSpace(string(text)); key == "" {
			return wrong("api-key-file", "%s is empty", o.keyFile)
		}
	}
	c.Headers = map[string]string{"x-pulsegrid-tenant": c.Tenant}
	if key != "" {
		c.Headers = map[string]string{"authorization": "Bearer " + key}
	}
	return nil
}

// openStores opens those that are to be looked into. The caller closes them, also after an error.
func (o *probeOptions) openStores(cmd *cobra.Command) (closeStores func(), err error) {
	var opened []stored.Store
	closeStores = func() { closeAll(opened) }
	wrong := func(format string, args ...any) (func(), error) {
		return closeStores, usageError{fmt.Errorf("--stores: %w", fmt.Errorf(format, args...))}
	}
	if slices.Equal(o.look, []string{"none"}) {
		return closeStores, nil
	}
	for _, name := range o.look {
		if name != certificate.Hot && name != certificate.Lake {
			return wrong("%q is neither %s nor %s, nor none alone", name, certificate.Hot, certificate.Lake)
		}
	}
	if o.clickhouse != "" && len(o.stores.config) == 0 && slices.Contains(o.look, certificate.Lake) {
		return wrong("the lake is found by --config: give it too, or --stores %s", certificate.Hot)
	}
	if slices.Contains(o.look, certificate.Hot) {
		c := stored.ClickHouseConfig{URL: httpURL(o.clickhouse), Database: o.database, Username: o.clickhouseUser, Password: os.Getenv(passwordVariable)}
		if o.clickhouse == "" {
			_, hot, err := o.stores.hot(cmd)
			if err != nil {
				return closeStores, err
			}
			if c, err = storedClickHouse(cmd.Context(), &hot.exporter); err != nil {
				return closeStores, err
			}
		}
		s, err := stored.NewClickHouse(c)
		if err != nil {
			return closeStores, usageError{fmt.Errorf("--clickhouse: %w", err)}
		}
		opened = append(opened, s)
		o.config.Stores = append(o.config.Stores, probe.Store{Name: certificate.Hot, Counter: s, Every: probe.ClickHouseEvery})
	}
	if slices.Contains(o.look, certificate.Lake) {
		pipes, err := o.stores.pipelines(cmd)
		if err != nil {
			return closeStores, err
		}
		if pipes.lake == nil {
			return wrong("the configuration has no lake: want an exporter iceberg with rows: events, or --stores %s", certificate.Hot)
		}
		s, err := stored.OpenLake(cmd.Context(), storedLake(pipes.lake))
		if err != nil {
			return closeStores, err
		}
		opened = append(opened, s)
		o.config.Stores = append(o.config.Stores, probe.Store{Name: certificate.Lake, Counter: stored.NewLakeCopies(s), Every: probe.LakeEvery})
	}
	return closeStores, nil
}

// probeOnce ends with an error where something is not exact.
func (o *probeOptions) probeOnce(cmd *cobra.Command, p *probe.Probe) error {
	results, err := p.Once(cmd.Context())
	if err != nil {
		return err
	}
	if o.json {
		err = printJSON(cmd.OutOrStdout(), results)
	} else {
		err = o.printProbe(cmd.OutOrStdout(), results)
	}
	if err != nil {
		return err
	}
	bad := 0
	for i := range results {
		if !results[i].Good() {
			bad++
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d events were not acknowledged, or are not stored exactly once", bad, len(results))
	}
	return nil
}

func (o *probeOptions) printProbe(w io.Writer, results []probe.Result) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := "signal\tprotocol\tcompression\trequest\tanswered after"
	for _, s := range o.config.Stores {
		head += "\t" + s.Name + "\trow after"
	}
	lines := []string{head + "\tmarker"}
	after := func(d time.Duration) string {
		if d == 0 {
			return "-"
		}
		return d.Round(time.Millisecond).String()
	}
	for _, r := range results {
		line := strings.Join([]string{r.Signal, r.Protocol, r.Compression, r.Outcome, after(r.Took)}, "\t")
		for _, rows := range r.Rows {
			line += "\t" + cmp.Or(rows.Result, "-") + "\t" + after(rows.After)
		}
		lines = append(lines, line+"\t"+r.Marker)
	}
	_, err := fmt.Fprintln(tw, strings.Join(lines, "\n"))
	return errors.Join(err, tw.Flush())
}

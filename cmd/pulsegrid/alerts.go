package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/alerting"
	"github.com/pulsegrid/pulsegrid/internal/clickhouse"
	"github.com/pulsegrid/pulsegrid/internal/metricserver"
)

const (
	alertWorkersMost  = 64
	alertRowsMost     = 1e12
	alertSecondsMost  = 60
	alertsExitCodes   = `Exit codes: 0 done; 1 a rule is wrong, or it failed; 2 wrong command line; 3 no cell is running.`
	alertsRulesHelp   = `RULES are files, or directories with *.yaml; without any the rules that come with PulseGrid are taken. docs/formats/alerts.md has the format.`
	alertsConfigHelp  = "configuration of the aggregators that fill ClickHouse; may be repeated, as for the Collector (default: the local cell's)"
	alertsStateByName = "pulsegrid-alerts.json"
)

func newAlerts() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "alerts",
		Short: "Alert on what is stored, by rules that are SQL",
		Long: `Evaluate rules, which are SQL over ClickHouse's rollups and rows, every 10 s on what is completely stored, and tell Alertmanager which alerts fire.

` + alertsExitCodes,
		Example: `  pulsegrid alerts test --from 1h
  pulsegrid alerts run --alertmanager http://127.0.0.1:9093`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newAlertsRun(), newAlertsCheck(), newAlertsTest())
	return cmd
}

// alertStore says which ClickHouse rules ask, as whom, and what they may cost.
type alertStore struct {
	stores       storesOptions
	user         string
	passwordFile string
	rows         int64
	seconds      int
}

func (o *alertStore) flags(cmd *cobra.Command) {
	o.stores.flags(cmd, alertsConfigHelp)
	f := cmd.Flags()
	f.StringVar(&o.user, "clickhouse-user", "", "user that may read the tables that rules read, and nothing else (default: the aggregators')")
	f.StringVar(&o.passwordFile, "clickhouse-password-file", "", "file with the password of --clickhouse-user")
	f.Int64Var(&o.rows, "max-rows", alerting.DefaultBounds.Rows, "rows that one query may read; one that would read more is ended, and its rule has failed")
	f.IntVar(&o.seconds, "max-seconds", int(alerting.DefaultBounds.Time/time.Second), "seconds that one query may take, likewise")
}

// opened are the parts of a command on alerts.
type openedAlerts struct {
	pipes *pipelines
	hot   *hot
	store *alerting.Store
}

func (o *alertStore) open(cmd *cobra.Command) (_ *openedAlerts, err error) {
	if o.rows < 1 || o.rows > alertRowsMost {
		return nil, usageError{fmt.Errorf("--max-rows: %d: want 1 to %d", o.rows, int64(alertRowsMost))}
	}
	if o.seconds < 1 || o.seconds > alertSecondsMost {
		return nil, usageError{fmt.Errorf("--max-seconds: %d: want 1 to %d", o.seconds, alertSecondsMost)}
	}
	if (o.user == "") != (o.passwordFile == "") {
		return nil, usageError{errors.New("want --clickhouse-user and --clickhouse-password-file, or neither")}
	}
	pipes, h, err := o.stores.hot(cmd)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, pipes.stop())
		}
	}()
	user, password := h.exporter.Username, string(h.exporter.Password)
	if o.user != "" {
		user = o.user
		if password, err = alerting.ReadSecret(o.passwordFile); err != nil {
			return nil, fmt.Errorf("--clickhouse-password-file: %w", err)
		}
	}
	hc, err := clickHouseClient(cmd.Context(), &h.exporter)
	if err != nil {
		return nil, err
	}
	client, err := clickhouse.NewClient(hc, h.exporter.ClientConfig.Endpoint, user, password)
	if err != nil {
		return nil, err
	}
	bounds := alerting.DefaultBounds
	bounds.Rows, bounds.Time = o.rows, time.Duration(o.seconds)*time.Second
	return &openedAlerts{pipes, h, alerting.NewStore(client, h.exporter.Database, bounds)}, nil
}

// loadAlerts reads the rules of a command line.
func loadAlerts(args []string) ([]*alerting.Group, error) {
	if len(args) == 0 {
		groups, _, err := alerting.Shipped()
		return groups, err
	}
	return alerting.Load(args)
}

func countRules(groups []*alerting.Group) (rules int) {
	for _, g := range groups {
		rules += len(g.Rules)
	}
	return rules
}

func newAlertsCheck() *cobra.Command {
	var o alertStore
	var static, shipped bool
	cmd := &cobra.Command{
		Use:   "check [RULES...]",
		Short: "Say what is wrong with rules: file, line, column, reason",
		Long: `Check files of rules, then have ClickHouse read each query as it would be run, without running it: its syntax, tables, columns, and that it can see nothing but its tenant's rows.

` + alertsRulesHelp + `

` + alertsExitCodes,
		Example: `  pulsegrid alerts check rules.yaml
  pulsegrid alerts check --static rules/
  pulsegrid alerts check --print > rules.yaml`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if shipped {
				_, content, err := alerting.Shipped()
				if err == nil {
					_, err = cmd.OutOrStdout().Write(content)
				}
				return err
			}
			groups, err := loadAlerts(args)
			if err != nil {
				return err
			}
			how := "as far as the files tell"
			if !static {
				how = "and ClickHouse can run them"
				if err := o.checkQueries(cmd, groups); err != nil {
					return err
				}
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d rules of %d groups are right, %s\n", countRules(groups), len(groups), how)
			return err
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&static, "static", false, "check the files only; ask no ClickHouse")
	cmd.Flags().BoolVar(&shipped, "print", false, "print the rules that come with PulseGrid")
	return cmd
}

// checkQueries has ClickHouse read every query, and tells all that is wrong.
func (o *alertStore) checkQueries(cmd *cobra.Command, groups []*alerting.Group) (err error) {
	opened, err := o.open(cmd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.pipes.stop()) }()
	var errs []error
	for _, g := range groups {
		for _, r := range g.Rules {
			_, err := opened.store.Check(cmd.Context(), g, r)
			if _, wrong := errors.AsType[*alerting.RuleError](err); err != nil && !wrong {
				return err
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func newAlertsRun() *cobra.Command {
	var o alertStore
	var a alerting.Authentication
	var urls, hosts []string
	var state, metrics string
	var workers int
	var resend time.Duration
	cmd := &cobra.Command{
		Use:   "run [RULES...]",
		Short: "Evaluate rules and send alerts to Alertmanager, until stopped",
		Long: `Evaluate rules until stopped (Ctrl-C, SIGTERM), on each bucket of 10 s once ClickHouse is complete beyond it: once the aggregators' group has stored every event that Kafka appended
before. Alerts go to each Alertmanager; what one does not take waits for it.

Two of these with the same rules are one: their alerts have the same labels, and begin at the same time. Give each a state file of its own.

While ClickHouse is not complete, or does not answer, no alert ends; after a group's stale_after the alert ` + alerting.StaleAlert + ` fires for it. ` + alerting.FailedAlert + ` fires for a rule whose
query fails, or costs more than it may, for so long. Metrics say the same, and how late evaluations are, how long queries take and what Alertmanagers take (docs/metrics.md).

` + alertsRulesHelp + `

` + alertsExitCodes,
		Example: `  pulsegrid alerts run --alertmanager http://127.0.0.1:9093
  pulsegrid alerts run rules/ --config aggregator.yaml --alertmanager https://alertmanager.internal --bearer-token-file /run/secrets/token --state /var/lib/pulsegrid/alerts.json
  pulsegrid alerts run rules/ --config aggregator.yaml --sigv4-region eu-central-1 --alertmanager https://aps-workspaces.eu-central-1.amazonaws.com/workspaces/ws-1/alertmanager`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			switch {
			case len(urls) == 0:
				return usageError{errors.New("name an Alertmanager with --alertmanager URL")}
			case workers < 1 || workers > alertWorkersMost:
				return usageError{fmt.Errorf("--workers: %d: want 1 to %d", workers, alertWorkersMost)}
			case resend < alerting.Tick || resend > time.Hour:
				return usageError{fmt.Errorf("--resend: %v: want %v to %v", resend, alerting.Tick, time.Hour)}
			}
			groups, err := loadAlerts(args)
			if err != nil {
				return err
			}
			log := jobLogger(cmd)
			hc, err := a.Client(cmd.Context())
			if err != nil {
				return fmt.Errorf("authentication at Alertmanager: %w", err)
			}
			notifier, err := alerting.NewNotifier(urls, hc, log)
			if err != nil {
				return usageError{fmt.Errorf("--alertmanager: %w", err)}
			}
			opened, err := o.open(cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, opened.pipes.stop()) }()
			group, err := opened.pipes.newGroup(cmd.Context(), opened.hot.receiver)
			if err != nil {
				return err
			}
			defer group.admin.Close()
			evaluator, err := alerting.New(alerting.Config{
				Groups: groups, Store: opened.store, Complete: group.complete(opened.hot.receiver), Notify: notifier.Notify,
				StateFile: state, Workers: workers, Resend: resend, Log: log,
			})
			if err != nil {
				return err
			}
			m, err := metricserver.Serve(metrics, hosts, func(ctx context.Context) []*dto.MetricFamily {
				return append(evaluator.Gather(ctx), notifier.Gather(ctx)...)
			})
			if err != nil {
				return fmt.Errorf("--metrics: %w", err)
			}
			defer func() { err = errors.Join(err, m.Close()) }()
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%d rules of %d groups are evaluated; states are in %s; metrics: %s\n", countRules(groups), len(groups), state, m.URL()); err != nil {
				return err
			}
			return runAlerts(cmd.Context(), evaluator, notifier)
		},
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&urls, "alertmanager", nil, "URL of an Alertmanager, without /api/v2/alerts; may be repeated: each gets every alert")
	f.StringVar(&a.BearerFile, "bearer-token-file", "", "file with the token for Alertmanager")
	f.StringVar(&a.BasicUser, "basic-user", "", "user at Alertmanager")
	f.StringVar(&a.BasicPasswordFile, "basic-password-file", "", "file with the password of --basic-user")
	f.StringVar(&a.SigV4Region, "sigv4-region", "", "sign requests for Amazon Managed Service for Prometheus in this region, with AWS' default credentials")
	f.StringVar(&a.CAFile, "ca-file", "", "PEM of the authorities that sign Alertmanager's certificate (default: the system's)")
	f.StringVar(&a.CertFile, "cert-file", "", "PEM of the certificate to show to Alertmanager")
	f.StringVar(&a.KeyFile, "key-file", "", "PEM of the key of --cert-file")
	f.StringVar(&state, "state", alertsStateByName, "file that keeps the states of alerts over a restart")
	f.IntVar(&workers, "workers", 2, "queries that run at a time; each uses one thread of ClickHouse")
	f.DurationVar(&resend, "resend", time.Minute, "how often a firing alert is sent again")
	f.StringVar(&metrics, "metrics", "127.0.0.1:0", "HOST:PORT on which metrics are served, at /metrics; port 0: a free one")
	f.StringSliceVar(&hosts, "metrics-host", nil, "name by which programs reach the metrics, beside localhost and IP addresses; may be repeated")
	return cmd
}

// runAlerts ends once what was to be told has been tried.
func runAlerts(ctx context.Context, e *alerting.Evaluator, n *alerting.Notifier) error {
	delivering, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Run(delivering)
	}()
	err := e.Run(ctx)
	stop()
	<-done
	return err
}

func newAlertsTest() *cobra.Command {
	var o alertStore
	var from, to string
	var asJSON, quiet bool
	cmd := &cobra.Command{
		Use:   "test [RULES...] --from TIME",
		Short: "Say when rules would have fired, on stored data",
		Long: `Evaluate rules on each bucket of a range as ` + "`alerts run`" + ` would have, and print each alert: when it became pending, fired and ended. Nothing is sent. Rows that came late count here
as if they had come in time.

` + alertsRulesHelp + `

` + alertsExitCodes,
		Example: `  pulsegrid alerts test --from 1h
  pulsegrid alerts test rules.yaml --from 2026-10-01T08:00:00Z --to 2026-10-01T12:00:00Z --json`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			now := time.Now()
			begin, err := parseDayOrAgo(from, now)
			if err != nil {
				return usageError{fmt.Errorf("--from: %w", err)}
			}
			end := now
			if to != "" {
				if end, err = parseDayOrAgo(to, now); err != nil {
					return usageError{fmt.Errorf("--to: %w", err)}
				}
			}
			if begin.IsZero() || !begin.Before(end) || end.After(now) {
				return usageError{errors.New("want --from before --to, and --to not after now")}
			}
			groups, err := loadAlerts(args)
			if err != nil {
				return err
			}
			opened, err := o.open(cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, opened.pipes.stop()) }()
			episodes, err := alerting.Backtest(cmd.Context(), opened.store, groups, begin, end, func(g *alerting.Group, r *alerting.Rule, n int) {
				if !quiet {
					_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s: %d evaluations\n", g.Name, r.Alert, n) // nobody may be listening
				}
			})
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), episodes)
			}
			return printEpisodes(cmd.OutOrStdout(), episodes, countRules(groups), begin, end)
		},
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&from, "from", "", "begin: 2026-10-01, RFC 3339, or a duration ago such as 1h")
	f.StringVar(&to, "to", "", "end, likewise (default: now)")
	f.BoolVar(&asJSON, "json", false, "print the alerts as JSON")
	f.BoolVar(&quiet, "quiet", false, "no progress on standard error")
	return cmd
}

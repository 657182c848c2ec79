package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/audit"
	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

type tenantShowOptions struct {
	where                               reach
	tenants, clickHouse, clickHouseUser string
	gateways                            []string
	window                              time.Duration
	json                                bool
	kafkaConfig                         string
	copiesPercent                       float64
	question                            question // to the tenant's ClickHouse
}

func newTenantShow() *cobra.Command {
	var o tenantShowOptions
	cmd := &cobra.Command{
		Use:   "show TENANT",
		Short: "Show what a tenant may send, sends, and is refused",
		Long: `Show a tenant: its quota, what it sends and by which lane, how fresh it is, how many copies of events it sends, what of it is in quarantine and why, and how many
requests of its class gateways have refused. What it may send comes from the registry's files (--tenants), what it sends and what is in quarantine from ClickHouse. Gateways count by
class, not by tenant, so refusals are those of all tenants of its class since the gateways started. Copies are counted in Kafka's newest records, of at most
15 minutes: those are found that repeat an event of the same time; too many of them are a warning.`,
		Example: `  pulsegrid tenant show acme --tenants tenants/
  pulsegrid tenant show acme --clickhouse clickhouse:8123 --gateway-metrics http://gateway-1:8888/metrics --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("name one tenant; see `%s --help`", cmd.CommandPath())}
			}
			if !tenant.ValidID(args[0]) {
				return usageError{fmt.Errorf("%q is not a tenant id: "+tenant.WantID, args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), cmd.OutOrStdout(), args[0]) },
	}
	o.where.kafkaFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.tenants, "tenants", "", "the registry: a directory or s3://BUCKET/PREFIX?region=REGION (default: quotas are not shown)")
	f.StringVar(&o.clickHouse, "clickhouse", "", "HOST:PORT of ClickHouse's HTTP interface (default: the running cell's)")
	f.StringVar(&o.clickHouseUser, "clickhouse-user", "", "user of ClickHouse; its password is read from "+passwordVariable)
	f.StringSliceVar(&o.gateways, "gateway-metrics", nil, "URLs of the gateways' Prometheus endpoints (default: the running cell's)")
	f.DurationVar(&o.window, "window", 5*time.Minute, "over which rates are taken; at most 24h")
	f.StringVar(&o.kafkaConfig, "kafka-config", "", "YAML file of Kafka client settings (brokers, tls, auth), as in the receiver's configuration")
	f.Float64Var(&o.copiesPercent, "copies-percent", certificate.DefaultCopiesPercent, copiesUsage)
	f.BoolVar(&o.json, "json", false, "print one JSON object")
	return cmd
}

// tenantView is what --json prints.
type tenantView struct {
	ID           string            `json:"id"`
	Known        *bool             `json:"known,omitempty"` // to the registry; absent: it was not asked
	Status       string            `json:"status,omitempty"`
	Class        string            `json:"class,omitempty"`
	Plan         string            `json:"plan,omitempty"`
	Jurisdiction string            `json:"jurisdiction,omitempty"`
	Home         string            `json:"home,omitempty"`
	Cells        []string          `json:"cells,omitempty"` // none: all of its jurisdiction
	Lane         string            `json:"lane,omitempty"`
	TopicClass   string            `json:"topic_class,omitempty"`
	SchemaPolicy string            `json:"schema_policy,omitempty"`
	Signals      []tenantSignal    `json:"signals"`
	Quarantine   []tenantViolation `json:"quarantine_24h"`
	Requests     map[string]int64  `json:"class_requests,omitempty"` // of its class, by decision

	Copies   *audit.RecentCopies `json:"copies,omitempty"` // absent: no Kafka was named
	Warnings []string            `json:"warnings,omitempty"`
}

type tenantSignal struct {
	Signal          string   `json:"signal"`
	Allowed         *bool    `json:"allowed,omitempty"`
	EventsPerSecond float64  `json:"events_per_second"`
	OverflowPercent float64  `json:"overflow_percent"`
	NewestAge       *float64 `json:"newest_event_age_seconds"` // null: none within a day
	QuotaEvents     float64  `json:"quota_events_per_second,omitempty"`
	QuotaBytes      float64  `json:"quota_bytes_per_second,omitempty"`
}

type tenantViolation struct {
	Items  int64     `json:"items"`
	Events int64     `json:"events"`
	Signal string    `json:"signal"`
	Code   string    `json:"code"`
	Path   string    `json:"path"`
	Schema string    `json:"schema"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
}

const (
	tenantShowTimeout = 30 * time.Second
	maxViolations     = 10
)

func (o *tenantShowOptions) run(ctx context.Context, w io.Writer, id string) error {
	if o.window < time.Second || o.window > 24*time.Hour {
		return usageError{fmt.Errorf("--window %v: want 1s to 24h", o.window)}
	}
	ctx, cancel := context.WithTimeout(ctx, tenantShowTimeout)
	defer cancel()
	counted, err := o.find(ctx)
	if err != nil {
		return err
	}
	v := tenantView{ID: id, Signals: []tenantSignal{}, Quarantine: []tenantViolation{}}
	t, err := o.registered(ctx, &v)
	if err != nil {
		return err
	}
	for _, s := range signal.All {
		of, err := o.signal(ctx, id, s)
		if err != nil {
			return err
		}
		if t != nil {
			allowed, quota := t.Takes(s), t.Quota(s)
			of.Allowed, of.QuotaEvents, of.QuotaBytes = &allowed, quota.EventsPerSecond, quota.BytesPerSecond
		}
		v.Signals = append(v.Signals, of)
	}
	if err := o.quarantined(ctx, &v); err != nil {
		return err
	}
	if err := o.refused(ctx, &v); err != nil {
		return err
	}
	if err := o.copies(ctx, counted, &v); err != nil {
		return err
	}
	if o.json {
		return json.NewEncoder(w).Encode(v)
	}
	return v.print(w, o.window, o.copiesPercent)
}

// find sets the question to ClickHouse, and returns the configuration of the count of copies in Kafka. Nil: no Kafka was named, and copies are not counted.
func (o *tenantShowOptions) find(ctx context.Context) (*audit.Config, error) {
	counted := audit.DefaultConfig()
	at := &clickHouse{http.DefaultClient, httpURL(o.clickHouse), o.clickHouseUser, os.Getenv(passwordVariable), cell.Database}
	switch {
	case len(o.where.config) > 0:
		if o.clickHouse != "" || o.where.brokers != "" || o.kafkaConfig != "" {
			return nil, usageError{errors.New("--config says where ClickHouse and Kafka are: leave --clickhouse, --brokers and --kafka-config out")}
		}
		h, err := o.where.hot(ctx)
		if err != nil {
			return nil, err
		}
		if err := h.asked(ctx, &counted); err != nil {
			return nil, err
		}
		if at, err = clickHouseOf(ctx, &h.exporter); err != nil {
			return nil, err
		}
		o.question, err = at.question()
		return &counted, err
	case o.clickHouse == "":
		state, err := cell.ReadState(o.where.data)
		if err != nil {
			return nil, err
		}
		e := state.Endpoints
		at.endpoint, at.user, at.password = httpURL(e.ClickHouseHTTP), e.ClickHouseUser, e.ClickHousePassword
		if len(o.gateways) == 0 {
			o.gateways = []string{e.GatewayMetrics}
		}
		if o.where.brokers == "" && o.kafkaConfig == "" {
			o.where.brokers = e.Kafka
		}
	}
	var err error
	if o.question, err = at.question(); err != nil {
		return nil, err
	}
	switch {
	case o.kafkaConfig != "":
		if counted.Kafka, err = readKafkaConfig(o.kafkaConfig); err != nil {
			return nil, usageError{fmt.Errorf("--kafka-config: %w", err)}
		}
	case o.where.brokers == "":
		return nil, nil
	}
	if o.where.brokers != "" {
		counted.Kafka.Brokers = strings.Split(o.where.brokers, ",")
	}
	return &counted, nil
}

// copies counts them in the newest records of Kafka.
func (o *tenantShowOptions) copies(ctx context.Context, counted *audit.Config, v *tenantView) error {
	if counted == nil {
		return nil
	}
	counted.Tenant = v.ID
	var err error
	if v.Copies, err = audit.Recent(ctx, *counted, time.Now().Add(-counted.Window)); err != nil {
		return fmt.Errorf("count copies: %w", err)
	}
	for _, c := range v.Copies.Copies {
		if text := c.Warning(o.copiesPercent); text != "" {
			v.Warnings = append(v.Warnings, text)
		}
	}
	return nil
}

// registered adds what the registry says; nil: it was not asked.
func (o *tenantShowOptions) registered(ctx context.Context, v *tenantView) (t *tenant.Tenant, err error) {
	if o.tenants == "" {
		return nil, nil
	}
	source, err := fileset.Open(ctx, o.tenants)
	if err != nil {
		return nil, usageError{fmt.Errorf("--tenants: %w", err)}
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	loader := tenant.NewLoader(source)
	report, err := loader.Reload(ctx)
	if err != nil {
		return nil, fmt.Errorf("--tenants: %w", err)
	}
	t = loader.Snapshot().Tenant(v.ID)
	if t == nil {
		err := fmt.Errorf("no tenant %q is in %s", v.ID, o.tenants)
		if n := len(report.Refused); n > 0 {
			err = fmt.Errorf("%w; %d files are at fault: `pulsegrid tenant check %s`", err, n, o.tenants)
		}
		return nil, err
	}
	known := true
	v.Known, v.Status, v.Class, v.Plan, v.Jurisdiction = &known, string(t.Status), t.Class, t.Plan, t.Jurisdiction
	v.Home, v.Cells = t.Home, t.Cells
	v.Lane, v.TopicClass, v.SchemaPolicy = t.Lane, t.TopicClass, string(t.Schema.Mode)
	return t, nil
}

var tableOf = map[signal.Signal]string{signal.Logs: "logs", signal.Metrics: "metrics", signal.Traces: "spans"}

// rows asks ClickHouse for rows of JSON. A table that is not there yet has none. The id needs no quoting: ValidID has no quotes.
func (o *tenantShowOptions) rows(ctx context.Context, sql string, each func([]byte) error) error {
	var out bytes.Buffer
	q := o.question
	q.sql, q.format = sql, jsonFormat
	if err := q.ask(ctx, &out); err != nil {
		if strings.Contains(err.Error(), "[ClickHouse error 60]") {
			return nil
		}
		return err
	}
	for line := range bytes.Lines(out.Bytes()) {
		if err := each(line); err != nil {
			return fmt.Errorf("ClickHouse's answer: %w", err)
		}
	}
	return nil
}

func (o *tenantShowOptions) signal(ctx context.Context, id string, s signal.Signal) (tenantSignal, error) {
	of := tenantSignal{Signal: s.String()}
	sql := fmt.Sprintf(`SELECT countIf(ingest_time > now() - %[1]d) AS n, countIf(ingest_time > now() - %[1]d AND kafka_topic LIKE '%%.overflow.%%') AS o,
		count() AS day, toFloat64(now64(3)) - toFloat64(max(ingest_time)) AS age
		FROM %[2]s WHERE tenant_id = '%[3]s' AND ingest_time > now() - 86400`, int(o.window.Seconds()), tableOf[s], id)
	return of, o.rows(ctx, sql, func(line []byte) error {
		var r struct {
			N, O, Day float64
			Age       float64
		}
		if err := json.Unmarshal(line, &r); err != nil {
			return err
		}
		of.EventsPerSecond = r.N / o.window.Seconds()
		if r.N > 0 {
			of.OverflowPercent = 100 * r.O / r.N
		}
		if r.Day > 0 {
			age := max(0, r.Age)
			of.NewestAge = &age
		}
		return nil
	})
}

func (o *tenantShowOptions) quarantined(ctx context.Context, v *tenantView) error {
	for _, table := range []string{"quarantine", "quarantine_pii"} {
		sql := fmt.Sprintf(`SELECT count() AS items, sum(events) AS events, signal, code, JSONExtractString(verdicts, 1, 'verdicts', 1, 'path') AS path, schema,
			toUnixTimestamp64Milli(toDateTime64(min(time), 3)) AS first, toUnixTimestamp64Milli(toDateTime64(max(time), 3)) AS last
			FROM %s WHERE tenant_id = '%s' AND ingest_time > now() - 86400 GROUP BY signal, code, path, schema ORDER BY items DESC LIMIT %d`, table, v.ID, maxViolations)
		err := o.rows(ctx, sql, func(line []byte) error {
			var r struct {
				Items, Events, First, Last int64
				Signal, Code, Path, Schema string
			}
			if err := json.Unmarshal(line, &r); err != nil {
				return err
			}
			v.Quarantine = append(v.Quarantine, tenantViolation{r.Items, r.Events, r.Signal, r.Code, r.Path, r.Schema, time.UnixMilli(r.First).UTC(), time.UnixMilli(r.Last).UTC()})
			return nil
		})
		if err != nil {
			return err
		}
	}
	slices.SortStableFunc(v.Quarantine, func(a, b tenantViolation) int { return cmp.Compare(b.Items, a.Items) })
	v.Quarantine = v.Quarantine[:min(len(v.Quarantine), maxViolations)]
	return nil
}

var routed = regexp.MustCompile(`(?m)^otelcol_tenant_routing_requests(?:_total)?\{([^}]*)\} (\S+)$`)
var label = regexp.MustCompile(`(\w+)="([^"]*)"`)

// refused sums up what gateways have decided on requests of the tenant's class.
func (o *tenantShowOptions) refused(ctx context.Context, v *tenantView) error {
	class := cmp.Or(v.Class, tenant.DefaultClass)
	for _, url := range o.gateways {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return usageError{fmt.Errorf("--gateway-metrics: %w", err)}
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return fmt.Errorf("gateway's metrics at %s: %w", url, unwrapURL(err))
		}
		text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			return fmt.Errorf("gateway's metrics at %s: %w", url, err)
		}
		for _, m := range routed.FindAllStringSubmatch(string(text), -1) {
			labels := map[string]string{}
			for _, l := range label.FindAllStringSubmatch(m[1], -1) {
				labels[l[1]] = l[2]
			}
			n, err := strconv.ParseFloat(m[2], 64)
			if err != nil || labels["class"] != class {
				continue
			}
			if v.Requests == nil {
				v.Requests = map[string]int64{}
			}
			v.Requests[labels["decision"]] += int64(n)
		}
	}
	return nil
}

func (v *tenantView) print(w io.Writer, window time.Duration, copiesPercent float64) error {
	var b strings.Builder
	fmt.Fprintf(&b, "tenant %s", v.ID)
	if v.Known != nil {
		fmt.Fprintf(&b, ": %s, class %s, plan %s, jurisdiction %s, lane %s, schema policy %s", v.Status, v.Class, cmp.Or(v.Plan, "none"), cmp.Or(v.Jurisdiction, "any"), v.Lane, cmp.Or(v.SchemaPolicy, "the gateway's"))
		if v.Home != "" {
			fmt.Fprintf(&b, ", home %s, cells %s", v.Home, cmp.Or(strings.Join(v.Cells, " "), "all of its jurisdiction"))
		}
	}
	b.WriteString("\n\n")
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "SIGNAL\tEVENTS/S (%v)\tQUOTA A GATEWAY\tBY OVERFLOW\tNEWEST EVENT\n", window)
	for _, s := range v.Signals {
		quota, newest := "not known", "none within a day"
		if v.Known != nil {
			quota = "none"
			if s.QuotaEvents > 0 || s.QuotaBytes > 0 {
				quota = fmt.Sprintf("%g events/s, %g bytes/s", s.QuotaEvents, s.QuotaBytes)
			}
			if s.Allowed != nil && !*s.Allowed {
				quota = "not allowed"
			}
		}
		if s.NewestAge != nil {
			newest = time.Duration(*s.NewestAge*float64(time.Second)).Round(100*time.Millisecond).String() + " ago"
		}
		fmt.Fprintf(tw, "%s\t%.1f\t%s\t%.0f %%\t%s\n", s.Signal, s.EventsPerSecond, quota, s.OverflowPercent, newest)
	}
	if len(v.Quarantine) > 0 {
		fmt.Fprintf(tw, "\nQUARANTINED (24h)\tSIGNAL\tCODE\tPATH\tSCHEMA\tFIRST\tLAST\n")
		for _, q := range v.Quarantine {
			fmt.Fprintf(tw, "%d items, %d events\t%s\t%s\t%s\t%s\t%s\t%s\n", q.Items, q.Events, oneLine(q.Signal), oneLine(q.Code), oneLine(q.Path), oneLine(q.Schema), q.First.Format(time.DateTime), q.Last.Format(time.DateTime))
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if len(v.Quarantine) == 0 {
		b.WriteString("\nnothing in quarantine within a day\n")
	}
	if v.Copies != nil {
		fmt.Fprintf(&b, "\ncopies in Kafka since %s", v.Copies.Since.Format(time.DateTime))
		if v.Copies.Partial {
			b.WriteString(", as far as the newest records go")
		}
		b.WriteString("\n")
		if err := writeCopies(&b, v.Copies.Copies, copiesPercent); err != nil {
			return err
		}
	}
	if len(v.Requests) > 0 {
		fmt.Fprintf(&b, "\nrequests of class %s since the gateways started:", cmp.Or(v.Class, tenant.DefaultClass))
		for _, decision := range []string{"fast", "overflow", "throttled", "denied", "spoofed", "unavailable"} {
			fmt.Fprintf(&b, " %d %s,", v.Requests[decision], decision)
		}
	}
	_, err := io.WriteString(w, strings.TrimRight(b.String(), ",\n")+"\n")
	return err
}

package fault

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/testkit/runbook"
)

// rehearsal is one row of the table in docs/rehearsals.md.
type rehearsal struct {
	name      string
	does      string
	alert     string                         // that is expected; empty: none may page
	ticket    bool                           // the alert is a ticket; false: a page
	also      []string                       // further pages that the fault sets off in time
	trips     []string                       // of a burn rate: the windows that must page, or be tickets where the alert is one, and no others
	within    time.Duration                  // from the fault to the notification, with the rules as they are
	over      time.Duration                  // from the end of the fault to the notification that the alert is over, with the rules as they are; 0: overWithin
	shows     string                         // what the runbook's commands show of the fault, and of nothing else
	short     bool                           // also part of `make test`, with shortened rules
	stays     bool                           // the commands tell of the last hours: they must show nothing before the fault, and may afterwards
	told      bool                           // no command shows the fault: the notification must
	probe     bool                           // a probe runs, beside the fleet
	needsDisk bool                           // a disk of a host, which no part uses
	looks     time.Duration                  // what the commands show comes and goes: for so long the operator looks again
	steady    time.Duration                  // of health before the fault, whatever the rules; 0: steadyFor and steadyLeast
	kind      *kind                          // of its rig; nil: calm, in `make test` plain
	load      func(*rehearsed) (stop func()) // beside the fleet's; nil: none
	inject    func(*rehearsed) error
	mend      func(*rehearsed) error
}

// Late rows burn the budgets of freshness when they come; what offers the same block for 10 minutes is stuck.
var (
	late      = []string{"FreshnessClickHouseP95Burn", "FreshnessClickHouseP99Burn"}
	lateStuck = append([]string{"PartitionStuck"}, late...)
	lateInAll = append([]string{"FreshnessLakeBurn"}, late...)
)

// Those that share a rig follow one another; whoever is last leaves much behind.
var rehearsals = []rehearsal{
	{
		name: "gateways-dead", does: "SIGKILL of all gateways", alert: "NoGateway", within: 3 * time.Minute, shows: `unhealthy: .*gateway: `, short: true,
		inject: func(r *rehearsed) error { return r.kill(r.Gateways) }, mend: func(r *rehearsed) error { return r.start(r.Gateways) },
	},
	{
		name: "aggregators-dead", does: "SIGKILL of all aggregators", alert: "NoAggregator", within: 3 * time.Minute, shows: `unhealthy: .*aggregator: `, also: late,
		inject: func(r *rehearsed) error { return r.kill(r.Aggregators[:2]) }, mend: func(r *rehearsed) error { return r.start(r.Aggregators[:2]) },
	},
	{
		name: "kafka-and-objects-away", does: "no gateway reaches Kafka, nor the object store", alert: "IngestionAvailabilityBurn", within: 4 * time.Minute, over: burnOver,
		trips:  []string{"1h", "6h"}, // those of tickets tell when the page is over: until then it says more
		shows:  `gateway errors: .*downstream_retry [\d,]+ \(`,
		inject: func(r *rehearsed) error { return r.refuse("gateway", "kafka", "objects") }, mend: (*rehearsed).heal,
	},
	{
		name: "few-refused", does: "no gateway reaches the object store, where events larger than a record go: one request in 2200", alert: "IngestionAvailabilityBurn", ticket: true,
		within: 6 * time.Hour, over: slowOver, trips: []string{"1d", "3d"}, looks: 2 * time.Minute, steady: 2 * time.Minute, kind: watched, load: (*rehearsed).trickle,
		shows:  `gateway errors: .*downstream_retry [\d,]+ \(`,
		inject: func(r *rehearsed) error { return r.refuse("gateway", "objects") }, mend: (*rehearsed).heal,
	},
	{
		name: "way-to-gateways-cut", does: "no agent reaches one of the gateways, which are well", alert: "ProbeFails", within: 5 * time.Minute, shows: `unavailable`, probe: true, kind: watched,
		inject: func(r *rehearsed) error { return r.refuse("agents", "gateway0") }, mend: (*rehearsed).heal,
	},
	{
		name: "probe-rows-deleted", does: "rows of the probe are deleted from ClickHouse by hand", alert: "ProbeRowsMissing", within: 12 * time.Minute, over: hourOver,
		shows: `DIFFERENT: the stores`, probe: true, kind: watched, inject: (*rehearsed).deleteProbes, mend: (*rehearsed).replay,
	},
	{
		name: "probe-rows-doubled", does: "a partition of a backup, with rows of the probe, is attached once more by hand", alert: "ProbeRowsDoubled", within: 12 * time.Minute, over: hourOver,
		shows: `"doubled": ?[1-9]`, probe: true, kind: watched, inject: (*rehearsed).doubleProbes, mend: (*rehearsed).singleProbes,
	},
	{
		name: "spill-filling", does: "no gateway reaches Kafka, until the requests in the object store are half of what may be there", alert: "SpillFilling", within: time.Hour, also: lateInAll,
		shows: `(?m)^spill: requests for [1-9]\d* partitions go to the object store`, kind: watched,
		inject: func(r *rehearsed) error { return r.refuse("gateway", "kafka") }, mend: (*rehearsed).heal,
	},
	{
		name: "spill-damaged", does: "an object of the spill is overwritten with nonsense; times count from when gateways reach Kafka again", alert: "SpillDamaged", within: 5 * time.Minute,
		over: hourOver, also: lateInAll, shows: `set aside: bad/`, kind: watched, inject: (*rehearsed).damageSpill, mend: (*rehearsed).undone,
	},
	{
		name: "records-removed", does: "Kafka removes records that no aggregator has read", alert: "RecordsLost", within: 3 * time.Minute, over: hourOver,
		shows: `(?m)^clickhouse: [\d,]+ records are lost`, stays: true, kind: watched, inject: (*rehearsed).removeRecords, mend: (*rehearsed).nothing,
	},
	{
		name: "partition-under-min-insync", does: "a partition of logs has one in-sync replica of the 2 it needs; its requests go to the object store", alert: "KafkaUnderMinISR", within: 5 * time.Minute,
		also: lateInAll, shows: `(?m)^spill: requests for [1-9]\d* partitions go to the object store`, kind: watched, load: (*rehearsed).trickle,
		inject: (*rehearsed).starve, mend: (*rehearsed).undone,
	},
	{
		name: "disk-full", does: "a file system of a host is full", alert: "DiskFull", within: 4 * time.Minute, over: 20 * time.Minute, shows: `/disk`, told: true, needsDisk: true, kind: watched,
		inject: func(r *rehearsed) error { return r.disk.Fill() }, mend: func(r *rehearsed) error { return r.disk.Free() },
	},
	{
		name: "clickhouse-disk-full", does: "ClickHouse's disk has 4 % left", alert: "ClickHouseDiskFull", within: 5 * time.Minute, over: 20 * time.Minute, shows: `has [0-4](\.\d+)?% of its disk left`, told: true,
		kind: ownDisk, inject: func(r *rehearsed) error { return r.Disks["clickhouse"].FillTo(0.04) }, mend: func(r *rehearsed) error { return r.Disks["clickhouse"].Free() },
	},
	{
		name: "invalid-events", does: "a third of all events breaks the schemas", alert: "QuarantineSurge", within: 25 * time.Minute, over: 30 * time.Minute, stays: true,
		shows: `default\W+[1-9]`, kind: enforcing, inject: (*rehearsed).poisoned, mend: (*rehearsed).undone,
	},
	{
		name: "deploys", does: "none: gateways and aggregators are restarted one after the other, and a further aggregator joins and leaves, again and again",
		inject: (*rehearsed).deploys, mend: (*rehearsed).nothing,
	},
	{
		name: "certificate-ending", does: "the gateways' certificate ends within a day", alert: "CertificateEnding", within: 3 * time.Minute, kind: withTLS,
		shows:  `certificate: the gateway's ends in (19h|20h0m0s)`,
		inject: func(r *rehearsed) error { return writeCertificate(certificateDir, 20*time.Hour) },
		mend:   func(r *rehearsed) error { return writeCertificate(certificateDir, certificateFor) },
	},
	{
		name: "rows-deleted", does: "rows are deleted from ClickHouse by hand; times count from the next hourly audit's end", alert: "AuditDifferent", within: 2 * time.Minute,
		shows: `"verdict": ?"different"`, inject: (*rehearsed).deleteRows, mend: (*rehearsed).replay,
	},
	{
		name: "clickhouse-down", does: "ClickHouse is down", alert: "StoreStalled", within: 13 * time.Minute, shows: `unhealthy: .*clickhouse: `, also: lateStuck,
		inject: func(r *rehearsed) error { r.ClickHouse.Kill(); return nil }, mend: func(r *rehearsed) error { return r.StartClickHouse() },
	},
	{
		name: "objects-away", does: "no aggregator reaches the object store", alert: "StoreStalled", within: 13 * time.Minute, also: []string{"PartitionStuck", "FreshnessLakeBurn"},
		shows:  `(?m)^lake: [1-9]\d* partitions offer the same block`,
		inject: func(r *rehearsed) error { return r.refuse("aggregator", "objects") }, mend: (*rehearsed).heal,
	},
	{
		name: "kafka-away", does: "no gateway reaches Kafka; requests go to the object store", alert: "KafkaSpilling", ticket: true, within: 13 * time.Minute, also: lateInAll,
		shows:  `(?m)^spill: requests for [1-9]\d* partitions go to the object store`,
		inject: func(r *rehearsed) error { return r.refuse("gateway", "kafka") }, mend: (*rehearsed).heal,
	},
	{
		name: "kafka-away-for-minutes", does: "no gateway reaches Kafka for 400 s, whatever the rules; times count from when they do again, and rows come that are late", alert: "FreshnessClickHouseP99Burn",
		within: 4 * time.Minute, over: burnOver, also: lateInAll, shows: `Freshness of ClickHouse, P99`, told: true, inject: (*rehearsed).keepAway, mend: (*rehearsed).nothing,
	},
}

const (
	deploysFor    = time.Hour        // at -scale 1
	deploySettles = 20 * time.Second // at least, before the next process is restarted: a deploy waits for the health of what it has started
	burnOver      = 45 * time.Minute // of a burn rate that pages: its windows of 6 hours and 30 minutes end last, then Alertmanager's group
	hourOver      = 75 * time.Minute // of what has happened within the hour
	slowOver      = 7 * time.Hour    // of one that is a ticket: its windows of 3 days and 6 hours
)

// deploys restarts each gateway and each aggregator as a rolling deploy does, and has a further aggregator join and leave.
func (r *rehearsed) deploys() error {
	settle := func() { time.Sleep(max(scaled(time.Minute), deploySettles)) }
	for until := time.Now().Add(scaled(deploysFor)); time.Now().Before(until); {
		for _, tier := range append(append([]*rig.Tier{}, r.Gateways...), r.Aggregators[:2]...) {
			if !tier.Stop(stopGrace) {
				return fmt.Errorf("%s did not stop within %v:\n%s", tier.Name, stopGrace, tier.Log())
			}
			if err := tier.Start(startTimeout); err != nil {
				return err
			}
			settle()
		}
		spare := r.Aggregators[2]
		if err := spare.Start(startTimeout); err != nil {
			return err
		}
		settle()
		if !spare.Stop(stopGrace) {
			return fmt.Errorf("%s did not leave within %v:\n%s", spare.Name, stopGrace, spare.Log())
		}
		settle()
	}
	return nil
}

func (r *rehearsed) kill(tiers []*rig.Tier) error {
	for _, t := range tiers {
		t.Kill()
	}
	return nil
}

func (r *rehearsed) start(tiers []*rig.Tier) error {
	var errs []error
	for _, t := range tiers {
		errs = append(errs, t.Start(startTimeout))
	}
	return errors.Join(errs...)
}

func (r *rehearsed) refuse(from string, to ...string) error {
	for _, part := range to {
		for _, l := range r.Links.Matching(from, part) {
			l.Refuse()
		}
	}
	return nil
}

func (r *rehearsed) heal() error { return r.Links.Heal() }

// deleteRows deletes every third row of logs that is not of the last seconds, whose blocks may be under way, and runs the hourly audit: from then on the fault is known.
func (r *rehearsed) deleteRows() error {
	where := fmt.Sprintf("FROM logs WHERE service_name = '%s' AND ingest_time < now64() - INTERVAL 10 SECOND AND event_index %% 3 = 1", r.service)
	n, err := r.Query("SELECT count() " + where)
	if err != nil {
		return err
	}
	if n == "0" {
		return errors.New("there are no rows to delete: the fault was none")
	}
	if _, err := r.Query("DELETE " + where); err != nil {
		return err
	}
	if out, err := r.shell.Run(r.hourlyAudit()); err == nil {
		return fmt.Errorf("the audit did not see that rows are missing:\n%s", out)
	}
	r.began = time.Now()
	return nil
}

// replay puts the rows back by the commands of the page that the alert's runbook leads to. The next hourly audit is equal.
func (r *rehearsed) replay() error {
	page, err := rig.Runbook("replay.md")
	if err != nil {
		return err
	}
	for _, command := range runbook.Commands(runbook.Section(page, "run-it")) {
		out, err := r.shell.Run(command)
		r.t.Logf("%s\n%s", command, out)
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", command, err, out)
		}
		r.out.Commands++
	}
	return r.auditEqual()
}

// hourlyAudit is the command of the cron job, as the runbook writes it.
func (r *rehearsed) hourlyAudit() string {
	page, err := rig.Runbook("correctness.md")
	r.must(err)
	for _, command := range runbook.Commands(page) {
		if strings.Contains(command, "--metrics ") {
			return command
		}
	}
	r.t.Fatal("docs/runbooks/correctness.md has no audit with --metrics")
	return ""
}

// auditEqual runs the hourly audit until it is equal: the lake may be a commit behind.
func (r *rehearsed) auditEqual() error {
	command, out, err := r.hourlyAudit(), "", error(nil)
	if !until(func() bool { out, err = r.shell.Run(command); return err == nil }, patience) {
		return fmt.Errorf("%s: %w\n%s", command, err, out)
	}
	return nil
}

// calm is for rehearsals, which last for up to an hour each: it has commits of the lake as far apart as in production, where rules are, and room for them.
var calm = &kind{
	name: "calm", gateway: plain.gateway, aggregators: append(slices.Clone(plain.aggregators), testdata+"calm-aggregator.yaml"), lanes: plain.lanes, roomy: true,
	env: func(string) (map[string]string, error) { return commitAge(), nil },
}

// commitAge is calm-aggregator.yaml's.
func commitAge() map[string]string {
	return map[string]string{"PULSEGRID_COMMIT_AGE": max(short(productionCommits), fastCommits).String()}
}

const (
	productionCommits = 10 * time.Second
	fastCommits       = 2 * time.Second // aggregator.yaml's
)

// withTLS has gateways with a certificate on gRPC, which the rehearsal replaces; agents come by HTTP as before.
var withTLS = &kind{
	name: "tls", gateway: append([]string{testdata + "tls-gateway.yaml"}, plain.gateway...), aggregators: calm.aggregators, lanes: plain.lanes, roomy: true,
	env: func(dir string) (map[string]string, error) {
		certificateDir = dir
		env := commitAge()
		env["PULSEGRID_TLS_CERT"], env["PULSEGRID_TLS_KEY"] = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
		return env, writeCertificate(dir, certificateFor)
	},
}

// watched is calm with Kafka's own metrics. Its gateways keep in the object store what is larger than a record, and of a spill as much as two minutes fill.
var watched = &kind{
	name: "watched", gateway: append(slices.Clone(plain.gateway), testdata+"watched-gateway.yaml"), aggregators: calm.aggregators, lanes: plain.lanes, roomy: true, env: calm.env,
	kafkaMetrics: true,
}

// ownDisk is calm with a disk of ClickHouse's own, which its metrics tell of.
var ownDisk = &kind{
	name: "own-disk", gateway: calm.gateway, aggregators: calm.aggregators, lanes: plain.lanes, roomy: true, env: calm.env, clickHouseDisk: 4 << 30,
}

// enforcing has gateways that send to quarantine what breaks a schema.
var enforcing = &kind{
	name: "enforcing", gateway: calm.gateway, aggregators: calm.aggregators, lanes: plain.lanes, roomy: true,
	env: func(string) (map[string]string, error) {
		env := commitAge()
		env["PULSEGRID_SCHEMA_MODE"] = "enforce"
		return env, nil
	},
}

const certificateFor = 60 * 24 * time.Hour

var certificateDir string // of the newest rig of withTLS

// writeCertificate puts a certificate that signs itself, and its key, where the gateways read them.
func writeCertificate(dir string, lasts time.Duration) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(lasts)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "tls.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(filepath.Join(dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
}

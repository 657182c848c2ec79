package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/testkit/kafkatest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/s3test"
)

const (
	startTimeout = 3 * time.Minute // of what starts within seconds where the machine does nothing else
	stopGrace    = 2 * time.Minute
)

// Options of a rig.
type Options struct {
	KafkaNodes        int               // 0: 1
	Gateways          int               // 0: 1
	Aggregators       int               // 0: 1
	Spares            int               // further aggregators, which Start does not start
	Dir               string            // where everything lies; it stays
	Collector         string            // empty: _build/collector/pulsegrid-collector
	Container         *Container        // not nil: gateways and aggregators are this image's, with the configs in it; GatewayConfigs and AggregatorConfigs are paths in it
	Env               map[string]string // further variables of the configs, see distributions/*/config.yaml
	Secured           bool              // gateways serve TLS and want credentials, of which Env tells; false: distributions/gateway/insecure.yaml comes before GatewayConfigs
	GatewayConfigs    []string          // files merged over distributions/gateway/config.yaml, in this order
	AggregatorConfigs []string          // the same for the aggregators

	// Faulty puts every connection between two parts through a proxy (Rig.Links), and the lake into an object store (Rig.Objects).
	// Of that AggregatorConfigs must tell by the variables PULSEGRID_S3_*, and GatewayConfigs by PULSEGRID_SPILL_URL and PULSEGRID_OVERSIZED_URL.
	Faulty bool
	// Ingest and CellHealth are where agents (OTLP/HTTP) and health checks reach the first gateway of a faulty rig, through links "agents-gateway0" and
	// "dns-gateway0": HOST:PORT, so that several cells have hosts of their own behind one port. Empty: free ones, and no link for health checks.
	Ingest, CellHealth string
	// Catalog is the lake's catalog: CatalogSQL, or, of a faulty rig, a server in front of it (Rig.CatalogServer). AggregatorConfigs must then tell of the
	// server by PULSEGRID_LAKE_CATALOG_URL.
	Catalog CatalogKind
	// SmallDisks gives ClickHouse, the lake and the last Kafka node a small file system each (Rig.Disks), which can be filled.
	SmallDisks bool
	// ClickHouseDisk gives ClickHouse a file system of so many bytes, as hosts have them (Rig.Disks). 0: it has none of its own.
	ClickHouseDisk int64
	// KafkaMetrics has Kafka's nodes serve metrics to Prometheus.
	KafkaMetrics bool
}

// Rig is a cell of real parts: Apache Kafka, the ClickHouse engine, a lake with a SQLite catalog, and gateways and aggregators as
// users run them: the ocb-built collector with the configs of distributions/.
type Rig struct {
	opts          Options
	Kafka         *kafkatest.Cluster
	ClickHouse    *chengine.Engine
	Links         *Links           // nil unless Faulty
	Objects       *ObjectStore     // nil unless Faulty: the lake is a directory
	CatalogServer *CatalogServer   // nil: aggregators read and write the catalog's file
	Disks         map[string]*Disk // "clickhouse", "lake", "kafka"; those that there are
	Gateways      []*Tier
	Aggregators   []*Tier // the spares come last

	// The first of each, for those who have no more.
	Gateway, Aggregator *Process
	GRPC, HTTP          string

	chHTTP string // stays the same when the engine is started again
}

// Tier is a gateway or an aggregator.
type Tier struct {
	*Process
	Name       string // "gateway0"
	GRPC, HTTP string // of a gateway: where agents reach it
	CellHealth string // of a gateway: where health checks of the cell reach it
	metrics    string
	health     string
}

// New starts the stores and Kafka and describes gateways and aggregators, which the caller starts. The calling program's main or
// TestMain begins with chengine.RunChildIfAsked.
func New(o Options) (r *Rig, err error) {
	if o.Collector == "" {
		o.Collector = filepath.Join(Root(), "_build", "collector", "pulsegrid-collector")
	}
	if _, err := os.Stat(o.Collector); err != nil && o.Container == nil {
		return nil, fmt.Errorf("the collector is not built (run `make build`): %w", err)
	}
	o.KafkaNodes, o.Gateways, o.Aggregators = max(1, o.KafkaNodes), max(1, o.Gateways), max(1, o.Aggregators)
	r = &Rig{opts: o, chHTTP: FreeAddr()}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	for _, d := range []string{r.lake(), r.ClickHouseDir(), filepath.Join(o.Dir, "kafka")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return r, err
		}
	}
	if o.SmallDisks {
		if err := r.mountDisks(); err != nil {
			return r, err
		}
	}
	if o.ClickHouseDisk > 0 {
		d, err := MountDisk(r.ClickHouseDir(), o.ClickHouseDisk)
		if err != nil {
			return r, err
		}
		r.Disks = map[string]*Disk{"clickhouse": d}
	}
	if o.Faulty {
		r.Links = newLinks()
		if r.Objects, err = startObjectStore(filepath.Join(r.lake(), "objects")); err != nil {
			return r, err
		}
		if o.Catalog != CatalogSQL {
			if r.CatalogServer, err = r.startCatalog(); err != nil {
				return r, err
			}
		}
	} else if err := os.MkdirAll(filepath.Join(r.lake(), "warehouse"), 0o755); err != nil {
		return r, err
	}
	if o.Container != nil {
		if err := o.Container.Mount(r.lake(), filepath.Join(r.lake(), "warehouse")); err != nil {
			return r, err
		}
	}
	if r.Kafka, err = kafkatest.New(r.kafkaOptions()); err != nil {
		return r, err
	}
	if err := r.StartClickHouse(); err != nil {
		return r, err
	}
	return r, r.describeTiers()
}

// Sizes of the small disks, in bytes: what some hundred thousand events need, several times over. A Kafka node maps 20 MB of index
// for each partition, most of which is never touched.
var diskSizes = map[string]int64{"clickhouse": 512 << 20, "lake": 512 << 20, "kafka": 2 << 30}

func (r *Rig) mountDisks() error {
	r.Disks = map[string]*Disk{}
	for name, dir := range map[string]string{
		"clickhouse": r.ClickHouseDir(), "lake": r.lake(), "kafka": filepath.Join(r.opts.Dir, "kafka", "node"+strconv.Itoa(r.opts.KafkaNodes-1)),
	} {
		d, err := newDisk(dir, diskSizes[name])
		if err != nil {
			return err
		}
		r.Disks[name] = d
	}
	return nil
}

// gatewayName and aggregatorName name the parts, in links, logs and listeners.
func gatewayName(i int) string    { return "gateway" + strconv.Itoa(i) }
func aggregatorName(i int) string { return "aggregator" + strconv.Itoa(i) }

const interBroker = "kafka"

// kafkaOptions give every client of a faulty rig a listener of its own, which the brokers advertise by the address of that
// client's proxy: so one client's links can be hurt without the others'.
func (r *Rig) kafkaOptions() kafkatest.Options {
	o := kafkatest.Options{Nodes: r.opts.KafkaNodes, Dir: filepath.Join(r.opts.Dir, "kafka"), Metrics: r.opts.KafkaMetrics}
	if !r.opts.Faulty {
		return o
	}
	o.Listeners = map[string]func(int, string) (string, error){}
	for _, client := range append(r.clients(), interBroker) {
		o.Listeners[strings.ToUpper(client)] = func(node int, address string) (string, error) {
			l, err := r.Links.open(fmt.Sprintf("%s-kafka%d", client, node), address)
			if err != nil {
				return "", err
			}
			return l.Addr, nil
		}
	}
	o.InterBroker = strings.ToUpper(interBroker)
	o.Properties = map[string]string{
		"num.network.threads":          "1", // of each listener; there are many
		"num.io.threads":               "4",
		"group.min.session.timeout.ms": "1000",
	}
	return o
}

func (r *Rig) clients() []string {
	var out []string
	for i := range r.opts.Gateways {
		out = append(out, gatewayName(i))
	}
	for i := range r.opts.Aggregators + r.opts.Spares {
		out = append(out, aggregatorName(i))
	}
	return out
}

func (r *Rig) describeTiers() error {
	for i := range r.opts.Gateways {
		t, listens, err := r.gateway(i)
		if err != nil {
			return err
		}
		env, err := r.spill(t.Name)
		if err != nil {
			return err
		}
		env["PULSEGRID_GRPC_ENDPOINT"], env["PULSEGRID_HTTP_ENDPOINT"] = listens[0], listens[1]
		if env["PULSEGRID_CELL_HEALTH_ENDPOINT"], err = r.cellHealth(i, t); err != nil {
			return err
		}
		overlays := r.opts.GatewayConfigs
		if !r.opts.Secured {
			overlays = append([]string{r.config("gateway", "insecure.yaml")}, overlays...)
		}
		r.describe(t, "gateway", listens, overlays, env)
		r.Gateways = append(r.Gateways, t)
	}
	for i := range r.opts.Aggregators + r.opts.Spares {
		t := &Tier{Name: aggregatorName(i)}
		env, err := r.stores(t.Name)
		if err != nil {
			return err
		}
		r.describe(t, "aggregator", nil, r.opts.AggregatorConfigs, env)
		r.Aggregators = append(r.Aggregators, t)
	}
	r.Gateway, r.GRPC, r.HTTP = r.Gateways[0].Process, r.Gateways[0].GRPC, r.Gateways[0].HTTP
	r.Aggregator = r.Aggregators[0].Process
	return nil
}

// gateway names a gateway's addresses: where agents reach it, and where it listens.
func (r *Rig) gateway(i int) (*Tier, []string, error) {
	t := &Tier{Name: gatewayName(i), GRPC: FreeAddr(), HTTP: FreeAddr()}
	listens := []string{t.GRPC, t.HTTP}
	if !r.opts.Faulty {
		return t, listens, nil
	}
	ingest := ""
	if i == 0 {
		ingest = r.opts.Ingest
	}
	link, err := r.Links.openAt(ingest, "agents-"+t.Name, t.HTTP)
	if err != nil {
		return nil, nil, err
	}
	t.HTTP = link.Addr
	return t, listens, nil
}

// cellHealth names where a gateway answers health checks of the cell, and where these reach it.
func (r *Rig) cellHealth(i int, t *Tier) (listen string, err error) {
	listen = FreeAddr()
	t.CellHealth = listen
	if i > 0 || r.opts.CellHealth == "" {
		return listen, nil
	}
	link, err := r.Links.openAt(r.opts.CellHealth, "dns-"+t.Name, listen)
	if err != nil {
		return "", err
	}
	t.CellHealth = link.Addr
	return listen, nil
}

// spill are the variables by which a gateway finds the object store.
func (r *Rig) spill(name string) (map[string]string, error) {
	if !r.opts.Faulty {
		return map[string]string{}, nil
	}
	link, err := r.Links.open(name+"-objects", r.Objects.front.Addr().String())
	if err != nil {
		return nil, err
	}
	return map[string]string{
		"PULSEGRID_GATEWAY":       name,
		"PULSEGRID_SPILL_URL":     bucketURL(spillBucket, "http://"+link.Addr),
		"PULSEGRID_OVERSIZED_URL": bucketURL(oversizedBucket, "http://"+link.Addr),
		"AWS_ACCESS_KEY_ID":       s3test.AccessKey, "AWS_SECRET_ACCESS_KEY": s3test.SecretKey,
	}, nil
}

// stores are the variables by which an aggregator finds the stores.
func (r *Rig) stores(name string) (map[string]string, error) {
	env := map[string]string{"PULSEGRID_CLICKHOUSE_HTTP": r.chHTTP, "PULSEGRID_LAKE_CATALOG": r.CatalogFile(), "PULSEGRID_LAKE_WAREHOUSE": r.Warehouse()}
	if !r.opts.Faulty {
		return env, nil
	}
	hot, err := r.Links.open(name+"-clickhouse", r.chHTTP)
	if err != nil {
		return nil, err
	}
	lake, err := r.Links.open(name+"-objects", r.Objects.front.Addr().String())
	if err != nil {
		return nil, err
	}
	env["PULSEGRID_CLICKHOUSE_HTTP"] = hot.Addr
	env["PULSEGRID_S3_ENDPOINT"] = "http://" + lake.Addr
	env["PULSEGRID_S3_REGION"], env["PULSEGRID_S3_ACCESS_KEY_ID"], env["PULSEGRID_S3_SECRET_ACCESS_KEY"] = s3test.Region, s3test.AccessKey, s3test.SecretKey
	if r.CatalogServer != nil {
		link, err := r.Links.open(name+"-catalog", r.CatalogServer.front.Addr().String())
		if err != nil {
			return nil, err
		}
		env["PULSEGRID_LAKE_CATALOG_URL"] = "http://" + link.Addr
	}
	return env, nil
}

func (r *Rig) describe(t *Tier, kind string, listens, overlays []string, own map[string]string) {
	t.health, t.metrics = FreeAddr(), FreeAddr()
	_, metricsPort, err := net.SplitHostPort(t.metrics)
	if err != nil {
		panic(err) // FreeAddr's answer has a port
	}
	brokers := r.Kafka.Brokers()
	if r.opts.Faulty {
		brokers = r.Kafka.BrokersOn(strings.ToUpper(t.Name))
	}
	env := map[string]string{
		"PULSEGRID_KAFKA_BROKERS":      strings.Join(brokers, ","),
		"PULSEGRID_REPLICATION_FACTOR": strconv.Itoa(min(3, r.opts.KafkaNodes)),
		"PULSEGRID_MIN_INSYNC":         strconv.Itoa(min(2, r.opts.KafkaNodes)),
		"PULSEGRID_PARTITIONS":         "4",
		"PULSEGRID_HEALTH_ENDPOINT":    t.health,
		"PULSEGRID_METRICS_HOST":       "127.0.0.1",
		"PULSEGRID_METRICS_PORT":       metricsPort,
	}
	for _, more := range []map[string]string{own, r.opts.Env} {
		for k, v := range more {
			env[k] = v
		}
	}
	args := []string{"--config", r.config(kind, "config.yaml")}
	for _, c := range overlays {
		args = append(args, "--config", c)
	}
	ready := append(listens, t.health)
	if r.opts.Container != nil {
		t.Process = r.opts.Container.Process(env, ready, args...)
		return
	}
	t.Process = NewProcess(env, ready, append([]string{r.opts.Collector}, args...)...)
}

// config is a file of distributions/, at the path where the tiers find it.
func (r *Rig) config(kind, name string) string {
	if r.opts.Container != nil {
		return filepath.Join(imageConfigs, kind, name)
	}
	return filepath.Join(Root(), "distributions", kind, name)
}

// StartClickHouse starts the engine, again where it was before.
func (r *Rig) StartClickHouse() error {
	_, port, err := net.SplitHostPort(r.chHTTP)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	r.ClickHouse, err = chengine.Start(context.Background(), chengine.Options{Dir: r.ClickHouseDir(), HTTPPort: n})
	return err
}

// ClickHouseDir is where the engine keeps its data.
func (r *Rig) ClickHouseDir() string { return filepath.Join(r.opts.Dir, "clickhouse") }

// Start starts gateways and aggregators, but not the spares.
func (r *Rig) Start() error {
	var errs []error
	for _, t := range append(r.Gateways[:len(r.Gateways):len(r.Gateways)], r.Aggregators[:r.opts.Aggregators]...) {
		errs = append(errs, t.Start(startTimeout))
	}
	return errors.Join(errs...)
}

// Kill ends every process of the cell at once (SIGKILL), as the loss of its region does.
func (r *Rig) Kill() error {
	var dying sync.WaitGroup
	errs := make([]error, r.opts.KafkaNodes)
	for _, t := range slices.Concat(r.Gateways, r.Aggregators) {
		if !t.Ended() {
			dying.Go(t.Kill)
		}
	}
	for i := range errs {
		dying.Go(func() { errs[i] = r.Kafka.Kill(i) })
	}
	dying.Go(r.ClickHouse.Kill)
	if r.Objects != nil {
		dying.Go(r.Objects.process.Kill)
	}
	dying.Wait()
	return errors.Join(errs...)
}

// Revive starts again what Kill has ended, where it was and with what it had.
func (r *Rig) Revive() error {
	var coming sync.WaitGroup
	errs := make([]error, r.opts.KafkaNodes+2)
	for i := range r.opts.KafkaNodes {
		coming.Go(func() { errs[i] = r.Kafka.Restart(i) })
	}
	coming.Go(func() { errs[r.opts.KafkaNodes] = r.StartClickHouse() })
	if r.Objects != nil {
		coming.Go(func() { errs[r.opts.KafkaNodes+1] = r.Objects.process.Start(startTimeout) })
	}
	coming.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return r.Start()
}

// Close stops everything that runs.
func (r *Rig) Close() error {
	var errs []error
	for _, t := range append(r.Gateways, r.Aggregators...) {
		if !t.Stop(stopGrace) {
			errs = append(errs, fmt.Errorf("%s did not stop within %v:\n%s", t.Name, stopGrace, t.Log()))
		}
	}
	if r.ClickHouse != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
		defer cancel()
		errs = append(errs, r.ClickHouse.Stop(ctx))
	}
	if r.Kafka != nil {
		errs = append(errs, r.Kafka.Close())
	}
	if r.CatalogServer != nil {
		errs = append(errs, r.CatalogServer.close())
	}
	if r.Objects != nil {
		errs = append(errs, r.Objects.close())
	}
	if r.Links != nil {
		r.Links.close()
	}
	for _, d := range r.Disks {
		errs = append(errs, d.close())
	}
	if r.opts.Container != nil {
		errs = append(errs, r.opts.Container.Unmount())
	}
	return errors.Join(errs...)
}

func (r *Rig) lake() string { return filepath.Join(r.opts.Dir, "lake") }

// Warehouse is where the lake's tables lie.
func (r *Rig) Warehouse() string {
	if r.opts.Faulty {
		return "s3://" + bucket + "/" + tables
	}
	return "file://" + filepath.Join(r.lake(), "warehouse")
}

// CatalogFile is the SQLite file of the lake's catalog.
func (r *Rig) CatalogFile() string { return filepath.Join(r.lake(), "catalog.db") }

// Catalog is the lake's catalog as pyiceberg's SqlCatalog takes it.
func (r *Rig) Catalog() string { return "sqlite:///" + r.CatalogFile() }

// CatalogProperties are further properties that a reader of the lake needs. They name the store itself, not the proxies.
func (r *Rig) CatalogProperties() map[string]string {
	if !r.opts.Faulty {
		return map[string]string{}
	}
	return map[string]string{
		"s3.endpoint": "http://" + r.Objects.addr, "s3.region": s3test.Region, "s3.access-key-id": s3test.AccessKey, "s3.secret-access-key": s3test.SecretKey,
		"s3.force-virtual-addressing": "false",
	}
}

// ClickHouseHTTP is the address of its HTTP interface.
func (r *Rig) ClickHouseHTTP() string { return r.chHTTP }

// MetricsURL is where a gateway or an aggregator is scraped.
func (t *Tier) MetricsURL() string { return "http://" + t.metrics + "/metrics" }

// Health is where a gateway or an aggregator says whether it is well.
func (t *Tier) Health() string { return t.health }

// Metrics scrapes the first of a tier ("gateway", "aggregator").
func (r *Rig) Metrics(tier string) (string, error) {
	if tier == "gateway" {
		return Scrape(r.Gateways[0].metrics)
	}
	return Scrape(r.Aggregators[0].metrics)
}

// Query asks ClickHouse and returns its answer as it came, in TSV unless the query says otherwise.
func (r *Rig) Query(sql string) (string, error) {
	resp, err := http.Post("http://"+r.chHTTP+"/?database=pulsegrid", "text/plain", strings.NewReader(sql))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", sql, b)
	}
	return strings.TrimSpace(string(b)), nil
}

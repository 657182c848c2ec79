package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	sqlcat "github.com/apache/iceberg-go/catalog/sql"
	"github.com/apache/iceberg-go/table"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/uptrace/bun/driver/sqliteshim"
	"go.uber.org/goleak"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	goleak.VerifyTestMain(leaktest.Patient(clickhousetest.Sharing(m)))
}

const (
	partitions   = 2
	blockRecords = 5 // records of a block
)

// rig is a cell of which the test itself is the data path: it stores what the rule of the design says, in a few plain lines, and then
// spoils it as a test wants.
type rig struct {
	t        testing.TB
	kafka    *kfake.Cluster
	client   *kgo.Client
	admin    *kadm.Client
	hot      *clickhousetest.Server // nil: both stores are in memory
	database string

	memoryHot, memoryLake *memoryStore
	lakeDir               string
	catalog               catalog.Catalog
	now                   time.Time                  // append time of the next record
	records               map[string][][]*kgo.Record // by topic and partition

	parts map[*kgo.Record]partOf // records with a header `request`

	// What the data path does wrong.
	skip     func(r *kgo.Record) bool // records that never reach the dedupe
	noDedupe bool                     // duplicates are stored
	window   time.Duration
	spoil    func(*event)      // changes what the dedupe compares
	forgets  time.Duration     // the dedupe's window; 0: the right one
	keep     func(*event) bool // copies that are stored all the same

	// What the lake is given at the end, in one commit a table.
	lakeRows   map[signal.Signal][]arrow.RecordBatch
	lakeLedger []ledger.Entry
}

var databases int

func newRig(t testing.TB, hot *clickhousetest.Server) *rig {
	t.Helper()
	k, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(k.Close)
	client, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(32<<20))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	databases++
	r := &rig{
		t: t, kafka: k, client: client, admin: kadm.NewClient(client), hot: hot, database: "audit" + strconv.Itoa(databases), lakeDir: t.TempDir(),
		now: time.Now().Add(-time.Hour).Truncate(time.Millisecond), records: map[string][][]*kgo.Record{}, window: DefaultWindow,
	}
	for _, topic := range []string{signal.Logs.Topic(), signal.Metrics.Topic(), signal.Traces.Topic(), signal.QuarantineTopic} {
		_, err := r.admin.CreateTopic(t.Context(), partitions, 1, map[string]*string{"message.timestamp.type": kadm.StringPtr("CreateTime"), "max.message.bytes": kadm.StringPtr("33554432")}, topic)
		require.NoError(t, err)
		r.records[topic] = make([][]*kgo.Record, partitions)
	}
	r.parts = map[*kgo.Record]partOf{}
	if hot == nil {
		r.memoryHot, r.memoryLake = newMemoryStore(certificate.Hot, DefaultHotGroup), newMemoryStore(certificate.Lake, DefaultLakeGroup)
		return r
	}
	r.createStores()
	return r
}

func (r *rig) config(change ...func(*Config)) Config {
	c := DefaultConfig()
	c.Tool, c.Cell = "test", "test"
	c.Kafka.Brokers = r.kafka.ListenAddrs()
	url := "memory"
	if r.hot != nil {
		url = r.hot.URL
	}
	c.ClickHouse = &stored.ClickHouseConfig{URL: url, Database: r.database, Group: DefaultHotGroup}
	c.Lake = r.lakeConfig()
	c.Window = r.window
	for _, f := range change {
		f(&c)
	}
	return c
}

func (r *rig) lakeConfig() *stored.LakeConfig {
	return &stored.LakeConfig{
		CatalogType: "sql", CatalogName: "pulsegrid", CatalogURI: "file:" + filepath.Join(r.lakeDir, "catalog.db"),
		Warehouse: "file://" + filepath.Join(r.lakeDir, "warehouse"), Namespace: DefaultNamespace, Group: DefaultLakeGroup,
	}
}

func (r *rig) audit(change ...func(*Config)) *certificate.Certificate {
	r.t.Helper()
	open := (*audit).open
	if r.hot == nil {
		open = func(a *audit, _ context.Context) {
			for _, s := range []*memoryStore{r.memoryHot, r.memoryLake} {
				a.opened(s, nil, certificate.StoreInfo{})
			}
		}
	}
	c, err := run(r.t.Context(), r.config(change...), open)
	require.NoError(r.t, err)
	return c
}

// produce appends one record; the next one comes a second later.
func (r *rig) produce(topic string, partition int32, value []byte, headers ...string) *kgo.Record {
	r.t.Helper()
	rec := &kgo.Record{Topic: topic, Partition: partition, Key: []byte("agent-1"), Value: value, Timestamp: r.now}
	r.now = r.now.Add(time.Second)
	set := map[string]string{envelope.HeaderTenant: "acme", envelope.HeaderSignal: signal.OfTopic(topic).String(), envelope.HeaderReceivedNanos: strconv.FormatInt(rec.Timestamp.UnixNano()-12345, 10)}
	for i := 0; i+1 < len(headers); i += 2 {
		set[headers[i]] = headers[i+1]
	}
	for k, v := range set {
		rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: k, Value: []byte(v)})
	}
	require.NoError(r.t, r.client.ProduceSync(r.t.Context(), rec).FirstErr())
	if topic != signal.QuarantineTopic {
		r.records[topic][partition] = append(r.records[topic][partition], rec)
	}
	return rec
}

// fill produces n realistic records of each signal into each partition, and a few in which every field is set.
func (r *rig) fill(n int) {
	r.t.Helper()
	seed := uint64(0)
	for _, s := range signal.All {
		for p := range int32(partitions) {
			for i := range n {
				seed++
				value := otlptest.Realistic(s, seed, 7)
				if i%10 == 3 {
					value = otlptest.Full(s, seed)
				}
				r.produce(s.Topic(), p, value)
			}
		}
	}
}

// quarantine produces what the receiver does with a record that it, or its store, refuses.
func (r *rig) quarantine(rec *kgo.Record, code, group string) {
	r.t.Helper()
	h := []string{
		envelope.HeaderQuarantineCode, code, envelope.HeaderOriginTopic, rec.Topic,
		envelope.HeaderOriginPartition, strconv.Itoa(int(rec.Partition)), envelope.HeaderOriginOffset, strconv.FormatInt(rec.Offset, 10),
	}
	if group != "" {
		h = append(h, envelope.HeaderOriginGroup, group)
	}
	r.produce(signal.QuarantineTopic, 0, rec.Value, h...)
}

// store is the data path of both stores.
func (r *rig) store(quarantined ...quarantinedRecord) {
	r.t.Helper()
	r.lakeRows, r.lakeLedger = map[signal.Signal][]arrow.RecordBatch{}, nil
	for _, group := range []string{DefaultHotGroup, DefaultLakeGroup} {
		for _, s := range signal.All {
			for p := range int32(partitions) {
				r.storePartition(group, s, p, quarantined)
			}
		}
	}
	r.storeLake()
}

type quarantinedRecord struct {
	rec    *kgo.Record
	group  string // empty: both
	silent bool   // its events never occurred
	events []int  // just these, by position; nil: all
}

func (r *rig) storePartition(group string, s signal.Signal, partition int32, quarantined []quarantinedRecord) {
	r.t.Helper()
	records := r.records[s.Topic()][partition]
	m := &model{rig: r}
	next := int64(0)
	for block := range slices.Chunk(records, blockRecords) {
		b := columns.NewBuilder(memory.DefaultAllocator, columns.ForSignal(s))
		e := ledger.Entry{Topic: s.Topic(), Partition: partition, First: next, Last: block[len(block)-1].Offset, Signal: s, Written: time.Now()}
		next = e.Last + 1
		for _, rec := range block {
			if r.skip != nil && r.skip(rec) {
				continue
			}
			d, ok := r.read(s, rec)
			if !ok {
				continue
			}
			away, occurs := false, true
			var named []int
			for _, q := range quarantined {
				if q.rec == rec && (q.group == "" || q.group == group) {
					away, occurs, named = q.events == nil, !q.silent, q.events
				}
			}
			var drop []int
			if occurs && !r.noDedupe {
				drop = m.copies(d.events)
			}
			if away {
				e.Quarantined += int64(len(d.events))
				continue
			}
			e.Quarantined += int64(len(named))
			e.Events += int64(len(d.events) - len(named))
			e.Duplicates += int64(len(drop))
			d.remove(append(drop, named...))
			require.NoError(r.t, d.appendTo(b))
		}
		rows := b.NewRecordBatch()
		e.Rows = rows.NumRows()
		ids := rows.Column(rows.Schema().FieldIndices("event_id")[0]).(*array.FixedSizeBinary)
		for i := range ids.Len() {
			e.IDSum += ledger.IDSum(ids.Value(i))
		}
		if group == DefaultHotGroup {
			r.insertHot(columns.ForSignal(s).Name, rows)
			r.insertHotLedger(e)
			rows.Release()
		} else {
			r.lakeRows[s] = append(r.lakeRows[s], rows)
			r.lakeLedger = append(r.lakeLedger, e)
		}
		b.Release()
	}
	r.commit(group, s.Topic(), partition, next)
}

func (r *rig) commit(group, topic string, partition int32, next int64) {
	r.t.Helper()
	o := kadm.Offsets{}
	o.AddOffset(topic, partition, next, -1)
	require.NoError(r.t, r.admin.CommitAllOffsets(r.t.Context(), group, o))
}

func (r *rig) createStores() {
	t := r.t
	for _, table := range []*columns.Table{columns.Logs, columns.Metrics, columns.Spans} {
		for _, ddl := range table.ClickHouseDDL(columns.DDLOptions{Database: r.database}) {
			r.hot.Exec(ddl)
		}
	}
	r.hot.Exec(ledger.ClickHouseDDL(ledger.Name, columns.DDLOptions{Database: r.database}))
	require.NoError(t, os.MkdirAll(filepath.Join(r.lakeDir, "warehouse"), 0o755))
	l := r.lakeConfig()
	var err error
	r.catalog, err = catalog.Load(t.Context(), l.CatalogName, iceberg.Properties{
		"type": l.CatalogType, "uri": l.CatalogURI, "warehouse": l.Warehouse, sqlcat.DriverKey: sqliteshim.ShimName, sqlcat.DialectKey: string(sqlcat.SQLite),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.catalog.(catalog.Closer).Close()) })
	require.NoError(t, r.catalog.CreateNamespace(t.Context(), table.Identifier{DefaultNamespace}, nil))
	create := func(name string, sc *iceberg.Schema, p iceberg.Properties) {
		location := "file://" + filepath.Join(r.lakeDir, "warehouse", name)
		_, err := r.catalog.CreateTable(t.Context(), table.Identifier{DefaultNamespace, name}, sc, catalog.WithLocation(location), catalog.WithProperties(p))
		require.NoError(t, err)
	}
	for _, table := range []*columns.Table{columns.Logs, columns.Metrics, columns.Spans} {
		create(table.Name, table.IcebergSchema(), table.IcebergProperties())
	}
	create(ledger.Name, ledger.IcebergSchema(), iceberg.Properties{})
}

func (r *rig) lakeTable(name string) *table.Table {
	tbl, err := r.catalog.LoadTable(r.t.Context(), table.Identifier{DefaultNamespace, name})
	require.NoError(r.t, err)
	return tbl
}

// storeLake appends what the lake is to hold.
func (r *rig) storeLake() {
	r.t.Helper()
	if r.hot == nil {
		for s, batches := range r.lakeRows {
			r.memoryLake.batches[columns.ForSignal(s).Name] = batches
		}
		r.memoryLake.entries = r.lakeLedger
		return
	}
	for s, batches := range r.lakeRows {
		r.insertLake(s, batches...)
		for _, b := range batches {
			b.Release()
		}
	}
	tbl := r.lakeTable(ledger.Name)
	sc, err := table.SchemaToArrowSchema(tbl.Schema(), nil, true, false)
	require.NoError(r.t, err)
	rec := ledger.NewIcebergBatch(memory.DefaultAllocator, sc, r.lakeLedger)
	defer rec.Release()
	r.appendLake(tbl, rec)
}

func (r *rig) insertLake(s signal.Signal, batches ...arrow.RecordBatch) {
	r.t.Helper()
	tbl := r.lakeTable(columns.ForSignal(s).Name)
	view, err := columns.ForSignal(s).IcebergView(tbl.Schema())
	require.NoError(r.t, err)
	var recs []arrow.RecordBatch
	for _, b := range batches {
		if b.NumRows() == 0 {
			continue
		}
		rec, err := view.Convert(memory.DefaultAllocator, b)
		require.NoError(r.t, err)
		defer rec.Release()
		recs = append(recs, rec)
	}
	if len(recs) > 0 {
		r.appendLake(tbl, recs...)
	}
}

func (r *rig) appendLake(tbl *table.Table, recs ...arrow.RecordBatch) {
	r.t.Helper()
	rd, err := array.NewRecordReader(recs[0].Schema(), recs)
	require.NoError(r.t, err)
	defer rd.Release()
	_, err = tbl.Append(r.t.Context(), rd, nil)
	require.NoError(r.t, err)
}

// insertHot inserts rows with a token of their own.
func (r *rig) insertHot(table string, rec arrow.RecordBatch) {
	r.t.Helper()
	if rec.NumRows() == 0 {
		return
	}
	if r.hot == nil {
		rec.Retain()
		r.memoryHot.batches[table] = append(r.memoryHot.batches[table], rec)
		return
	}
	var b bytes.Buffer
	w := ipc.NewWriter(&b, ipc.WithSchema(rec.Schema()))
	require.NoError(r.t, w.Write(rec))
	require.NoError(r.t, w.Close())
	q := url.Values{"query": {"INSERT INTO " + r.database + "." + table + " FORMAT ArrowStream"}, "insert_deduplication_token": {rand.Text()}}
	resp, err := http.Post(r.hot.URL+"/?"+q.Encode(), "", &b)
	require.NoError(r.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	require.Equal(r.t, http.StatusOK, resp.StatusCode, string(text))
}

func (r *rig) insertHotLedger(e ledger.Entry) {
	r.t.Helper()
	if r.hot == nil {
		r.memoryHot.entries = append(r.memoryHot.entries, e)
		return
	}
	rec := ledger.NewRecordBatch(memory.DefaultAllocator, []ledger.Entry{e})
	defer rec.Release()
	r.insertHot(ledger.Name, rec)
}

// rowsOf are the rows of some records once more, after change.
func (r *rig) rowsOf(s signal.Signal, partition int32, first, last int64, change func(*sent)) arrow.RecordBatch {
	r.t.Helper()
	b := columns.NewBuilder(memory.DefaultAllocator, columns.ForSignal(s))
	defer b.Release()
	for _, rec := range r.records[s.Topic()][partition] {
		if rec.Offset >= first && rec.Offset <= last {
			d, ok := r.read(s, rec)
			require.True(r.t, ok)
			if change != nil {
				change(d)
			}
			require.NoError(r.t, d.appendTo(b))
		}
	}
	rec := b.NewRecordBatch()
	r.t.Cleanup(rec.Release)
	return rec
}

// restamp gives all the record's events another place.
func (d *sent) restamp(offset int64, index int32) {
	for _, e := range d.events {
		lineage.StampEvent(e.attrs, lineage.Event{ID: e.id, Offset: offset, Index: index})
	}
}

// shown are a certificate's differences, sorted.
func shown(c *certificate.Certificate) []string {
	var out []string
	for _, d := range c.Differences {
		d.EventID = "" // other tests look at it
		out = append(out, d.String())
	}
	for _, f := range c.LedgerFaults {
		out = append(out, f.String())
	}
	slices.Sort(out)
	return out
}

func totals(c *certificate.Certificate, store string) certificate.Totals {
	for _, t := range c.Totals {
		if t.Store == store {
			return t
		}
	}
	return certificate.Totals{}
}

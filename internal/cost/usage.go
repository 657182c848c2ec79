package cost

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/pulsegrid/pulsegrid/internal/clickhouse"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Bounds of UsageOptions.
const (
	WindowMost   = 7 * 24 * time.Hour
	SampleMost   = 200_000
	ServicesMost = 100

	servicesListed = 10_000 // of a signal
	keysMost       = 200    // of a map column, the most frequent
	elementsMost   = 100    // elements of maps and lists that are read, for each row of the sample
	blockBytes     = 1 << 20
)

// UsageOptions say whose usage is read, and how much of it.
type UsageOptions struct {
	Database string
	Tenant   string
	Window   time.Duration // of the rates; it ends with the last whole minute. A minute to WindowMost
	Services int           // of each signal: the most busy ones, whose rows are sampled
	Sample   int           // rows of a service, the newest
	// Progress is told what is looked at. It may be nil.
	Progress func(format string, args ...any)
}

// Usage is what a tenant sends and has in ClickHouse.
type Usage struct {
	Tenant     string           `json:"tenant"`
	From       time.Time        `json:"from"`
	To         time.Time        `json:"to"`
	Services   []ServiceUsage   `json:"services"`
	Attributes []AttributeUsage `json:"attributes"`
	USD        float64          `json:"usd"` // a month at this rate
}

// ServiceUsage is a service's part.
type ServiceUsage struct {
	Signal          string  `json:"signal"`
	Service         string  `json:"service"`
	EventsPerSecond float64 `json:"events_per_second"`
	BytesPerEvent   float64 `json:"bytes_per_event"` // in ClickHouse, one copy
	Sampled         int     `json:"sampled_rows"`    // zero: BytesPerEvent is the mean of the sampled services
	USD             float64 `json:"usd"`
}

// AttributeUsage is what one attribute takes, over all sampled services of the tenant.
type AttributeUsage struct {
	Signal         string  `json:"signal"`
	Attribute      string  `json:"attribute"`
	Column         string  `json:"column"`
	Share          float64 `json:"share"` // of the events of the sampled services that have it
	BytesPerEvent  float64 `json:"bytes_per_event"`
	BytesPerSecond float64 `json:"bytes_per_second"`
	USD            float64 `json:"usd_saved"` // a month, if it is dropped
}

// usageReader reads one tenant's.
type usageReader struct {
	UsageOptions
	client *clickhouse.Client
	to     int64 // Unix seconds
}

// ReadUsage asks the rollups for rates, and samples rows for bytes: their columns, compressed as ClickHouse compresses them, and for whole rows what the table's marks and indexes take for
// each byte.
func ReadUsage(ctx context.Context, c *clickhouse.Client, o UsageOptions) (*Usage, error) {
	if o.Progress == nil {
		o.Progress = func(string, ...any) {}
	}
	now, err := clickhouse.Row[struct {
		Now int64 `json:"now"`
	}](ctx, c, "SELECT toInt64(toUnixTimestamp(toStartOfMinute(now()))) AS now", nil)
	if err != nil {
		return nil, err
	}
	r := &usageReader{UsageOptions: o, client: c, to: now.Now}
	u := &Usage{Tenant: o.Tenant, From: time.Unix(r.to, 0).Add(-o.Window).UTC(), To: time.Unix(r.to, 0).UTC()}
	attributes := map[string]*AttributeUsage{}
	for _, s := range signal.All {
		if err := r.signal(ctx, s, u, attributes); err != nil {
			return nil, fmt.Errorf("%s: %w", s, err)
		}
	}
	for _, a := range attributes {
		u.Attributes = append(u.Attributes, *a)
	}
	slices.SortFunc(u.Services, func(a, b ServiceUsage) int {
		return cmp.Or(cmp.Compare(b.EventsPerSecond*b.BytesPerEvent, a.EventsPerSecond*a.BytesPerEvent), cmp.Compare(a.Signal+a.Service, b.Signal+b.Service))
	})
	slices.SortFunc(u.Attributes, func(a, b AttributeUsage) int {
		return cmp.Or(cmp.Compare(b.BytesPerSecond, a.BytesPerSecond), cmp.Compare(a.Signal+a.Attribute+a.Column, b.Signal+b.Attribute+b.Column))
	})
	return u, nil
}

func (r *usageReader) parameters(more ...string) map[string]string {
	out := map[string]string{"param_tenant": r.Tenant, "param_to": strconv.FormatInt(r.to, 10), "param_from": strconv.FormatInt(r.to-int64(r.Window/time.Second), 10), "database": r.Database}
	for i := 0; i < len(more); i += 2 {
		out["param_"+more[i]] = more[i+1]
	}
	return out
}

func (r *usageReader) signal(ctx context.Context, s signal.Signal, u *Usage, attributes map[string]*AttributeUsage) error {
	table := columns.ForSignal(s)
	counter := "count"
	if s == signal.Metrics {
		counter = "points"
	}
	services, err := clickhouse.Rows[struct {
		Service string  `json:"service"`
		Events  float64 `json:"events"`
	}](ctx, r.client, fmt.Sprintf("SELECT service_name AS service, toFloat64(sum(%s)) AS events FROM %s_1m WHERE tenant_id = {tenant:String} AND time >= toDateTime({from:UInt32}) AND "+
		"time < toDateTime({to:UInt32}) GROUP BY service_name ORDER BY events DESC, service LIMIT %d", counter, table.Name, servicesListed), r.parameters())
	if err != nil || len(services) == 0 {
		return err
	}
	overhead, err := clickhouse.Row[struct {
		Factor float64 `json:"factor"`
	}](ctx, r.client, "SELECT if(sum(data_compressed_bytes) = 0, 1, sum(bytes_on_disk) / sum(data_compressed_bytes)) AS factor FROM system.parts WHERE active AND database = currentDatabase() AND table = '"+
		table.Name+"'", r.parameters())
	if err != nil {
		return err
	}
	var sampledBytes, sampledEvents float64
	first := len(u.Services)
	for i, svc := range services {
		of := ServiceUsage{Signal: s.String(), Service: svc.Service, EventsPerSecond: svc.Events / r.Window.Seconds()}
		if i < r.Services {
			r.Progress("%s of service %q", s, svc.Service)
			sample := sampleOf{usageReader: r, table: table, service: svc.Service, overhead: overhead.Factor}
			if err := sample.read(ctx, &of, attributes); err != nil {
				return fmt.Errorf("service %q: %w", svc.Service, err)
			}
			sampledBytes += of.BytesPerEvent * svc.Events
			sampledEvents += svc.Events
		}
		u.Services = append(u.Services, of)
	}
	for i := range u.Services[first:] {
		if of := &u.Services[first+i]; of.Sampled == 0 && sampledEvents > 0 {
			of.BytesPerEvent = sampledBytes / sampledEvents
		}
	}
	for _, a := range attributes {
		if a.Signal == s.String() && sampledEvents > 0 {
			perSecond := sampledEvents / r.Window.Seconds()
			a.BytesPerEvent, a.Share = a.BytesPerSecond/perSecond, a.Share/perSecond
		}
	}
	return nil
}

// sampleOf are the newest rows of a service.
type sampleOf struct {
	*usageReader
	table    *columns.Table
	service  string
	overhead float64 // bytes on disk of each compressed byte
	oldest   string  // Unix nanoseconds: where the sample begins
	rows     float64
}

func (s *sampleOf) read(ctx context.Context, of *ServiceUsage, attributes map[string]*AttributeUsage) error {
	const newest = " WHERE tenant_id = {tenant:String} AND service_name = {service:String} AND time < toDateTime({to:UInt32})"
	found, err := clickhouse.Row[struct {
		Rows   float64 `json:"rows"`
		Oldest string  `json:"oldest"`
	}](ctx, s.client, fmt.Sprintf("SELECT toFloat64(count()) AS rows, toString(toUnixTimestamp64Nano(min(time))) AS oldest FROM (SELECT time FROM %s%s ORDER BY time DESC LIMIT %d)", s.table.Name, newest, s.Sample),
		s.parameters("service", s.service))
	if err != nil || found.Rows == 0 { // it has events in the rollups, but no rows any more
		return err
	}
	s.rows, s.oldest, of.Sampled = found.Rows, found.Oldest, int(found.Rows)
	whole, err := s.whole(ctx)
	if err != nil {
		return err
	}
	of.BytesPerEvent = whole * s.overhead
	add := func(name, column string, share, bytes float64) {
		k := s.table.Signal.String() + "\x00" + name + "\x00" + column
		a, ok := attributes[k]
		if !ok {
			a = &AttributeUsage{Signal: s.table.Signal.String(), Attribute: name, Column: column}
			attributes[k] = a
		}
		a.BytesPerSecond += bytes * of.EventsPerSecond
		a.Share += share * of.EventsPerSecond // ReadUsage divides it by the events of all sampled services
	}
	for _, c := range s.table.Columns {
		switch {
		case c.Promote != "":
			err = s.promoted(ctx, c, add)
		case c.Kind.IsMap():
			err = s.mapped(ctx, c, add)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	return nil
}

// whole is the size of all columns. Those with a Delta codec are taken as differences; of maps and lists the elements are taken, since ClickHouse's parts have their lengths, which hardly
// change from row to row, and its answers have their ends, which always do.
func (s *sampleOf) whole(ctx context.Context) (total float64, err error) {
	var plain []string
	add := func(expression string) {
		if err == nil {
			var n float64
			n, err = s.size(ctx, expression, "", "")
			total += n
		}
	}
	for _, c := range s.table.Columns {
		switch {
		case c.Kind.IsMap():
			add("arrayJoin(mapKeys(" + c.Name + "))")
			add("arrayJoin(mapValues(" + c.Name + "))")
		case c.Kind.IsList():
			add("arrayJoin(" + c.Name + ")")
		case strings.HasPrefix(c.Codec, "Delta"):
			number := c.Name
			if c.Kind == columns.Time {
				number = "toUnixTimestamp64Nano(" + c.Name + ")"
			}
			plain = append(plain, number+" - lagInFrame("+number+") OVER (ORDER BY time ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)")
		default:
			plain = append(plain, c.Name)
		}
	}
	add(strings.Join(plain, ", "))
	return total, err
}

// promoted is an attribute with a column of its own.
func (s *sampleOf) promoted(ctx context.Context, c columns.Column, add func(name, column string, share, bytes float64)) error {
	have, err := clickhouse.Row[struct {
		Rows float64 `json:"rows"`
	}](ctx, s.client, fmt.Sprintf("SELECT toFloat64(count()) AS rows FROM %s%s AND %s != defaultValueOfArgumentType(%[3]s)", s.table.Name, s.where(), c.Name), s.bound())
	if err != nil || have.Rows == 0 {
		return err
	}
	bytes, err := s.size(ctx, c.Name, "", "")
	if err == nil {
		add(c.Promote, c.Name, have.Rows/s.rows, bytes)
	}
	return err
}

// mapped are the attributes in a map.
func (s *sampleOf) mapped(ctx context.Context, c columns.Column, add func(name, column string, share, bytes float64)) error {
	keys, err := clickhouse.Rows[struct {
		Key  string  `json:"key"`
		Rows float64 `json:"rows"`
	}](ctx, s.client, fmt.Sprintf("SELECT arrayJoin(mapKeys(%s)) AS key, toFloat64(count()) AS rows FROM %s%s GROUP BY key ORDER BY rows DESC, key LIMIT %d", c.Name, s.table.Name, s.where(), keysMost), s.bound())
	if err != nil {
		return err
	}
	for _, k := range keys {
		bytes, err := s.size(ctx, c.Name+"[{key:String}]", " AND mapContains("+c.Name+", {key:String})", k.Key)
		if err != nil {
			return err
		}
		add(k.Key, c.Name, k.Rows/s.rows, bytes)
	}
	return nil
}

func (s *sampleOf) where() string {
	return " WHERE tenant_id = {tenant:String} AND service_name = {service:String} AND time >= fromUnixTimestamp64Nano({oldest:Int64}) AND time < toDateTime({to:UInt32})"
}

func (s *sampleOf) bound(more ...string) map[string]string {
	return s.parameters(append([]string{"service", s.service, "oldest", s.oldest}, more...)...)
}

// size is the compressed bytes of an expression over the sample, for each of its rows: its columns as ClickHouse would write them, in blocks of 1 MiB.
func (s *sampleOf) size(ctx context.Context, expression, and, key string) (float64, error) {
	settings := s.bound("key", key)
	settings["default_format"] = "Native"
	settings["max_block_size"] = "65536"
	settings["wait_end_of_query"] = "1" // an answer that ends early would look like a small one
	answer, err := s.client.Stream(ctx, fmt.Sprintf("SELECT %s FROM %s%s%s ORDER BY time LIMIT %d", expression, s.table.Name, s.where(), and, elementsMost*s.Sample), settings)
	if err != nil {
		return 0, err
	}
	var written counter
	enc, err := zstd.NewWriter(&written, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(blockBytes), zstd.WithEncoderConcurrency(1),
		zstd.WithAllLitEntropyCompression(true)) // as ClickHouse: random digits take half of a byte
	if err == nil {
		_, err = io.Copy(enc, answer)
		err = errors.Join(err, enc.Close())
	}
	if err = errors.Join(err, answer.Close()); err != nil {
		return 0, err
	}
	return float64(written) / s.rows, nil
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// scaling are the components of a bill that grow with the bytes of events; the others would be paid for without the attribute, too.
var scaling = map[string]bool{Edge: true, Gateway: true, Kafka: true, Aggregator: true, Hot: true, Lake: true}

// PerGiB is what a GiB of rows a month in one copy of ClickHouse stands for on all hops: of the whole bill, and of what scales with it.
func (b *Bill) PerGiB() (all, scales float64) {
	w := b.Workload
	gibs := w.EventsPerSecond * seconds * b.Event.ClickHouseBytes / gib
	for component, usd := range b.By(func(l Line) string { return l.Component }) {
		all += usd / gibs
		if scaling[component] {
			scales += usd / gibs
		}
	}
	return all, scales
}

// Charge says what the usage costs at the unit costs of a bill.
func (u *Usage) Charge(b *Bill) {
	all, scales := b.PerGiB()
	u.USD = 0
	for i := range u.Services {
		s := &u.Services[i]
		s.USD = s.EventsPerSecond * s.BytesPerEvent * seconds / gib * all
		u.USD += s.USD
	}
	for i := range u.Attributes {
		a := &u.Attributes[i]
		a.USD = a.BytesPerSecond * seconds / gib * scales
	}
}

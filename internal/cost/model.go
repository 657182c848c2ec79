package cost

import (
	"fmt"
	"maps"
	"math"
	"slices"
)

// Of a month.
const (
	hours   = 730.0
	seconds = hours * 3600
	gib     = 1 << 30
	mib     = 1 << 20
)

// Zones of a region, and replicas of a partition.
const zones = 3

// Kinds.
const (
	kafkaExpress, kafkaStandard = "express", "standard"
	hotSelf, hotCloud           = "self", "cloud"
)

// Components of the bill, in the order of the data path.
const (
	Edge          = "edge"
	Gateway       = "gateway"
	Kafka         = "kafka"
	Aggregator    = "aggregator"
	Hot           = "hot store"
	Lake          = "lake"
	Observability = "observability"
	Operations    = "operations"
)

// Components lists them.
var Components = []string{Edge, Gateway, Kafka, Aggregator, Hot, Lake, Observability, Operations}

// Line is one item of a bill.
type Line struct {
	Region    string  `json:"region"`
	Component string  `json:"component"`
	Item      string  `json:"item"`
	Quantity  float64 `json:"quantity"`
	Unit      string  `json:"unit"`
	Price     string  `json:"price"` // name in the file of prices; empty: of the workload
	USD       float64 `json:"usd"`
	Inputs    string  `json:"inputs"`
}

// Count is how many instances of something a region needs.
type Count struct {
	Region   string  `json:"region"`
	What     string  `json:"what"`
	Instance string  `json:"instance"`
	Mean     float64 `json:"mean"`
	Peak     float64 `json:"peak"`
}

// Event is what one event of the workload takes at each hop: the benchmarks' figures, mixed and grown.
type Event struct {
	Growth float64 `json:"growth"` // factor on what was measured
	Hops
}

// Bill is a month.
type Bill struct {
	Workload Workload `json:"-"`
	Event    Event    `json:"event"`
	Counts   []Count  `json:"counts"`
	Lines    []Line   `json:"lines"`
	USD      float64  `json:"usd"`
	// Unverified is the part of it that rests on prices that no document was read for.
	Unverified float64 `json:"unverified_usd"`
}

// By adds up the lines by what key says of each.
func (b *Bill) By(key func(Line) string) map[string]float64 {
	out := map[string]float64{}
	for _, l := range b.Lines {
		out[key(l)] += l.USD
	}
	return out
}

// model is one reckoning.
type model struct {
	Workload
	prices   *PriceFile
	measured *Measured
	bill     *Bill
	err      error

	// Of the region that is reckoned.
	region  string
	share   float64 // of the events
	rate    float64 // events a second, mean
	peak    float64
	tasks   float64 // that run, mean
	inS3    float64 // GiB in S3 Standard
	perUnit float64 // USD of one GiB of these
}

// Reckon makes the bill of a workload.
func Reckon(w Workload, m *Measured, p *PriceFile) (*Bill, error) {
	if err := w.Validate(); err != nil {
		return nil, err
	}
	r := &model{Workload: w, prices: p, measured: m, bill: &Bill{Workload: w, Event: w.event(m)}}
	for _, region := range slices.Sorted(maps.Keys(w.Regions)) {
		r.region, r.share, r.tasks = region, w.Regions[region], 0
		r.rate, r.peak = w.EventsPerSecond*r.share, w.PeakEventsPerSecond*r.share
		r.standardStorage()
		r.edge()
		r.gateway()
		r.kafka()
		r.aggregator()
		r.hot()
		r.lake()
		r.observability()
		r.operations()
	}
	for _, l := range r.bill.Lines {
		r.bill.USD += l.USD
	}
	return r.bill, r.err
}

// event grows the mean event of the benchmarks to the workload's size.
func (w Workload) event(m *Measured) Event {
	h := m.mixed(w.Mix)
	raw := h.JSONBytes
	if w.RawCountedAs == "protobuf" {
		raw = h.ProtobufBytes
	}
	g := math.Pow(w.RawBytesPerEvent/raw, w.Growth)
	requests := m.requestFactor()
	return Event{Growth: g, Hops: Hops{
		JSONBytes: h.JSONBytes * g, ProtobufBytes: h.ProtobufBytes * g, WireBytes: h.WireBytes * g, KafkaBytes: h.KafkaBytes * g, InsertBytes: h.InsertBytes * g,
		ClickHouseBytes: h.ClickHouseBytes * g, LakeBytes: h.LakeBytes * g,
		GatewayMicroseconds: h.GatewayMicroseconds * g * requests, HotMicroseconds: h.HotMicroseconds * g, ClickHouseMicroseconds: h.ClickHouseMicroseconds * g,
		LakeMicroseconds: h.LakeMicroseconds * g, ScanNanoseconds: h.ScanNanoseconds,
	}}
}

// quote is a price in the region.
func (r *model) quote(name string) *Quote {
	if p := r.prices.Find(name); p != nil {
		if q, ok := p.Regions[r.region]; ok {
			return q
		}
	}
	if r.err == nil {
		r.err = fmt.Errorf("prices: there is no %s in %s", name, r.region)
	}
	return &Quote{Tiers: []Tier{{}}}
}

// charge adds a line at a price, less a discount.
func (r *model) charge(component, item, price string, quantity, discount float64, inputs string, args ...any) {
	q := r.quote(price)
	unit := ""
	if p := r.prices.Find(price); p != nil {
		unit = p.Unit
	}
	text := fmt.Sprintf(inputs, args...)
	if discount > 0 {
		text += fmt.Sprintf("; committed: -%.0f %%", 100*discount)
	}
	r.add(Line{Component: component, Item: item, Quantity: quantity, Unit: unit, Price: price, USD: q.Of(quantity) * (1 - discount), Inputs: text}, q.Status)
}

func (r *model) add(l Line, status string) {
	l.Region = r.region
	r.bill.Lines = append(r.bill.Lines, l)
	if status == StatusUnverified {
		r.bill.Unverified += l.USD
	}
}

func (r *model) count(what, instance string, mean, peak float64) {
	r.bill.Counts = append(r.bill.Counts, Count{Region: r.region, What: what, Instance: instance, Mean: mean, Peak: peak})
}

// gibs is GiB a month of so many bytes an event.
func (r *model) gibs(bytes float64) float64 { return r.rate * seconds * bytes / gib }

// stored is GiB of so many days.
func (r *model) stored(bytes, days float64) float64 { return r.rate * 86400 * days * bytes / gib }

// cores that so many microseconds of each event keep busy.
func cores(rate, us float64) float64 { return rate * us / 1e6 }

// inZones is a number of instances that is the same in each zone, at least one.
func inZones(n float64) float64 { return zones * math.Max(1, math.Ceil(n/zones)) }

// fargate charges tasks.
func (r *model) fargate(component, item string, t Task, tasks float64, inputs string, args ...any) {
	text := fmt.Sprintf(inputs, args...)
	r.charge(component, item+", vCPU", "fargate.arm.vcpu", tasks*t.VCPU*hours, r.FargateDiscount, "%.1f tasks of %v vCPU: %s", tasks, t.VCPU, text)
	r.charge(component, item+", memory", "fargate.arm.gib", tasks*t.GiB*hours, r.FargateDiscount, "%.1f tasks of %v GiB", tasks, t.GiB)
}

func (r *model) edge() {
	in := r.gibs(r.bill.Event.WireBytes)
	r.charge(Edge, "load balancer, hours", "nlb.hour", hours, 0, "one, in three zones, cross-zone off")
	r.charge(Edge, "load balancer, capacity", "nlb.lcu", in, 0, "%.0f GiB in, one unit for a GiB and hour", in)
	r.charge(Edge, "public addresses", "ipv4.hour", zones*hours, 0, "one a zone")
	r.charge(Edge, "answers to agents", "transfer.internet", in*r.ResponseShare, 0, "%.0f %% of the bytes in", 100*r.ResponseShare)
}

func (r *model) gateway() {
	e := r.bill.Event
	need := func(rate float64) float64 {
		return inZones(cores(rate, e.GatewayMicroseconds) * r.VCPUPerCore / r.GatewayUtilisation / r.GatewayTask.VCPU)
	}
	mean, peak := need(r.rate), need(r.peak)
	tasks := (1-r.PeakShare)*mean + r.PeakShare*peak
	r.tasks += tasks
	r.count("gateway", fmt.Sprintf("Fargate ARM %v vCPU, %v GiB", r.GatewayTask.VCPU, r.GatewayTask.GiB), mean, peak)
	r.fargate(Gateway, "tasks", r.GatewayTask, tasks, "%.0f K/s x %.1f us x %v vCPU a core / %v; %.0f at the mean, %.0f at the peak, %v of the time",
		r.rate/1e3, e.GatewayMicroseconds, r.VCPUPerCore, r.GatewayUtilisation, mean, peak, r.PeakShare)
}

// expressSizes are MiB/s that a broker takes in (docs of MSK); it gives twice as much.
var expressSizes = []struct {
	name string
	in   float64
}{{"large", 15.6}, {"xlarge", 31.2}, {"2xlarge", 62.5}, {"4xlarge", 125}, {"8xlarge", 250}, {"16xlarge", 500}}

// standardSizes are MiB/s of a broker's disks and network.
var standardSizes = []struct {
	name          string
	disk, network float64
}{{"large", 78.75, 117}, {"xlarge", 156.25, 234}, {"2xlarge", 312.5, 469}, {"4xlarge", 625, 937}}

const brokersMost = 30 // of a cluster; beyond, larger ones are taken

func (r *model) kafka() {
	b := r.bill.Event.KafkaBytes
	in, peak := r.rate*b/mib, r.peak*b/mib
	groups := float64(r.HotCopies + 1)
	if r.HotKind == hotCloud {
		groups = 2
	}
	out := in * groups * r.CatchUp
	stored := r.rate * r.KafkaHours * 3600 * b / gib
	if r.KafkaKind == kafkaExpress {
		best, size := math.Inf(1), expressSizes[0]
		for _, s := range expressSizes {
			n := inZones(math.Max(peak/(s.in*r.KafkaUtilisation), out/(2*s.in*r.KafkaUtilisation)))
			usd := n * r.quote("msk.express.m7g."+s.name).Of(1)
			if n <= brokersMost && usd < best*0.999 {
				best, size = usd, s
			}
		}
		n := inZones(math.Max(peak/(size.in*r.KafkaUtilisation), out/(2*size.in*r.KafkaUtilisation)))
		r.count("kafka broker", "express.m7g."+size.name, n, n)
		r.charge(Kafka, "brokers", "msk.express.m7g."+size.name, n*hours, 0, "%.0f: %.0f MiB/s in at the peak, %.0f out for %.0f groups, %v MiB/s a broker x %v", n, peak, out, groups, size.in, r.KafkaUtilisation)
		r.charge(Kafka, "storage", "msk.express.storage", stored, 0, "%v h x %.0f B", r.KafkaHours, b)
		r.charge(Kafka, "data in", "msk.express.data_in", r.gibs(b), 0, "%.0f B an event", b)
	} else {
		best, size, most := math.Inf(1), standardSizes[0], 0.0
		for _, s := range standardSizes {
			// A broker writes its share three times over and reads some of it again; it sends two copies to followers, and one to each group.
			capacity := math.Min(s.disk/6.5, s.network/(groups*r.CatchUp+5.7)) * r.KafkaUtilisation
			n := inZones(peak / capacity)
			usd := n * r.quote("msk.standard.m7g."+s.name).Of(1)
			if n <= 2*brokersMost && usd < best*0.999 {
				best, size, most = usd, s, n
			}
		}
		r.count("kafka broker", "m7g."+size.name, most, most)
		r.charge(Kafka, "brokers", "msk.standard.m7g."+size.name, most*hours, 0, "%.0f: %.0f MiB/s in at the peak", most, peak)
		r.charge(Kafka, "storage", "msk.standard.storage", stored*zones*2, 0, "%v h x %.0f B x 3 replicas, disks half full", r.KafkaHours, b)
	}
	far := r.gibs(b) * (1 - r.LocalProduce)
	r.charge(Kafka, "gateway to broker across zones", "transfer.cross_zone", far, 0, "%.0f %% of the bytes have their leader elsewhere", 100*(1-r.LocalProduce))
	if !r.FollowerFetch {
		r.charge(Kafka, "broker to aggregator across zones", "transfer.cross_zone", r.gibs(b)*groups*2/3, 0, "%.0f groups, no follower fetch", groups)
	}
}

// hotGroups is how many consumer groups fill hot stores.
func (r *model) hotGroups() float64 {
	if r.HotKind == hotCloud {
		return 1
	}
	return float64(r.HotCopies)
}

func (r *model) aggregator() {
	e := r.bill.Event
	perTask := r.AggregatorTask.GiB*gib/2 - r.measured.Memory.AggregatorPeakMBytes*mib // half: the other half is for garbage and a partition that moves
	for _, of := range []struct {
		name   string
		us     float64
		copies float64
	}{{"to ClickHouse", e.HotMicroseconds, r.hotGroups()}, {"to the lake", e.LakeMicroseconds, 1}} {
		byCPU := cores(r.rate, of.us) * r.VCPUPerCore * r.CatchUp / r.AggregatorUtilisation / r.AggregatorTask.VCPU
		byMemory := r.rate * r.DedupeWindow * r.measured.Memory.DedupeBytesPerEvent / perTask
		tasks := of.copies * inZones(math.Max(byCPU, byMemory))
		r.tasks += tasks
		r.count("aggregator "+of.name, fmt.Sprintf("Fargate ARM %v vCPU, %v GiB", r.AggregatorTask.VCPU, r.AggregatorTask.GiB), tasks, tasks)
		r.fargate(Aggregator, of.name, r.AggregatorTask, tasks, "%.0f group(s) x the larger of %.1f by CPU (%.0f K/s x %.1f us x %v vCPU a core x %v / %v) and %.1f by memory (%v s of events x %.0f B)",
			of.copies, byCPU, r.rate/1e3, of.us, r.VCPUPerCore, r.CatchUp, r.AggregatorUtilisation, byMemory, r.DedupeWindow, r.measured.Memory.DedupeBytesPerEvent)
	}
}

// serverSizes are vCPUs of an EC2 instance of one family; prices are linear in them.
var serverSizes = []struct {
	name string
	vcpu float64
}{{"2xlarge", 8}, {"4xlarge", 16}, {"8xlarge", 32}, {"12xlarge", 48}, {"16xlarge", 64}, {"24xlarge", 96}}

// hotKept is GiB of one copy: rows, rollups, ledgers.
func (r *model) hotKept() float64 {
	return r.stored(r.bill.Event.ClickHouseBytes, r.HotDays) * (1 + r.Rollups)
}

// queryCores are busy with queries.
func (r *model) queryCores() float64 {
	rows := r.DashboardQueries*r.DashboardRows + r.AdhocQueries*r.AdhocRows
	return rows * r.share * r.bill.Event.ScanNanoseconds / 1e9
}

func (r *model) hot() {
	e := r.bill.Event
	copies := r.hotGroups()
	insert := cores(r.rate, e.ClickHouseMicroseconds) * r.CatchUp
	need := (insert + r.queryCores()/copies) * r.VCPUPerCore / r.ClickHouseUtilisation
	inputs := fmt.Sprintf("%.1f vCPU a copy: (%.0f K/s x %.1f us x %v + %.1f cores of queries) x %v vCPU a core / %v", need, r.rate/1e3, e.ClickHouseMicroseconds, r.CatchUp,
		r.queryCores()/copies, r.VCPUPerCore, r.ClickHouseUtilisation)
	kept := r.hotKept()
	if r.HotKind == hotCloud {
		units := math.Ceil(need/2) * 2 // two replicas share the load; neither is spare
		r.count("ClickHouse Cloud", "8 GiB, 2 vCPU", units, units)
		r.charge(Hot, "compute", "clickhouse.cloud.unit", units*hours, 0, "%s", inputs)
		r.charge(Hot, "storage and one backup", "clickhouse.cloud.tb", 2*kept*gib/1e12, 0, "%v days x %.0f B, and rollups", r.HotDays, e.ClickHouseBytes)
		r.charge(Hot, "PrivateLink", "endpoint.gib", r.gibs(e.InsertBytes), 0, "%.0f B an event", e.InsertBytes)
		return
	}
	size := serverSizes[len(serverSizes)-1]
	shards := math.Max(1, math.Ceil(need/size.vcpu))
	for _, s := range serverSizes {
		if s.vcpu*shards >= need {
			size = s
			break
		}
	}
	servers := copies * shards
	r.count("clickhouse", "r8g."+size.name, servers, servers)
	r.charge(Hot, "servers", "ec2.r8g.4xlarge", servers*size.vcpu/16*hours, r.EC2Discount, "%.0f x r8g.%s; %s", servers, size.name, inputs)
	local := math.Max(500, r.rate*r.HotLocalHours*3600*e.ClickHouseBytes/gib*r.DiskSlack/shards) * servers
	r.charge(Hot, "disks", "ebs.gp3.gib", local, 0, "%v h x %.0f B x %v, %.0f copies", r.HotLocalHours, e.ClickHouseBytes, r.DiskSlack, copies)
	throughput := math.Max(0, r.rate*e.ClickHouseBytes*r.WriteAmplification*r.CatchUp/mib/shards-125) * servers
	r.charge(Hot, "disks, throughput", "ebs.gp3.mibps", throughput, 0, "%.0f B x %v written for each byte x %v, above the 125 MiB/s that are free", e.ClickHouseBytes, r.WriteAmplification, r.CatchUp)
	r.standard(Hot, "rows in S3", kept*copies, "%v days x %.0f B x %.0f copies, and %.0f %% for rollups", r.HotDays, e.ClickHouseBytes, copies, 100*r.Rollups)
	r.charge(Hot, "moves to S3", "s3.put", r.gibs(e.ClickHouseBytes)*1024/r.MovedObjectMiB*copies/1e3, 0, "objects of %v MiB, %.0f copies", r.MovedObjectMiB, copies)
	r.charge(Hot, "reads from S3", "s3.get", r.S3Gets*r.share*seconds/1e3, 0, "%.0f a second", r.S3Gets*r.share)
	far := r.gibs(e.InsertBytes) * copies * (1 - r.HotInZone)
	r.charge(Hot, "inserts across zones", "transfer.cross_zone", far, 0, "%.0f B an event x %.0f copies x %.0f %%", e.InsertBytes, copies, 100*(1-r.HotInZone))
}

// standardStorage is what all of S3 Standard in the region holds: its tiers are of the sum.
func (r *model) standardStorage() {
	e := r.bill.Event
	r.inS3 = r.stored(e.LakeBytes, math.Min(r.LakeStandardDays, r.LakeDays))
	if r.HotKind == hotSelf {
		r.inS3 += r.hotKept() * float64(r.HotCopies)
	}
	r.perUnit = r.quote("s3.standard").Of(r.inS3) / r.inS3
}

// standard charges a part of S3 Standard.
func (r *model) standard(component, item string, gibs float64, inputs string, args ...any) {
	q := r.quote("s3.standard")
	r.add(Line{Component: component, Item: item, Quantity: gibs, Unit: "GiB-month", Price: "s3.standard", USD: gibs * r.perUnit, Inputs: fmt.Sprintf(inputs, args...)}, q.Status)
}

func (r *model) lake() {
	e := r.bill.Event
	standard := math.Min(r.LakeStandardDays, r.LakeDays)
	deepFrom := math.Min(math.Max(r.LakeDeepDays, standard), r.LakeDays)
	cold, deep := deepFrom-standard, r.LakeDays-deepFrom
	r.standard(Lake, "files in S3 Standard", r.stored(e.LakeBytes, standard), "%v days x %.0f B", standard, e.LakeBytes)
	objects := r.gibs(e.LakeBytes) * 1024 / r.LakeObjectMiB / 1e3
	if cold > 0 {
		r.charge(Lake, "files in "+r.LakeCold, r.LakeCold, r.stored(e.LakeBytes, cold), 0, "%v days x %.0f B, from the second year on", cold, e.LakeBytes)
		r.charge(Lake, "transitions", r.LakeCold+".transition", objects, 0, "objects of %v MiB", r.LakeObjectMiB)
	}
	if deep > 0 {
		r.charge(Lake, "files in s3.deep_archive", "s3.deep_archive", r.stored(e.LakeBytes, deep), 0, "%v days x %.0f B", deep, e.LakeBytes)
		r.charge(Lake, "transitions to s3.deep_archive", "s3.deep_archive.transition", objects, 0, "objects of %v MiB", r.LakeObjectMiB)
	}
	writers := 0.0
	for _, c := range r.bill.Counts {
		if c.Region == r.region && c.What == "aggregator to the lake" {
			writers = c.Mean
		}
	}
	commits := seconds / r.LakeCommitSeconds * writers * 3
	r.charge(Lake, "commits, writes", "s3.put", commits*r.LakePutsPerCommit/1e3, 0, "3 tables x %.0f writers, every %v s, %v objects", writers, r.LakeCommitSeconds, r.LakePutsPerCommit)
	r.charge(Lake, "commits, catalog", "glue.request", commits*4/1e6, 0, "4 requests each, the ledger's too")
	vcpu := cores(r.rate, e.LakeMicroseconds) * r.Compaction * r.VCPUPerCore / r.AggregatorUtilisation
	r.fargate(Lake, "compaction", Task{4, 16}, vcpu/4, "upkeep reads and writes each row %v time(s): %.0f K/s x %.1f us, as the pipeline that wrote it", r.Compaction, r.rate/1e3, e.LakeMicroseconds)
	r.charge(Lake, "Athena", "athena.tb", r.LakeScanTB*r.share, 0, "%v TB read a month", r.LakeScanTB*r.share)
}

func (r *model) observability() {
	samples := r.tasks * r.SeriesPerTask * seconds / r.ScrapeSeconds
	r.charge(Observability, "metrics", "amp.samples", samples/1e7, 0, "%.0f tasks x %.0f series, every %v s", r.tasks, r.SeriesPerTask, r.ScrapeSeconds)
	logs := r.tasks * r.LogGiBPerTask
	r.charge(Observability, "logs, in", "cloudwatch.logs.in", logs, 0, "%.0f tasks x %v GiB", r.tasks, r.LogGiBPerTask)
	r.charge(Observability, "logs, kept", "cloudwatch.logs.stored", logs*12, 0, "a year")
	r.charge(Observability, "Grafana, editors", "amg.editor", r.Editors*r.share, 0, "%v, shared by the regions", r.Editors)
	r.charge(Observability, "Grafana, viewers", "amg.viewer", r.Viewers*r.share, 0, "%v, shared by the regions", r.Viewers)
}

func (r *model) operations() {
	r.fargate(Operations, "probe, alerts, workers", Task{1, 4}, r.SmallServices, "%v vCPU", r.SmallServices)
	r.charge(Operations, "endpoints", "endpoint.hour", r.Endpoints*zones*hours, 0, "%v in three zones", r.Endpoints)
	r.charge(Operations, "across regions", "transfer.cross_region", r.CrossRegionGiB*r.share, 0, "%.0f GiB", r.CrossRegionGiB*r.share)
	r.charge(Operations, "Temporal Cloud", "temporal.plan", r.share, 0, "one plan, shared by the regions")
	r.charge(Operations, "Temporal Cloud, actions", "temporal.actions", math.Max(0, r.TemporalActions-2.5e6)/1e6*r.share, 0, "%.1f M, of which 2.5 M are in the plan", r.TemporalActions/1e6)
	r.add(Line{Component: Operations, Item: "miscellaneous", Quantity: 1, Unit: "month", USD: r.Miscellaneous, Inputs: "KMS, Secrets Manager, ECR, Route 53, SNS"}, "")
}

package cell

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/kafka"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Consumer groups of the two sinks (distributions/local/aggregator.yaml).
const (
	groupHot  = "pulsegrid-hot"
	groupLake = "pulsegrid-lake"
)

// Hops, in the order of the data path.
const (
	HopGateway    = "gateway"
	HopKafka      = "kafka"
	HopClickHouse = "clickhouse"
	HopLake       = "lake"
)

// Figures are what looks at a cell, some time apart, tell.
type Figures struct {
	Hops        []Hop
	Topics      []Topic
	Copies      []certificate.SignalCopies // by signal, since the aggregator started; without examples
	Spill       Spill
	Certificate *time.Duration // until the certificate ends that the gateway serves; nil: it serves none, or does not answer
	Problems    []string       // each part that does not answer, with the reason
}

// Spill is what the gateway has put into the object store because Kafka did not take it.
type Spill struct {
	Partitions int64         // whose requests go there now
	Bytes      int64         // that wait there, of all gateways
	Age        time.Duration // of the oldest of them
}

// Hop is one station of the data path.
type Hop struct {
	Name      string
	Events    float64       // since its process started
	Rate      float64       // events a second, over the last looks
	Errors    float64       // since its process started: events refused for good, or calls that failed and are retried
	Kinds     []ErrorKind   // of Errors, most first
	Stuck     int64         // partitions whose block was not taken, and is offered again and again
	Lost      int64         // records that Kafka's retention removed before they were read, since the process started
	Lag       int64         // records that wait in Kafka for it; -1: not known, or it has none
	Freshness time.Duration // mean time from the gateway to durable, plus how long nothing has come although records wait; -1: not known
}

// ErrorKind is how many of a hop's errors have one reason.
type ErrorKind struct {
	Reason string  // attribute reason or code of the metric
	Errors float64 // since the hop's process started
	Rate   float64 // errors a second, over the last looks
}

// Topic is one Kafka topic.
type Topic struct {
	Name       string
	Start, End int64            // sums of the partitions' offsets
	Lag        map[string]int64 // by consumer group
}

// Healthy tells whether every part answers.
func (f Figures) Healthy() bool { return len(f.Problems) == 0 }

// hopMetrics are the Collectors' metrics from which a hop's figures come.
type hopMetrics struct {
	name       string
	aggregator bool // scraped from the aggregator, else from the gateway
	group      string
	events     string
	errors     []string
	latency    string // histogram of seconds
}

// hops: each store's events are counted when they are durable there.
var hops = [...]hopMetrics{
	{name: HopGateway, events: "otelcol_ingest_events", errors: []string{"otelcol_ingest_refused"}},
	{name: HopKafka, events: "otelcol_msk_exporter_events", errors: []string{"otelcol_msk_exporter_failures"}},
	{name: HopClickHouse, aggregator: true, group: groupHot, events: "otelcol_clickhouse_rows",
		errors: []string{"otelcol_clickhouse_rejected_rows", "otelcol_clickhouse_errors"}, latency: "otelcol_clickhouse_freshness"},
	{name: HopLake, aggregator: true, group: groupLake, events: "otelcol_iceberg_rows",
		errors: []string{"otelcol_iceberg_rejected_rows"}, latency: "otelcol_iceberg_freshness"},
}

// look is one look at a cell.
type look struct {
	at          time.Time
	hops        []hopLook
	topics      []Topic
	copies      []certificate.SignalCopies
	spill       Spill
	certificate *time.Duration
	problems    []string
}

type hopLook struct {
	events, errors, count, sum, stuck, lost float64
	kinds                                   []ErrorKind
}

// Observer looks at a running cell again and again.
type Observer struct {
	endpoints Endpoints
	client    *kgo.Client
	admin     *kadm.Client
	recent    []look // oldest first, within rateWindow
	fresh     [len(hops)]progress
}

// progress is when a store last took something, and how old that was then.
type progress struct {
	at  time.Time
	age time.Duration
}

// NewObserver returns an observer of the cell at these endpoints.
func NewObserver(e Endpoints) (*Observer, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(e.Kafka), kgo.ClientID("pulsegrid-status"), kgo.DialTimeout(2*time.Second), kgo.RequestTimeoutOverhead(2*time.Second), kgo.RequestRetries(1))
	if err != nil {
		return nil, fmt.Errorf("kafka at %s: %w", e.Kafka, err)
	}
	return &Observer{endpoints: e, client: client, admin: kadm.NewClient(client)}, nil
}

// Close gives up its connection.
func (o *Observer) Close() { o.client.Close() }

// rateWindow is the time over which rates are taken: sources come in bursts of seconds.
const rateWindow = 10 * time.Second

// Look returns the figures now. Rates are since the oldest look within rateWindow; the first look's are 0.
func (o *Observer) Look(ctx context.Context) Figures {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	now := o.look(ctx)
	var oldest, before *look
	if n := len(o.recent); n > 0 {
		oldest, before = &o.recent[0], &o.recent[n-1]
	}
	f := figures(oldest, now)
	for i := range f.Hops {
		o.setFreshness(i, before, now, &f.Hops[i])
	}
	o.recent = append(o.recent, now)
	for len(o.recent) > 1 && now.at.Sub(o.recent[0].at) >= rateWindow {
		o.recent = slices.Delete(o.recent, 0, 1)
	}
	return f
}

// setFreshness judges by what the store took since the look before, at the first look by all that it took. A store that takes
// nothing while records wait for it grows staler by the clock.
func (o *Observer) setFreshness(i int, before *look, now look, hop *Hop) {
	n, b := now.hops[i], hopLook{}
	if before != nil && n.count >= before.hops[i].count {
		b = before.hops[i]
	}
	p := &o.fresh[i]
	if n.count > b.count {
		*p = progress{at: now.at, age: time.Duration((n.sum - b.sum) / (n.count - b.count) * float64(time.Second))}
	}
	switch {
	case p.at.IsZero():
		hop.Freshness = -1
	case hop.Lag > 0:
		hop.Freshness = p.age + now.at.Sub(p.at)
	default:
		hop.Freshness = p.age
	}
}

func (o *Observer) look(ctx context.Context) look {
	l := look{at: time.Now()}
	problem := func(part string, err error) {
		if err != nil {
			l.problems = append(l.problems, fmt.Sprintf("%s: %v", part, unwrapURL(err)))
		}
	}
	problem("gateway", healthy(ctx, o.endpoints.GatewayHealth))
	problem("aggregator", healthy(ctx, o.endpoints.AggregatorHealth))
	problem("clickhouse", healthy(ctx, "http://"+o.endpoints.ClickHouseHTTP+"/ping"))
	gateway, _ := Scrape(ctx, o.endpoints.GatewayMetrics) // its health check reports a gateway that does not answer
	aggregator, _ := Scrape(ctx, o.endpoints.AggregatorMetrics)
	for _, h := range hops {
		m := metrics(gateway)
		if h.aggregator {
			m = aggregator
		}
		hl := hopLook{events: m.sumOf(h.events, ofEvents)}
		for _, e := range h.errors {
			hl.errors += m.sum(e)
		}
		hl.kinds = m.errorKinds(h.errors)
		hl.count, hl.sum = m.histogram(h.latency)
		ofGroup := func(series *dto.Metric) bool { return h.group != "" && labelsOf(series)["group"] == h.group }
		hl.stuck, hl.lost = m.sumOf("otelcol_msk_receiver_waiting_partitions", ofGroup), m.sumOf("otelcol_msk_receiver_lost_offsets", ofGroup)
		l.hops = append(l.hops, hl)
	}
	l.copies, l.spill, l.certificate = copiesOf(aggregator), spillOf(gateway), certificateOf(gateway)
	var err error
	l.topics, err = o.topics(ctx)
	problem("kafka", err)
	return l
}

func (o *Observer) topics(ctx context.Context) ([]Topic, error) {
	names := []string{signal.QuarantineTopic}
	for _, s := range signal.All {
		names = append(names, s.Topic())
	}
	slices.Sort(names)
	starts, err := o.admin.ListStartOffsets(ctx, names...)
	if err != nil {
		return nil, err
	}
	ends, err := o.admin.ListEndOffsets(ctx, names...)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(starts.Error(), ends.Error()); err != nil {
		return nil, err
	}
	topics := make([]Topic, 0, len(names))
	for _, name := range names {
		t := Topic{Name: name, Lag: map[string]int64{}}
		for _, p := range starts[name] {
			t.Start += p.Offset
		}
		for _, p := range ends[name] {
			t.End += p.Offset
		}
		topics = append(topics, t)
	}
	for _, group := range []string{groupHot, groupLake} {
		committed, err := o.admin.FetchOffsets(ctx, group)
		if err != nil {
			continue // the group has not begun: it has no lag that could be told
		}
		for i, name := range names {
			if len(committed[name]) > 0 {
				topics[i].Lag[group] = kafka.Lag(starts[name], ends[name], committed[name])
			}
		}
	}
	return topics, nil
}

// unwrapURL drops the address that http.Client puts before an error: dialling repeats it.
func unwrapURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// figures compares two looks; before is nil at the first.
func figures(before *look, now look) Figures {
	f := Figures{Topics: now.topics, Copies: now.copies, Spill: now.spill, Certificate: now.certificate, Problems: now.problems}
	for i, h := range hops {
		n := now.hops[i]
		hop := Hop{Name: h.name, Events: n.events, Errors: n.errors, Kinds: slices.Clone(n.kinds), Stuck: int64(n.stuck), Lost: int64(n.lost), Lag: -1, Freshness: -1}
		if h.group != "" {
			for _, t := range now.topics {
				if lag, ok := t.Lag[h.group]; ok {
					hop.Lag = max(0, hop.Lag) + lag
				}
			}
		}
		if before != nil {
			b := before.hops[i]
			if n.events < b.events { // the process has started anew
				b = hopLook{}
			}
			seconds := now.at.Sub(before.at).Seconds()
			hop.Rate = (n.events - b.events) / seconds
			for k := range hop.Kinds {
				hop.Kinds[k].Rate = max(0, hop.Kinds[k].Errors-errorsOf(b.kinds, hop.Kinds[k].Reason)) / seconds
			}
		}
		f.Hops = append(f.Hops, hop)
	}
	return f
}

// errorsOf is how many errors have a reason.
func errorsOf(kinds []ErrorKind, reason string) float64 {
	for _, k := range kinds {
		if k.Reason == reason {
			return k.Errors
		}
	}
	return 0
}

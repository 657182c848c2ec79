package repair

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/journal"
	"github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	maxRecordBytes = 900 << 10 // as the gateway's, with room for what a repair adds
	batchItems     = 200       // with one entry each in a transaction of the journal
	batchBytes     = 8 << 20
)

// Config of a run.
type Config struct {
	Kafka     []kgo.Opt // seed brokers, TLS, credentials
	Topic     string    // the quarantine topic; empty: quarantine.v1
	Journal   string    // empty: JournalTopic
	Rules     *Rules
	RulesFile string          // its name, for the journal
	Checker   *schema.Checker // nil: what a rule is for is taken for valid
	Unknown   schema.Unknown
	Apply     bool // false: only say what would be done

	// Each hears of every item that a rule is for, or that was sent again before. It must not keep what it is given.
	Each func(quarantine.Item, Mended)
	// Examples is of how many events of each rule and item Each hears what they were and are.
	Examples int

	// between is called between the steps of an apply: "intent", "sent". For tests.
	between func(step string) error
}

// Report is what a run did, or would do.
type Report struct {
	Items         int            `json:"items"`           // in the topic
	NotRepairable map[string]int `json:"not_repairable"`  // items, by why
	Events        int            `json:"events"`          // of the items that can be repaired
	NoRule        int            `json:"events_no_rule"`  // that no rule is for
	SentBefore    int            `json:"events_done"`     // that were sent again before
	Valid         int            `json:"events_repaired"` // valid by now: sent again, or to be
	Invalid       map[string]int `json:"events_invalid"`  // still, by their first verdict's code
	ByRule        map[string]int `json:"events_by_rule"`  // that each rule was for
	Records       int            `json:"records_sent"`    // by this run
}

// Run repairs what the topic holds when it begins. A dry run writes nothing anywhere. After an error the report says what was done before it.
func Run(ctx context.Context, c Config) (Report, error) {
	r := &run{Config: c, report: Report{NotRepairable: map[string]int{}, Invalid: map[string]int{}, ByRule: map[string]int{}}}
	if r.Topic == "" {
		r.Topic = signal.QuarantineTopic
	}
	if r.Journal == "" {
		r.Journal = JournalTopic
	}
	var err error
	if r.reader, err = kgo.NewClient(c.Kafka...); err != nil {
		return r.report, err
	}
	defer r.reader.Close()
	if err := r.reader.Ping(ctx); err != nil {
		return r.report, fmt.Errorf("kafka does not answer: %w", err)
	}
	if err := r.remember(ctx); err != nil {
		return r.report, err
	}
	if r.journal != nil {
		defer r.journal.Close()
	}
	if r.producer != nil {
		defer r.producer.Close()
	}
	if err := quarantine.Read(ctx, r.reader, r.Topic, time.Time{}, func(i quarantine.Item) error { return r.item(ctx, i) }); err != nil {
		return r.report, err
	}
	return r.report, r.flush(ctx)
}

type run struct {
	Config
	report   Report
	reader   *kgo.Client
	producer *kgo.Client             // of an apply
	journal  *journal.Journal[entry] // of an apply
	before   map[string]entry

	batch map[string]pending
	bytes int
}

// pending is an item whose events are about to be sent.
type pending struct {
	record  *kgo.Record
	done    []int
	indexes []int
	attempt string
}

// remember finds out what was sent before. An apply becomes the only operator.
func (r *run) remember(ctx context.Context) (err error) {
	if !r.Apply {
		r.before, err = journal.Peek[entry](ctx, r.Kafka, r.Journal)
		return err
	}
	if r.journal, err = journal.Open[entry](ctx, r.Kafka, r.Journal, transactionalID); err != nil {
		return fenced(err)
	}
	var topics []string
	for _, s := range signal.All {
		topics = append(topics, s.Topic())
	}
	if err = resolve(ctx, r.journal, r.reader, topics); err != nil {
		return err
	}
	r.before = r.journal.Entries
	r.producer, err = kgo.NewClient(slices.Concat(r.Kafka, []kgo.Opt{kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerBatchMaxBytes(maxRecordBytes + 64<<10),
		kgo.ProducerBatchCompression(kgo.ZstdCompression(), kgo.NoCompression()), kgo.RecordDeliveryTimeout(time.Minute)})...)
	return err
}

func (r *run) item(ctx context.Context, i quarantine.Item) error {
	r.report.Items++
	key := keyOf(r.Topic, i)
	sent := r.before[key].Done
	m, err := Mend(i, r.Rules, r.Checker, r.Unknown, sent, r.Examples)
	if err != nil {
		return fmt.Errorf("item %s: %w", i.Place(), err)
	}
	var body, request []byte
	if m.valid != nil && m.valid.events > 0 {
		if body, err = m.valid.marshal(); err != nil {
			return fmt.Errorf("item %s: %w", i.Place(), err)
		}
		if request, err = requestOf(i, m); err != nil {
			return fmt.Errorf("item %s: %w", i.Place(), err)
		}
		if len(body)+len(request) > maxRecordBytes {
			m = Mended{Not: TooLarge}
		}
	}
	touched := r.count(&m, len(sent))
	if touched && r.Each != nil {
		r.Each(i, m)
	}
	if !r.Apply || len(m.Indexes) == 0 {
		return nil
	}
	if r.batch == nil {
		r.batch = map[string]pending{}
	}
	attempt := key + "#" + uuid.NewString()
	r.batch[key] = pending{record: r.record(i, m, body, request, attempt), done: sent, indexes: m.Indexes, attempt: attempt}
	if r.bytes += len(body); len(r.batch) >= batchItems || r.bytes >= batchBytes {
		return r.flush(ctx)
	}
	return nil
}

// count adds an item to the report and tells whether a rule was for it.
func (r *run) count(m *Mended, sent int) bool {
	if m.Not != "" {
		r.report.NotRepairable[m.Not]++
		return true
	}
	touched := sent > 0
	r.report.Events += len(m.Events)
	r.report.SentBefore += sent
	for _, e := range m.Events {
		for _, name := range e.Rules {
			r.report.ByRule[name]++
		}
		switch {
		case e.SentBefore:
			continue
		case len(e.Rules) == 0:
			r.report.NoRule++
			continue
		case e.Valid:
			r.report.Valid++
		default:
			r.report.Invalid[string(e.Verdicts[0].Code)]++
		}
		touched = true
	}
	return touched
}

// requestOf says which events of the agent's request are sent again. By that they are compared with what another attempt has sent: a repair changes content, and
// may be another one the next time.
func requestOf(i quarantine.Item, m Mended) ([]byte, error) {
	division, err := eventid.Divide(m.valid.signal, i.Body, i.Request, len(m.Events))
	if err != nil {
		return nil, err
	}
	part := division.Part(slices.Values(m.Indexes))
	part.Resent = true
	return part.Encode(), nil
}

// record is what the gateway would have sent, had the events been valid.
func (r *run) record(i quarantine.Item, m Mended, body, request []byte, attempt string) *kgo.Record {
	header := func(key, value string) kgo.RecordHeader { return kgo.RecordHeader{Key: key, Value: []byte(value)} }
	out := &kgo.Record{Topic: m.valid.signal.Topic(), Value: body, Headers: []kgo.RecordHeader{
		header(envelope.HeaderTenant, i.Tenant), header(envelope.HeaderSignal, i.Signal), header(envelope.HeaderEvents, strconv.Itoa(m.valid.events)),
		header(envelope.HeaderReceivedNanos, strconv.FormatInt(i.Received.UnixNano(), 10)), header(envelope.HeaderGateway, i.Gateway),
		header(envelope.HeaderLane, envelope.LaneFast), header(envelope.HeaderRepaired, attempt),
		{Key: envelope.HeaderRequest, Value: request},
	}}
	if i.Jurisdiction != "" {
		out.Headers = append(out.Headers, header(envelope.HeaderJurisdiction, i.Jurisdiction))
	}
	if r.Checker != nil {
		out.Headers = append(out.Headers, header(envelope.HeaderSchemaVersion, r.Checker.Registry().Version()))
	}
	if i.Key != "" {
		out.Key = []byte(i.Key)
	}
	return out
}

// flush sends the batch: intents, records, dones, in this order.
func (r *run) flush(ctx context.Context) error {
	if len(r.batch) == 0 {
		return nil
	}
	intents, dones, records := map[string]entry{}, map[string]entry{}, make([]*kgo.Record, 0, len(r.batch))
	now := time.Now().UTC()
	for key, p := range r.batch {
		intents[key] = entry{State: stateIntent, Done: p.done, Doing: p.indexes, Attempt: p.attempt, Rules: r.RulesFile, At: now}
		dones[key] = entry{State: stateDone, Done: append(p.done[:len(p.done):len(p.done)], p.indexes...), Rules: r.RulesFile, At: now}
		records = append(records, p.record)
	}
	r.batch, r.bytes = nil, 0
	if err := fenced(r.journal.Write(ctx, intents)); err != nil {
		return fmt.Errorf("journal, before sending: %w", err)
	}
	if err := r.step("intent"); err != nil {
		return err
	}
	if err := r.producer.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return fmt.Errorf("send again: %w (run it again: what has arrived is not sent twice)", err)
	}
	r.report.Records += len(records)
	if err := r.step("sent"); err != nil {
		return err
	}
	if err := fenced(r.journal.Write(ctx, dones)); err != nil {
		return fmt.Errorf("journal, after sending: %w", err)
	}
	return nil
}

func (r *run) step(name string) error {
	if r.between == nil {
		return nil
	}
	return r.between(name)
}

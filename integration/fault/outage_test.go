package fault

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/integration/fault/outcome"
	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/integration/rig/recount"
	"github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	outageRate   = 600 // events a second: what two cores hold beside everything else
	kafkaDeadFor = 10 * time.Minute
	bothDeadFor  = 2 * time.Minute
	memoryLimit  = 300 << 20        // testdata/outage-gateway.yaml
	drainTimeout = 20 * time.Minute // a bound, no promise: the machine is shared
	readTimeout  = 10 * time.Minute
)

// Guarantees: while every Kafka node is dead no request is refused, nothing that was acknowledged is lost, and when they are back the
// requests of each source are in Kafka in the order in which it sent them. While the object store is dead too, requests are refused with
// the time to come again, the gateways' memory stays within its limit, and all is well again when both return.
func (r *run) outage(out *outcome.Run) {
	r.fresh = watchFreshness(r.Rig, r.service)
	defer r.fresh.stop()
	ordered := r.withoutKafka(out)
	crowd := r.withoutKafkaAndObjects(out)
	r.waitQuiet()
	out.HotLongest = r.fresh.longest().Seconds()
	r.check(append(ordered, crowd...), out)
	for _, g := range r.Gateways {
		u, err := rig.UsageOf(g.PID())
		if err != nil {
			r.t.Fatal(err)
		}
		saw(out, "%s took at most %d MiB of memory, limit %d", g.Name, u.PeakRSS>>20, memoryLimit>>20)
		if u.PeakRSS > memoryLimit {
			r.t.Errorf("%s took %d bytes of memory, beyond its limit of %d", g.Name, u.PeakRSS, memoryLimit)
		}
	}
}

// withoutKafka kills every node under load, and starts them again after a while.
func (r *run) withoutKafka(out *outcome.Run) []*agents.Request {
	r.t.Helper()
	fleet := r.fleetOf(agents.Options{Rate: outageRate, Ordered: true, Duplicates: 0.05})
	time.Sleep(5 * time.Second)
	began := time.Now()
	r.must(r.killKafka())
	r.t.Log("Kafka is dead")
	time.Sleep(scaled(kafkaDeadFor))
	most, err := r.Objects.Spilled()
	r.must(err)
	if most == 0 {
		r.t.Error("nothing was spilled: the outage was none")
	}
	r.must(r.startKafka())
	out.FaultSeconds = time.Since(began).Seconds()
	back := time.Now()
	r.t.Logf("Kafka is back after %.0f s, %d objects wait for it", out.FaultSeconds, most)
	r.must(r.waitDrained())
	drained := time.Since(back)
	r.must(r.fresh.wait(settled, freshTimeout))
	requests := r.stop(fleet)

	t := tallyOf(requests)
	if t.throttled+t.unavailable > 0 {
		r.t.Errorf("requests were refused while the object store was there: %d times 429, %d times 503", t.throttled, t.unavailable)
	}
	if len(t.unanswered) > 0 {
		r.t.Logf("%d requests were sent again since they got no answer: %s", len(t.unanswered), recount.Some(t.unanswered))
	}
	sources := r.checkOrder(requests)
	saw(out, "%.0f s without Kafka at %d events/s: %d requests, none refused, %d without an answer at first, the slowest took %.1f s; %d objects spilled, back in Kafka %.0f s after it returned; %d sequences (source, signal) in order",
		out.FaultSeconds, outageRate, len(requests), len(t.unanswered), t.quantile(1).Seconds(), most, drained.Seconds(), sources)
	return requests
}

// withoutKafkaAndObjects is the same with the object store away too, and with agents half of which obey and half of which insist.
func (r *run) withoutKafkaAndObjects(out *outcome.Run) []*agents.Request {
	r.t.Helper()
	obedient := r.fleetOf(agents.Options{Rate: outageRate / 2, First: numbersEach, Refused: agents.Obey})
	insistent := r.fleetOf(agents.Options{Rate: outageRate, First: 2 * numbersEach, Timeout: 10 * time.Second})
	time.Sleep(2 * time.Second)
	for _, l := range r.Links.Matching("", "objects") {
		l.Refuse()
	}
	r.must(r.killKafka())
	r.t.Log("Kafka and the object store are dead")
	time.Sleep(scaled(bothDeadFor))
	until(func() bool { return obedient.SentBack()+insistent.SentBack() > 0 }, pointTimeout) // on a busy machine the first refusal comes late
	r.must(errors.Join(r.Links.Heal(), r.startKafka()))
	back := time.Now()
	r.must(r.waitDrained())
	r.must(r.fresh.wait(settled, freshTimeout))
	healthy := time.Since(back)
	requests := r.stop(obedient, insistent)

	t := tallyOf(requests)
	if t.unavailable == 0 {
		r.t.Error("no request was refused while neither Kafka nor the object store was there")
	}
	if t.throttled > 0 || t.mute > 0 {
		r.t.Errorf("of %d refusals %d were 429, and %d did not say when to come again", t.unavailable+t.throttled, t.throttled, t.mute)
	}
	saw(out, "without either: %d answers 503, all with RetryInfo; fresh again %.0f s after both returned; all %d requests acknowledged in the end", t.unavailable, healthy.Seconds(), len(t.took))
	return requests
}

func (r *run) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *run) killKafka() error  { return eachNode(r.Kafka.Kill) }
func (r *run) startKafka() error { return eachNode(r.Kafka.Restart) }

// eachNode does something to all Kafka nodes at once: none of them serves without another.
func eachNode(do func(int) error) error {
	results := make(chan error)
	for i := range 3 {
		go func() { results <- do(i) }()
	}
	return errors.Join(<-results, <-results, <-results)
}

// waitDrained waits until nothing is left in the spill.
func (r *run) waitDrained() error {
	for deadline := time.Now().Add(drainTimeout); ; time.Sleep(200 * time.Millisecond) {
		n, err := r.Objects.Spilled()
		if err != nil || n == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d objects are still spilled %v after Kafka is back", n, drainTimeout)
		}
	}
}

// checkOrder makes sure that, of each source and signal, the first copies of requests lie in one partition in the order of their
// numbers, and returns how many sequences do.
func (r *run) checkOrder(requests []*agents.Request) int {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	type sequence struct {
		source int
		signal signal.Signal
	}
	type place struct {
		partition int32
		number    int
	}
	last, broken, seen := map[sequence]place{}, map[sequence]bool{}, map[int]bool{}
	for _, topic := range fastLane.topics {
		// The reader of quarantines reads any topic, a partition after another by their offsets.
		r.must(quarantine.Read(ctx, r.client, topic.Name, r.started, func(i quarantine.Item) error {
			service, first, err := firstEvent(topic.Signal, i.Body)
			if err != nil || service != r.service {
				return err
			}
			q := agents.Request{Number: first / agents.PerRequest}
			if seen[q.Number] {
				return nil
			}
			seen[q.Number] = true
			s := sequence{q.Source(), topic.Signal}
			if was, ok := last[s]; ok && (was.partition != i.Partition || was.number >= q.Number) {
				broken[s] = true
				r.t.Errorf("source %d, %s: request %d lies at %s, behind request %d of partition %d", s.source, topic.Signal, q.Number, i.Place(), was.number, was.partition)
			}
			last[s] = place{i.Partition, q.Number}
			return nil
		}))
	}
	for _, q := range requests {
		if q.Acked && !seen[q.Number] {
			r.t.Errorf("request %d was acknowledged and is not in Kafka", q.Number)
		}
	}
	return len(last) - len(broken)
}

// firstEvent reads the service and the first number of a request of a fleet.
func firstEvent(sig signal.Signal, body []byte) (service string, first int, err error) {
	var resource pcommon.Resource
	switch sig {
	case signal.Logs:
		q := plogotlp.NewExportRequest()
		if err := q.UnmarshalProto(body); err != nil {
			return "", 0, err
		}
		rl := q.Logs().ResourceLogs().At(0)
		resource = rl.Resource()
		first, err = strconv.Atoi(strings.TrimPrefix(rl.ScopeLogs().At(0).LogRecords().At(0).Body().Str(), agents.NumberPrefix))
	case signal.Traces:
		q := ptraceotlp.NewExportRequest()
		if err := q.UnmarshalProto(body); err != nil {
			return "", 0, err
		}
		rs := q.Traces().ResourceSpans().At(0)
		resource = rs.Resource()
		id := rs.ScopeSpans().At(0).Spans().At(0).SpanID()
		n, e := strconv.ParseInt(id.String(), 16, 64)
		first, err = int(n)-1, e
	default:
		q := pmetricotlp.NewExportRequest()
		if err := q.UnmarshalProto(body); err != nil {
			return "", 0, err
		}
		rm := q.Metrics().ResourceMetrics().At(0)
		resource = rm.Resource()
		first = int(rm.ScopeMetrics().At(0).Metrics().At(0).Gauge().DataPoints().At(0).IntValue())
	}
	if v, ok := resource.Attributes().Get("service.name"); ok {
		service = v.Str()
	}
	return service, first, err
}

package fault

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/pulsegrid/pulsegrid/integration/fault/outcome"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/integration/rig/recount"
	"github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	poisonEvents = 1_000_000
	poisonRate   = 2000
	poisonShare  = 0.01
	poisonKinds  = 15 // at least
)

// Guarantees: exactly the invalid events are in the quarantine, each with the verdict that it deserves and byte for byte as it was sent,
// in Kafka as in ClickHouse; all the others are in both stores once; senders hear how many of their events were rejected.
func (r *run) poison(out *outcome.Run) {
	r.lanes = []lane{fastLane, quarantineLane, quarantinePIILane}
	r.fresh = watchFreshness(r.Rig, r.service)
	defer r.fresh.stop()
	fleet := r.fleetOf(agents.Options{
		Key: apiKeys["poison"], Rate: poisonRate, Events: int(poisonEvents * *scale), Poison: poisonShare, Duplicates: 0.02,
	})
	requests := r.stop(fleet)
	r.waitQuiet()
	r.lanes = []lane{fastLane} // the audit does not cover quarantines
	out.HotLongest = r.fresh.longest().Seconds()
	r.check(requests, out)

	want := map[string]schema.Code{}
	kinds := map[string]int{}
	for _, q := range requests {
		for _, p := range q.Poison {
			want[p.Event] = p.Code
			kinds[q.Signal.String()+" "+string(p.Code)]++
		}
	}
	if len(kinds) < poisonKinds {
		r.t.Errorf("%d kinds of poison were sent, want %d: %v", len(kinds), poisonKinds, kinds)
	}
	r.checkItems("the quarantine topic", want, r.quarantined())
	r.checkItems("ClickHouse's quarantine", want, r.quarantineRows())
	saw(out, "%d invalid events of %d kinds, each in the quarantine with its verdict and its bytes, in Kafka and in ClickHouse", len(want), len(kinds))
}

// checkItems compares what is in a quarantine with what was sent. Copies in Kafka are removed later, so they count once here.
func (r *run) checkItems(where string, want map[string]schema.Code, items []quarantine.Item) {
	r.t.Helper()
	missing := make(map[string]schema.Code, len(want))
	for event, code := range want {
		missing[event] = code
	}
	var wrong []string
	for _, i := range items {
		sig, err := signal.Parse(i.Signal)
		r.must(err)
		n := 0
		r.must(agents.Events(sig, i.Body, func(place int, event string) {
			n++
			code, sent := want[event]
			switch got := verdictOn(i.Findings, place); {
			case !sent:
				wrong = append(wrong, fmt.Sprintf("%s, event %d: is no invalid event that was sent (%s)", i.Place(), place, got))
			case got != string(code):
				wrong = append(wrong, fmt.Sprintf("%s, event %d: verdicts %s, want %s", i.Place(), place, got, code))
			}
			delete(missing, event)
		}))
		if i.Tenant != "poison" || i.Events != n || len(i.Findings) != n {
			wrong = append(wrong, fmt.Sprintf("%s: tenant %q, %d events said, %d verdicts, %d events", i.Place(), i.Tenant, i.Events, len(i.Findings), n))
		}
	}
	if len(wrong) > 0 {
		r.t.Errorf("%s: %s", where, recount.Some(wrong))
	}
	if len(missing) > 0 {
		var codes []string
		for _, code := range missing {
			codes = append(codes, string(code))
		}
		r.t.Errorf("%s lacks %d of %d invalid events: %s", where, len(missing), len(want), recount.Some(codes))
	}
}

// verdictOn is the code of the one verdict on an event, or what there is instead.
func verdictOn(findings schema.Findings, place int) string {
	if place >= len(findings) || findings[place].Event != place {
		return "none"
	}
	var codes []string
	for _, v := range findings[place].Verdicts {
		codes = append(codes, string(v.Code))
	}
	return strings.Join(codes, " and ")
}

// quarantined are the items of the topic since the run began.
func (r *run) quarantined() (out []quarantine.Item) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	r.must(quarantine.Read(ctx, r.client, signal.QuarantineTopic, r.started, func(i quarantine.Item) error {
		out = append(out, i)
		return nil
	}))
	return out
}

// quarantineRows are the rows of ClickHouse's two tables since the run began; no item is there twice.
func (r *run) quarantineRows() (out []quarantine.Item) {
	r.t.Helper()
	items := map[string]bool{}
	for _, table := range []string{"quarantine", "quarantine_pii"} {
		text, err := r.Query(fmt.Sprintf(`SELECT kafka_partition, kafka_offset, tenant_id, signal, events, hex(verdicts), hex(body), hex(event_id)
			FROM %s WHERE time >= fromUnixTimestamp64Milli(%d)`, table, r.started.UnixMilli()))
		r.must(err)
		for line := range strings.Lines(text) {
			var i quarantine.Item
			var verdicts, body, id string
			_, err := fmt.Sscan(line, &i.Partition, &i.Offset, &i.Tenant, &i.Signal, &i.Events, &verdicts, &body, &id)
			r.must(err)
			raw, err := hex.DecodeString(verdicts)
			r.must(err)
			i.Findings, err = schema.DecodeFindings(raw)
			r.must(err)
			i.Body, err = hex.DecodeString(body)
			r.must(err)
			if items[id] {
				r.t.Errorf("table %s: item %s is there twice", table, i.Place())
			}
			items[id] = true
			out = append(out, i)
		}
	}
	return out
}

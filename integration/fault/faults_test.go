package fault

import (
	"time"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
)

// fault is one row of the table in docs/faults.md. What is expected is the same of all: 0 lost, 0 doubled, in both stores, and
// rollups and audit that agree.
type fault struct {
	name   string
	events int                   // sent at least, at -scale 1
	short  bool                  // also part of `make test`
	agents func(*agents.Options) // changes how the fleet behaves; nil: not at all
	inject func(*run) error      // under load; returns when the fault is over
}

// Full lengths, at -scale 1.
const (
	downFor     = 3 * time.Minute // a store that is down
	stormFor    = time.Minute
	badFor      = time.Minute // a network or a store that misbehaves
	eventsEach  = 20_000
	shortOutage = 3 * time.Second // between a kill and the start after it, at any scale
)

// The gaps between two steps of the path (grep for failpoint.Hit), in their order.
var gaps = []string{
	"block-intended", "block-delivered", "block-committed",
	"clickhouse-inserting", "clickhouse-inserted", "clickhouse-ledgered",
	"iceberg-writing", "iceberg-written", "iceberg-committing", "iceberg-committed", "iceberg-ledgered",
}

var faults = allFaults()

func allFaults() []fault {
	out := []fault{
		{name: "none", inject: (*run).nothing},

		// A process dies at any moment.
		{name: "kill-gateway", inject: (*run).killGateway},
		{name: "kill-aggregator", short: true, inject: (*run).killAggregator},
		{name: "kill-both-aggregators", inject: (*run).killBothAggregators},
		{name: "kill-clickhouse", inject: (*run).killClickHouse},
		{name: "kill-kafka-node", inject: (*run).killKafkaNode},
		{name: "kill-kafka-coordinator", inject: (*run).killCoordinator},
		{name: "kill-kafka-leader", inject: (*run).killLeader},
		{name: "kafka-unclean-log", inject: (*run).uncleanLog},

		// A store is away, or misbehaves.
		{name: "clickhouse-down", inject: (*run).clickHouseDown},
		{name: "clickhouse-answers-lost", short: true, inject: (*run).clickHouseAnswersLost},
		{name: "objects-500", inject: objects(rig.InternalError, 0.5, false)},
		{name: "objects-503-slow-down", inject: objects(rig.SlowDown, 0.7, false)},
		{name: "objects-500-after-the-work", inject: objects(rig.DoesButErrs, 0.5, true)},
		{name: "objects-silent-after-the-work", short: true, inject: objects(rig.NeverAnswers, 0.2, true)},
		{name: "objects-silent", inject: objects(rig.AnswersNothing, 0.2, false)},
		{name: "objects-refusing", inject: (*run).objectsRefusing},

		// Who owns a partition.
		{name: "rebalance-storm", inject: (*run).rebalanceStorm},
		{name: "zombie", inject: (*run).zombie},
		{name: "two-owners", inject: (*run).twoOwners},

		// Agents and the network.
		{name: "agents-time-out", inject: (*run).badWhile, agents: func(o *agents.Options) { o.Impatient, o.Duplicates, o.Deserters = 0.4, 0.15, 0.05 }},
		{name: "kafka-answers-lost", inject: (*run).kafkaAnswersLost},
		{name: "latency-and-resets", inject: (*run).latencyAndResets},

		// Disks.
		{name: "disk-full-clickhouse", inject: diskFull("clickhouse")},
		{name: "disk-full-lake", inject: diskFull("lake")},
		{name: "disk-full-kafka", inject: diskFull("kafka")},
	}
	for _, g := range gaps {
		out = append(out, fault{name: "kill-at-" + g, inject: killAt(g)}, fault{name: "zombie-at-" + g, inject: zombieAt(g)})
	}
	for i := range out {
		if out[i].events == 0 {
			out[i].events = eventsEach
		}
	}
	return out
}

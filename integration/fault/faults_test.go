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
	does   string                // to a reader of docs/faults.md
	events int                   // sent at least, at -scale 1
	short  bool                  // also part of `make test`
	kind   *kind                 // of its rig; nil: plain
	many   int                   // tenants, plainTenants at most; 0: one that needs no name
	agents func(*agents.Options) // changes how the fleet behaves; nil: not at all
	ready  func() error          // what takes long, before the load begins; nil: nothing does
	inject func(*run) error      // under load; returns when the fault is over

	// unprobed: agents wait in the midst of it, since what is sent then is lost with the log, and a probe does not.
	unprobed bool
}

// Full lengths, at -scale 1.
const (
	downFor     = 3 * time.Minute // a store that is down
	stormFor    = time.Minute
	badFor      = time.Minute // a network or a store that misbehaves
	maintainFor = 10 * time.Minute
	belowFor    = 3 * time.Minute // a partition without enough replicas
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
		{name: "none", does: "nothing; the load itself, with its retries and duplicates", inject: (*run).nothing},

		// A process dies at any moment.
		{name: "kill-gateway", does: "SIGKILL of a gateway, started again within 3 s", inject: (*run).killGateway},
		{name: "kill-aggregator", does: "SIGKILL of an aggregator, started again within 3 s", short: true, inject: (*run).killAggregator},
		{name: "kill-both-aggregators", does: "SIGKILL of both aggregators at once", inject: (*run).killBothAggregators},
		{name: "kill-clickhouse", does: "SIGKILL of ClickHouse, started again within 3 s", inject: (*run).killClickHouse},
		{name: "kill-kafka-node", does: "SIGKILL of any of the 3 Kafka nodes, started again within 3 s", inject: (*run).killKafkaNode},
		{name: "kill-kafka-coordinator", does: "SIGKILL of the node that coordinates a consumer group", inject: (*run).killCoordinator},
		{name: "kill-kafka-leader", does: "SIGKILL of the node that leads a partition", inject: (*run).killLeader},
		{name: "kafka-unclean-log", does: "SIGKILL of a leader; the ends of its logs are torn off and overwritten with nonsense before it starts again; unclean election is allowed", inject: (*run).uncleanLog},

		// A store is away, or misbehaves.
		{name: "clickhouse-down", does: "ClickHouse is down for 3 minutes", inject: (*run).clickHouseDown},
		{name: "clickhouse-answers-lost", does: "for 30 s ClickHouse gets every insert, and no answer comes back", short: true, inject: (*run).clickHouseAnswersLost},
		{name: "objects-500", does: "for 1 minute the object store answers every second request with 500", inject: objects(rig.InternalError, 0.5, false)},
		{name: "objects-503-slow-down", does: "for 1 minute the object store answers 7 of 10 requests with 503 SlowDown", inject: objects(rig.SlowDown, 0.7, false)},
		{name: "objects-500-after-the-work", does: "for 1 minute the object store does every second write, and answers 500", inject: objects(rig.DoesButErrs, 0.5, true)},
		{name: "objects-silent-after-the-work", does: "for 1 minute the object store does every fifth write, and never answers", short: true, inject: objects(rig.NeverAnswers, 0.2, true)},
		{name: "objects-silent", does: "for 1 minute the object store neither does nor answers every fifth request", inject: objects(rig.AnswersNothing, 0.2, false)},
		{name: "objects-refusing", does: "for 1 minute the object store takes no connection", inject: (*run).objectsRefusing},
		{name: "catalog-conflict-after-the-work", does: "for 1 minute the lake's REST catalog does every third commit, and answers 409 CommitFailed", kind: restLake, inject: commits(rig.DoesButConflicts, 0.34)},
		{name: "catalog-500-after-the-work", does: "for 1 minute the lake's REST catalog does every third commit, and answers 500", kind: restLake, inject: commits(rig.DoesButErrs, 0.34)},
		{name: "catalog-silent-after-the-work", does: "for 1 minute the lake's REST catalog does every fifth commit, and never answers", kind: restLake, inject: commits(rig.NeverAnswers, 0.2)},
		{name: "glue-conflict-after-the-work", does: "for 1 minute a catalog as AWS Glue does every third commit, and answers ConcurrentModification", kind: glueLake, inject: commits(rig.DoesButConflicts, 0.34)},
		{name: "lake-maintained", does: "for 10 minutes upkeep, Iceberg Java and pyiceberg compact the lake's tables, expire snapshots, drop the offsets' properties and add columns, in a loop", kind: restLake, inject: (*run).lakeMaintained},
		{name: "clickhouse-restored", does: "ClickHouse's disk is put back, under load, to what it was when the fault began", inject: (*run).clickHouseRestored},

		// Who owns a partition.
		{name: "offsets-reset", does: "while no aggregator runs, the offsets of both groups are moved by hand, each partition's to its start, to anything before, or to the end of the log", inject: (*run).offsetsReset},
		{name: "topic-made-anew", does: "the topics are deleted while agents wait and all is committed, agents go on, and the topics are made anew", unprobed: true, inject: (*run).topicMadeAnew},
		{name: "unclean-election-new-owner", does: "a replica that lacks the newest records of a partition becomes its leader and takes others at their offsets, while both aggregators are killed", unprobed: true, inject: (*run).uncleanElectionNewOwner},
		{name: "rebalance-storm", does: "for 1 minute a third aggregator joins and leaves every 2 s, one time in four by SIGKILL", inject: (*run).rebalanceStorm},
		{name: "zombie", does: "an aggregator is frozen (SIGSTOP) at any moment for longer than its session, and goes on", inject: (*run).zombie},
		{name: "two-owners", does: "an aggregator loses Kafka but not the stores, which it reaches slowly: it delivers what it has while the other takes its partitions over", inject: (*run).twoOwners},

		// Agents and the network.
		{name: "agents-time-out", does: "for 1 minute 40 % of the requests are given up after 2 to 20 ms and sent to the other gateway; 15 % are sent twice; 5 % of the agents go away", inject: (*run).badWhile, agents: func(o *agents.Options) { o.Impatient, o.Duplicates, o.Deserters = 0.4, 0.15, 0.05 }},
		{name: "kafka-answers-lost", does: "for 1 minute, 2 s in 5, Kafka gets what the gateways send, and no answer comes back", inject: (*run).kafkaAnswersLost},
		{name: "kafka-away", does: "for 1 minute no gateway reaches Kafka; requests go to the object store", inject: (*run).kafkaAway},
		{name: "kafka-away-kill-gateway", does: "the same, and a gateway that has put requests into the object store is killed", inject: (*run).kafkaAwayKillGateway},
		{name: "partition-under-min-insync", does: "for 3 minutes a partition of metrics has one in-sync replica of the 2 it needs, under load of ten tenants", many: plainTenants, inject: (*run).partitionUnderMinInSync},
		{name: "latency-and-resets", does: "for 1 minute every link, those between Kafka nodes too, takes 200 ms there and back, and each connection is reset with 5 % probability a second", inject: (*run).latencyAndResets},

		{name: "clock-10-minutes-off", does: "for 1 minute an aggregator's clock is 10 minutes ahead or behind", ready: buildWrongClock, inject: (*run).wrongClock},

		// Disks.
		{name: "disk-full-clickhouse", does: "for 1 minute ClickHouse's disk is full to the last byte", inject: diskFull("clickhouse")},
		{name: "disk-full-lake", does: "for 1 minute the disk of the object store and the catalog is full", inject: diskFull("lake")},
		{name: "disk-full-kafka", does: "for 1 minute a Kafka node's disk is full; the node ends, and is started again when there is room", inject: diskFull("kafka")},
	}
	for _, g := range gaps {
		out = append(out,
			fault{name: "kill-at-" + g, does: "SIGKILL of an aggregator at failpoint " + g, inject: killAt(g)},
			fault{name: "zombie-at-" + g, does: "an aggregator is frozen at failpoint " + g + " for longer than its session, and goes on", inject: zombieAt(g)})
	}
	for i := range out {
		if out[i].events == 0 {
			out[i].events = eventsEach
		}
	}
	return out
}

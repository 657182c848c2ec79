package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/failpoint"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	startTimeout   = 3 * time.Minute
	stopGrace      = 2 * time.Minute
	sessionTimeout = 6 * time.Second // testdata/aggregator.yaml
	pointTimeout   = 3 * time.Minute // until a failpoint is hit, or a fault hits something: a commit of the lake comes every two seconds, on a busy machine much later
	zombieFor      = sessionTimeout + 4*time.Second
)

// scaled is a fault's length.
func scaled(full time.Duration) time.Duration {
	return max(time.Duration(float64(full)**scale), 5*time.Second)
}

func (r *run) nothing() error  { return nil }
func (r *run) badWhile() error { time.Sleep(scaled(badFor)); return nil }

// shortly waits for a random time.
func (r *run) shortly() { time.Sleep(time.Duration(r.rng.Int64N(int64(shortOutage)))) }

func (r *run) anAggregator() *rig.Tier { return r.Aggregators[r.rng.IntN(2)] }

func (r *run) killGateway() error {
	g := r.Gateways[r.rng.IntN(len(r.Gateways))]
	g.Kill()
	r.shortly()
	return g.Start(startTimeout)
}

// killAggregator tries several moments: most of them lie between two blocks.
func (r *run) killAggregator() error {
	for range kills() {
		a := r.anAggregator()
		a.Kill()
		r.shortly()
		if err := a.Start(startTimeout); err != nil {
			return err
		}
		time.Sleep(sessionTimeout) // it has partitions again
		r.shortly()
	}
	return nil
}

// kills is how many moments are tried.
func kills() int { return max(1, int(5**scale)) }

func (r *run) killBothAggregators() error {
	for range kills() {
		for _, a := range r.Aggregators[:2] {
			a.Kill()
		}
		r.shortly()
		if err := errors.Join(r.Aggregators[0].Start(startTimeout), r.Aggregators[1].Start(startTimeout)); err != nil {
			return err
		}
		time.Sleep(sessionTimeout)
		r.shortly()
	}
	return nil
}

func (r *run) killClickHouse() error {
	r.ClickHouse.Kill()
	r.shortly()
	return r.StartClickHouse()
}

func (r *run) clickHouseDown() error {
	r.ClickHouse.Kill()
	time.Sleep(scaled(downFor))
	return r.StartClickHouse()
}

func (r *run) clickHouseAnswersLost() error {
	for _, l := range r.Links.Matching("aggregator", "clickhouse") {
		if err := l.SwallowAnswers(); err != nil {
			return err
		}
	}
	time.Sleep(scaled(badFor / 2))
	return nil
}

func (r *run) killNode(node int) error {
	if err := r.Kafka.Kill(node); err != nil {
		return err
	}
	r.shortly()
	return r.Kafka.Restart(node)
}

func (r *run) killKafkaNode() error { return r.killNode(r.rng.IntN(3)) }

func (r *run) killCoordinator() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	group := groups[r.rng.IntN(len(groups))]
	c := r.admin.FindGroupCoordinators(ctx, group)[group]
	if c.Err != nil || c.Name != group {
		return fmt.Errorf("no coordinator of group %s: %w", group, c.Err)
	}
	return r.killNode(int(c.NodeID))
}

// leader of a random partition of logs.
func (r *run) leader() (node int, partition int32, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	topics, err := r.admin.ListTopics(ctx, signal.Logs.Topic())
	if err != nil {
		return 0, 0, err
	}
	parts := topics[signal.Logs.Topic()].Partitions.Sorted()
	if len(parts) == 0 {
		return 0, 0, fmt.Errorf("topic %s has no partitions: %w", signal.Logs.Topic(), topics.Error())
	}
	p := parts[r.rng.IntN(len(parts))]
	return int(p.Leader), p.Partition, nil
}

func (r *run) killLeader() error {
	node, _, err := r.leader()
	if err != nil {
		return err
	}
	return r.killNode(node)
}

// uncleanLog kills a leader, damages the end of its logs as a machine does that lost power, and starts it again. The topic of logs
// may even elect a replica that is not in sync; with acks=all and two in-sync replicas nothing that was acknowledged hangs on that.
func (r *run) uncleanLog() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	unclean := func(value string) error {
		_, err := r.admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "unclean.leader.election.enable", Value: &value}}, signal.Logs.Topic())
		return err
	}
	if err := unclean("true"); err != nil {
		return err
	}
	node, _, err := r.leader()
	if err != nil {
		return err
	}
	if err := r.Kafka.Kill(node); err != nil {
		return err
	}
	damaged := 0
	for _, s := range signal.All {
		segments, err := filepath.Glob(filepath.Join(r.Kafka.DataDir(node), s.Topic()+"-*", "*.log"))
		if err != nil {
			return err
		}
		for _, path := range segments {
			if err := r.damage(path); err != nil {
				return err
			}
			damaged++
		}
	}
	if damaged == 0 {
		return fmt.Errorf("node %d has no segments in %s", node, r.Kafka.DataDir(node))
	}
	r.shortly()
	if err := r.Kafka.Restart(node); err != nil {
		return err
	}
	return unclean("false")
}

// damage tears off the end of a segment, and writes nonsense there.
func (r *run) damage(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if err := os.Truncate(path, max(0, info.Size()-int64(1+r.rng.IntN(20_000)))); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	nonsense := make([]byte, r.rng.IntN(2000))
	for i := range nonsense {
		nonsense[i] = byte(r.rng.Uint32())
	}
	_, err = f.Write(nonsense)
	return errors.Join(err, f.Close())
}

// objects makes the object store treat a share of its requests that way.
func objects(how rig.Misbehaviour, share float64, writesOnly bool) func(*run) error {
	return func(r *run) error {
		r.Objects.Misbehave(how, share, writesOnly)
		time.Sleep(scaled(badFor))
		until(func() bool { return r.Objects.Hurt() > 0 }, pointTimeout)
		if hit := r.Objects.Behave(); hit == 0 {
			return errors.New("the object store was not asked once: the fault was none")
		}
		return nil
	}
}

// commits makes the lake's catalog treat a share of the commits that way.
func commits(how rig.Misbehaviour, share float64) func(*run) error {
	const least = 3 // the first commits of a new rig come late
	return func(r *run) error {
		r.CatalogServer.Misbehave(how, share, true)
		time.Sleep(scaled(badFor))
		until(func() bool { return r.CatalogServer.Hurt() >= least }, pointTimeout)
		if hit := r.CatalogServer.Behave(); hit < least {
			return fmt.Errorf("the catalog answered %d commits wrongly, want %d at least", hit, least)
		}
		return nil
	}
}

func (r *run) objectsRefusing() error {
	links := r.Links.Matching("aggregator", "objects")
	for _, l := range links {
		l.Refuse()
	}
	time.Sleep(scaled(badFor))
	return r.Links.Heal()
}

// rebalanceStorm lets a third aggregator join and leave every two seconds.
func (r *run) rebalanceStorm() error {
	spare := r.Aggregators[2]
	for until := time.Now().Add(scaled(stormFor)); time.Now().Before(until); {
		if err := spare.Start(startTimeout); err != nil {
			return err
		}
		time.Sleep(2 * time.Second)
		if r.rng.IntN(4) == 0 {
			spare.Kill() // it leaves without a word
		} else if !spare.Stop(stopGrace) {
			return fmt.Errorf("%s did not leave within %v:\n%s", spare.Name, stopGrace, spare.Log())
		}
		time.Sleep(2 * time.Second)
	}
	return nil
}

// zombie freezes an aggregator at any moment for longer than its session, and lets it go on.
func (r *run) zombie() error {
	a := r.anAggregator()
	if err := a.Freeze(); err != nil {
		return err
	}
	time.Sleep(zombieFor)
	return a.Thaw()
}

// twoOwners cuts an aggregator off from Kafka, but not from the stores, which it reaches slowly: while it still delivers what it
// had read, the other one takes its partitions over. Neither knows of the other.
func (r *run) twoOwners() error {
	a := r.anAggregator()
	for _, store := range []string{"clickhouse", "objects"} {
		for _, l := range r.Links.Matching(a.Name, store) {
			if err := l.Delay(4 * time.Second); err != nil {
				return err
			}
		}
	}
	time.Sleep(time.Second) // blocks under way are slow now
	for _, l := range r.Links.Matching(a.Name, "kafka") {
		if err := l.Swallow(); err != nil {
			return err
		}
	}
	time.Sleep(zombieFor)
	return r.Links.Heal()
}

func (r *run) kafkaAnswersLost() error {
	for range int(scaled(badFor) / (5 * time.Second)) {
		for _, l := range r.Links.Matching("gateway", "kafka") {
			if err := l.SwallowAnswers(); err != nil {
				return err
			}
		}
		time.Sleep(2 * time.Second)
		if err := r.Links.Heal(); err != nil {
			return err
		}
		time.Sleep(3 * time.Second)
	}
	return nil
}

func (r *run) kafkaAway() error {
	for _, l := range r.Links.Matching("gateway", "kafka") {
		l.Refuse()
	}
	time.Sleep(scaled(badFor))
	return r.someSpilled()
}

func (r *run) someSpilled() error {
	n, err := r.Objects.Spilled()
	if err == nil && n == 0 {
		err = errors.New("nothing was spilled: the fault was none")
	}
	return errors.Join(err, r.Links.Heal())
}

func (r *run) kafkaAwayKillGateway() error {
	for _, l := range r.Links.Matching("gateway", "kafka") {
		l.Refuse()
	}
	time.Sleep(scaled(badFor))
	g := r.Gateways[r.rng.IntN(len(r.Gateways))]
	g.Kill()
	r.shortly()
	return errors.Join(r.someSpilled(), g.Start(startTimeout))
}

// partitionUnderMinInSync takes one partition of metrics below the in-sync replicas that it needs.
func (r *run) partitionUnderMinInSync() error {
	ctx, cancel := context.WithTimeout(context.Background(), scaled(belowFor)+freshTimeout+2*startTimeout)
	defer cancel()
	feed, err := r.Kafka.Starve(ctx, signal.Metrics.Topic(), 0)
	if err != nil {
		return err
	}
	time.Sleep(scaled(belowFor))
	// A machine that is busy with other things may have let another partition wait for a moment.
	only := r.onlyOneSpills()
	for deadline := time.Now().Add(freshTimeout); only != nil && time.Now().Before(deadline); only = r.onlyOneSpills() {
		time.Sleep(500 * time.Millisecond)
	}
	return errors.Join(only, r.someSpilled(), feed(ctx))
}

// onlyOneSpills makes sure that requests for a single partition go to the object store, and at one gateway at least.
func (r *run) onlyOneSpills() error {
	most := 0
	for _, g := range r.Gateways {
		text, err := rig.Scrape(strings.TrimSuffix(strings.TrimPrefix(g.MetricsURL(), "http://"), "/metrics"))
		if err != nil {
			return err
		}
		m := spillingPartitions.FindStringSubmatch(text)
		if m == nil {
			return fmt.Errorf("%s does not tell how many partitions it spills", g.Name)
		}
		n, err := strconv.Atoi(m[1])
		if err != nil {
			return err
		}
		if n > 1 {
			return fmt.Errorf("%s spills %d partitions, want at most one", g.Name, n)
		}
		most = max(most, n)
	}
	if most == 0 {
		return errors.New("no gateway spills a partition")
	}
	return nil
}

var spillingPartitions = regexp.MustCompile(`(?m)^otelcol_msk_exporter_spilling_partitions(?:\{.*\})? (\d+)$`)

func (r *run) latencyAndResets() error {
	links := r.Links.Matching("", "")
	for _, l := range links {
		if err := l.Delay(200 * time.Millisecond); err != nil {
			return err
		}
	}
	for until := time.Now().Add(scaled(badFor)); time.Now().Before(until); time.Sleep(time.Second) {
		for _, l := range links {
			if err := l.ResetShare(0.05); err != nil {
				return err
			}
		}
	}
	return r.Links.Heal()
}

// diskFull fills a part's disk. A Kafka node whose disk is full ends; it is started again when there is room.
func diskFull(part string) func(*run) error {
	return func(r *run) error {
		d := r.Disks[part]
		if d == nil {
			return errors.New("a full disk needs a small one, and mounting it needs root")
		}
		if err := d.Fill(); err != nil {
			return errors.Join(err, d.Free())
		}
		time.Sleep(scaled(badFor))
		if err := d.Free(); err != nil || part != "kafka" {
			return err
		}
		if err := r.Kafka.Kill(2); err != nil { // where it has not ended by itself
			return err
		}
		return r.Kafka.Restart(2)
	}
}

// armed restarts an aggregator so that it is hit at the given failpoint.
func (r *run) armed(point, action string) (*rig.Tier, error) {
	a := r.anAggregator()
	if !a.Stop(stopGrace) {
		return nil, fmt.Errorf("%s did not stop within %v", a.Name, stopGrace)
	}
	a.Arm(failpoint.Variable, fmt.Sprintf("%s=%s@%d", point, action, 1+r.rng.IntN(5)))
	return a, a.Start(startTimeout)
}

func until(ok func() bool, timeout time.Duration) bool {
	for deadline := time.Now().Add(timeout); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return false
}

// killAt kills an aggregator in the given gap.
func killAt(point string) func(*run) error {
	return func(r *run) error {
		a, err := r.armed(point, "kill")
		if err != nil {
			return err
		}
		if !until(a.Ended, pointTimeout) {
			return fmt.Errorf("%s did not come to failpoint %s within %v", a.Name, point, pointTimeout)
		}
		r.shortly()
		return a.Start(startTimeout)
	}
}

// zombieAt freezes an aggregator in the given gap for longer than its session, and lets it go on.
func zombieAt(point string) func(*run) error {
	return func(r *run) error {
		a, err := r.armed(point, "stop")
		if err != nil {
			return err
		}
		if !until(a.Frozen, pointTimeout) {
			return fmt.Errorf("%s did not come to failpoint %s within %v", a.Name, point, pointTimeout)
		}
		time.Sleep(zombieFor)
		if err := a.Thaw(); err != nil {
			return fmt.Errorf("%s: %w", a.Name, err)
		}
		return nil
	}
}

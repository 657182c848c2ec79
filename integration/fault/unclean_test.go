package fault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/integration/rig/recount"
	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	aloneFor   = 30 * time.Second // a leader without followers in sync
	uncleanFor = 10 * time.Minute // a bound on all the steps of the fault but that
	replaced   = "replaced"       // the receiver's code of a record that came in the place of another one
)

// cutOff is a partition of logs whose log is cut off and written anew. What Kafka lost by that is known by what the fault itself read of the topic.
type cutOff struct {
	partition int32
	before    map[int64]int    // number of the first event of each record, by offset, before the election
	end       int64            // of the log, before the election
	committed map[string]int64 // by group, when the aggregators were dead
}

// uncleanElectionNewOwner gives a partition of logs two replicas and stops the follower, so that the leader alone acknowledges records and the groups
// deliver them; then it kills both aggregators, and the leader, and lets the follower lead. New records get the offsets of those that it lacks, and are met
// by aggregators that know only what the groups have committed. Agents wait before the election, since the retry of a record that is cut off would find
// no first copy in Kafka.
func (r *run) uncleanElectionNewOwner() error {
	ctx, cancel := context.WithTimeout(context.Background(), scaled(aloneFor)+uncleanFor)
	defer cancel()
	topic := signal.Logs.Topic()
	set := func(unclean, inSync string) error {
		_, err := r.admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{
			{Op: kadm.SetConfig, Name: "unclean.leader.election.enable", Value: &unclean}, {Op: kadm.SetConfig, Name: "min.insync.replicas", Value: &inSync},
		}, topic)
		return err
	}
	old, partition, err := r.leader()
	if err != nil {
		return err
	}
	c := cutOff{partition: partition}
	follower := (old + 1 + r.rng.IntN(2)) % 3
	is := func(what string, ok func(kadm.PartitionDetail) bool) error {
		var p kadm.PartitionDetail
		if !until(func() bool {
			topics, err := r.admin.ListTopics(ctx, topic)
			p = topics[topic].Partitions[partition]
			return err == nil && ok(p)
		}, startTimeout) {
			return fmt.Errorf("%s/%d does not %s within %v: leader %d, replicas %v, in sync %v", topic, partition, what, startTimeout, p.Leader, p.Replicas, p.ISR)
		}
		return nil
	}
	assign := func(nodes ...int32) error {
		var req kadm.AlterPartitionAssignmentsReq
		req.Assign(topic, partition, nodes)
		done, err := r.admin.AlterPartitionAssignments(ctx, req)
		return errors.Join(err, done.Error())
	}
	inSync := func(n int) func(kadm.PartitionDetail) bool {
		return func(p kadm.PartitionDetail) bool { return len(p.ISR) == n && (n == 1 || len(p.Replicas) == n) }
	}
	for _, step := range []func() error{
		func() error { return set("true", "1") },
		func() error { return assign(int32(old), int32(follower)) },
		func() error { return is("have two replicas", inSync(2)) },
		func() error { return r.Kafka.Kill(follower) },
		func() error { return is("have one replica in sync", inSync(1)) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	_, followed, err := r.logsOf(ctx, partition) // the follower has less than that
	if err != nil {
		return err
	}
	time.Sleep(scaled(aloneFor))
	if !until(func() bool {
		at, err := r.committed(ctx, partition)
		return err == nil && at[fastLane.hot] > followed && at[fastLane.lake] > followed
	}, freshTimeout) {
		return fmt.Errorf("the groups do not commit beyond %d of %s/%d, where its leader was left alone", followed, topic, partition)
	}
	for _, a := range r.Aggregators[:2] {
		a.Kill()
	}
	resume, err := r.pause()
	defer resume()
	if err != nil {
		return err
	}
	if c.before, c.end, err = r.logsOf(ctx, partition); err != nil {
		return err
	}
	if c.committed, err = r.committed(ctx, partition); err != nil {
		return err
	}
	if err := errors.Join(r.Kafka.Kill(old), r.Kafka.Restart(follower)); err != nil {
		return err
	}
	if err := is("get the other leader", func(p kadm.PartitionDetail) bool { return p.Leader == int32(follower) }); err != nil {
		return err
	}
	resume()
	r.shortly()
	if err := errors.Join(r.Aggregators[0].Start(startTimeout), r.Aggregators[1].Start(startTimeout)); err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return r.Kafka.Restart(old) },
		func() error { return assign(0, 1, 2) },
		func() error { return is("have three replicas", inSync(3)) },
		func() error { return set("false", "2") },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	if !until(func() bool {
		ends, err := r.admin.ListEndOffsets(ctx, topic)
		o, ok := ends.Lookup(topic, partition)
		return err == nil && ok && o.Offset > c.end
	}, freshTimeout) {
		return fmt.Errorf("%s/%d does not grow beyond %d, where it ended", topic, partition, c.end)
	}
	r.settle = func() error { return r.settleCutOff(c) }
	return nil
}

// committed is what each group has committed of a partition of logs.
func (r *run) committed(ctx context.Context, partition int32) (map[string]int64, error) {
	out := map[string]int64{}
	for _, group := range groups {
		offsets, err := r.admin.FetchOffsets(ctx, group)
		if err != nil {
			return nil, err
		}
		o, _ := offsets.Lookup(signal.Logs.Topic(), partition)
		out[group] = o.At
	}
	return out, nil
}

// logsOf are the first numbers of the run's records in a partition of logs, by offset, and where it ends.
func (r *run) logsOf(ctx context.Context, partition int32) (map[int64]int, int64, error) {
	topic, out := signal.Logs.Topic(), map[int64]int{}
	var err error
	until(func() bool { // soon after an election a leader does not say where its log ends
		clear(out)
		err = quarantine.Read(ctx, r.client, topic, r.started, func(i quarantine.Item) error {
			if i.Partition != partition {
				return nil
			}
			service, first, err := firstEvent(signal.Logs, i.Body)
			if err != nil {
				return fmt.Errorf("%s: %w", i.Place(), err)
			}
			if service == r.service {
				out[i.Offset] = first
			}
			return nil
		})
		return err == nil
	}, startTimeout)
	if err != nil {
		return nil, 0, err
	}
	ends, err := r.admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return nil, 0, err
	}
	end, _ := ends.Lookup(topic, partition)
	return out, end.Offset, end.Err
}

// settleCutOff tells what the stores need not have: of the records that were cut off those that a group had not committed, for Kafka lost them; and of
// those in their place what is in quarantine for it, where each must be that came in the place of a committed one. The audit, which knows only what Kafka
// holds, does not look at these places.
func (r *run) settleCutOff(c cutOff) error {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	after, _, err := r.logsOf(ctx, c.partition)
	if err != nil {
		return err
	}
	cut := c.end
	for offset, first := range c.before {
		if after[offset] != first {
			cut = min(cut, offset)
		}
	}
	if cut == c.end {
		return errors.New("no record was cut off: the fault was none")
	}
	aside := map[string]map[int64]bool{}
	for _, group := range groups {
		aside[group] = map[int64]bool{}
		if c.committed[group] <= cut {
			return fmt.Errorf("the log was cut off at %d, and group %s had committed %d: the fault was none for it", cut, group, c.committed[group])
		}
	}
	for _, i := range r.quarantined() {
		if i.OriginTopic != signal.Logs.Topic() || i.OriginPartition != c.partition || i.Code != replaced || aside[i.OriginGroup] == nil {
			r.t.Errorf("quarantine has %s, %q, of %s/%d at %d, group %s", i.Place(), i.Code, i.OriginTopic, i.OriginPartition, i.OriginOffset, i.OriginGroup)
			continue
		}
		if i.OriginOffset < cut || i.OriginOffset >= c.end || aside[i.OriginGroup][i.OriginOffset] {
			r.t.Errorf("quarantine has offset %d for group %s twice, or it was not replaced: the log was cut off at %d and had ended at %d", i.OriginOffset, i.OriginGroup, cut, c.end)
		}
		aside[i.OriginGroup][i.OriginOffset] = true
	}
	r.excused = map[string]recount.Excuse{}
	for _, group := range groups {
		free, lost := map[int]bool{}, 0
		for offset := cut; offset < c.end; offset++ {
			switch {
			case aside[group][offset]:
				free[after[offset]] = true
			case offset < c.committed[group]:
				r.t.Errorf("offset %d was committed by group %s and has another record now, which is not in quarantine", offset, group)
			}
			if offset >= c.committed[group] {
				free[c.before[offset]] = true
				lost++
			}
		}
		r.t.Logf("%s/%d was cut off at %d of %d; of group %s %d records are in quarantine, %d were not committed when Kafka lost them",
			signal.Logs.Topic(), c.partition, cut, c.end, group, len(aside[group]), lost)
		r.excused[group] = func(sig signal.Signal, number int) bool {
			return sig == signal.Logs && free[number-number%agents.PerRequest]
		}
	}
	return r.auditAround(ctx, c.partition, cut, c.end)
}

// auditAround has everything audited since the run began but what lies between two offsets of a partition of logs.
func (r *run) auditAround(ctx context.Context, partition int32, cut, end int64) error {
	starts, err := r.admin.ListOffsetsAfterMilli(ctx, r.started.UnixMilli(), fastLane.names()...)
	if err := cmp.Or(err, starts.Error()); err != nil {
		return err
	}
	ends, err := r.admin.ListEndOffsets(ctx, fastLane.names()...)
	if err := cmp.Or(err, ends.Error()); err != nil {
		return err
	}
	var all, behind []certificate.Range
	ends.Each(func(e kadm.ListedOffset) {
		s, _ := starts.Lookup(e.Topic, e.Partition)
		span := certificate.Range{Topic: e.Topic, Partition: e.Partition, First: s.Offset, Last: e.Offset - 1}
		if e.Topic == signal.Logs.Topic() && e.Partition == partition {
			rest := span
			span.Last, rest.First = min(span.Last, cut-1), max(rest.First, end)
			behind = append(behind, rest)
		}
		all = append(all, span)
	})
	empty := func(s certificate.Range) bool { return s.Last < s.First }
	r.ranges = [][]certificate.Range{slices.DeleteFunc(all, empty), slices.DeleteFunc(behind, empty)}
	r.ranges = slices.DeleteFunc(r.ranges, func(rs []certificate.Range) bool { return len(rs) == 0 })
	return nil
}

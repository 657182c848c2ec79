package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/collector/component"

	"github.com/pulsegrid/pulsegrid/internal/audit"
	"github.com/pulsegrid/pulsegrid/internal/audit/erasure"
	"github.com/pulsegrid/pulsegrid/internal/journal"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
	"github.com/pulsegrid/pulsegrid/internal/topicreplay"
	"github.com/pulsegrid/pulsegrid/receiver/mskreceiver"
)

// defaultReplayRate is in events a second.
const defaultReplayRate = 100_000

// toTopicFlags are of a replay into a topic only.
var toTopicFlags = []string{"to-live", "rate", "yield-after"}

// topicAsked checks the flags of a replay into a topic.
func (o *replayOptions) topicAsked(now time.Time) (r topicreplay.Request, erased []erasure.Erasure, err error) {
	wrong := func(flag, format string, args ...any) (topicreplay.Request, []erasure.Erasure, error) {
		return r, nil, usageError{fmt.Errorf("--%s: %w", flag, fmt.Errorf(format, args...))}
	}
	// How long ago it was would make each command another job.
	if r.From, err = parseDay(o.from); err != nil {
		return wrong("from", "%w", err)
	}
	if r.To, err = parseDay(o.to); err != nil {
		return wrong("to", "%w", err)
	}
	others := o.auditOptions
	others.from, others.to = "", ""
	c, err := others.asked(now)
	if err != nil {
		return r, nil, err
	}
	target, err := audit.ParseTopic(o.toTopic)
	if err != nil {
		return wrong("to-topic", "%w", err)
	}
	r.Target, r.Signal, r.Tenant, r.Ranges = target.Name, target.Signal, c.Tenant, c.Ranges
	for _, t := range c.Topics {
		if t.Signal != r.Signal {
			return wrong("topic", "%s has %s, and --to-topic takes %s", t.Name, t.Signal, r.Signal)
		}
		r.Topics = append(r.Topics, t.Name)
	}
	for _, g := range r.Ranges {
		named := slices.Contains(r.Topics, g.Topic)
		switch {
		case len(c.Topics) > 0 && !named:
			return wrong("range", "%s: --topic names others", g)
		case len(c.Topics) == 0 && signal.OfTopic(g.Topic) != r.Signal:
			return wrong("range", "%s: the topic's name does not say that it has %s: name it with --topic", g, r.Signal)
		case !named:
			r.Topics = append(r.Topics, g.Topic)
		}
	}
	for _, e := range c.Erased {
		if !e.From.IsZero() || !e.To.IsZero() {
			return wrong("erased", "%s has times of events, and records are copied whole: leave them out with --from, --to or --range", e.ID)
		}
		if e.Named != nil {
			return wrong("erased", "%s names single events, and records are copied whole: leave its records out with --range, and the declaration with them", e.ID)
		}
	}
	switch {
	case o.source != sourceKafka:
		return wrong("source", "%s: only Kafka's records can be copied into a topic", o.source)
	case len(o.signals) > 0:
		return wrong("signal", "--to-topic names the signal")
	case len(r.Ranges) > 0 && (o.from != "" || o.to != ""):
		return wrong("range", "says which records; --from and --to do, too: give one of them")
	case !r.To.IsZero() && !r.From.Before(r.To):
		return wrong("to", "%s is not after --from", o.to)
	case r.To.After(now):
		return wrong("to", "%s is still to come, and so are records before it", o.to)
	case r.Tenant != "" && !tenant.ValidID(r.Tenant):
		return wrong("tenant", "%q is not a tenant id: "+tenant.WantID, r.Tenant)
	case o.rate < 0:
		return wrong("rate", "%d: must not be negative", o.rate)
	case o.yieldAfter < 0:
		return wrong("yield-after", "%v: must not be negative", o.yieldAfter)
	}
	return r, c.Erased, nil
}

// mayTake refuses a target that is not for copies: what is written there comes into the stores of the aggregators, unless --to-live wants that.
func (o *replayOptions) mayTake(r topicreplay.Request, receivers map[component.ID]*mskreceiver.Config) error {
	live := ""
	if signal.OfTopic(r.Target) != 0 {
		live = "is named like a topic of the gateways, so that audits and other replays read it"
	}
	for _, id := range slices.SortedFunc(maps.Keys(receivers), compareIDs) {
		c := receivers[id]
		if r.Target == c.QuarantineTopic || slices.Contains(c.Topics.Quarantine, r.Target) {
			return usageError{fmt.Errorf("--to-topic: %s: is the quarantine of receiver %s", r.Target, id)}
		}
		for s, topics := range map[signal.Signal][]string{signal.Logs: c.Topics.Logs, signal.Metrics: c.Topics.Metrics, signal.Traces: c.Topics.Traces} {
			if !slices.Contains(topics, r.Target) {
				continue
			}
			if s != r.Signal {
				return usageError{fmt.Errorf("--to-topic: %s: receiver %s reads %s there, not %s", r.Target, id, s, r.Signal)}
			}
			live = "is read by receiver " + id.String() + ", whose store may have these events already"
		}
	}
	if live != "" && !o.toLive {
		return usageError{fmt.Errorf("--to-topic: %s: %s: choose another topic, or say --to-live", r.Target, live)}
	}
	return nil
}

// eventsReceiver is a receiver of events.
func eventsReceiver(receivers map[component.ID]*mskreceiver.Config) (*mskreceiver.Config, error) {
	for _, id := range slices.SortedFunc(maps.Keys(receivers), compareIDs) {
		if len(receivers[id].Topics.Quarantine) == 0 {
			return receivers[id], nil
		}
	}
	return nil, errors.New("configuration of the aggregators: receivers: there is no msk receiver of events, which says where Kafka is")
}

func runReplayToTopic(cmd *cobra.Command, o replayOptions) error {
	ctx := cmd.Context()
	request, erased, err := o.topicAsked(time.Now())
	if err != nil {
		return err
	}
	pipes, err := o.stores.pipelines(cmd)
	if err != nil {
		return err
	}
	receivers, err := pipes.receivers()
	if err != nil {
		return err
	}
	if err := o.mayTake(request, receivers); err != nil {
		return err
	}
	receiver, err := eventsReceiver(receivers)
	if err != nil {
		return err
	}
	c := topicreplay.Config{
		Request: request, DefaultTenant: receiver.DefaultTenant, Erased: erased, Rate: o.rate, Log: pipes.log, DryRun: o.dryRun,
		Progress: replayedProgress(teller(cmd, o.quiet), time.Now()),
	}
	if c.Kafka, err = receiver.Options(ctx, pipes.log); err != nil {
		return err
	}
	if o.yieldAfter > 0 {
		l, err := pipes.newLive(ctx, o.yieldAfter)
		if err != nil {
			return err
		}
		defer l.close()
		c.Live = l.behind
	}
	report, err := topicreplay.Run(ctx, c)
	_, refused := errors.AsType[topicreplay.RefusedError](err)
	switch {
	case refused:
		return usageError{err}
	case err != nil && report.Job == "":
		return err
	}
	if printed := printReplayed(cmd.OutOrStdout(), report, o.json); printed != nil {
		return printed
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return errors.New("stopped: the same command goes on from here")
	case errors.Is(err, journal.ErrFenced):
		return fmt.Errorf("another replay into %s has begun, and this one has stopped: %w", request.Target, err)
	case err != nil:
		return fmt.Errorf("%w; what is copied counts, and the same command goes on from there", err)
	}
	return nil
}

// replayedProgress tells how far a replay into a topic is, now and then.
func replayedProgress(tell func(format string, args ...any), begun time.Time) func(topicreplay.Progress) {
	var last time.Time
	first := topicreplay.Progress{Read: -1}
	return func(p topicreplay.Progress) {
		if first.Read < 0 {
			first = p
		}
		if time.Since(last) < jobLine {
			return
		}
		last = time.Now()
		line := fmt.Sprintf("%3.0f%%  %d records, %d events copied", 100*float64(p.Read)/float64(max(p.Of, 1)), p.Copied, p.Events)
		if read, took := p.Read-first.Read, time.Since(begun).Seconds(); read > 0 {
			line += fmt.Sprintf("  %.0f events/s  %s left", float64(p.Events-first.Events)/took, seconds(took*float64(p.Of-p.Read)/float64(read)))
		}
		if p.Yields != "" {
			line += "  " + p.Yields
		}
		tell("%s", line)
	}
}

func printReplayed(w io.Writer, r topicreplay.Report, asJSON bool) error {
	if asJSON {
		return printJSON(w, r)
	}
	var b strings.Builder
	what := r.Signal + " into " + r.Target
	if r.Tenant != "" {
		what += ", tenant " + r.Tenant
	}
	state, verb := "not finished", "are copied"
	switch {
	case r.Before:
		state = "done before: nothing was left to copy"
	case r.DryRun:
		state, verb = "nothing was written", "would be copied"
	case r.Done:
		state = "done"
	}
	_, _ = fmt.Fprintf(&b, "job %s: %s: %s\n%d records with %d events, %d bytes, %s", r.Job, what, state, r.Total.Copied, r.Total.Events, r.Total.Bytes, verb)
	if r.Total.Erased > 0 {
		_, _ = fmt.Fprintf(&b, "; %d were declared as erased and left out", r.Total.Erased)
	}
	if r.Total.Unreadable > 0 {
		_, _ = fmt.Fprintf(&b, "; %d of them are no OTLP: readers put them into quarantine", r.Total.Unreadable)
	}
	b.WriteByte('\n')
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "partition\toffsets\tnext\trecords\tevents\tbytes\tof other tenants")
	for _, p := range r.Ranges {
		_, _ = fmt.Fprintf(tw, "%s/%d\t%d-%d\t%d\t%d\t%d\t%d\t%d\n", p.Topic, p.Partition, p.First, p.Last, p.Next, p.Copied, p.Events, p.Bytes, p.Others)
	}
	_ = tw.Flush() // a strings.Builder does not fail
	_, err := io.WriteString(w, b.String())
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

type tailOptions struct {
	reach
	signal, from string
	filter       eventFilter
	json         bool
	limit        int
}

func newTail() *cobra.Command {
	var o tailOptions
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Follow the events that go through Kafka, one line each",
		Long: `Follow the events that go through Kafka, one line each: time, tenant, signal, service, and what it says. It reads without a
consumer group, so it takes nothing from anybody. Ctrl-C ends it.`,
		Example: `  pulsegrid tail --signal logs --service checkout
  pulsegrid tail --tenant acme --from earliest --json --limit 100 | jq .`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return tail(cmd.Context(), cmd.OutOrStdout(), o) },
	}
	o.kafkaFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.signal, "signal", "", "only traces, metrics or logs (default: all)")
	f.StringVar(&o.filter.tenant, "tenant", "", "only this tenant")
	f.StringVar(&o.filter.service, "service", "", "only this service.name")
	f.StringVar(&o.from, "from", "latest", "latest: what comes from now on; earliest: everything that Kafka keeps")
	f.BoolVar(&o.json, "json", false, "one JSON object a line")
	f.IntVar(&o.limit, "limit", 0, "end after this many events; 0: never")
	return cmd
}

func (o tailOptions) topics() ([]string, error) {
	if o.signal != "" {
		s, err := signal.Parse(o.signal)
		if err != nil {
			return nil, usageError{fmt.Errorf("--signal: %w", err)}
		}
		return []string{s.Topic()}, nil
	}
	topics := make([]string, 0, len(signal.All))
	for _, s := range signal.All {
		topics = append(topics, s.Topic())
	}
	return topics, nil
}

func (o tailOptions) offset() (kgo.Offset, error) {
	switch o.from {
	case "latest":
		return kgo.NewOffset().AtEnd(), nil
	case "earliest":
		return kgo.NewOffset().AtStart(), nil
	}
	return kgo.Offset{}, usageError{fmt.Errorf("--from %q: want latest or earliest", o.from)}
}

func tail(ctx context.Context, w io.Writer, o tailOptions) error {
	topics, err := o.topics()
	if err != nil {
		return err
	}
	offset, err := o.offset()
	if err != nil {
		return err
	}
	if o.limit < 0 {
		return usageError{fmt.Errorf("--limit %d: want 0 or more", o.limit)}
	}
	client, err := o.kafkaClient(ctx, kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(offset))
	if err != nil {
		return ignoreCanceled(err)
	}
	defer client.Close()
	printed := 0
	for {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return ignoreCanceled(err)
		}
		var failed error
		fetches.EachError(func(topic string, partition int32, err error) {
			failed = errors.Join(failed, fmt.Errorf("%s/%d: %w", topic, partition, err))
		})
		if failed != nil {
			return failed
		}
		for record := range fetches.RecordsAll() {
			for e := range events(record, o.filter) {
				if err := e.print(w, o.json); err != nil {
					return err
				}
				if printed++; printed == o.limit {
					return nil
				}
			}
		}
	}
}

// ignoreCanceled: Ctrl-C is how tail ends.
func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

type tailOptions struct {
	data, brokers, signal, from string
	filter                      eventFilter
	json                        bool
	limit                       int
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
	f := cmd.Flags()
	f.StringVar(&o.data, "data", defaultDataDir, "data directory of the cell")
	f.StringVar(&o.brokers, "brokers", "", "HOST:PORT,... of Kafka (default: the running cell's)")
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
	client, err := kafkaClient(ctx, o.data, o.brokers, kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(offset))
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

// kafkaClient returns a client of the brokers, or of those of the cell that runs in the data directory.
func kafkaClient(ctx context.Context, data, brokers string, opts ...kgo.Opt) (*kgo.Client, error) {
	seeds, err := kafkaOpts(data, brokers)
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(append(opts, seeds...)...)
	if err != nil {
		return nil, usageError{fmt.Errorf("--brokers: %w", err)}
	}
	if err := client.Ping(ctx); err != nil {
		client.Close()
		return nil, fmt.Errorf("kafka at %s does not answer: %w", cmp.Or(brokers, "the cell of "+data), err)
	}
	return client, nil
}

// kafkaOpts say where Kafka is: brokers, or else that of the cell that runs in a data directory.
func kafkaOpts(data, brokers string) ([]kgo.Opt, error) {
	if brokers == "" {
		state, err := cell.ReadState(data)
		if err != nil {
			return nil, err
		}
		brokers = state.Endpoints.Kafka
	}
	return []kgo.Opt{kgo.SeedBrokers(strings.Split(brokers, ",")...)}, nil
}

// ignoreCanceled: Ctrl-C is how tail ends.
func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

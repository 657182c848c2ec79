package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/exporter/clickhouseexporter"
	"github.com/pulsegrid/pulsegrid/internal/cell"
)

// reach says which cell a command looks into: the one of an aggregator's configuration, with its certificates and rights, or the one that runs in a data directory.
type reach struct {
	config  []string
	data    string
	brokers string // plain ones, instead of either
}

// flags adds those that every such command has.
func (r *reach) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.data, "data", defaultDataDir, "data directory of the cell")
	cmd.Flags().StringArrayVar(&r.config, "config", nil,
		"configuration of the cell's aggregators, which says where Kafka and ClickHouse are; may be repeated, as for the Collector; env:NAME is a variable that holds it (default: the running local cell's)")
}

// kafkaFlags adds those of a command that asks Kafka.
func (r *reach) kafkaFlags(cmd *cobra.Command) {
	r.flags(cmd)
	cmd.Flags().StringVar(&r.brokers, "brokers", "", "HOST:PORT,... of a Kafka without TLS and credentials (default: the cell's)")
}

func (r *reach) pipelines(ctx context.Context) (*pipelines, error) {
	conf, err := aggregatorConfig(ctx, r.config, r.data)
	if err != nil {
		return nil, err
	}
	return newPipelines(conf, 0, zap.NewNop())
}

// hot is the part of the aggregators that fills ClickHouse with events.
func (r *reach) hot(ctx context.Context) (*hot, error) {
	pipes, err := r.pipelines(ctx)
	if err != nil {
		return nil, err
	}
	h, err := pipes.hot()
	if err != nil {
		return nil, fmt.Errorf("configuration of the aggregators: %w", err)
	}
	return h, nil
}

// kafkaOpts say where Kafka is, and as whom it is asked.
func (r *reach) kafkaOpts(ctx context.Context) ([]kgo.Opt, error) {
	switch {
	case r.brokers != "" && len(r.config) > 0:
		return nil, usageError{errors.New("--brokers: --config says that already: give one of them")}
	case r.brokers != "":
		return []kgo.Opt{kgo.SeedBrokers(strings.Split(r.brokers, ",")...)}, nil
	case len(r.config) == 0: // without the environment of its aggregator
		state, err := cell.ReadState(r.data)
		if err != nil {
			return nil, err
		}
		return []kgo.Opt{kgo.SeedBrokers(strings.Split(state.Endpoints.Kafka, ",")...)}, nil
	}
	pipes, err := r.pipelines(ctx)
	if err != nil {
		return nil, err
	}
	receivers, err := pipes.receivers()
	if err != nil {
		return nil, err
	}
	receiver, err := eventsReceiver(receivers)
	if err != nil {
		return nil, err
	}
	return receiver.Options(ctx, pipes.log)
}

// kafkaClient returns a client of that Kafka, which answers.
func (r *reach) kafkaClient(ctx context.Context, opts ...kgo.Opt) (*kgo.Client, error) {
	where, err := r.kafkaOpts(ctx)
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(append(opts, where...)...)
	if err != nil {
		return nil, usageError{fmt.Errorf("--brokers: %w", err)}
	}
	if err := client.Ping(ctx); err != nil {
		client.Close()
		return nil, fmt.Errorf("kafka at %s does not answer: %w", cmp.Or(r.brokers, strings.Join(r.config, " "), "the cell of "+r.data), err)
	}
	return client, nil
}

// clickHouse is a cell's, and as whom it is asked.
type clickHouse struct {
	http                               *http.Client
	endpoint, user, password, database string
}

// clickHouse finds the cell's.
func (r *reach) clickHouse(ctx context.Context) (*clickHouse, error) {
	if len(r.config) == 0 { // without the environment of its aggregator
		state, err := cell.ReadState(r.data)
		if err != nil {
			return nil, err
		}
		e := state.Endpoints
		return &clickHouse{http.DefaultClient, httpURL(e.ClickHouseHTTP), e.ClickHouseUser, e.ClickHousePassword, cell.Database}, nil
	}
	h, err := r.hot(ctx)
	if err != nil {
		return nil, err
	}
	return clickHouseOf(ctx, &h.exporter)
}

// clickHouseOf is that of an exporter.
func clickHouseOf(ctx context.Context, c *clickhouseexporter.Config) (*clickHouse, error) {
	hc, err := clickHouseClient(ctx, c)
	return &clickHouse{hc, c.ClientConfig.Endpoint, c.Username, string(c.Password), c.Database}, err
}

// question is one for it, which may change nothing.
func (c *clickHouse) question() (question, error) {
	u, err := url.Parse(c.endpoint)
	if err != nil {
		return question{}, fmt.Errorf("endpoint of ClickHouse: %w", err)
	}
	if c.user != "" {
		u.User = url.UserPassword(c.user, c.password)
	}
	return question{client: c.http, endpoint: strings.TrimSuffix(u.String(), "/"), database: c.database}, nil
}

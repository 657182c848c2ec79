package mskreceiver

import (
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/component"

	"github.com/pulsegrid/pulsegrid/internal/kafka"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// InitialOffset is where a group begins to read a partition for which it has committed nothing.
type InitialOffset string

// The initial offsets.
const (
	Earliest InitialOffset = "earliest"
	Latest   InitialOffset = "latest"
)

// Defaults of Config.
const (
	DefaultSessionTimeout    = 45 * time.Second
	DefaultRebalanceTimeout  = 60 * time.Second
	DefaultHeartbeatInterval = 3 * time.Second
	DefaultShutdownTimeout   = 20 * time.Second

	// A partition that keeps up closes its blocks by age; these bound one that catches up. Larger blocks cost the aggregator memory,
	// and memory touched for the first time costs CPU. One run each on a busy machine, 400,000 logs of 768 bytes in 4 partitions,
	// aggregator + ClickHouse in microseconds a log: 32 MiB with 1 GiB in flight and fetches of 16 MiB 22 + 6 and 1.8 GB; with
	// 256 MiB in flight and fetches of 4 MiB, 16 MiB 11 + 9 and 0.7 GB, 8 MiB 10 to 12 + 12 and 0.6 GB. The three bounds were
	// not varied one by one.
	DefaultBlockMaxBytes  = 8 << 20
	DefaultBlockMaxEvents = 50_000
	DefaultBlockMaxAge    = time.Second

	DefaultFetchMaxBytes          = 4 << 20
	DefaultFetchMaxPartitionBytes = 1 << 20
	DefaultFetchMaxConcurrent     = 4

	DefaultMaxInFlightBytes  = 512 << 20
	DefaultMaxInFlightBlocks = 4
	// MaxMaxInFlightBlocks leaves room among the ends that fit a commit's metadata for the halves of a block that was refused.
	MaxMaxInFlightBlocks = 64

	DefaultTenant = "default"

	DefaultRetryInitialInterval = 200 * time.Millisecond
	DefaultRetryMaxInterval     = 30 * time.Second
)

// Config of the receiver.
type Config struct {
	kafka.ClientConfig `mapstructure:",squash"`

	// GroupID is the consumer group. Required. Each sink has its own group, so that a slow sink holds no other back.
	GroupID string `mapstructure:"group_id"`
	// Topics to read, by signal. A signal's topics are read only if a pipeline of that signal uses this receiver.
	Topics TopicsConfig `mapstructure:"topics"`
	// InitialOffset is where a partition without a committed offset begins: earliest (default) or latest. A committed offset
	// that retention has passed always goes on at the earliest record, and what was lost is logged and counted.
	InitialOffset InitialOffset `mapstructure:"initial_offset"`
	// DefaultTenant owns the events of records without a tenant header. Default "default"; must not be empty.
	DefaultTenant string `mapstructure:"default_tenant"`
	// QuarantineTopic takes the records that cannot be decoded or that the pipeline refuses. Default quarantine.v1. With
	// topics::quarantine it must be another topic: a record that is refused again and again would go round for ever.
	QuarantineTopic string `mapstructure:"quarantine_topic"`

	// SessionTimeout is how long the group waits for a silent member before it gives its partitions away. Default 45s.
	SessionTimeout time.Duration `mapstructure:"session_timeout"`
	// RebalanceTimeout is how long the group waits for its members to rejoin. A revoked partition's block in flight may take
	// three quarters of it to end. Default 60s; at least 1s.
	RebalanceTimeout time.Duration `mapstructure:"rebalance_timeout"`
	// HeartbeatInterval is the time between two signs of life. Default 3s; below session_timeout.
	HeartbeatInterval time.Duration `mapstructure:"heartbeat_interval"`

	// Fetch bounds what is asked of the brokers.
	Fetch FetchConfig `mapstructure:"fetch"`
	// Block bounds the unit of delivery.
	Block BlockConfig `mapstructure:"block"`
	// MaxInFlightBlocks is how many blocks of one partition may be on their way to the store at a time. They may arrive in any
	// order, and are finished in the order of their offsets. Default 4; 1 to 64.
	MaxInFlightBlocks int `mapstructure:"max_in_flight_blocks"`
	// MaxInFlightBytes bounds the estimated memory of all records handed over by the Kafka client and not yet finished, raw
	// and decoded. Above it partitions are paused. What the client itself has fetched meanwhile comes on top: at most
	// fetch::max_concurrent fetches of fetch::max_bytes as compressed. Default 512 MiB; at least 1 MiB.
	MaxInFlightBytes int64 `mapstructure:"max_in_flight_bytes"`

	// Retry paces how a block is offered again to a pipeline that failed, without end.
	Retry RetryConfig `mapstructure:"retry"`
	// ShutdownTimeout bounds the wait for blocks in flight when the receiver shuts down; what is not done by then is delivered
	// again by the next owner. Default 20s; above zero.
	ShutdownTimeout time.Duration `mapstructure:"shutdown_timeout"`
}

// TopicsConfig names topics by signal. A topic carries one signal.
type TopicsConfig struct {
	// Logs are the topics of logs. Default [otlp.logs.v1].
	Logs []string `mapstructure:"logs"`
	// Metrics are the topics of metrics. Default [otlp.metrics.v1].
	Metrics []string `mapstructure:"metrics"`
	// Traces are the topics of traces. Default [otlp.traces.v1].
	Traces []string `mapstructure:"traces"`
	// Quarantine are topics of quarantined records, of any signal. Default none. Where there are some, only they are read, and each
	// record, whatever it holds, is one log record for the pipelines of logs: its value the body, its headers the attributes.
	Quarantine []string `mapstructure:"quarantine"`
}

// of are the topics whose records become data of s.
func (t TopicsConfig) of(s signal.Signal) []string {
	if len(t.Quarantine) > 0 {
		if s == signal.Logs {
			return t.Quarantine
		}
		return nil
	}
	switch s {
	case signal.Logs:
		return t.Logs
	case signal.Metrics:
		return t.Metrics
	}
	return t.Traces
}

// FetchConfig bounds fetches.
type FetchConfig struct {
	// MaxBytes of one broker's answer, compressed. Default 4 MiB; above zero.
	MaxBytes int32 `mapstructure:"max_bytes"`
	// MaxPartitionBytes of one partition in an answer, compressed. Default 1 MiB; above zero.
	MaxPartitionBytes int32 `mapstructure:"max_partition_bytes"`
	// MaxConcurrent is how many brokers are asked at once. Default 4; zero: all.
	MaxConcurrent int `mapstructure:"max_concurrent"`
}

// BlockConfig bounds a block. Whichever bound is reached first closes it; a single record above a bound is a block of its own.
type BlockConfig struct {
	// MaxBytes of the record values. Default 8 MiB; above zero.
	MaxBytes int64 `mapstructure:"max_bytes"`
	// MaxEvents in the block. Default 50000; above zero.
	MaxEvents int `mapstructure:"max_events"`
	// MaxAge is the time since its first record arrived. Default 1s; zero: every block is closed with what there is.
	MaxAge time.Duration `mapstructure:"max_age"`
}

// RetryConfig paces retries: exponentially growing, with jitter.
type RetryConfig struct {
	// InitialInterval before the first retry. Default 200ms; above zero.
	InitialInterval time.Duration `mapstructure:"initial_interval"`
	// MaxInterval between two retries. Default 30s; at least initial_interval.
	MaxInterval time.Duration `mapstructure:"max_interval"`
}

func createDefaultConfig() component.Config {
	return &Config{
		ClientConfig: kafka.NewDefaultClientConfig(),
		Topics: TopicsConfig{
			Logs:       []string{signal.Logs.Topic()},
			Metrics:    []string{signal.Metrics.Topic()},
			Traces:     []string{signal.Traces.Topic()},
			Quarantine: []string{},
		},
		InitialOffset:     Earliest,
		DefaultTenant:     DefaultTenant,
		QuarantineTopic:   signal.QuarantineTopic,
		SessionTimeout:    DefaultSessionTimeout,
		RebalanceTimeout:  DefaultRebalanceTimeout,
		HeartbeatInterval: DefaultHeartbeatInterval,
		Fetch: FetchConfig{
			MaxBytes:          DefaultFetchMaxBytes,
			MaxPartitionBytes: DefaultFetchMaxPartitionBytes,
			MaxConcurrent:     DefaultFetchMaxConcurrent,
		},
		Block:             BlockConfig{MaxBytes: DefaultBlockMaxBytes, MaxEvents: DefaultBlockMaxEvents, MaxAge: DefaultBlockMaxAge},
		MaxInFlightBlocks: DefaultMaxInFlightBlocks,
		MaxInFlightBytes:  DefaultMaxInFlightBytes,
		Retry:             RetryConfig{InitialInterval: DefaultRetryInitialInterval, MaxInterval: DefaultRetryMaxInterval},
		ShutdownTimeout:   DefaultShutdownTimeout,
	}
}

// Validate names the YAML key and the value of everything that is wrong.
func (c *Config) Validate() error {
	errs := []error{c.ClientConfig.Validate(), c.validateTopics(), c.validateGroup()}
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(c.DefaultTenant == "", "default_tenant: is empty, every event needs a tenant")
	bad(c.Fetch.MaxBytes <= 0, "fetch::max_bytes: %d is not above zero", c.Fetch.MaxBytes)
	bad(c.Fetch.MaxPartitionBytes <= 0, "fetch::max_partition_bytes: %d is not above zero", c.Fetch.MaxPartitionBytes)
	bad(c.Fetch.MaxPartitionBytes > c.Fetch.MaxBytes, "fetch::max_partition_bytes: %d is above fetch::max_bytes %d", c.Fetch.MaxPartitionBytes, c.Fetch.MaxBytes)
	bad(c.Fetch.MaxConcurrent < 0, "fetch::max_concurrent: %d is below zero", c.Fetch.MaxConcurrent)
	bad(c.Block.MaxBytes <= 0, "block::max_bytes: %d is not above zero", c.Block.MaxBytes)
	bad(c.Block.MaxEvents <= 0, "block::max_events: %d is not above zero", c.Block.MaxEvents)
	bad(c.Block.MaxAge < 0, "block::max_age: %v is below zero", c.Block.MaxAge)
	bad(c.MaxInFlightBlocks < 1 || c.MaxInFlightBlocks > MaxMaxInFlightBlocks, "max_in_flight_blocks: %d is not from 1 to %d", c.MaxInFlightBlocks, MaxMaxInFlightBlocks)
	bad(c.MaxInFlightBytes < 1<<20, "max_in_flight_bytes: %d is below 1 MiB", c.MaxInFlightBytes)
	bad(c.Retry.InitialInterval <= 0, "retry::initial_interval: %v is not above zero", c.Retry.InitialInterval)
	bad(c.Retry.MaxInterval < c.Retry.InitialInterval, "retry::max_interval: %v is below retry::initial_interval %v", c.Retry.MaxInterval, c.Retry.InitialInterval)
	bad(c.ShutdownTimeout <= 0, "shutdown_timeout: %v is not above zero", c.ShutdownTimeout)
	return errors.Join(errs...)
}

func (c *Config) validateGroup() error {
	var errs []error
	if c.GroupID == "" {
		errs = append(errs, errors.New("group_id: is empty, name the consumer group"))
	}
	if c.InitialOffset != Earliest && c.InitialOffset != Latest {
		errs = append(errs, fmt.Errorf("initial_offset: %q is unknown, want earliest or latest", c.InitialOffset))
	}
	if c.RebalanceTimeout < time.Second {
		errs = append(errs, fmt.Errorf("rebalance_timeout: %v is below 1s", c.RebalanceTimeout))
	}
	if c.HeartbeatInterval <= 0 {
		errs = append(errs, fmt.Errorf("heartbeat_interval: %v is not above zero", c.HeartbeatInterval))
	}
	if c.SessionTimeout <= c.HeartbeatInterval {
		errs = append(errs, fmt.Errorf("session_timeout: %v is not above heartbeat_interval %v", c.SessionTimeout, c.HeartbeatInterval))
	}
	return errors.Join(errs...)
}

func (c *Config) validateTopics() error {
	var errs []error
	if c.QuarantineTopic == "" {
		errs = append(errs, errors.New("quarantine_topic: is empty, records that cannot be decoded need one"))
	}
	owner := map[string]signal.Signal{}
	for _, s := range signal.All {
		for _, t := range c.Topics.of(s) {
			switch other, taken := owner[t]; {
			case t == "":
				errs = append(errs, fmt.Errorf("topics::%s: holds an empty name", s))
			case t == c.QuarantineTopic && len(c.Topics.Quarantine) > 0:
				errs = append(errs, fmt.Errorf("topics::quarantine: %q is quarantine_topic too: name another for what is refused, such as %s", t, signal.RefusedTopic))
			case t == c.QuarantineTopic:
				errs = append(errs, fmt.Errorf("topics::%s: %q is quarantine_topic", s, t))
			case taken:
				errs = append(errs, fmt.Errorf("topics::%s: %q is in topics::%s too, a topic carries one signal and is named once", s, t, other))
			}
			owner[t] = s
		}
	}
	return errors.Join(errs...)
}

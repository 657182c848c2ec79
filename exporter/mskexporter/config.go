package mskexporter

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/kafka"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// Defaults of Config.
const (
	defaultTenant           = "default"
	defaultMaxRecordBytes   = 1_000_000 // fits Kafka's and MSK's default max.message.bytes (1,048,588) even where nothing compresses
	defaultMaxBufferedBytes = 64 << 20
	defaultMaxWait          = 2 * time.Second
	defaultTimeout          = 30 * time.Second
	defaultStartupTimeout   = 15 * time.Second
	defaultPartitions       = 12
	defaultReplicas         = 3
	defaultMinISR           = 2
	defaultRetention        = 72 * time.Hour
	defaultCodec            = "zstd"
	defaultLevel            = 1

	defaultSpillAfter          = 3 * time.Second
	defaultSpillMaxObjectBytes = 8 << 20
	defaultSpillMaxLatency     = 100 * time.Millisecond
	defaultSpillMaxBytes       = 64 << 30
	defaultSpillMaxAge         = 24 * time.Hour
	defaultSpillProbeInterval  = 2 * time.Second

	minAnswer = 100 * time.Millisecond
	maxAnswer = 10 * time.Second

	minRecordBytes = 4 << 10
	maxRecordBytes = 64 << 20

	maxTopicClasses = 16
)

// Config of the exporter.
type Config struct {
	kafka.ClientConfig `mapstructure:",squash"`

	// Topics are where records go.
	Topics TopicsConfig `mapstructure:"topics"`
	// DefaultTenant owns what says nothing of its tenant. Default "default"; empty: such data is refused for good.
	DefaultTenant string `mapstructure:"default_tenant"`
	// Compression of record batches.
	Compression CompressionConfig `mapstructure:"compression"`
	// MaxRecordBytes is the largest record batch, and so the largest record, before compression, key and headers included.
	// Larger requests are split by events. Default 1000000; 4096 to 67108864. A topic's max.message.bytes must be at least this.
	MaxRecordBytes int `mapstructure:"max_record_bytes"`
	// Linger is how long a batch waits for more records. Default and zero: not at all; requests in flight fill batches anyway.
	Linger time.Duration `mapstructure:"linger"`
	// MaxBufferedBytes bounds what waits for acknowledgement, of all requests together. Default 67108864 (64 MiB); at least
	// max_record_bytes. A single partition has half of it at most, and so has what is spilled. A single request larger than that waits
	// until it is alone.
	MaxBufferedBytes int64 `mapstructure:"max_buffered_bytes"`
	// MaxWait is how long a request waits for room in the buffer before it is refused as retryable. Default 2s; zero: not at all.
	MaxWait time.Duration `mapstructure:"max_wait"`
	// Timeout is how long a request waits for its acknowledgement before its outcome is given up as unknown; what a broker has at that moment is
	// waited for, up to half as long again and 10s at most. Default 30s; at least 1s.
	Timeout time.Duration `mapstructure:"timeout"`
	// StartupTimeout is how long starting waits for Kafka and its topics. Whatever comes of it the Collector starts; requests
	// are refused as retryable until the topics are verified. Default 15s; zero: not at all.
	StartupTimeout time.Duration `mapstructure:"startup_timeout"`
	// Spill is where requests go while Kafka does not acknowledge them.
	Spill SpillConfig `mapstructure:"spill"`
}

// SpillConfig says where requests wait while Kafka does not acknowledge them, and how much may. With it a request is acknowledged when
// either Kafka or the object store has it.
type SpillConfig struct {
	// URL of the object store: s3://bucket?prefix=spill/&region=eu-central-1 or file:///dir. The gateways of a cell share it. Default
	// and empty: no spill, requests are refused as retryable instead.
	URL string `mapstructure:"url"`
	// Gateway names this gateway's objects. One that stays the same when the gateway starts again (a pod's name) lets it go on at once;
	// the objects of a name that is gone are adopted by another gateway after a minute. Default: the Collector's service.instance.id.
	Gateway string `mapstructure:"gateway"`
	// After is how long a record waits for Kafka before it is spilled. Default 3s; 100ms to timeout. Once one has, all records for its
	// partition are spilled at once until everything that was spilled of it is in Kafka, so that a source's requests keep their order.
	// Brokers are asked to answer within half of it, and what one has at that moment is waited for, up to half as long again.
	After time.Duration `mapstructure:"after"`
	// MaxObjectBytes close an object, before compression. Default 8388608 (8 MiB); at least 65536.
	MaxObjectBytes int `mapstructure:"max_object_bytes"`
	// MaxLatency is how long a request waits for others to share its object. Default 100ms; zero: an object a request.
	MaxLatency time.Duration `mapstructure:"max_latency"`
	// MaxBytes of all gateways' objects; beyond them requests that would be spilled are refused as retryable. A partition may have as
	// much of it as all leave free: one alone half. Default 68719476736 (64 GiB); above zero.
	MaxBytes int64 `mapstructure:"max_bytes"`
	// MaxAge of a partition's oldest object; beyond it requests for the partition are refused as retryable. Default 24h; above zero.
	MaxAge time.Duration `mapstructure:"max_age"`
	// ProbeInterval is the time between two tries at giving back a partition's oldest record. Default 2s; above zero.
	ProbeInterval time.Duration `mapstructure:"probe_interval"`
}

// TopicsConfig says where records go, and who makes the topics.
type TopicsConfig struct {
	// Manage: create makes missing topics and verifies the others, verify only verifies, off does neither. Default create.
	Manage  kafka.ManagePolicy `mapstructure:"manage"`
	Logs    TopicConfig        `mapstructure:"logs"`
	Metrics TopicConfig        `mapstructure:"metrics"`
	Traces  TopicConfig        `mapstructure:"traces"`
	// Quarantine is the topic of envelopes in the quarantine lane, of all signals; its settings are those of logs. Default quarantine.v1.
	Quarantine string `mapstructure:"quarantine"`
	// Overflow gives the overflow lane topics of its own: beside otlp.logs.v1 there is otlp.logs.overflow.v1, of the same settings. Default
	// false: what is over its tenant's quota goes to the common topics too, and only the header `lane` tells.
	Overflow bool `mapstructure:"overflow"`
	// Classes are the topic classes of tenants that have topics of their own: with [premium] there is otlp.logs.premium.v1 beside
	// otlp.logs.v1. Default none. Tenants of a class that is not here go to the common topics.
	Classes []string `mapstructure:"classes"`
}

// TopicConfig is a topic as it should be. Fewer replicas or a lower min.insync.replicas than asked are refused at start; other
// differences are told as warnings.
type TopicConfig struct {
	// Name. Default otlp.<signal>.v1.
	Name string `mapstructure:"name"`
	// Partitions. Default 12; zero: the brokers' default.
	Partitions int32 `mapstructure:"partitions"`
	// ReplicationFactor. Default 3; zero: the brokers' default.
	ReplicationFactor int16 `mapstructure:"replication_factor"`
	// MinInSyncReplicas. Default 2; zero: the brokers' default.
	MinInSyncReplicas int `mapstructure:"min_insync_replicas"`
	// Retention. Default 72h; zero: the brokers' default.
	Retention time.Duration `mapstructure:"retention"`
}

// CompressionConfig of record batches.
type CompressionConfig struct {
	// Codec: none, gzip, snappy, lz4 or zstd. Default zstd.
	Codec string `mapstructure:"codec"`
	// Level of the codec: gzip 1 to 9, lz4 0 to 9, zstd 1 (fastest, the default) to 4 (smallest). Zero: the codec's default.
	Level int `mapstructure:"level"`
	// PassFrames writes a request that an agent compressed with zstd as it came, instead of compressing it again. Default true; it is
	// about half of the gateway's CPU. Only with the codec zstd.
	PassFrames bool `mapstructure:"pass_frames"`
}

func createDefaultConfig() *Config {
	topic := func(s signal.Signal) TopicConfig {
		return TopicConfig{Name: s.Topic(), Partitions: defaultPartitions, ReplicationFactor: defaultReplicas, MinInSyncReplicas: defaultMinISR, Retention: defaultRetention}
	}
	return &Config{
		ClientConfig: kafka.NewDefaultClientConfig(),
		Topics: TopicsConfig{
			Manage: kafka.ManageCreate, Quarantine: signal.QuarantineTopic, Classes: []string{},
			Logs: topic(signal.Logs), Metrics: topic(signal.Metrics), Traces: topic(signal.Traces),
		},
		DefaultTenant:    defaultTenant,
		Compression:      CompressionConfig{Codec: defaultCodec, Level: defaultLevel, PassFrames: true},
		MaxRecordBytes:   defaultMaxRecordBytes,
		MaxBufferedBytes: defaultMaxBufferedBytes,
		MaxWait:          defaultMaxWait,
		Timeout:          defaultTimeout,
		StartupTimeout:   defaultStartupTimeout,
		Spill: SpillConfig{
			After: defaultSpillAfter, MaxObjectBytes: defaultSpillMaxObjectBytes, MaxLatency: defaultSpillMaxLatency,
			MaxBytes: defaultSpillMaxBytes, MaxAge: defaultSpillMaxAge, ProbeInterval: defaultSpillProbeInterval,
		},
	}
}

// Validate names the YAML key and the value of everything that is wrong.
func (c *Config) Validate() error {
	errs := []error{c.ClientConfig.Validate(), c.Topics.validate()}
	if err := c.Compression.validate(); err != nil {
		errs = append(errs, err)
	}
	if c.MaxRecordBytes < minRecordBytes || c.MaxRecordBytes > maxRecordBytes {
		errs = append(errs, fmt.Errorf("max_record_bytes: %d is not between %d and %d", c.MaxRecordBytes, minRecordBytes, maxRecordBytes))
	}
	if c.MaxBufferedBytes < int64(c.MaxRecordBytes) {
		errs = append(errs, fmt.Errorf("max_buffered_bytes: %d is below max_record_bytes %d", c.MaxBufferedBytes, c.MaxRecordBytes))
	}
	if c.Timeout < time.Second {
		errs = append(errs, fmt.Errorf("timeout: %v is below 1s", c.Timeout))
	}
	if c.Linger < 0 || c.Linger > time.Second {
		errs = append(errs, fmt.Errorf("linger: %v is not between 0s and 1s", c.Linger))
	}
	if c.MaxWait < 0 {
		errs = append(errs, fmt.Errorf("max_wait: %v is below zero", c.MaxWait))
	}
	if c.StartupTimeout < 0 {
		errs = append(errs, fmt.Errorf("startup_timeout: %v is below zero", c.StartupTimeout))
	}
	errs = append(errs, c.Spill.validate(c.Timeout))
	return errors.Join(errs...)
}

// patience is how long a record is tried.
func (c *Config) patience() time.Duration {
	if c.Spill.URL != "" {
		return c.Spill.After
	}
	return c.Timeout
}

// answer is how long a broker may take for a request. It answers for all partitions of a request together, and waits so long for the replicas of
// each: one whose replicas hang must not make the others late.
func (c *Config) answer() time.Duration {
	return max(minAnswer, min(maxAnswer, c.patience()/2))
}

func (c *SpillConfig) validate(timeout time.Duration) error {
	if c.URL == "" {
		return nil
	}
	var errs []error
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	u, err := url.Parse(c.URL)
	bad(err != nil || u.Scheme != "s3" && u.Scheme != "file", "spill::url: %q is neither s3://bucket nor file:///dir", c.URL)
	bad(c.After < 100*time.Millisecond || c.After > timeout, "spill::after: %v is not between 100ms and timeout %v", c.After, timeout)
	bad(c.MaxObjectBytes < 64<<10, "spill::max_object_bytes: %d is below 65536", c.MaxObjectBytes)
	bad(c.MaxLatency < 0 || c.MaxLatency > 10*time.Second, "spill::max_latency: %v is not between 0s and 10s", c.MaxLatency)
	bad(c.MaxBytes <= 0, "spill::max_bytes: %d is not above zero", c.MaxBytes)
	bad(c.MaxAge <= 0, "spill::max_age: %v is not above zero", c.MaxAge)
	bad(c.ProbeInterval <= 0, "spill::probe_interval: %v is not above zero", c.ProbeInterval)
	return errors.Join(errs...)
}

func (c *TopicsConfig) validate() error {
	var errs []error
	if err := c.Manage.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("topics::manage: %w", err))
	}
	seen := map[string]signal.Signal{}
	if c.Quarantine == "" {
		errs = append(errs, errors.New("topics::quarantine: is empty"))
	}
	for _, s := range signal.All {
		t := c.of(s)
		key := "topics::" + s.String() + "::"
		if t.Name == "" {
			errs = append(errs, fmt.Errorf("%sname: is empty", key))
		}
		for _, name := range c.names(s) {
			if other, twice := seen[name]; twice && other != s {
				errs = append(errs, fmt.Errorf("%sname: %q is the topic of %s as well; signals must not share one", key, name, other))
			}
			if name == c.Quarantine {
				errs = append(errs, fmt.Errorf("topics::quarantine: %q is a topic of %s as well; stores would take what is quarantined for good", c.Quarantine, s))
			}
			seen[name] = s
		}
		if t.Partitions < 0 {
			errs = append(errs, fmt.Errorf("%spartitions: %d is below zero", key, t.Partitions))
		}
		if t.ReplicationFactor < 0 {
			errs = append(errs, fmt.Errorf("%sreplication_factor: %d is below zero", key, t.ReplicationFactor))
		}
		if t.MinInSyncReplicas < 0 || t.ReplicationFactor > 0 && t.MinInSyncReplicas > int(t.ReplicationFactor) {
			errs = append(errs, fmt.Errorf("%smin_insync_replicas: %d is not between 0 and replication_factor %d", key, t.MinInSyncReplicas, t.ReplicationFactor))
		}
		if t.Retention < 0 {
			errs = append(errs, fmt.Errorf("%sretention: %v is below zero", key, t.Retention))
		}
	}
	for i, class := range c.Classes {
		switch {
		case !tenant.ValidName(class) || class == envelope.LaneOverflow:
			errs = append(errs, fmt.Errorf("topics::classes: %q: "+tenant.WantName+", and is not overflow", class))
		case slices.Contains(c.Classes[:i], class):
			errs = append(errs, fmt.Errorf("topics::classes: %q is there twice", class))
		}
	}
	if len(c.Classes) > maxTopicClasses {
		errs = append(errs, fmt.Errorf("topics::classes: has %d classes, more than %d", len(c.Classes), maxTopicClasses))
	}
	return errors.Join(errs...)
}

// nameOf is the topic that an envelope goes to.
func (c *TopicsConfig) nameOf(e envelope.Envelope) string {
	name := c.of(e.Signal).Name
	if e.TopicClass != "" && slices.Contains(c.Classes, e.TopicClass) {
		name = signal.ClassTopic(name, e.TopicClass)
	}
	if c.Overflow && e.Lane == envelope.LaneOverflow {
		name = signal.ClassTopic(name, envelope.LaneOverflow)
	}
	return name
}

// names are all topics of a signal.
func (c *TopicsConfig) names(s signal.Signal) []string {
	var out []string
	lanes := []string{envelope.LaneFast}
	if c.Overflow {
		lanes = append(lanes, envelope.LaneOverflow)
	}
	for _, lane := range lanes {
		for _, class := range append([]string{""}, c.Classes...) {
			out = append(out, c.nameOf(envelope.Envelope{Signal: s, Lane: lane, TopicClass: class}))
		}
	}
	return out
}

func (c *TopicsConfig) of(s signal.Signal) TopicConfig {
	switch s {
	case signal.Metrics:
		return c.Metrics
	case signal.Traces:
		return c.Traces
	default:
		return c.Logs
	}
}

// specs are the topics to make or verify. A new topic takes the brokers' default batch size, or more where records may be larger.
func (c *Config) specs() []kafka.TopicSpec {
	const kafkaDefaultMaxMessage = 1048588
	var out []kafka.TopicSpec
	for _, s := range signal.All {
		t := c.Topics.of(s)
		for _, name := range c.Topics.names(s) {
			out = append(out, kafka.TopicSpec{
				Name: name, Partitions: t.Partitions, ReplicationFactor: t.ReplicationFactor, MinInSyncReplicas: t.MinInSyncReplicas,
				Retention: t.Retention, MaxMessageBytes: max(c.MaxRecordBytes, kafkaDefaultMaxMessage),
			})
		}
	}
	return append(out, kafka.TopicSpec{
		Name: c.Topics.Quarantine, Partitions: c.Topics.Logs.Partitions, ReplicationFactor: c.Topics.Logs.ReplicationFactor,
		MinInSyncReplicas: c.Topics.Logs.MinInSyncReplicas, Retention: c.Topics.Logs.Retention, MaxMessageBytes: max(c.MaxRecordBytes, kafkaDefaultMaxMessage),
	})
}

func (c CompressionConfig) validate() error {
	limits := map[string][2]int{"none": {0, 0}, "snappy": {0, 0}, "lz4": {0, 9}, "gzip": {0, 9}, "zstd": {0, 4}}
	l, ok := limits[c.Codec]
	if !ok {
		return fmt.Errorf("compression::codec: %q is unknown, want none, gzip, snappy, lz4 or zstd", c.Codec)
	}
	// The default level is zstd's: a config that names only another codec must not fail by it.
	if c.Level == defaultLevel && slices.Contains([]string{"none", "snappy"}, c.Codec) {
		return nil
	}
	if c.Level < l[0] || c.Level > l[1] {
		return fmt.Errorf("compression::level: %d is not between %d and %d for codec %s", c.Level, l[0], l[1], c.Codec)
	}
	return nil
}

func (c CompressionConfig) codec() kgo.CompressionCodec {
	switch c.Codec {
	case "gzip":
		return kgo.GzipCompression().WithLevel(c.Level)
	case "snappy":
		return kgo.SnappyCompression()
	case "lz4":
		return kgo.Lz4Compression().WithLevel(c.Level)
	case "zstd":
		return kgo.ZstdCompression().WithLevel(c.Level)
	default:
		return kgo.NoCompression()
	}
}

package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// ManagePolicy says what EnsureTopics may do.
type ManagePolicy string

// The policies.
const (
	ManageCreate ManagePolicy = "create" // create what is missing, verify what exists; never alter
	ManageVerify ManagePolicy = "verify" // verify only
	ManageOff    ManagePolicy = "off"    // neither
)

// Validate names the YAML key by which components offer the policy.
func (p ManagePolicy) Validate() error {
	switch p {
	case ManageCreate, ManageVerify, ManageOff:
		return nil
	}
	return fmt.Errorf("%q is unknown, want create, verify or off", string(p))
}

// TopicSpec is a topic as it should be. A zero field is left to the broker and not verified.
type TopicSpec struct {
	Name              string
	Partitions        int32
	ReplicationFactor int16
	MinInSyncReplicas int
	Retention         time.Duration
	MaxMessageBytes   int // of a record batch as the broker stores it
}

// Names of topic settings.
const (
	settingPartitions        = "partitions"
	settingReplicationFactor = "replication.factor"
	settingMinISR            = "min.insync.replicas"
	settingRetention         = "retention.ms"
	settingMaxMessage        = "max.message.bytes"
	settingTimestampType     = "message.timestamp.type"
	settingUnclean           = "unclean.leader.election.enable"
	logAppendTime            = "LogAppendTime"
)

func (s TopicSpec) configs() map[string]*string {
	// A replica that is not in sync must not lead: it has not what was acknowledged.
	c := map[string]*string{settingTimestampType: kadm.StringPtr(logAppendTime), settingUnclean: kadm.StringPtr("false")}
	if s.MinInSyncReplicas > 0 {
		c[settingMinISR] = kadm.StringPtr(strconv.Itoa(s.MinInSyncReplicas))
	}
	if s.Retention > 0 {
		c[settingRetention] = kadm.StringPtr(strconv.FormatInt(s.Retention.Milliseconds(), 10))
	}
	if s.MaxMessageBytes > 0 {
		c[settingMaxMessage] = kadm.StringPtr(strconv.Itoa(s.MaxMessageBytes))
	}
	return c
}

// Mismatch is an existing topic's setting that is not as asked.
type Mismatch struct {
	Topic, Setting, Have, Want string
	// Fatal: producing would break a promise (durability, time, size). Otherwise it is a matter of speed or of cost.
	Fatal bool
}

func (m Mismatch) String() string {
	return fmt.Sprintf("topic %s: %s is %s, want %s", m.Topic, m.Setting, m.Have, m.Want)
}

// ErrTopic is wrapped by errors of EnsureTopics that a person must mend: a missing topic that may not be created, or an
// existing one with a fatal mismatch. Other errors are the connection's or the broker's.
var ErrTopic = errors.New("topic is not as it must be")

// TopicError is what is wrong with one topic.
type TopicError struct {
	Topic string
	Err   error
}

func (e *TopicError) Error() string { return e.Err.Error() }

func (e *TopicError) Unwrap() error { return e.Err }

// BadTopics returns what is wrong with which topics, of an error of EnsureTopics. all says that nothing is known of any.
func BadTopics(err error) (bad map[string]error, all bool) {
	bad = map[string]error{}
	var walk func(error)
	walk = func(err error) {
		if t, ok := err.(*TopicError); ok { //nolint:errorlint // the tree of joined errors is walked here
			bad[t.Topic] = errors.Join(bad[t.Topic], t.Err)
		} else if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range many.Unwrap() {
				walk(e)
			}
		} else {
			all = true
		}
	}
	if err != nil {
		walk(err)
	}
	return bad, all
}

// ListTopics asks the brokers about topics, or about all where none is named. To ask for one's rights too is the way to have the brokers answer, and not the client's memory.
func ListTopics(ctx context.Context, adm *kadm.Client, names ...string) (kadm.TopicDetails, error) {
	return adm.ListTopics(kadm.WithAuthorizedOps(ctx), names...)
}

// EnsureTopics creates the missing topics (policy create) and compares the others with their specs, in one round of requests.
// It alters nothing that exists. It returns every mismatch; fatal ones are also in the error. What is wrong with one topic is a TopicError.
func EnsureTopics(ctx context.Context, client *kgo.Client, policy ManagePolicy, specs []TopicSpec) ([]Mismatch, error) {
	if policy == ManageOff || len(specs) == 0 {
		return nil, nil
	}
	adm := kadm.NewClient(client)
	names := make([]string, len(specs))
	for i, s := range specs {
		names[i] = s.Name
	}
	have, err := ListTopics(ctx, adm, names...)
	if err != nil {
		return nil, fmt.Errorf("listing topics %s: %w", strings.Join(names, ", "), err)
	}
	var existing []TopicSpec
	var errs []error
	for _, s := range specs {
		switch d := have[s.Name]; {
		case errors.Is(d.Err, kerr.UnknownTopicOrPartition):
			exists, err := create(ctx, adm, policy, s)
			if err != nil {
				errs = append(errs, &TopicError{s.Name, err})
			}
			if exists {
				existing = append(existing, s)
			}
		case d.Err != nil:
			errs = append(errs, &TopicError{s.Name, fmt.Errorf("topic %s: %w", s.Name, d.Err)})
		default:
			existing = append(existing, s)
		}
	}
	mismatches, err := verify(ctx, adm, existing)
	return mismatches, errors.Join(append(errs, err)...)
}

// create makes a missing topic; exists tells that somebody else has made it meanwhile, so that it is to be verified.
func create(ctx context.Context, adm *kadm.Client, policy ManagePolicy, s TopicSpec) (exists bool, err error) {
	if policy != ManageCreate {
		return false, fmt.Errorf("%w: topic %s does not exist: create it, or set topics::manage to create", ErrTopic, s.Name)
	}
	partitions, replicas := s.Partitions, s.ReplicationFactor
	if partitions == 0 {
		partitions = -1 // the broker's default
	}
	if replicas == 0 {
		replicas = -1
	}
	_, err = adm.CreateTopic(ctx, partitions, replicas, s.configs(), s.Name)
	if errors.Is(err, kerr.TopicAlreadyExists) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("creating topic %s (%d partitions, replication factor %d): %w", s.Name, partitions, replicas, err)
	}
	return false, nil
}

func verify(ctx context.Context, adm *kadm.Client, specs []TopicSpec) ([]Mismatch, error) {
	if len(specs) == 0 {
		return nil, nil
	}
	names := make([]string, len(specs))
	for i, s := range specs {
		names[i] = s.Name
	}
	details, err := ListTopics(ctx, adm, names...)
	if err != nil {
		return nil, fmt.Errorf("listing topics %s: %w", strings.Join(names, ", "), err)
	}
	configs, err := adm.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("describing topics %s: %w", strings.Join(names, ", "), err)
	}
	var all []Mismatch
	var errs []error
	for _, s := range specs {
		config, err := configs.On(s.Name, nil)
		if err = errors.Join(err, config.Err, details[s.Name].Err); err != nil {
			errs = append(errs, &TopicError{s.Name, fmt.Errorf("describing topic %s: %w", s.Name, err)})
			continue
		}
		if len(details[s.Name].Partitions) == 0 { // made a moment ago; the broker that was asked has not heard of its partitions
			errs = append(errs, &TopicError{s.Name, fmt.Errorf("describing topic %s: its partitions are not known yet", s.Name)})
			continue
		}
		for _, m := range compare(s, details[s.Name], config) {
			all = append(all, m)
			if m.Fatal {
				errs = append(errs, &TopicError{s.Name, fmt.Errorf("%w: %s", ErrTopic, m)})
			}
		}
	}
	return all, errors.Join(errs...)
}

// compare lists where a topic is not as asked. Less durability, wrong time stamps and a smaller size limit are fatal.
func compare(s TopicSpec, d kadm.TopicDetail, config kadm.ResourceConfig) []Mismatch {
	var out []Mismatch
	add := func(setting, have, want string, fatal bool) {
		out = append(out, Mismatch{Topic: s.Name, Setting: setting, Have: have, Want: want, Fatal: fatal})
	}
	if have := len(d.Partitions); have < int(s.Partitions) {
		add(settingPartitions, strconv.Itoa(have), strconv.Itoa(int(s.Partitions)), false)
	}
	if have := d.Partitions.NumReplicas(); have < int(s.ReplicationFactor) {
		add(settingReplicationFactor, strconv.Itoa(have), strconv.Itoa(int(s.ReplicationFactor)), true)
	}
	for _, c := range config.Configs {
		want, asked := s.configs()[c.Key]
		if !asked || c.Value == nil || *c.Value == *want {
			continue
		}
		haveN, err1 := strconv.ParseInt(*c.Value, 10, 64)
		wantN, err2 := strconv.ParseInt(*want, 10, 64)
		less := err1 == nil && err2 == nil && haveN < wantN
		switch c.Key {
		case settingMinISR:
			add(c.Key, *c.Value, *want, less)
		case settingMaxMessage:
			if less {
				add(c.Key, *c.Value, *want, true)
			}
		case settingTimestampType:
			add(c.Key, *c.Value, *want, true)
		default:
			add(c.Key, *c.Value, *want, false)
		}
	}
	return out
}

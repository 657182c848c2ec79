package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/confmap"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(leaktest.Patient(m)) }

func config(t *testing.T, m map[string]any) (*ClientConfig, error) {
	t.Helper()
	c := NewDefaultClientConfig()
	require.NoError(t, confmap.NewFromStringMap(m).Unmarshal(&c))
	return &c, c.Validate()
}

func TestErrorsNameTheKeyAndTheValue(t *testing.T) {
	auth := func(m map[string]any) map[string]any { return map[string]any{"auth": m} }
	scram := map[string]any{"mechanism": "scram-sha-512", "username": "u", "password": "p"}
	for want, m := range map[string]map[string]any{
		"brokers: is empty":            {"brokers": []any{}},
		`brokers[1]: "b"`:              {"brokers": []any{"a:1", "b"}},
		"dial_timeout: 0s":             {"dial_timeout": "0s"},
		"request_timeout: 1ms":         {"request_timeout": "1ms"},
		"metadata_min_age: 1ms":        {"metadata_min_age": "1ms"},
		"metadata_max_age: 100ms":      {"metadata_max_age": "100ms"},
		`auth::mechanism: "kerberos"`:  auth(map[string]any{"mechanism": "kerberos"}),
		"auth::username: is empty":     auth(map[string]any{"mechanism": "plain", "password": "p"}),
		"auth::password: is empty":     auth(map[string]any{"mechanism": "plain", "username": "p"}),
		"auth::aws::region: is empty":  auth(map[string]any{"mechanism": "aws_msk_iam"}),
		"tls: is absent":               auth(scram),
		"tls::insecure: true, but MSK": {"auth": map[string]any{"mechanism": "aws_msk_iam", "aws": map[string]any{"region": "r"}}, "tls": map[string]any{"insecure": true}},
	} {
		_, err := config(t, m)
		require.ErrorContains(t, err, want)
	}
	for _, tls := range []any{map[string]any{}, map[string]any{"insecure": true}} {
		c, err := config(t, map[string]any{"auth": scram, "tls": tls})
		require.NoError(t, err)
		_, err = c.Options(t.Context(), zap.NewNop())
		require.NoError(t, err)
	}
}

func TestAPasswordIsNotPrinted(t *testing.T) {
	c := NewDefaultClientConfig()
	c.Auth.Password = "hunter2"
	require.NotContains(t, fmt.Sprintf("%v %+v", c, c), "hunter2")
}

func TestPlainAuthentication(t *testing.T) {
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.Superuser("PLAIN", "u", "right"))
	require.NoError(t, err)
	defer k.Close()
	ping := func(password string) error {
		c, err := config(t, map[string]any{"brokers": []any{k.ListenAddrs()[0]}, "tls": map[string]any{"insecure": true},
			"auth": map[string]any{"mechanism": "plain", "username": "u", "password": password}})
		require.NoError(t, err)
		opts, err := c.Options(t.Context(), zap.NewNop())
		require.NoError(t, err)
		kc, err := kgo.NewClient(opts...)
		require.NoError(t, err)
		defer kc.Close()
		return kc.Ping(t.Context())
	}
	require.NoError(t, ping("right"))
	require.Error(t, ping("wrong"))
}

func TestTheClientsChatterIsDebugging(t *testing.T) {
	core, logs := observer.New(zapcore.DebugLevel)
	l := kgoLogger{zap.New(core)}
	l.Log(kgo.LogLevelInfo, "connected", "broker", 1)
	l.Log(kgo.LogLevelWarn, "odd", "broker", 1, "dangling")
	require.Equal(t, zapcore.DebugLevel, logs.All()[0].Level)
	require.EqualValues(t, 1, logs.All()[0].ContextMap()["broker"])
	require.Equal(t, zapcore.WarnLevel, logs.All()[1].Level)
	require.Equal(t, kgo.LogLevelWarn, kgoLogger{zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{}), zapcore.AddSync(os.Stderr), zapcore.InfoLevel))}.Level())
}

func TestClassify(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for class, errs := range map[Class][]error{
		0:         {nil},
		Retryable: {kerr.NotLeaderForPartition, kerr.NotEnoughReplicas, kerr.UnknownTopicOrPartition, kerr.ThrottlingQuotaExceeded, kgo.ErrMaxBuffered, refused},
		Permanent: {kerr.MessageTooLarge, kerr.InvalidTopicException, kerr.TopicAuthorizationFailed, kerr.SaslAuthenticationFailed, kerr.InvalidRecord},
		Unknown: {kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend, kerr.UnknownServerError, kerr.OutOfOrderSequenceNumber, kgo.ErrRecordTimeout, kgo.ErrClientClosed,
			context.Canceled, context.DeadlineExceeded, &net.OpError{Op: "read", Err: syscall.ECONNRESET}, errors.New("never seen before")},
	} {
		for _, err := range errs {
			require.Equal(t, class, Classify(err), "%v", err)
			if err != nil {
				require.Equal(t, class, Classify(fmt.Errorf("wrapped: %w", err)), "%v", err)
			}
		}
	}
	require.Equal(t, Unknown, Classify(fmt.Errorf("%w, last err: %w", kgo.ErrRecordTimeout, kerr.RequestTimedOut)))
}

func admin(t *testing.T) (*kfake.Cluster, *kgo.Client) {
	t.Helper()
	k, err := kfake.NewCluster(kfake.NumBrokers(3))
	require.NoError(t, err)
	t.Cleanup(k.Close)
	c, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return k, c
}

var spec = TopicSpec{Name: "t", Partitions: 6, ReplicationFactor: 3, MinInSyncReplicas: 2, Retention: time.Hour, MaxMessageBytes: 2_000_000}

func TestAMissingTopicIsMadeAndThenFoundAsAsked(t *testing.T) {
	k, c := admin(t)
	for range 2 {
		mismatches, err := EnsureTopics(t.Context(), c, ManageCreate, []TopicSpec{spec, {Name: "defaults"}})
		require.NoError(t, err)
		require.Empty(t, mismatches)
	}
	require.Len(t, k.PartitionInfos("t"), 6)
	for _, topic := range []string{"t", "defaults"} {
		require.Equal(t, "false", *k.TopicInfo(topic).Configs["unclean.leader.election.enable"], "a replica that is not in sync must not lead")
	}
}

func TestPoliciesThatMayNotCreateDoNot(t *testing.T) {
	k, c := admin(t)
	_, err := EnsureTopics(t.Context(), c, ManageVerify, []TopicSpec{spec})
	require.ErrorIs(t, err, ErrTopic)
	require.ErrorContains(t, err, "topic t does not exist")
	_, err = EnsureTopics(t.Context(), c, ManageOff, []TopicSpec{spec})
	require.NoError(t, err)
	require.Nil(t, k.TopicInfo("t"))
}

func TestAnExistingTopicIsComparedAndNotAltered(t *testing.T) {
	k, c := admin(t)
	require.NoError(t, k.CreateTopic("t", 2, map[string]string{"message.timestamp.type": "LogAppendTime", "min.insync.replicas": "1",
		"retention.ms": "1000", "max.message.bytes": "1000000", "unclean.leader.election.enable": "true"}))
	mismatches, err := EnsureTopics(t.Context(), c, ManageCreate, []TopicSpec{spec})
	require.ErrorIs(t, err, ErrTopic)
	require.ErrorContains(t, err, "topic t: min.insync.replicas is 1, want 2")
	require.ErrorContains(t, err, "topic t: max.message.bytes is 1000000, want 2000000")
	require.NotContains(t, err.Error(), "partitions")
	got := map[string]bool{}
	for _, m := range mismatches {
		got[m.String()] = m.Fatal
	}
	require.Equal(t, map[string]bool{
		"topic t: min.insync.replicas is 1, want 2":           true,
		"topic t: max.message.bytes is 1000000, want 2000000": true,
		"topic t: partitions is 2, want 6":                    false,

		"topic t: unclean.leader.election.enable is true, want false": false,
		"topic t: retention.ms is 1000, want 3600000":                 false,
	}, got)
	require.Len(t, k.PartitionInfos("t"), 2)
}

func TestARefusalToMakeATopicNamesIt(t *testing.T) {
	k, c := admin(t)
	k.Fault(kfake.Fault{Topic: "t", Err: kerr.PolicyViolation, Count: 1})
	_, err := EnsureTopics(t.Context(), c, ManageCreate, []TopicSpec{spec})
	require.ErrorIs(t, err, kerr.PolicyViolation)
	require.ErrorContains(t, err, "topic t")
}

func TestUnknownPolicyIsRefused(t *testing.T) {
	require.NoError(t, ManageCreate.Validate())
	require.ErrorContains(t, ManagePolicy("x").Validate(), `"x"`)
}

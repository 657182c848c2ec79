package kafkatest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"go.uber.org/goleak"

	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		child()
		return
	}
	goleak.VerifyTestMain(leaktest.Patient(m))
}

func client(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.MetadataMinAge(100 * time.Millisecond)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func TestAKilledNodeKeepsItsDataAndItsPorts(t *testing.T) {
	k := Start(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	c := client(t, kgo.SeedBrokers(k.Brokers()...), kgo.DefaultProduceTopic("t"))
	_, err := kadm.NewClient(c).CreateTopic(ctx, 1, 1, nil, "t")
	require.NoError(t, err)
	require.NoError(t, c.ProduceSync(ctx, kgo.StringRecord("before")).FirstErr())

	require.NoError(t, k.Kill(0))
	require.NoError(t, k.Kill(0), "a dead node is killed")
	require.NoError(t, k.Restart(0))
	require.NoError(t, c.ProduceSync(ctx, kgo.StringRecord("after")).FirstErr())

	c.AddConsumeTopics("t")
	var got []string
	for len(got) < 2 {
		fs := c.PollFetches(ctx)
		require.NoError(t, fs.Err())
		fs.EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
	}
	require.Equal(t, []string{"before", "after"}, got)
}

func TestSecureListenersRefuseWrongCredentials(t *testing.T) {
	k := StartWith(t, Options{Secure: true})
	ca, err := os.ReadFile(k.CAFile())
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(ca))
	dial := kgo.DialTLSConfig(&tls.Config{RootCAs: roots})
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	good := client(t, kgo.SeedBrokers(k.ScramBrokers()...), dial, kgo.SASL(scram.Auth{User: Username, Pass: Password}.AsSha512Mechanism()))
	require.NoError(t, good.Ping(ctx))
	bad := client(t, kgo.SeedBrokers(k.ScramBrokers()...), dial, kgo.SASL(scram.Auth{User: Username, Pass: "wrong"}.AsSha512Mechanism()))
	require.Error(t, bad.Ping(ctx))
	require.Len(t, k.IAMBrokers(), 1)
}

// The child process: it starts a cluster and waits to be killed.
const childEnv = "KAFKATEST_CHILD_DIR"

func child() {
	k, err := New(Options{Dir: os.Getenv(childEnv)})
	if err != nil {
		panic(err)
	}
	pid := strconv.Itoa(k.nodes[0].process.Pid)
	if err := os.WriteFile(filepath.Join(os.Getenv(childEnv), "pid"), []byte(pid), 0o600); err != nil {
		panic(err)
	}
	time.Sleep(startTimeout) // longer than the parent takes to kill it
}

func TestNodesDieWithTheProcessThatStartedThem(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // where it is not killed below
	var pid string
	require.Eventually(t, func() bool {
		b, _ := os.ReadFile(filepath.Join(dir, "pid"))
		pid = string(b)
		return pid != ""
	}, startTimeout, 50*time.Millisecond)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.Eventually(t, func() bool {
		// Gone, or a zombie that nobody waits for in a container without an init.
		stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
		return err != nil || strings.Contains(string(stat), ") Z ")
	}, stopTimeout, 50*time.Millisecond)
}

func TestVersionIsTheInstalledOne(t *testing.T) {
	env, err := os.ReadFile("../../../tools/versions.env")
	require.NoError(t, err)
	m := regexp.MustCompile(`(?m)^KAFKA_VERSION=(\S+)$`).FindSubmatch(env)
	require.NotNil(t, m)
	require.Equal(t, string(m[1]), kafkaVersion)
}

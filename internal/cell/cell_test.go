package cell

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/freeport"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	goleak.VerifyTestMain(leaktest.Patient(m))
}

func newLayout(t *testing.T) layout {
	t.Helper()
	l := layout(t.TempDir())
	require.NoError(t, l.create())
	return l
}

func TestASecondCellIsRefusedAndTheHolderIsNamed(t *testing.T) {
	l := newLayout(t)
	release, err := lockDir(l)
	require.NoError(t, err)
	_, err = lockDir(l)
	require.ErrorIs(t, err, ErrRunning)
	require.ErrorContains(t, err, "process ")
	require.True(t, locked(l))
	release()
	require.False(t, locked(l))
	release, err = lockDir(l)
	require.NoError(t, err)
	release()
}

func TestStateIsReadOnlyWhileTheCellRuns(t *testing.T) {
	l := newLayout(t)
	require.NoError(t, writeJSON(l.state(), State{PID: 7, Endpoints: Endpoints{Kafka: "127.0.0.1:1"}}))
	_, err := ReadState(string(l))
	require.ErrorIs(t, err, ErrNotRunning, "the state of a cell that was killed is no running cell")
	require.ErrorContains(t, err, "pulsegrid local")

	release, err := lockDir(l)
	require.NoError(t, err)
	defer release()
	s, err := ReadState(string(l))
	require.NoError(t, err)
	require.Equal(t, 7, s.PID)
	require.Equal(t, "127.0.0.1:1", s.Endpoints.Kafka)

	require.NoError(t, os.WriteFile(l.state(), []byte("{"), 0o644))
	_, err = ReadState(string(l))
	require.ErrorContains(t, err, l.state())
}

func TestOptionErrorsNameTheFlagAndTheValue(t *testing.T) {
	for want, o := range map[string]Options{
		`--grpc "x"`:           {GRPC: "x", HTTP: "127.0.0.1:0", DataDir: "d"},
		`--http "h:70000"`:     {GRPC: "127.0.0.1:0", HTTP: "h:70000", DataDir: "d"},
		`--kafka-port -1`:      {GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", KafkaPort: -1, DataDir: "d"},
		`--data is empty`:      {GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0"},
		`--clickhouse-port 65`: {GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", ClickHousePort: 65536, DataDir: "d"},
		`--cors "localhost"`:   {GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", CORS: []string{"*", "localhost"}, DataDir: "d"},
		`--host "laptop:4318"`: {GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Hosts: []string{"laptop", "laptop:4318"}, DataDir: "d"},
		`--cors "http://a/b"`:  {GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", CORS: []string{"http://a/b"}, DataDir: "d"},
	} {
		err := o.validate()
		require.ErrorContains(t, err, want)
		require.ErrorAs(t, err, &OptionError{})
	}
	o := Options{GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", DataDir: "d", Collector: filepath.Join(t.TempDir(), "none")}
	require.ErrorContains(t, o.validate(), "make build")
}

func TestATakenPortIsRefusedByItsFlagAndAnUnaskedOneIsReplaced(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = ln.Close() }()
	taken := portOf(ln.Addr().String())

	_, err = choosePort("--kafka-port", taken, 0)
	require.ErrorContains(t, err, "--kafka-port")
	require.ErrorContains(t, err, "in use")

	got, err := choosePort("--kafka-port", 0, taken)
	require.NoError(t, err)
	require.NotEqual(t, taken, got)
}

func TestKafkaKeepsItsRecordsTopicsAndPortOverARestart(t *testing.T) {
	l := newLayout(t)
	port, err := freeport.Port()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	topic := signal.Logs.Topic()

	cluster, err := startKafka(l, port)
	require.NoError(t, err)
	client, err := kgo.NewClient(kgo.SeedBrokers(kafkaAddress(port)))
	require.NoError(t, err)
	require.NoError(t, client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("kept")}).FirstErr())
	client.Close()
	cluster.Close()

	cluster, err = startKafka(l, port)
	require.NoError(t, err)
	defer cluster.Close()
	client, err = kgo.NewClient(kgo.SeedBrokers(kafkaAddress(port)), kgo.ConsumeTopics(topic))
	require.NoError(t, err)
	defer client.Close()
	fetches := client.PollFetches(ctx)
	require.NoError(t, fetches.Err())
	require.Equal(t, "kept", string(fetches.Records()[0].Value))
}

// shell is a child that runs a script.
func shell(t *testing.T, script string, report func(string)) *child {
	t.Helper()
	log, err := openLog(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	return newChild("part", []string{"/bin/sh", "-c", script}, nil, log, report)
}

func TestACrashedChildIsStartedAgainAndReported(t *testing.T) {
	reports := make(chan string, 10)
	marker := filepath.Join(t.TempDir(), "second")
	c := shell(t, "test -e "+marker+" && exec sleep 60; touch "+marker+"; echo why it broke >&2; exit 3", func(s string) { reports <- s })
	c.start()
	require.Contains(t, <-reports, "exit status 3")
	require.Eventually(t, func() bool { return c.state().PID != 0 }, time.Minute, 10*time.Millisecond)
	require.Equal(t, 1, c.state().Restarts)
	require.Contains(t, c.log.lastLines(3), "why it broke")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.NoError(t, c.stop(ctx))
	require.NoError(t, c.stop(ctx), "stopping twice")
	require.Zero(t, c.state().PID)
}

func TestAChildThatDoesNotStopIsKilledAndThatIsSaid(t *testing.T) {
	c := shell(t, "trap '' TERM; echo up; while :; do sleep 0.1; done", func(string) {})
	c.start()
	require.Eventually(t, func() bool { return strings.Contains(c.log.lastLines(1), "up") }, time.Minute, 10*time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, c.stop(ctx), "was killed")
	require.Zero(t, c.state().PID)
}

// A gateway cannot flush its last telemetry to itself and ends with status 1: its log says so, the user need not hear of it.
func TestAChildThatFailsWhileItIsStoppedIsNoNewsForTheUser(t *testing.T) {
	c := shell(t, "trap 'exit 1' TERM; echo up; while :; do sleep 0.1; done", func(message string) { t.Error(message) })
	c.start()
	require.Eventually(t, func() bool { return strings.Contains(c.log.lastLines(1), "up") }, time.Minute, 10*time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.NoError(t, c.stop(ctx))
	require.Zero(t, c.state().Restarts)
}

func TestWaitingForAChildThatCrashesFailsAtOnceWithItsLastWords(t *testing.T) {
	c := shell(t, "echo port is taken >&2; exit 1", func(string) {})
	c.start()
	err := waitReady(context.Background(), c, "http://127.0.0.1:1/")
	require.ErrorContains(t, err, "exit status 1")
	require.ErrorContains(t, err, "port is taken")
	require.NoError(t, c.stop(context.Background()))
}

func TestTheLogTurnsOverAndIsBounded(t *testing.T) {
	log, err := openLog(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	line := bytes.Repeat([]byte("x"), 1<<20)
	for range 40 {
		_, err := log.Write(line)
		require.NoError(t, err)
	}
	require.NoError(t, log.Close())
	var total int64
	for _, path := range []string{log.path, log.path + ".1"} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		total += info.Size()
	}
	require.LessOrEqual(t, total, int64(2*logFileBytes))
	require.LessOrEqual(t, len(log.tail), logTailBytes)
}

func TestACellWithoutAUsableCollectorStopsWhatItHadStarted(t *testing.T) {
	dir := t.TempDir()
	collector := filepath.Join(dir, "collector")
	require.NoError(t, os.WriteFile(collector, []byte("#!/bin/sh\necho broken config >&2\nexit 1\n"), 0o755))
	var out bytes.Buffer
	err := Run(context.Background(), context.Background(), Options{
		DataDir: filepath.Join(dir, "data"), GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Collector: collector, Output: &out,
	})
	require.ErrorContains(t, err, "broken config")
	require.Contains(t, out.String(), "stopping Kafka")
	require.False(t, locked(layout(filepath.Join(dir, "data"))))
	_, err = ReadState(filepath.Join(dir, "data"))
	require.True(t, errors.Is(err, ErrNotRunning))
}

// Scenario: a web page has a browser send to Kafka's port, in pieces; a client is served meanwhile and afterwards.
// Guarantees: the connection ends at once, and nothing is allocated for it.
func TestWhatIsNoKafkaIsCutOffByTheLocalBroker(t *testing.T) {
	l := newLayout(t)
	port, err := freeport.Port()
	require.NoError(t, err)
	cluster, err := startKafka(l, port)
	require.NoError(t, err)
	defer cluster.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(kafkaAddress(port)))
	require.NoError(t, err)
	defer client.Close()
	produce := func() {
		require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: signal.Logs.Topic(), Value: bytes.Repeat([]byte("a"), 1<<19)}).FirstErr())
	}
	produce()
	for _, pieces := range [][]string{{"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n"}, {"P", "OS", "T / HTTP/1.1\r\n"}, {"GET "}} {
		conn, err := net.Dial("tcp", kafkaAddress(port))
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
		for _, piece := range pieces {
			_, err = conn.Write([]byte(piece))
			require.NoError(t, err)
			time.Sleep(10 * time.Millisecond) // so that it is a packet of its own
		}
		_, err = conn.Read(make([]byte, 1))
		require.Error(t, err)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, conn.Close())
	}
	produce()
}

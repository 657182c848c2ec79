package journal

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(leaktest.Patient(m)) }

const topic = "journal.v1"

type step struct {
	N int `json:"n"`
}

func brokers(t *testing.T) []kgo.Opt {
	t.Helper()
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "copies"))
	require.NoError(t, err)
	t.Cleanup(k.Close)
	return []kgo.Opt{kgo.SeedBrokers(k.ListenAddrs()...)}
}

func opened(t *testing.T, opts []kgo.Opt, id string) *Journal[step] {
	t.Helper()
	j, err := Open[step](t.Context(), opts, topic, id)
	require.NoError(t, err)
	t.Cleanup(j.Close)
	return j
}

// Guarantees: entries are there for whoever opens the journal or looks at it, the newest of a key; who opens it later under the same id stops who did so before, under another
// one does not; a journal that does not exist has no entries and is not made by a look.
func TestAJournalHasOneWriterOfAnID(t *testing.T) {
	opts := brokers(t)
	none, err := Peek[step](t.Context(), opts, topic)
	require.NoError(t, err)
	require.Empty(t, none)
	none, err = Peek[step](t.Context(), opts, topic)
	require.NoError(t, err)
	require.Empty(t, none)

	first := opened(t, opts, "a")
	require.Empty(t, first.Entries)
	require.NoError(t, first.Write(t.Context(), map[string]step{"x": {1}, "y": {1}}))
	other := opened(t, opts, "b")
	require.NoError(t, first.Write(t.Context(), map[string]step{"x": {2}}))
	second := opened(t, opts, "a")
	want := map[string]step{"x": {2}, "y": {1}}
	require.Equal(t, want, second.Entries)
	require.ErrorIs(t, first.Write(t.Context(), map[string]step{"x": {3}}), ErrFenced)
	require.NoError(t, second.Write(t.Context(), map[string]step{"z": {4}}))
	require.NoError(t, other.Write(t.Context(), map[string]step{"other": {5}}))
	want["z"], want["other"] = step{4}, step{5}
	seen, err := Peek[step](t.Context(), opts, topic)
	require.NoError(t, err)
	require.Equal(t, want, seen)
}

// Scenario: a writer's entry lies behind a record of another writer's transaction that is not ended yet; then the writer's successor opens the journal.
// Guarantee: the successor sees the entry: it waits for the end of that transaction.
func TestAnEntryBehindAnOpenTransactionIsSeen(t *testing.T) {
	opts := brokers(t)
	first := opened(t, opts, "a")
	slow, err := kgo.NewClient(append(opts, kgo.TransactionalID("slow"), kgo.TransactionTimeout(transactionTimeout))...)
	require.NoError(t, err)
	defer slow.Close()
	require.NoError(t, slow.BeginTransaction())
	require.NoError(t, slow.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Key: []byte("slow"), Value: []byte(`{"n":7}`)}).FirstErr())
	require.NoError(t, first.Write(t.Context(), map[string]step{"x": {1}}))
	ended := make(chan error)
	go func() {
		time.Sleep(500 * time.Millisecond)
		ended <- slow.EndTransaction(t.Context(), kgo.TryAbort)
	}()
	require.Equal(t, map[string]step{"x": {1}}, opened(t, opts, "a").Entries)
	require.NoError(t, <-ended)
}

// Guarantee: what cannot be written with its entries is not there, and neither are they.
func TestRecordsAndEntriesAreWrittenTogether(t *testing.T) {
	opts := brokers(t)
	j := opened(t, opts, "a")
	require.NoError(t, j.Write(t.Context(), map[string]step{"x": {1}}, &kgo.Record{Topic: "copies", Value: []byte("one")}))
	large := &kgo.Record{Topic: "copies", Value: make([]byte, 2<<20)}
	require.Error(t, j.Write(t.Context(), map[string]step{"x": {2}}, &kgo.Record{Topic: "copies", Value: []byte("two")}, large))
	require.Equal(t, map[string]step{"x": {1}}, opened(t, opts, "a").Entries)

	reader, err := kgo.NewClient(append(opts, kgo.ConsumeTopics("copies"), kgo.FetchIsolationLevel(kgo.ReadCommitted()))...)
	require.NoError(t, err)
	defer reader.Close()
	end := opened(t, opts, "b")
	require.NoError(t, end.Write(t.Context(), nil, &kgo.Record{Topic: "copies", Value: []byte("end")}))
	var values []string
	for len(values) == 0 || values[len(values)-1] != "end" {
		for r := range reader.PollFetches(t.Context()).RecordsAll() {
			values = append(values, string(r.Value))
		}
	}
	require.Equal(t, []string{"one", "end"}, values)
}

// Scenario: the brokers refuse the first try of a transaction for a moment; its records have times of long ago, as copies have.
// Guarantees: it is tried again, and written.
func TestOldRecordsAreTriedAgain(t *testing.T) {
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "copies"))
	require.NoError(t, err)
	t.Cleanup(k.Close)
	j := opened(t, []kgo.Opt{kgo.SeedBrokers(k.ListenAddrs()...)}, "a")
	k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "copies", Err: kerr.NotLeaderForPartition, Count: 1})
	require.NoError(t, j.Write(t.Context(), map[string]step{"x": {1}}, &kgo.Record{Topic: "copies", Value: []byte("old"), Timestamp: time.Now().Add(-time.Hour)}))
}

package spill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/s3test"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(leaktest.Patient(m)) }

func testConfig(url, gateway string) Config {
	return Config{URL: url, Gateway: gateway, MaxObjectBytes: 1 << 20, MaxLatency: 20 * time.Millisecond, MaxBytes: 1 << 30, MaxAge: time.Hour}
}

func open(t *testing.T, cfg Config) *Spool {
	t.Helper()
	s, err := Open(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func dir(t *testing.T) string { return "file://" + t.TempDir() }

func rec(n int) Record {
	return Record{
		Topic: "otlp.logs.v1", Key: []byte("agent"), Value: fmt.Appendf(nil, "value %d", n),
		Headers: []kgo.RecordHeader{{Key: "tenant", Value: []byte("acme")}, {Key: "empty", Value: []byte{}}},
	}
}

// collector is a sink that keeps what it is given. A record for which broken returns an error is not taken, nor are those behind it in its
// lane and batch.
type collector struct {
	mu     sync.Mutex
	got    []Record
	tried  int // records
	broken func(Record) error
	batch  func([]Record)
	count  int32 // partitions of each topic, for records that have none; zero: not known
}

func (c *collector) Route(r *Record) {
	if r.Partition == Anywhere && c.count > 0 {
		r.Partition = int32(len(r.Value)) % c.count
	}
}

func (c *collector) Produce(_ context.Context, rs []Record) []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.batch != nil {
		c.batch(rs)
	}
	errs := make([]error, len(rs))
	failed := map[Lane]error{}
	for i, r := range rs {
		c.tried++
		if errs[i] = failed[r.lane()]; errs[i] == nil && c.broken != nil {
			errs[i] = c.broken(r)
		}
		if errs[i] == nil {
			c.got = append(c.got, r)
		} else if !errors.Is(errs[i], ErrRefused) {
			failed[r.lane()] = errs[i]
		}
	}
	return errs
}

// all drains until nothing waits.
func (c *collector) all(t *testing.T, s *Spool) {
	t.Helper()
	for range 10 {
		_, err := s.Drain(t.Context(), c)
		require.NoError(t, err)
	}
	require.Zero(t, s.Backlog())
}

// in is rec of a partition.
func in(partition int32, n int) Record {
	r := rec(n)
	r.Partition = partition
	return r
}

// of returns the values of a partition's records in the order in which they were taken.
func (c *collector) of(partition int32) (out []string) {
	for _, r := range c.got {
		if r.Partition == partition {
			out = append(out, string(r.Value))
		}
	}
	return out
}

// dead are the partitions that do not take records.
func dead(partitions ...int32) func(Record) error {
	return func(r Record) error {
		if slices.Contains(partitions, r.Partition) {
			return errNoLeader
		}
		return nil
	}
}

var errNoLeader = errors.New("no leader")

func encoded(t testing.TB, rs ...Record) []byte {
	t.Helper()
	var buf bytes.Buffer
	e, err := newEncoder(&buf)
	require.NoError(t, err)
	for _, r := range rs {
		require.NoError(t, e.add(r))
	}
	require.NoError(t, e.close())
	return buf.Bytes()
}

func decoded(b []byte) (out []Record, err error) {
	d, err := newDecoder(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer d.close()
	for {
		r, err := d.next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, r)
	}
}

func TestAnObjectGivesBackItsRecordsUnchanged(t *testing.T) {
	want := []Record{
		rec(1),
		{Topic: "t", Value: []byte{}}, // no key, no value, no headers
		{Topic: "t", Key: []byte{}, Value: bytes.Repeat([]byte{0xff, 0}, 1<<20)},
	}
	got, err := decoded(encoded(t, want...))
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestADamagedObjectIsToldFromAStoreThatFails(t *testing.T) {
	whole := encoded(t, rec(1), rec(2))
	for cut := range len(whole) - 1 {
		_, err := decoded(whole[:cut])
		require.ErrorIs(t, err, ErrDamaged, "cut at %d of %d", cut, len(whole))
	}
	for at := range whole {
		bad := slices.Clone(whole)
		bad[at] ^= 0x40
		if got, err := decoded(bad); err == nil { // a bit of zstd's head that says nothing of the content
			require.Equal(t, []Record{rec(1), rec(2)}, got, "bit flipped at %d", at)
		} else {
			require.ErrorIs(t, err, ErrDamaged, "bit flipped at %d", at)
		}
	}
	broken := errors.New("connection reset")
	d, err := newDecoder(io.MultiReader(bytes.NewReader(whole[:len(magic)+4]), &failing{broken}))
	require.NoError(t, err)
	defer d.close()
	_, err = d.next()
	require.ErrorIs(t, err, broken)
	require.NotErrorIs(t, err, ErrDamaged)
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

func FuzzObject(f *testing.F) {
	f.Add(encoded(f, rec(1), rec(2)))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decoded(b)
		if err != nil {
			return
		}
		again, err := decoded(encoded(t, got...))
		require.NoError(t, err)
		require.Equal(t, got, again)
	})
}

func TestManyRequestsShareAnObjectAndEachIsStoredWhenPutReturns(t *testing.T) {
	cfg := testConfig(dir(t), "gw")
	cfg.MaxLatency = 200 * time.Millisecond
	s := open(t, cfg)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			if err := s.Put(t.Context(), []Record{rec(i)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	objects := s.Backlog().Objects
	require.Positive(t, objects)
	require.Less(t, objects, 100, "requests did not share objects")
	var c collector
	d, err := s.Drain(t.Context(), &c)
	require.NoError(t, err)
	require.Equal(t, Drained{Objects: objects, Records: 200}, d)
	require.Len(t, c.got, 200)
	require.Zero(t, s.Backlog())
}

func TestRecordsComeBackInTheOrderInWhichTheyWereAcknowledged(t *testing.T) {
	cfg := testConfig(dir(t), "gw")
	cfg.MaxLatency = 0
	s := open(t, cfg)
	var want []Record
	for i := range 30 {
		require.NoError(t, s.Put(t.Context(), []Record{rec(i)}))
		want = append(want, rec(i))
	}
	var c collector
	_, err := s.Drain(t.Context(), &c)
	require.NoError(t, err)
	require.Equal(t, want, c.got)
}

// Guarantee: what was taken does not come again, what was not stays in its order.
func TestWhatCouldNotBeProducedStaysAndComesAgain(t *testing.T) {
	cfg := testConfig(dir(t), "gw")
	cfg.MaxLatency = 0
	s := open(t, cfg)
	for i := range 5 {
		require.NoError(t, s.Put(t.Context(), []Record{rec(i)}))
	}
	c := collector{broken: func(r Record) error {
		if string(r.Value) == "value 2" {
			return errNoLeader
		}
		return nil
	}}
	_, err := s.Drain(t.Context(), &c)
	require.NoError(t, err)
	require.Equal(t, []Record{rec(0), rec(1)}, c.got)
	require.True(t, s.Blocked(LaneOf("otlp.logs.v1", 0)))
	c.broken = nil
	c.all(t, s)
	require.Equal(t, []Record{rec(0), rec(1), rec(2), rec(3), rec(4)}, c.got)
}

// Guarantee: small objects, of which a gateway closes ten a second, do not cost a producing each; what is larger than a batch is several.
func TestManyObjectsAreDrainedTogetherAndALargeOneInParts(t *testing.T) {
	cfg := testConfig(dir(t), "gw")
	cfg.MaxLatency = 0
	s := open(t, cfg)
	batches := 0
	c := collector{batch: func(batch []Record) {
		size := 0
		for _, r := range batch[:len(batch)-1] {
			size += r.size()
		}
		require.Less(t, size, drainBatchBytes)
		batches++
	}}
	var want []Record
	for i := range 100 {
		require.NoError(t, s.Put(t.Context(), []Record{rec(i)}))
		want = append(want, rec(i))
	}
	d, err := s.Drain(t.Context(), &c)
	require.NoError(t, err)
	require.Equal(t, Drained{Objects: 100, Records: 100}, d)
	require.Equal(t, want, c.got)
	require.LessOrEqual(t, batches, 10)

	large := rec(0)
	large.Value = make([]byte, drainBatchBytes/3)
	require.NoError(t, s.Put(t.Context(), slices.Repeat([]Record{large}, 10)))
	batches = 0
	d, err = s.Drain(t.Context(), &c)
	require.NoError(t, err)
	require.Equal(t, Drained{Objects: 1, Records: 10}, d)
	require.Equal(t, 4, batches)
}

func TestADamagedObjectIsKeptAsideAndHoldsNothingUp(t *testing.T) {
	cfg := testConfig(dir(t), "gw")
	cfg.MaxLatency = 0
	s := open(t, cfg)
	require.NoError(t, s.Put(t.Context(), []Record{rec(0)}))
	require.NoError(t, s.bucket.WriteAll(t.Context(), fmt.Sprintf("gw/%013d-00000000", time.Now().Add(-time.Hour).UnixMilli()), []byte("not ours"), nil))
	var c collector
	d, err := s.Drain(t.Context(), &c)
	require.NoError(t, err)
	require.Equal(t, Drained{Objects: 1, Records: 1, Bad: 1}, d)
	kept, err := filepath.Glob(filepath.Join(s.cfg.URL[len("file://"):], "bad", "gw", "*"))
	require.NoError(t, err)
	require.Len(t, kept, 1)
}

func TestADeadGatewaysObjectsAreAdoptedWhenItsLeaseHasEndedAndNotBefore(t *testing.T) {
	url := dir(t)
	first := open(t, testConfig(url, "dead"))
	require.NoError(t, first.Put(t.Context(), []Record{rec(1)}))

	other := open(t, testConfig(url, "alive"))
	var c collector
	d, err := other.Adopt(t.Context(), &c)
	require.NoError(t, err)
	require.Zero(t, d, "its lease has not ended")

	other.now = func() time.Time { return time.Now().Add(2 * leaseLasts) }
	d, err = other.Adopt(t.Context(), &c)
	require.NoError(t, err)
	require.Equal(t, Drained{Objects: 1, Records: 1}, d)
	require.Equal(t, []Record{rec(1)}, c.got)

	first.now = other.now
	d, err = first.Drain(t.Context(), &c)
	require.NoError(t, err)
	require.Zero(t, d, "it was drained by another")
}

func TestTheSpillRefusesBeyondItsBounds(t *testing.T) {
	cfg := testConfig(dir(t), "gw")
	cfg.MaxLatency, cfg.MaxBytes = 0, 1
	s := open(t, cfg)
	require.NoError(t, s.Put(t.Context(), []Record{rec(0)}))
	require.ErrorIs(t, s.Put(t.Context(), []Record{rec(1)}), ErrFull)

	cfg = testConfig(cfg.URL, "second")
	cfg.MaxAge = time.Minute
	s = open(t, cfg)
	_, err := s.Look(t.Context()) // the first gateway's object counts
	require.NoError(t, err)
	require.NoError(t, s.Put(t.Context(), []Record{rec(2)}))
	s.now = func() time.Time { return time.Now().Add(2 * time.Minute) }
	require.ErrorIs(t, s.Put(t.Context(), []Record{rec(3)}), ErrFull)
}

// Guarantee: what is drained no longer makes the rest old.
func TestTheAgeOfTheBacklogIsThatOfItsOldestObject(t *testing.T) {
	cfg := testConfig(dir(t), "gw")
	cfg.MaxLatency = 0
	s := open(t, cfg)
	begin := time.UnixMilli(1_700_000_000_000)
	for i := range 3 {
		s.now = func() time.Time { return begin.Add(time.Duration(i) * time.Minute) }
		require.NoError(t, s.Put(t.Context(), []Record{rec(i)}))
	}
	require.Equal(t, begin, s.Backlog().Oldest)
	c := collector{broken: func(r Record) error {
		if string(r.Value) == "value 1" {
			return errNoLeader
		}
		return nil
	}}
	_, err := s.sweep(t.Context(), s.own, "gw", map[Lane]struct{}{}, &c)
	require.NoError(t, err)
	require.Equal(t, begin.Add(time.Minute), s.Backlog().Oldest)
	_, err = s.Look(t.Context())
	require.NoError(t, err)
	require.Equal(t, Backlog{Objects: 2, Bytes: s.Backlog().Bytes, Oldest: begin.Add(time.Minute)}, s.Backlog(), "as listed")
}

func TestPutFailsWhereTheStoreDoesAndWorksAgainAfterwards(t *testing.T) {
	srv := s3test.Start(t)
	t.Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
	_, err := srv.Client().CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("spill")})
	require.NoError(t, err)
	s := open(t, testConfig("s3://spill?prefix=cell/&region="+s3test.Region+"&endpoint="+srv.Endpoint+"&use_path_style=true", "gw"))
	require.NoError(t, s.Put(t.Context(), []Record{rec(1)}))
	srv.Kill()
	require.Error(t, s.Put(t.Context(), []Record{rec(2)}))
	srv.Restart()
	require.NoError(t, s.Put(t.Context(), []Record{rec(3)}))
	var c collector
	_, err = s.Drain(t.Context(), &c)
	require.NoError(t, err)
	require.Equal(t, []Record{rec(1), rec(3)}, c.got)
}

func TestBucketsAndNamesThatCannotBeAreRefused(t *testing.T) {
	for _, cfg := range []Config{{URL: "ftp://x", Gateway: "gw"}, {URL: dir(t), Gateway: ""}, {URL: dir(t), Gateway: "a/b"}} {
		_, err := Open(t.Context(), cfg)
		require.Error(t, err, "%+v", cfg)
	}
}

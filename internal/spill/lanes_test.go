package spill

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/testkit/s3test"
)

func values(from, to int) (out []string) {
	for i := from; i < to; i++ {
		out = append(out, fmt.Sprintf("value %d", i))
	}
	return out
}

// names are the objects in the store.
func names(t *testing.T, s *Spool) (out []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.cfg.URL[len("file://"):], "*", "[0-9v]*"))
	require.NoError(t, err)
	for _, f := range files {
		if !strings.HasSuffix(f, ".attrs") {
			out = append(out, filepath.Base(f))
		}
	}
	return out
}

// Scenario: all partitions failed for a while, so objects have records of all of them; then one stays dead.
// Guarantees: the others are given back at once and in order; nothing of them comes again, by whichever process; the dead one's records wait in
// objects of their own, and come in their order when it lives.
func TestOneDeadLaneHoldsUpNoOther(t *testing.T) {
	for _, partitions := range []int{4, 3 * namedLanes} { // named in the objects' names, and too many for that
		t.Run(fmt.Sprintf("%d partitions", partitions), func(t *testing.T) {
			cfg := testConfig(dir(t), "gw")
			cfg.MaxLatency = 0
			s := open(t, cfg)
			const rounds = 30
			for i := range rounds {
				var rs []Record
				for p := range partitions {
					rs = append(rs, in(int32(p), i))
				}
				require.NoError(t, s.Put(t.Context(), rs))
			}
			c := collector{broken: dead(0)}
			for range 3 {
				_, err := s.Drain(t.Context(), &c)
				require.NoError(t, err)
			}
			for p := 1; p < partitions; p++ {
				require.Equal(t, values(0, rounds), c.of(int32(p)), "partition %d", p)
				require.False(t, s.Holds(LaneOf("otlp.logs.v1", int32(p))), "partition %d", p)
			}
			require.Empty(t, c.of(0))
			require.True(t, s.Holds(LaneOf("otlp.logs.v1", 0)))
			for _, name := range names(t, s) {
				require.Equal(t, fmt.Sprintf("%08x", uint32(LaneOf("otlp.logs.v1", 0))), name[strings.LastIndex(name, "-")+1:])
			}

			next := open(t, cfg) // another process of the gateway's name: it knows by the names alone
			c2 := collector{broken: dead(0)}
			_, err := next.Drain(t.Context(), &c2)
			require.NoError(t, err)
			require.Empty(t, c2.got)
			require.False(t, next.Holds(LaneOf("otlp.logs.v1", 1)))
			require.True(t, next.Holds(LaneOf("otlp.logs.v1", 0)))
			require.NoError(t, next.Put(t.Context(), []Record{in(0, rounds)}))
			c2.broken = nil
			c2.all(t, next)
			require.Equal(t, values(0, rounds+1), c2.of(0))
			require.Len(t, c2.got, rounds+1)
		})
	}
}

// Guarantee: a lane that stays dead costs a produce of one record at each probe, and a read of one object: neither its other records nor those of
// other lanes are read or produced again.
func TestAProbeProducesOneRecord(t *testing.T) {
	cfg := testConfig(dir(t), "gw")
	cfg.MaxLatency = 0
	s := open(t, cfg)
	for i := range 20 {
		require.NoError(t, s.Put(t.Context(), []Record{in(0, i), in(1, i)}))
	}
	c := collector{broken: dead(0)}
	for range 2 {
		_, err := s.Drain(t.Context(), &c)
		require.NoError(t, err)
	}
	require.Equal(t, values(0, 20), c.of(1))
	left := names(t, s)
	for range 5 {
		c.tried = 0
		_, err := s.Drain(t.Context(), &c)
		require.NoError(t, err)
		require.Equal(t, 1, c.tried)
	}
	require.Equal(t, left, names(t, s))
	c.broken = nil
	_, err := s.Drain(t.Context(), &c)
	require.NoError(t, err)
	require.Equal(t, values(0, 1), c.of(0), "the probe, which is in Kafka now")
	require.False(t, s.Blocked(LaneOf("otlp.logs.v1", 0)))
	c.all(t, s)
	require.Equal(t, values(0, 20), c.of(0), "and not again")
}

// Scenario: two lanes die one after the other and come back the other way round, with objects of one, of the other and of both between.
// Guarantee: each lane's records keep their order, though objects are replaced by what is left of them.
func TestWhatIsLeftOfObjectsKeepsItsPlace(t *testing.T) {
	cfg := testConfig(dir(t), "gw")
	cfg.MaxLatency = 0
	s := open(t, cfg)
	n := map[int32]int{}
	put := func(partitions ...int32) {
		var rs []Record
		for _, p := range partitions {
			rs = append(rs, in(p, n[p]))
			n[p]++
		}
		require.NoError(t, s.Put(t.Context(), rs))
	}
	c := collector{broken: dead(0, 1)}
	for _, step := range [][]int32{{0}, {0, 1}, {1}, {0, 1, 2}, {0}, {1, 0}, {1}, {2, 1}, {0, 2}, {0, 1, 2}} {
		put(step...)
	}
	_, err := s.Drain(t.Context(), &c)
	require.NoError(t, err)
	put(0, 1)
	c.broken = dead(0)
	for range 3 {
		_, err = s.Drain(t.Context(), &c)
		require.NoError(t, err)
	}
	require.Equal(t, values(0, n[1]), c.of(1))
	put(0)
	c.broken = nil
	c.all(t, s)
	for p, want := range n {
		require.Equal(t, values(0, want), c.of(p), "partition %d", p)
	}
}

// Scenario: a source's second request waits for the store while a third one's object, closed later, is there already; its first one cannot be produced and is
// left in an object at the place of that one.
// Guarantee: the source's requests keep their order.
func TestWhatIsLeftOfObjectsDoesNotPassOneThatIsOnItsWay(t *testing.T) {
	srv := s3test.Start(t)
	t.Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
	_, err := srv.Client().CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("spill")})
	require.NoError(t, err)
	to, err := url.Parse(srv.Endpoint)
	require.NoError(t, err)
	hold, held := make(chan struct{}), make(chan struct{})
	puts := 0 // of objects, which come one after the other
	front := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host // it is signed
		if r.In.Method == http.MethodPut && strings.Contains(r.In.URL.Path, nameV2) {
			if puts++; puts == 3 {
				close(held)
				<-hold
			}
		}
	}})
	defer front.Close()
	cfg := testConfig("s3://spill?prefix=cell/&region="+s3test.Region+"&endpoint="+front.URL+"&use_path_style=true", "gw")
	cfg.MaxLatency = 0
	s := open(t, cfg)
	require.NoError(t, s.Put(t.Context(), []Record{in(2, 0)})) // a sweep begins with one object
	require.NoError(t, s.Put(t.Context(), []Record{in(0, 0)}))
	second := make(chan error, 1)
	go func() { second <- s.Put(context.WithoutCancel(t.Context()), []Record{in(0, 1)}) }()
	<-held
	require.NoError(t, s.Put(t.Context(), []Record{in(1, 0)}))
	c := collector{broken: dead(0)}
	for range 4 {
		_, err = s.Drain(t.Context(), &c)
		require.NoError(t, err)
	}
	close(hold)
	require.NoError(t, <-second)
	c.broken = nil
	c.all(t, s)
	require.Equal(t, values(0, 2), c.of(0))
	require.Equal(t, values(0, 1), c.of(1))
}

// Guarantee: a cluster that comes back is not tried lane by lane.
func TestManyLanesThatFailedTogetherComeBackTogether(t *testing.T) {
	cfg := testConfig(dir(t), "gw")
	cfg.MaxLatency = 0
	s := open(t, cfg)
	const lanes = 40 * probeLanes
	for i := range 3 {
		var rs []Record
		for p := range lanes {
			rs = append(rs, in(int32(p), i))
		}
		require.NoError(t, s.Put(t.Context(), rs))
	}
	require.Equal(t, 3, s.Backlog().Objects, "lanes that fail together share objects")
	c := collector{broken: func(Record) error { return errNoLeader }}
	for range 3 {
		c.tried = 0
		_, err := s.Drain(t.Context(), &c)
		require.NoError(t, err)
		require.Empty(t, c.got)
	}
	require.LessOrEqual(t, c.tried, probeLanes)
	require.Equal(t, 3, s.Backlog().Objects, "and are not written anew for nothing")
	c.broken = nil
	for range 2 {
		_, err := s.Drain(t.Context(), &c)
		require.NoError(t, err)
	}
	require.Zero(t, s.Backlog())
	require.Len(t, c.got, 3*lanes, "each once")
	for p := range lanes {
		require.Equal(t, values(0, 3), c.of(int32(p)))
	}
}

// Scenario: more lanes are dead than a probe tries, and one of the last, far behind in the store, lives.
func TestALaneFarBehindDeadOnesIsFound(t *testing.T) {
	cfg := testConfig(dir(t), "gw")
	cfg.MaxLatency = 0
	s := open(t, cfg)
	for i := range 2 * probeObjects {
		var rs []Record
		for p := range 2 * probeLanes {
			rs = append(rs, in(int32(p), i))
		}
		require.NoError(t, s.Put(t.Context(), rs))
	}
	const alive = 1 << 20
	require.NoError(t, s.Put(t.Context(), []Record{in(alive, 0)}))
	s.Block(LaneOf("otlp.logs.v1", alive)) // it has failed, too
	c := collector{broken: func(r Record) error {
		if r.Partition != alive {
			return errNoLeader
		}
		return nil
	}}
	for range 10 {
		_, err := s.Drain(t.Context(), &c)
		require.NoError(t, err)
	}
	require.Equal(t, values(0, 1), c.of(alive))
}

// Guarantee: a record that Kafka will never take is kept aside, and its lane goes on. An operator who has mended the topic puts it back as docs/runbooks/spill.md says.
func TestARecordThatIsRefusedForGoodIsKeptAside(t *testing.T) {
	cfg := testConfig(dir(t), "gw")
	cfg.MaxLatency = 0
	s := open(t, cfg)
	for i := range 3 {
		require.NoError(t, s.Put(t.Context(), []Record{rec(i)}))
	}
	c := collector{broken: func(r Record) error {
		if string(r.Value) == "value 1" {
			return fmt.Errorf("too large: %w", ErrRefused)
		}
		return nil
	}}
	d, err := s.Drain(t.Context(), &c)
	require.NoError(t, err)
	require.Equal(t, Drained{Objects: 3, Records: 2, Bad: 1}, d)
	require.Equal(t, []Record{rec(0), rec(2)}, c.got)
	kept, err := filepath.Glob(filepath.Join(cfg.URL[len("file://"):], "bad", "gw", "*-refused"))
	require.NoError(t, err)
	require.Len(t, kept, 1)
	b, err := os.ReadFile(kept[0])
	require.NoError(t, err)
	got, err := decoded(b)
	require.NoError(t, err)
	require.Equal(t, []Record{rec(1)}, got)

	back := filepath.Join(cfg.URL[len("file://"):], "repaired", strings.TrimSuffix(filepath.Base(kept[0]), "-refused")+"-many")
	require.NoError(t, os.MkdirAll(filepath.Dir(back), 0o755))
	require.NoError(t, os.Rename(kept[0], back))
	var mended collector
	_, err = s.Adopt(t.Context(), &mended)
	require.NoError(t, err)
	require.Equal(t, []Record{rec(1)}, mended.got)
}

// Guarantee: a lane that fills the spill leaves room to those that will fail later; when it has its share it alone is refused.
func TestALaneTakesNoMoreThanItLeavesFree(t *testing.T) {
	cfg := testConfig(dir(t), "gw")
	cfg.MaxLatency, cfg.MaxBytes = 0, 100_000
	s := open(t, cfg)
	fill := func(partition int32) {
		t.Helper()
		for i := range 10_000 {
			r := in(partition, i)
			r.Value = fmt.Appendf(nil, "%0200d", i)
			if err := s.Put(t.Context(), []Record{r}); err != nil {
				require.ErrorIs(t, err, ErrFull)
				require.ErrorContains(t, err, fmt.Sprintf("partition %d", partition))
				return
			}
		}
		t.Fatal("it was never full")
	}
	fill(0)
	require.InDelta(t, 50_000, s.Backlog().Bytes, 1000)
	fill(1)
	require.InDelta(t, 75_000, s.Backlog().Bytes, 1000)
	fill(0)
	require.NoError(t, s.Put(t.Context(), []Record{in(2, 0)}))
	require.ErrorIs(t, s.Put(t.Context(), []Record{in(2, 0), in(0, 0)}), ErrFull)

	cfg.Gateway = "other" // which sees what the first has
	other := open(t, cfg)
	_, err := other.Look(t.Context())
	require.NoError(t, err)
	require.ErrorIs(t, other.Put(t.Context(), []Record{in(0, 0)}), ErrFull)
	require.NoError(t, other.Put(t.Context(), []Record{in(2, 0)}))
}

func TestALanesAgeIsItsOwn(t *testing.T) {
	cfg := testConfig(dir(t), "gw")
	cfg.MaxLatency, cfg.MaxAge = 0, time.Minute
	s := open(t, cfg)
	require.NoError(t, s.Put(t.Context(), []Record{in(0, 0), in(1, 0)}))
	s.now = func() time.Time { return time.Now().Add(2 * time.Minute) }
	require.ErrorIs(t, s.Put(t.Context(), []Record{in(0, 1)}), ErrFull)
	require.NoError(t, s.Put(t.Context(), []Record{in(2, 0)}))
	c := collector{broken: dead(0)}
	_, err := s.Drain(t.Context(), &c)
	require.NoError(t, err)
	require.NoError(t, s.Put(t.Context(), []Record{in(1, 1)}), "what made it old is in Kafka")
	require.ErrorIs(t, s.Put(t.Context(), []Record{in(0, 1)}), ErrFull)
}

// encodedV1 is an object as the first version of the format has it: records without a partition.
func encodedV1(t *testing.T, rs ...Record) []byte {
	t.Helper()
	var buf bytes.Buffer
	buf.WriteString(magicV1)
	z, err := zstd.NewWriter(&buf)
	require.NoError(t, err)
	for _, r := range rs {
		b := appendBytes(nil, []byte(r.Topic))
		b = append(binary.AppendUvarint(b, uint64(len(r.Key))+1), r.Key...)
		b = appendBytes(b, r.Value)
		b = binary.AppendUvarint(b, uint64(len(r.Headers)))
		for _, h := range r.Headers {
			b = appendBytes(appendBytes(b, []byte(h.Key)), h.Value)
		}
		_, err = z.Write(binary.LittleEndian.AppendUint32(appendBytes(nil, b), crc32.Checksum(b, castagnoli)))
		require.NoError(t, err)
	}
	_, err = z.Write([]byte{0})
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return buf.Bytes()
}

// Guarantees: objects of the format before lanes are given back after an upgrade, before newer ones; a dead partition among their records holds
// up no other.
func TestObjectsOfTheFirstFormatAreDrained(t *testing.T) {
	cfg := testConfig(dir(t), "gw")
	cfg.MaxLatency = 0
	s := open(t, cfg)
	old := []Record{rec(1), rec(22), rec(3), rec(44)}
	for i := range old {
		old[i].Partition = Anywhere
	}
	for i, part := range [][]Record{old[:3], old[3:]} {
		require.NoError(t, s.bucket.WriteAll(t.Context(), fmt.Sprintf("gw/%013d-%08d", time.Now().UnixMilli(), i), encodedV1(t, part...), nil))
	}
	require.NoError(t, s.Put(t.Context(), []Record{in(7, 5), in(8, 66)}))
	require.True(t, s.Holds(LaneOf("otlp.logs.v1", 3)), "nobody has looked")
	c := collector{count: 9, broken: dead(8)} // the partition is the length of the value, mod 9
	for range 2 {
		_, err := s.Drain(t.Context(), &c)
		require.NoError(t, err)
	}
	require.Equal(t, []string{"value 1", "value 3", "value 5"}, c.of(7))
	require.Equal(t, old[0].Headers, c.got[0].Headers)
	require.False(t, s.Holds(LaneOf("otlp.logs.v1", 7)))
	c.broken = nil
	c.all(t, s)
	require.Equal(t, []string{"value 22", "value 44", "value 66"}, c.of(8))
	require.Len(t, c.got, 6)
}

// Scenario: a gateway dies with two lanes in the store, one of them dead.
// Guarantees: whoever adopts them gives back the one that lives, once, and the other later.
func TestAdoptionGoesOnPastADeadLane(t *testing.T) {
	url := dir(t)
	first := open(t, testConfig(url, "first"))
	for i := range 5 {
		require.NoError(t, first.Put(t.Context(), []Record{in(0, i), in(1, i)}))
	}
	other := open(t, testConfig(url, "other"))
	other.now = func() time.Time { return time.Now().Add(2 * leaseLasts) }
	c := collector{broken: dead(0)}
	for range 2 {
		_, err := other.Adopt(t.Context(), &c)
		require.NoError(t, err)
	}
	require.Equal(t, values(0, 5), c.of(1))
	c.broken = nil
	_, err := other.Adopt(t.Context(), &c)
	require.NoError(t, err)
	require.Equal(t, values(0, 5), c.of(0))
	require.Len(t, c.got, 10)
}

func TestNamesAreReadAsTheyWereWritten(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_123)
	for _, lanes := range [][]share{{{1, 0}}, {{1, 0}, {0xffffffff, 0}}, slices.Repeat([]share{{9, 0}}, namedLanes), slices.Repeat([]share{{9, 0}}, namedLanes+1)} {
		name := withLanes(position("gw-1", at, 7), lanes)
		require.Less(t, len(name), 200)
		p, ok := parse(name)
		require.True(t, ok, name)
		require.Equal(t, at, p.at)
		require.Equal(t, "gw-1/v2-1700000000123-00000007", p.position)
		if len(lanes) > namedLanes {
			require.Nil(t, p.lanes)
			continue
		}
		for i, l := range lanes {
			require.Equal(t, l.lane, p.lanes[i])
		}
	}
	p, ok := parse("gw-1/1700000000123-00000007")
	require.True(t, ok)
	require.Nil(t, p.lanes)
	require.Less(t, p.position, "gw-1/v2-1600000000123-00000007", "the first format comes first")
	for _, name := range []string{"gw/lease", "x", "gw/v2-1-2", "gw/v2-1-2-xyz", "gw/v2-1-2-00000001-many", "bad/gw/1700000000123-00000007", "gw/v2-lease"} {
		_, ok := parse(name)
		require.False(t, ok, name)
	}
}

// Scenario: the store gives no answer but an error for one object, among others of the same lane, of another, and of a gateway that is gone; after a while it gives it.
// Guarantees: for some minutes all wait, so that a hiccup of the store costs no order. Then the others are given back, their lanes wait for nothing, and somebody is told once. The object stays,
// counts as waiting, and its records come when the store gives it.
func TestAnObjectThatTheStoreDoesNotGiveHoldsUpNoOtherForLong(t *testing.T) {
	for name, gateway := range map[string]string{"own": "a", "of a gateway that is gone": "b"} {
		t.Run(name, func(t *testing.T) {
			url := dir(t)
			writer := open(t, testConfig(url, "a"))
			for i := range 3 {
				require.NoError(t, writer.Put(t.Context(), []Record{in(0, i), in(1, 10+i)}))
			}
			require.NoError(t, writer.bucket.Delete(t.Context(), "a/"+leaseName))

			var left []error
			cfg := testConfig(url, gateway)
			cfg.Left = func(err error) { left = append(left, err) }
			s := open(t, cfg)
			now := time.Now()
			s.now = func() time.Time { return now }
			c := &collector{}
			drain := func() error {
				_, err := s.Drain(t.Context(), c)
				_, adopted := s.Adopt(t.Context(), c)
				return errors.Join(err, adopted)
			}
			broken := filepath.Join(strings.TrimPrefix(url, "file://"), "a", names(t, writer)[1]+".attrs")
			require.NoError(t, os.WriteFile(broken, []byte("no JSON"), 0o600))

			require.ErrorContains(t, drain(), "read spill object")
			now = now.Add(leaveAfter - time.Second)
			require.Error(t, drain())
			require.Subset(t, values(0, 1), c.of(0), "those behind it wait")
			require.Empty(t, left)

			now = now.Add(time.Second)
			for range 3 {
				require.NoError(t, drain())
			}
			require.Equal(t, []string{"value 0", "value 2"}, c.of(0))
			require.Equal(t, []string{"value 10", "value 12"}, c.of(1))
			require.Len(t, left, 1)
			require.ErrorContains(t, left[0], "read spill object a/v2-")
			require.Equal(t, 1, s.Backlog().Objects)
			require.False(t, s.Holds(LaneOf("otlp.logs.v1", 0)), "nothing that comes now waits for it")

			require.NoError(t, os.Remove(broken))
			require.NoError(t, drain())
			require.NoError(t, drain())
			require.Equal(t, []string{"value 0", "value 2", "value 1"}, c.of(0))
			require.Equal(t, []string{"value 10", "value 12", "value 11"}, c.of(1))
			require.Zero(t, s.Backlog())
		})
	}
}

// Scenario: a lane takes nothing, and the store does not give the object with its oldest record.
// Guarantee: the probe goes on to the next one.
func TestAProbeGoesOnPastAnObjectThatTheStoreDoesNotGive(t *testing.T) {
	s := open(t, testConfig(dir(t), "a"))
	now := time.Now()
	s.now = func() time.Time { return now }
	for i := range 2 {
		require.NoError(t, s.Put(t.Context(), []Record{in(0, i)}))
	}
	require.NoError(t, os.WriteFile(filepath.Join(strings.TrimPrefix(s.cfg.URL, "file://"), "a", names(t, s)[0]+".attrs"), []byte("no JSON"), 0o600))
	s.Block(LaneOf("otlp.logs.v1", 0))
	c := &collector{}
	_, err := s.Drain(t.Context(), c)
	require.Error(t, err)
	now = now.Add(leaveAfter)
	_, err = s.Drain(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, []string{"value 1"}, c.of(0))
	require.False(t, s.Blocked(LaneOf("otlp.logs.v1", 0)))
}

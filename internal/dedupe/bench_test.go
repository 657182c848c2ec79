package dedupe

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// filled is a memory of one partition in its steady state: its window holds n keys, those before it have expired. next is the number of the next new
// key; step is how many come in a millisecond.
func filled(n int) (m *Memory, next, step uint64) {
	const window = 15 * time.Minute
	m = NewMemory(Options{Window: window, MaxBytes: 16 << 30, Log: zap.NewNop()})
	m.Begin("t", 0, 0)
	step = max(1, uint64(n)/uint64(window.Milliseconds()))
	keys := make([]eventid.Key, 10_000)
	for next < uint64(n)*9/4 {
		for i := range keys {
			keys[i] = keyOf(next)
			next++
		}
		m.Remember("t", 0, told(0, int64(next/step), keys...))
	}
	return m, next, step
}

// cpu is what this thread has used, whatever else the machine does.
func cpu(b *testing.B) time.Duration {
	const thread = 1 // RUSAGE_THREAD
	var u syscall.Rusage
	if err := syscall.Getrusage(thread, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkDecide(b *testing.B) {
	for _, remembered := range []int{1_000_000, 20_000_000} {
		m, next, step := filled(remembered)
		s := m.Stats()
		b.Logf("%d events in the window, %d remembered: %.1f bytes for each in the window", remembered, s.Remembered, float64(s.Bytes)/float64(remembered))
		rnd := rand.New(rand.NewPCG(1, 1))
		offset := int64(0)
		for _, kind := range []string{"miss", "hit"} {
			b.Run(fmt.Sprintf("remembered=%d/%s", remembered, kind), func(b *testing.B) {
				const n = 20_000
				r := told(0, 0, make([]eventid.Key, n)...)
				var took []time.Duration
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				b.ReportAllocs()
				for b.Loop() {
					for i := range r.Keys {
						r.Keys[i] = keyOf(next - rnd.Uint64N(uint64(remembered)*9/10) - 1)
						if kind == "miss" {
							r.Keys[i] = keyOf(next)
							next++
						}
					}
					r.Offset, r.Appended = offset, int64(next/step)
					start := cpu(b)
					copies, err := m.Decide(b.Context(), block.Block{Topic: "t", First: offset, Last: offset, Oldest: offset}, []eventid.Record{*r})
					took = append(took, cpu(b)-start)
					if err != nil || (kind == "hit") != (len(copies) > 0) {
						b.Fatal(len(copies), err)
					}
					offset++
				}
				slices.Sort(took)
				var sum time.Duration
				for _, d := range took {
					sum += d
				}
				b.ReportMetric(float64(sum.Nanoseconds())/float64(len(took)*n), "cpu-ns/event")
				b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "worst-cpu-ms/block")
				b.ReportMetric(float64(m.Stats().Bytes)/float64(remembered), "bytes/event")
			})
		}
	}
}

// BenchmarkWindow is what a partition costs by the clock of its senders and the size of their requests: the memory of a full window, and the CPU time of a
// warm-up (reading a request's identities from its bytes, and remembering them), both for each event. The window is 90 s; memory grows with it.
//
//	go test -run - -bench Window -benchtime 1x ./internal/dedupe
func BenchmarkWindow(b *testing.B) {
	const window = 90 * time.Second
	for _, rate := range []int{10_000, 50_000} { // events a second
		for _, clock := range []time.Duration{time.Nanosecond, time.Millisecond} {
			for _, events := range []int{1, 50, 500} { // a request
				b.Run(fmt.Sprintf("rate=%d/clock=%v/request=%d", rate, clock, events), func(b *testing.B) {
					runtime.LockOSThread()
					defer runtime.UnlockOSThread()
					req := newLogsRequest(b, events)
					reader := eventid.NewReader(signal.Logs, false)
					for b.Loop() {
						m := NewMemory(Options{Window: window, MaxBytes: 16 << 30, Log: zap.NewNop()})
						m.Begin("t", 0, 0)
						var rec eventid.Record
						start, total := cpu(b), int(window.Seconds())*rate*9/4
						for n := 0; n < total; n += events {
							at := time.Duration(n) * time.Second / time.Duration(rate)
							req.stamp(n, at, clock)
							rec.Rules, rec.Keys = rec.Rules[:0], rec.Keys[:0]
							if err := reader.Read(&rec, req.bytes, events, eventid.From{Tenant: "acme", Source: []byte("agent")}); err != nil {
								b.Fatal(err)
							}
							rec.Offset, rec.Appended = int64(n/events), at.Milliseconds()
							m.Remember("t", 0, &rec)
						}
						s := m.Stats()
						b.ReportMetric(float64((cpu(b)-start).Nanoseconds())/float64(total), "warmup-cpu-ns/event")
						b.ReportMetric(float64(s.Bytes)/(window.Seconds()*float64(rate)), "bytes/event")
						b.ReportMetric(0, "ns/op")
					}
				})
			}
		}
	}
}

// logsRequest is a request whose events are given other times and numbers in place.
type logsRequest struct {
	bytes          []byte
	times, numbers []int // where they lie
}

func newLogsRequest(b *testing.B, events int) *logsRequest {
	const time, number = 0x1122334455667788, "number-of-8"
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", "checkout")
	records := rl.ScopeLogs().AppendEmpty().LogRecords()
	for range events {
		lr := records.AppendEmpty()
		lr.SetTimestamp(time)
		lr.Body().SetStr("payment declined for order " + number)
		lr.Attributes().PutStr("http.route", "/pay/{order}")
		lr.Attributes().PutInt("http.response.status_code", 402)
	}
	var m plog.ProtoMarshaler
	req, err := m.MarshalLogs(ld)
	if err != nil {
		b.Fatal(err)
	}
	return &logsRequest{req, places(req, binary.LittleEndian.AppendUint64(nil, time)), places(req, []byte(number))}
}

// places are where a text lies.
func places(in, text []byte) (out []int) {
	for at := 0; ; {
		i := bytes.Index(in[at:], text)
		if i < 0 {
			return out
		}
		out = append(out, at+i)
		at += i + len(text)
	}
}

// stamp makes the events those from number n on, which a clock of this resolution has seen at a time.
func (r *logsRequest) stamp(n int, at, clock time.Duration) {
	for i := range r.times {
		t := (time.Hour + at + time.Duration(i)).Truncate(clock)
		binary.LittleEndian.PutUint64(r.bytes[r.times[i]:], uint64(t))
		binary.LittleEndian.PutUint64(r.bytes[r.numbers[i]:], uint64(n+i))
	}
}

// BenchmarkRebuild is the longest time that one event takes: that which makes its shard be rebuilt, or split.
func BenchmarkRebuild(b *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	m := newMemory(16 << 30)
	t := newTable(&m.pool, 1000)
	var took []time.Duration
	var next uint64
	for b.Loop() {
		for range 1000 {
			k := keyOf(next)
			next++
			if s := t.shards[t.at(slotOf(k))]; s.used+1 < capacity(int(s.homes)) || s.used < splitAt/4 {
				t.occur(k)
				continue
			}
			start := cpu(b)
			t.occur(k)
			took = append(took, cpu(b)-start)
		}
	}
	if len(took) > 0 {
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "median-ms/rebuild")
		b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "worst-ms/rebuild")
		b.ReportMetric(float64(len(took)), "rebuilds")
	}
}

package flow

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"

	"github.com/pulsegrid/pulsegrid/integration/rig"
)

const (
	killSenders   = 8
	killBatch     = 100                   // events a request
	killPause     = 50 * time.Millisecond // of a sender after a request: 16,000 events/s of all
	killDownFor   = 2 * time.Second
	killLoadAfter = 3 * time.Second // load goes on after the part is back
)

// Scenario: each part of the cell is killed once with SIGKILL under load, and started again.
// Guarantees: every event that the gateway acknowledged is in both stores. Duplicates may occur, and are counted.
func TestKillingAnyPartLosesNoAcknowledgedEvent(t *testing.T) {
	r := ownRig(t, rig.Options{})
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	restart := func(p *rig.Process) func() error {
		return func() error { return p.Start(visibleTimeout) }
	}
	for _, part := range []struct {
		name  string
		kill  func() error
		start func() error
	}{
		// Kafka is frozen before: a gateway that acknowledged what it only holds would lose a second's events.
		{"gateway", func() error {
			if err := r.Kafka.Pause(0); err != nil {
				return err
			}
			time.Sleep(time.Second)
			r.Gateway.Kill()
			return r.Kafka.Resume(0)
		}, restart(r.Gateway)},
		// ClickHouse is frozen before: an aggregator that committed what is not stored yet would lose it.
		{"aggregator", func() error {
			if err := syscall.Kill(r.ClickHouse.PID(), syscall.SIGSTOP); err != nil {
				return err
			}
			time.Sleep(2 * time.Second)
			r.Aggregator.Kill()
			return syscall.Kill(r.ClickHouse.PID(), syscall.SIGCONT)
		}, restart(r.Aggregator)},
		{"clickhouse", func() error { r.ClickHouse.Kill(); return nil }, r.StartClickHouse},
		{"kafka", func() error { return r.Kafka.Kill(0) }, func() error { return r.Kafka.Restart(0) }},
	} {
		t.Run(part.name, func(t *testing.T) {
			service := "kill-" + part.name
			d := newDriver(r, service)
			d.start()
			time.Sleep(2 * time.Second)
			if err := part.kill(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(killDownFor)
			if err := part.start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(killLoadAfter)
			sent, retries, err := d.stop()
			if err != nil {
				t.Fatal(err)
			}
			distinct := fmt.Sprintf("SELECT uniqExact(body) FROM logs WHERE service_name = '%s'", service)
			eventually(t, fmt.Sprintf("all %d events of %s in ClickHouse", sent, service), func() bool { return hotNumber(t, r, distinct) >= sent })
			var lake lakeCount
			eventually(t, fmt.Sprintf("all %d events of %s in the lake", sent, service), func() bool {
				lake = lakeRows(t, r, "logs", service, "body")
				return lake.Distinct >= sent
			})
			hot := hotRows(t, r, "logs", service)
			if hot < sent || lake.Distinct != sent {
				t.Errorf("%d events were acknowledged; ClickHouse has %d rows, the lake %+v", sent, hot, lake)
			}
			t.Logf("%s killed: %d events acknowledged, %d requests sent again, 0 lost; rows more than events: ClickHouse %d, lake %d (of which stored twice by place: %d)",
				part.name, sent, retries, hot-sent, lake.Pyiceberg-sent, lake.Pyiceberg-lake.Places)
		})
	}
}

// driver sends numbered log records until it is stopped, and every request until it is acknowledged, as an agent does.
type driver struct {
	url     string
	service string
	cancel  context.CancelFunc
	ctx     context.Context // ends: no further request is begun
	next    atomic.Int64    // number of the next request
	retries atomic.Int64
	wg      sync.WaitGroup
	mu      sync.Mutex
	err     error // guarded by mu
}

func newDriver(r *rig.Rig, service string) *driver {
	d := &driver{url: "http://" + r.HTTP + "/v1/logs", service: service}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

func (d *driver) start() {
	for range killSenders {
		d.wg.Go(func() {
			for ; d.ctx.Err() == nil; time.Sleep(killPause) {
				if err := d.send(d.next.Add(1) - 1); err != nil {
					d.mu.Lock()
					d.err = err
					d.mu.Unlock()
					return
				}
			}
		})
	}
}

// stop returns how many events were acknowledged: all that were sent.
func (d *driver) stop() (events, retries int, err error) {
	d.cancel()
	d.wg.Wait()
	return int(d.next.Load()) * killBatch, int(d.retries.Load()), d.err
}

func (d *driver) send(request int64) error {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", d.service)
	rl.Resource().Attributes().PutInt("service.instance.id", request%16) // spreads over the partitions
	records := rl.ScopeLogs().AppendEmpty().LogRecords()
	for i := range int64(killBatch) {
		lr := records.AppendEmpty()
		lr.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
		lr.Body().SetStr(fmt.Sprintf("event %d", request*killBatch+i))
	}
	body, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	if err != nil {
		return err
	}
	encoding := ""
	if request%2 == 0 { // its frame goes into Kafka as it is
		encoding, body = "zstd", compressor.EncodeAll(body, nil)
	}
	var last error
	for deadline := time.Now().Add(visibleTimeout); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if last = post(client, d.url, encoding, body); last == nil {
			return nil
		}
		d.retries.Add(1)
	}
	return fmt.Errorf("request %d is not acknowledged after %v: %w", request, visibleTimeout, last)
}

// compressor's EncodeAll may be called by several goroutines.
var compressor, _ = zstd.NewWriter(nil) // it fails only for bad options

// client gives up on an answer after a while, as agents do; patient, which sends once, does not.
var (
	client  = &http.Client{Timeout: 10 * time.Second}
	patient = &http.Client{Timeout: visibleTimeout}
)

func post(client *http.Client, url, encoding string, body []byte) error {
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	if encoding != "" {
		req.Header.Set("Content-Encoding", encoding)
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %s", resp.StatusCode, strings.ToValidUTF8(string(answer), "?"))
	}
	return nil
}

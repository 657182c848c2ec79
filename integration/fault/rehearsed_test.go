package fault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// What rehearsals do to a cell, and what runs beside it.
const (
	probeEvery = 10 * time.Second // between rounds, with the rules as they are
	probeJudge = 10 * time.Minute // the deadline of a row
	probeLeast = 40 * time.Second // of a deadline, whatever the rules: rows of the lake wait for a commit
	underWay   = 10 * time.Second // rows that are younger may be of blocks that are not finished
	hostDisk   = 64 << 20
	spillSome  = 3 // objects, of which one is damaged
	behindFor  = 10 * time.Second
	lateFor    = 400 * time.Second // so that most rows are later than ClickHouse may be, and a fourth later than the lake may
	poisoning  = 0.75              // of the events of a fleet as large as the rehearsal's own

	trickleEvery   = 10 * time.Millisecond
	trickleSources = 16
	largeOneIn     = 2200    // 4.5 times what the budget allows
	largeBytes     = 1 << 20 // more than a record takes (max_record_bytes)
)

// trickle sends small requests, which make a share of requests that fail as small as a slow burn's, and one in largeOneIn whose event is larger than a record. Nothing is sent again.
func (r *rehearsed) trickle() (stop func()) {
	bodyOf := func(source int, text string) []byte {
		logs := plog.NewLogs()
		rl := logs.ResourceLogs().AppendEmpty()
		rl.Resource().Attributes().PutStr("service.name", fmt.Sprintf("%s-trickle-%d", r.service, source))
		record := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
		record.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
		record.Body().SetStr(text)
		body, err := plogotlp.NewExportRequestFromLogs(logs).MarshalProto()
		r.must(err)
		return body
	}
	ctx, cancel := context.WithCancel(context.Background())
	var under sync.WaitGroup
	under.Go(func() {
		tick := time.NewTicker(trickleEvery)
		defer tick.Stop()
		for n := 1; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			text := fmt.Sprintf("number %d", n) // two equal requests would be one event
			if n%largeOneIn == 0 {
				text += strings.Repeat(" large", largeBytes/6)
			}
			body := bodyOf(n%trickleSources, text)
			under.Go(func() {
				resp, err := http.Post("http://"+r.Gateways[n%len(r.Gateways)].HTTP+"/v1/logs", "application/x-protobuf", bytes.NewReader(body))
				if err != nil {
					r.t.Errorf("a request got no answer: %v", err)
					return
				}
				defer resp.Body.Close()
				if len(body) < largeBytes && resp.StatusCode != http.StatusOK {
					r.t.Errorf("a small request is answered with %s", resp.Status)
				}
			})
		}
	})
	return func() { cancel(); under.Wait() }
}

// runProbe runs `pulsegrid probe` beside the cell, and returns where it serves metrics, and what stops it.
func (r *rehearsed) runProbe() (at string, stop func()) {
	r.t.Helper()
	addr := rig.FreeAddr()
	p := rig.NewProcess(r.shell.Env, []string{addr}, filepath.Join(rig.Root(), "_build", "pulsegrid"), "probe", "--data", filepath.Join(r.shell.Dir, "pulsegrid-data"), "--metrics", addr,
		"--interval", max(short(probeEvery), time.Second).String(), "--deadline", deadline().String())
	r.must(p.Start(startTimeout))
	stop = sync.OnceFunc(func() { p.Stop(stopGrace) })
	r.t.Cleanup(stop)
	return "http://" + addr, stop
}

// deadline of the probe's rows.
func deadline() time.Duration { return max(short(probeJudge), probeLeast) }

// ofProbes are the probe's rows of logs that are finished, and not yet judged.
func ofProbes() string {
	return fmt.Sprintf("FROM logs WHERE tenant_id = '%s' AND ingest_time < now64() - INTERVAL %d SECOND AND ingest_time > now64() - INTERVAL %d SECOND", probeTenant,
		int(underWay.Seconds()), int(deadline().Seconds())-5)
}

// changeProbes runs SQL when there are rows of the probe that it is about.
func (r *rehearsed) changeProbes(statements ...string) error {
	if !until(func() bool { n, err := r.Query("SELECT count() " + ofProbes()); return err == nil && n != "0" }, patience) {
		return errors.New("there are no rows of the probe to change")
	}
	for _, sql := range statements {
		if _, err := r.Query(sql); err != nil {
			return err
		}
	}
	return nil
}

func (r *rehearsed) deleteProbes() error { return r.changeProbes("DELETE " + ofProbes()) }

// doubleProbes attaches a copy of the rows, as whoever restores a partition of a backup twice. No view of the rollups sees it.
func (r *rehearsed) doubleProbes() error {
	if err := r.changeProbes("CREATE TABLE logs_again AS logs", "INSERT INTO logs_again SELECT * "+ofProbes()); err != nil {
		return err
	}
	partitions, err := r.Query("SELECT DISTINCT _partition_id FROM logs_again FORMAT TabSeparated")
	for _, id := range strings.Fields(partitions) {
		_, attached := r.Query("ALTER TABLE logs ATTACH PARTITION ID '" + id + "' FROM logs_again")
		err = errors.Join(err, attached)
	}
	_, dropped := r.Query("DROP TABLE logs_again SYNC")
	return errors.Join(err, dropped)
}

// singleProbes deletes all rows of the events that are doubled, and has replay put one of each back, as the runbook says.
func (r *rehearsed) singleProbes() error {
	_, err := r.Query(fmt.Sprintf("DELETE FROM logs WHERE tenant_id = '%s' AND event_id IN (SELECT event_id FROM logs WHERE tenant_id = '%[1]s' GROUP BY event_id HAVING count() > 1)", probeTenant))
	return errors.Join(err, r.replay())
}

// damageSpill overwrites an object that waits for Kafka, and keeps what it was: undo puts it back as the runbook says.
func (r *rehearsed) damageSpill() error {
	if err := r.refuse("gateway", "kafka"); err != nil {
		return err
	}
	var waiting []string
	if !until(func() bool {
		var err error
		waiting, err = r.Objects.SpilledPaths()
		return err == nil && len(waiting) >= spillSome
	}, patience) {
		return fmt.Errorf("%d objects were spilled within %v", len(waiting), patience)
	}
	damaged := waiting[len(waiting)/2]
	good, err := os.ReadFile(damaged)
	if err != nil {
		return err
	}
	if err := r.Objects.Put(damaged, bytes.Repeat([]byte("x"), len(good))); err != nil {
		return err
	}
	gateway, name := filepath.Base(filepath.Dir(damaged)), filepath.Base(damaged)
	spill := filepath.Dir(filepath.Dir(damaged))
	r.undo = func() error {
		aside, err := filepath.Glob(filepath.Join(spill, "bad", gateway, name+"*"))
		if err != nil || len(aside) != 1 {
			return fmt.Errorf("under bad/ of %s lies %v: %w", gateway, aside, err)
		}
		if err := r.Objects.Put(filepath.Join(spill, "repaired", name), good); err != nil {
			return err
		}
		return errors.Join(os.Remove(aside[0]), r.auditEqual())
	}
	r.began = time.Now()
	return r.heal()
}

// removeRecords has Kafka remove what the aggregators, which do not reach it, have not read of logs.
func (r *rehearsed) removeRecords() error {
	if err := r.refuse("aggregator", "kafka"); err != nil {
		return err
	}
	time.Sleep(behindFor)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ends, err := r.admin.ListEndOffsets(ctx, signal.Logs.Topic())
	if err != nil {
		return err
	}
	removed, err := r.admin.DeleteRecords(ctx, ends.Offsets())
	r.began = time.Now()
	return errors.Join(err, removed.Error(), r.heal())
}

// keepAway keeps the gateways from Kafka until what they then give back is late.
func (r *rehearsed) keepAway() error {
	if err := r.refuse("gateway", "kafka"); err != nil {
		return err
	}
	time.Sleep(lateFor)
	r.began = time.Now()
	return r.heal()
}

// diskMetrics is where ClickHouse tells of its disks, as its endpoint for Prometheus does: the embedded engine has none.
func (r *rehearsed) diskMetrics() string {
	const of = "SELECT 'ClickHouseAsyncMetrics_%s_' || name AS name, toFloat64(%s) AS value, 'gauge' AS type, '' AS help FROM system.disks"
	return "http://" + r.ClickHouseHTTP() + "/?query=" + url.QueryEscape(fmt.Sprintf(of+" UNION ALL "+of+" FORMAT Prometheus", "DiskAvailable", "free_space", "DiskTotal", "total_space"))
}

// starve takes a partition of logs below its min.insync.replicas.
func (r *rehearsed) starve() error {
	feed, err := r.Kafka.Starve(context.Background(), signal.Logs.Topic(), 0)
	r.undo = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return feed(ctx)
	}
	return err
}

// poisoned has a further fleet send events of which most break their schemas.
func (r *rehearsed) poisoned() error {
	fleet := r.fleetOf(agents.Options{Rate: rehearsedRate, Poison: poisoning, First: numbersEach})
	r.undo = func() error { r.stop(fleet); return nil }
	return nil
}

// undone undoes what inject has left to undo.
func (r *rehearsed) undone() error { return r.undo() }

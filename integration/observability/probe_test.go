package observability_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/cell"
)

func sum(of map[rig.Request]int) (n int) {
	for _, m := range of {
		n += m
	}
	return n
}

// sample is a point of a scrape.
type sample struct {
	name   string
	labels map[string]string
	value  float64
}

func samples(t *testing.T, address string) (out []sample) {
	t.Helper()
	resp, err := http.Get(address)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`(?m)^(\w+)\{(.*)\} (\S+)$`).FindAllStringSubmatch(string(text), -1) {
		s := sample{name: m[1], labels: map[string]string{}}
		for _, l := range regexp.MustCompile(`(\w+)="([^"]*)"`).FindAllStringSubmatch(m[2], -1) {
			s.labels[l[1]] = l[2]
		}
		s.value, err = strconv.ParseFloat(m[3], 64)
		require.NoError(t, err)
		out = append(out, s)
	}
	return out
}

// measured is what the probe itself says of its requests.
func measured(all []sample) (good, failed map[rig.Request]int) {
	good, failed = map[rig.Request]int{}, map[rig.Request]int{}
	for _, s := range all {
		if s.name != "pulsegrid_probe_requests_total" {
			continue
		}
		kind, n := rig.Request{Protocol: s.labels["protocol"], Signal: s.labels["signal"]}, int(s.value)
		if s.labels["outcome"] == "ok" {
			good[kind] += n
		} else {
			failed[kind] += n
		}
	}
	return good, failed
}

func rowsSeen(all []sample, store, result string) (n int) {
	for _, s := range all {
		if s.name == "pulsegrid_probe_rows_total" && s.labels["store"] == store && s.labels["result"] == result {
			n += int(s.value)
		}
	}
	return n
}

func (c running) state() cell.State {
	c.t.Helper()
	s, err := cell.ReadState(filepath.Join(c.shell.Dir, "pulsegrid-data"))
	require.NoError(c.t, err)
	return s
}

func (c running) query(sql string) string {
	c.t.Helper()
	out, err := c.shell.Run(fmt.Sprintf("pulsegrid query --write --format TabSeparated %q", sql))
	require.NoError(c.t, err, out)
	return strings.TrimSpace(out)
}

// command is the probe's, on the cell's stores.
func (c running) command() []string {
	return []string{filepath.Join(rig.Root(), "_build", "pulsegrid"), "probe", "--data", filepath.Join(c.shell.Dir, "pulsegrid-data")}
}

func (c running) probe(args ...string) *exec.Cmd {
	argv := append(c.command(), args...)
	return exec.Command(argv[0], argv[1:]...)
}

// Scenario: one round through the gateway.
// Guarantees: each of its 18 events, each signal in each protocol and compression, is acknowledged and is one row in both stores, by the command's count and by SQL.
func (c running) aRoundIsExact(front *rig.Front, endpoints []string) {
	out, err := c.probe(append(endpoints, "--once", "--timeout", "1m", "--deadline", patience.String())...).CombinedOutput()
	require.NoError(c.t, err, "%s", out)
	require.Len(c.t, regexp.MustCompile(`(?m)^(logs|metrics|traces) +(http_protobuf|http_json|grpc) +(none|gzip) +ok +\S+s +exact +\S+s +exact +\S+s +\w+$`).FindAll(out, -1), 18, "%s", out)
	require.Equal(c.t, "6\t6\t6", c.query("SELECT (SELECT count() FROM logs WHERE tenant_id = 'probe'), (SELECT count() FROM spans WHERE tenant_id = 'probe'), "+
		"(SELECT count() FROM metrics WHERE tenant_id = 'probe')"))
	good, failed := front.Counts()
	require.Len(c.t, good, 9)
	require.Equal(c.t, 18, sum(good))
	require.Zero(c.t, sum(failed))
}

// Scenario: before the probe looks into ClickHouse somebody deletes the row of one event there, and inserts that of another once more.
// Guarantees: the one is reported as missing, the other as doubled, and nothing else.
func (c running) whatIsMissingOrDoubledIsFound(endpoints []string) {
	e := c.state().Endpoints
	newest := fmt.Sprintf("tenant_id = 'probe' AND time >= fromUnixTimestamp64Nano(%d)", time.Now().UnixNano())
	look := make(chan struct{}) // closed: it may look
	direct := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: e.ClickHouseHTTP})
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-look
		direct.ServeHTTP(w, r)
	}))
	defer store.Close()
	cmd := c.probe(append(endpoints, "--once", "--json", "--timeout", "20s", "--deadline", "20s", "--stores", "clickhouse", "--clickhouse", store.URL, "--clickhouse-user", e.ClickHouseUser)...)
	cmd.Env = append(cmd.Environ(), "PULSEGRID_CLICKHOUSE_PASSWORD="+e.ClickHousePassword)
	var out, told bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &told
	require.NoError(c.t, cmd.Start())

	stored := assert.Eventually(c.t, func() bool {
		return c.query("SELECT (SELECT count() FROM logs WHERE "+newest+") + (SELECT count() FROM spans WHERE "+newest+")") == "12"
	}, patience, 200*time.Millisecond)
	const marker = "attributes_string['probe.marker']"
	missing, doubled := c.query("SELECT any("+marker+") FROM logs WHERE "+newest), c.query("SELECT any("+marker+") FROM spans WHERE "+newest)
	c.query("ALTER TABLE logs DELETE WHERE tenant_id = 'probe' AND " + marker + " = '" + missing + "' SETTINGS mutations_sync = 2")
	c.query("INSERT INTO spans SELECT * FROM spans WHERE tenant_id = 'probe' AND " + marker + " = '" + doubled + "' SETTINGS insert_deduplicate = 0")
	close(look)
	require.Error(c.t, cmd.Wait())
	require.True(c.t, stored)
	require.Equal(c.t, 1, cmd.ProcessState.ExitCode(), told.String())
	var results []struct {
		Signal, Marker, Outcome string
		Rows                    []struct {
			Rows   int
			Result string
		}
	}
	require.NoError(c.t, json.Unmarshal(out.Bytes(), &results), "%s", &out)
	require.Len(c.t, results, 18)
	for _, r := range results {
		want := "exact"
		switch {
		case r.Signal == "logs" && r.Marker == missing:
			want = "missing"
		case r.Signal == "traces" && r.Marker == doubled:
			want = "doubled"
		}
		require.Equal(c.t, "ok", r.Outcome)
		require.Equal(c.t, want, r.Rows[0].Result, "%+v; deleted %s, inserted again %s\n%s", r, missing, doubled, &told)
	}
	require.Regexp(c.t, `(?m)^\S+Z logs \w+ \w+ `+missing+` clickhouse missing: no row \S+ after it was sent$`, told.String())
	require.Regexp(c.t, `(?m)^\S+Z traces \w+ \w+ `+doubled+` clickhouse doubled: 2 rows$`, told.String())
	require.Contains(c.t, told.String(), "2 of 18 events")
}

// Scenario: a probe runs through a front that counts, and the gateway is killed; the cell starts it again.
// Guarantees: what the probe calls acknowledged and failed is what the front has counted, request by request; acknowledged events are rows of both stores, once, whatever became of the
// others; the probe's series have the labels of the rules; it stops when it is told to.
func (c running) failuresAreCounted(front *rig.Front, endpoints []string) {
	goodBefore, failedBefore := front.Counts()
	// The cell starts a gateway again after half a second: a round meets that.
	probe := rig.NewProcess(nil, nil, append(append(c.command(), endpoints...), "--interval", "500ms", "--deadline", "90s")...)
	require.NoError(c.t, probe.Start(starts))
	defer probe.Stop(stopping)
	var metrics string
	require.Eventually(c.t, func() bool {
		if m := regexp.MustCompile(`metrics: (\S+)`).FindStringSubmatch(probe.Log()); m != nil {
			metrics = m[1]
		}
		return metrics != ""
	}, patience, 100*time.Millisecond, "where its metrics are")

	since := func() (good, failed map[rig.Request]int) {
		good, failed = front.Counts()
		for kind := range good {
			good[kind] -= goodBefore[kind]
			failed[kind] -= failedBefore[kind]
		}
		return good, failed
	}
	require.Eventually(c.t, func() bool { good, _ := since(); return sum(good) >= 3*18 }, patience, 100*time.Millisecond)
	for _, p := range c.state().Processes {
		if p.Name == cell.HopGateway {
			require.NoError(c.t, syscall.Kill(p.PID, syscall.SIGKILL))
		}
	}
	require.Eventually(c.t, func() bool { return strings.Contains(probe.Log(), " requests unavailable: ") }, patience, 10*time.Millisecond)
	killed, _ := since()
	require.Eventually(c.t, func() bool { good, _ := since(); return sum(good) >= sum(killed)+3*18 }, patience, 100*time.Millisecond, "the gateway is there again")

	var all []sample
	var good, failed map[rig.Request]int
	require.Eventually(c.t, func() bool { // once those that had begun have ended, and before those that wait are given up
		release := front.Hold()
		defer release()
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			all = samples(c.t, metrics)
			good, failed = since()
			probed, probedFailed := measured(all)
			if fmt.Sprint(good, failed) == fmt.Sprint(probed, probedFailed) {
				return true
			}
		}
		return false
	}, patience, time.Second, "the probe's counts and the front's")
	c.t.Logf("acknowledged %v, failed %v", good, failed)
	require.Equal(c.t, sum(failed), strings.Count(probe.Log(), " requests "), "a line for each failure")

	require.Eventually(c.t, func() bool {
		all = samples(c.t, metrics)
		return rowsSeen(all, "clickhouse", "exact") >= sum(killed) && rowsSeen(all, "lake", "exact") >= sum(killed)
	}, patience, time.Second, "%v", all)
	for _, store := range []string{"clickhouse", "lake"} {
		for _, result := range []string{"missing", "doubled", "unjudged"} {
			require.Zero(c.t, rowsSeen(all, store, result), "%s %s\n%s", store, result, probe.Log())
		}
	}
	series := map[string][]map[string]string{}
	for _, s := range all {
		series[s.name] = append(series[s.name], s.labels)
	}
	require.Greater(c.t, c.rulesFit(series, "pulsegrid_probe_"), 50)
	require.True(c.t, probe.Stop(stopping), "it stops when it is told to")
}

// theProbe goes through a front of its own.
func (c running) theProbe() {
	e := c.state().Endpoints
	front := rig.NewFront([]string{e.HTTP}, []string{e.GRPC}, nil)
	defer front.Close()
	endpoints := []string{"--http", front.URL(), "--grpc", front.URL()}
	c.aRoundIsExact(front, endpoints)
	c.whatIsMissingOrDoubledIsFound(endpoints)
	c.failuresAreCounted(front, endpoints)
}

// Package proportion measures on the built programs, with real Kafka and stores, what requests of hostile shapes cost each tier.
package proportion

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/hostile"
)

var (
	all   = flag.Bool("all", false, "every shape in every size; otherwise those that have cost most")
	seed  = flag.Uint64("seed", 1, "of the requests; 0: a new one")
	table = flag.String("table", "", "document into which the outcome is written, between its marks")
)

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	os.Exit(m.Run())
}

const patience = 5 * time.Minute

// bound is what a request may cost a process that has just begun (docs/proportion.md). An event counts as much as ten of its attributes and other parts.
type bound struct {
	memory, perByte, perPart int64
	cpu, byByte, byPart      time.Duration
}

var bounds = map[string]bound{
	"gateway":    {128 << 20, 16, 0, 500 * time.Millisecond, 500 * time.Nanosecond, 0},
	"aggregator": {320 << 20, 8, 400, 1500 * time.Millisecond, 2500 * time.Nanosecond, 2500 * time.Nanosecond},
}

// parts are the events' number times ten, and that of what is in them.
func (o *outcome) parts() int {
	return 10*(o.size.Events+o.size.Holders) + o.size.Parts + o.size.Scalars/4
}

// short are the shapes that have cost most for their size.
var short = map[string]bool{"wide-resource": true, "events-and-links": true, "at-fault": true}

type outcome struct {
	shape               hostile.Shape
	bytes               int
	size                otlpwire.Size
	answer              string
	gateway, aggregator cost
}

type cost struct {
	memory int64
	cpu    time.Duration
}

// Scenario: a gateway and an aggregator that have just begun get one request of each hostile shape.
// Guarantees: what each tier holds and does for it is within a stated multiple of the request's bytes, whatever the shape; the request is stored or refused,
// and both go on.
func TestEachShapeCostsInProportion(t *testing.T) {
	r, err := rig.New(rig.Options{Dir: t.TempDir(), Env: map[string]string{"GOGC": "50", "PULSEGRID_PARTITIONS": "1"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	client, err := kgo.NewClient(kgo.SeedBrokers(r.Kafka.Brokers()...))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	m := &measuring{t: t, rig: r, admin: kadm.NewClient(client)}
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("seed %d", *seed)
	sizes := []int{1 << 20}
	if *all {
		sizes = []int{256 << 10, 4 << 20}
	}
	var outcomes []outcome
	for _, shape := range hostile.Shapes() {
		for _, size := range sizes {
			if *all || short[shape.Name] {
				t.Run(fmt.Sprintf("%s/%d", shape.Name, size), func(t *testing.T) {
					m.t = t
					o := m.measure(shape, size)
					o.judge(t)
					outcomes = append(outcomes, o)
				})
			}
		}
	}
	if *table != "" {
		require.NoError(t, write(*table, markdown(outcomes)))
	}
}

func (o *outcome) judge(t *testing.T) {
	for tier, c := range map[string]cost{"gateway": o.gateway, "aggregator": o.aggregator} {
		t.Logf("%s: %d bytes, %d events, %s: %d MiB more, %.1f times the bytes; CPU %v, %.0f ns a byte", tier, o.bytes, o.size.Events, o.answer, c.memory>>20, float64(c.memory)/float64(o.bytes), c.cpu,
			float64(c.cpu)/float64(o.bytes))
		b := bounds[tier]
		if most := b.memory + b.perByte*int64(o.bytes) + b.perPart*int64(o.parts()); c.memory > most {
			t.Errorf("%s grew by %d MiB, more than %d", tier, c.memory>>20, most>>20)
		}
		most := b.cpu + b.byByte*time.Duration(o.bytes) + b.byPart*time.Duration(o.parts())
		if rig.Busy() > 1 { // cores and caches that are shared do less in a second of CPU time
			most *= 2
		}
		if c.cpu > most {
			t.Errorf("%s took %v of CPU, more than %v", tier, c.cpu, most)
		}
	}
}

type measuring struct {
	t     *testing.T
	rig   *rig.Rig
	admin *kadm.Client
}

func (m *measuring) measure(shape hostile.Shape, size int) outcome {
	require.NoError(m.t, m.rig.Gateway.Start(patience))
	require.NoError(m.t, m.rig.Aggregator.Start(patience))
	defer func() {
		require.False(m.t, m.rig.Gateway.Ended(), "the gateway has ended:\n%s", m.rig.Gateway.Log())
		require.False(m.t, m.rig.Aggregator.Ended(), "the aggregator has ended:\n%s", m.rig.Aggregator.Log())
		m.rig.Gateway.Stop(patience)
		m.rig.Aggregator.Stop(patience)
	}()
	for _, s := range signal.All {
		require.Equal(m.t, "200", m.post(s, "application/x-protobuf", otlptest.Realistic(s, rand.Uint64(), 10)))
	}
	m.quiet()

	choices := rand.New(rand.NewPCG(*seed, uint64(size)))
	body := shape.Make(choices, size, uint64(time.Now().UnixNano()))
	kind := "application/x-protobuf"
	if shape.JSON {
		kind = "application/json"
	}
	tiers := []*rig.Process{m.rig.Gateway, m.rig.Aggregator}
	var before [2]rig.Usage
	for i, p := range tiers {
		before[i] = m.begin(p)
	}
	o := outcome{shape: shape, bytes: len(body), size: m.size(shape, body), answer: m.post(shape.Signal, kind, body)}
	m.quiet()
	for i, c := range []*cost{&o.gateway, &o.aggregator} {
		now, err := rig.UsageOf(tiers[i].PID())
		require.NoError(m.t, err)
		*c = cost{now.PeakRSS - before[i].PeakRSS, now.CPU - before[i].CPU}
	}
	return o
}

// size is what the request holds, as protobuf.
func (m *measuring) size(shape hostile.Shape, body []byte) otlpwire.Size {
	if shape.JSON {
		req := otlptest.NewRequest(shape.Signal)
		require.NoError(m.t, req.UnmarshalJSON(body))
		var err error
		body, err = req.MarshalProto()
		require.NoError(m.t, err)
	}
	size, err := otlpwire.Measure(shape.Signal, body, otlpwire.Limits{})
	require.NoError(m.t, err)
	return size
}

// begin makes a process's peak what it holds now.
func (m *measuring) begin(p *rig.Process) rig.Usage {
	require.NoError(m.t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.PID()), []byte("5"), 0)) // proc(5)
	u, err := rig.UsageOf(p.PID())
	require.NoError(m.t, err)
	return u
}

func (m *measuring) post(s signal.Signal, kind string, body []byte) string {
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+m.rig.HTTP+"/v1/"+s.String(), bytes.NewReader(body))
	require.NoError(m.t, err)
	req.Header.Set("Content-Type", kind)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(m.t, err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 200))
	require.NoError(m.t, err)
	require.Less(m.t, resp.StatusCode, 500, "%s", text)
	return fmt.Sprint(resp.StatusCode)
}

// quiet waits until every group has committed all that its topics hold.
func (m *measuring) quiet() {
	behind := ""
	stored := assert.Eventually(m.t, func() bool {
		ctx, cancel := context.WithTimeout(m.t.Context(), 10*time.Second)
		defer cancel()
		behind = rig.Behind(ctx, m.admin)
		return behind == ""
	}, patience, 100*time.Millisecond)
	require.True(m.t, stored, behind)
}

const (
	tableBegins = "<!-- written by make proportion-table -->\n"
	tableEnds   = "<!-- end -->\n"
)

// write puts the table into a document, between its marks.
func write(path, rows string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(b), tableBegins)
	_, after, ends := strings.Cut(rest, tableEnds)
	if !ok || !ends {
		return fmt.Errorf("%s has no marks %q and %q", path, tableBegins, tableEnds)
	}
	return os.WriteFile(path, []byte(before+tableBegins+rows+tableEnds+after), 0o644)
}

func markdown(outcomes []outcome) string {
	var b strings.Builder
	b.WriteString("| shape | what is large or many | request | events | in them | answer | gateway: memory | | CPU | aggregator: memory | | CPU |\n|---|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|\n")
	for _, o := range outcomes {
		fmt.Fprintf(&b, "| `%s` | %s | %.2f MiB | %d | %d | %s |", o.shape.Name, o.shape.Does, float64(o.bytes)/(1<<20), o.size.Events, o.size.Parts+o.size.Scalars, o.answer)
		for _, c := range []cost{o.gateway, o.aggregator} {
			fmt.Fprintf(&b, " %d MiB | %.1fx | %.0f ns/B |", c.memory>>20, float64(c.memory)/float64(o.bytes), float64(c.cpu)/float64(o.bytes))
		}
		b.WriteString("\n")
	}
	return b.String()
}

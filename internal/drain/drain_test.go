package drain

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/pulsegrid/pulsegrid/internal/cellhealth"
	"github.com/pulsegrid/pulsegrid/internal/kafka"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 11, 30, 2, 40, 0, 500, time.UTC)

const listed = `
cells:
  - name: eu-1
    jurisdiction: eu
    state: s3://pulsegrid-eu-1/cell?region=eu-central-1
    gateways: [http://10.1.0.11:8888/metrics, http://10.1.0.12:8888/metrics]
    kafka: {brokers: [b-1.example.com:9098], tls: {}, auth: {mechanism: aws_msk_iam, aws: {region: eu-central-1}}}
  - name: us-1
    jurisdiction: us
    state: /etc/pulsegrid/us-1
    gateways: [https://10.2.0.11:8888/metrics]
    kafka: {brokers: [10.2.0.21:9092]}
    groups: [{name: hot, topics: [otlp.logs.v1, otlp.logs.premium.v1]}]
    clickhouse: {endpoint: "https://clickhouse.us-1:8443", username: reader, password_file: /etc/reader}
    copies: [{url: "s3://replica?region=us-west-2", of: lake}, {url: file:///backups, of: stores, jurisdiction: ca}]
`

func TestTheListOfCellsIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cells.yaml")
	require.NoError(t, os.WriteFile(path, []byte(listed), 0o600))
	cells, err := ReadCells(path)
	require.NoError(t, err)
	require.Len(t, cells, 2)
	eu, err := Find(cells, "eu-1")
	require.NoError(t, err)
	require.Equal(t, Groups(), eu.Groups)
	require.Equal(t, kafka.MechanismAWSMSKIAM, eu.Kafka.Auth.Mechanism)
	require.Equal(t, kafka.DefaultRequestTimeout, eu.Kafka.RequestTimeout)
	us, err := Find(cells, "us-1")
	require.NoError(t, err)
	require.Equal(t, []Group{{"hot", []string{"otlp.logs.v1", "otlp.logs.premium.v1"}}}, us.Groups)
	require.Equal(t, []Copy{{URL: "s3://replica?region=us-west-2", Of: OfLake}, {URL: "file:///backups", Of: OfStores, Jurisdiction: "ca"}}, us.Copies)
	require.Equal(t, ClickHouse{Endpoint: "https://clickhouse.us-1:8443", Database: "pulsegrid", Username: "reader", PasswordFile: "/etc/reader"}, us.ClickHouse)
	require.Empty(t, eu.Copies)
	_, err = Find(cells, "eu-3")
	require.ErrorContains(t, err, `"eu-3" is none of the cells: eu-1, us-1`)
	_, err = ReadCells(path + ".gone")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestTheDocumentsExampleIsRead(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "regions.md"))
	require.NoError(t, err)
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	require.Len(t, examples, 1)
	cells, err := parseCells([]byte(examples[0][1]))
	require.NoError(t, err)
	require.Len(t, cells, 3)
}

// Guarantees: what is wrong is named with the cell, the key and the value.
func TestAListThatIsWrongIsRefused(t *testing.T) {
	for want, change := range map[string][2]string{
		"want one key `cells`":                                               {"cells:", "cels:"},
		`cells: the 1., "": name: "": want 1 to 32`:                          {"name: eu-1", "name: ''"},
		`cells: the 1., "eu-1": jurisdiction: "EU": want 1 to 32`:            {"jurisdiction: eu", "jurisdiction: EU"},
		`state: "ftp://x" is neither`:                                        {"s3://pulsegrid-eu-1/cell?region=eu-central-1", "ftp://x"},
		`gateways: "10.1.0.11:8888": want a URL`:                             {"http://10.1.0.11:8888/metrics", "10.1.0.11:8888"},
		"gateways: are 0":                                                    {"[https://10.2.0.11:8888/metrics]", "[]"},
		`cells: the 2., "us-1": kafka::brokers: is empty`:                    {"{brokers: [10.2.0.21:9092]}", "{}"},
		"kafka::auth::aws::region: is empty":                                 {"aws: {region: eu-central-1}", "aws: {}"},
		`copies: url "/backups": want s3://`:                                 {"file:///backups", "/backups"},
		`clickhouse::endpoint: "clickhouse.us-1:8443": want a URL`:           {"https://clickhouse.us-1:8443", "clickhouse.us-1:8443"},
		`copies: of "tables": want lake or stores`:                           {"of: stores", "of: tables"},
		`copies: jurisdiction: "CA": want 1 to 32`:                           {"jurisdiction: ca", "jurisdiction: CA"},
		`groups: "hot": needs name and topics`:                               {"topics: [otlp.logs.v1, otlp.logs.premium.v1]", "topics: []"},
		"has invalid keys: gateway":                                          {"gateways: [https", "gateway: [https"},
		`cells: the 2., "eu-1": name eu-1: is there twice`:                   {"name: us-1", "name: eu-1"},
		"http://10.1.0.11:8888/metrics: is there twice":                      {"http://10.1.0.12:8888/metrics", "http://10.1.0.11:8888/metrics"},
		"state s3://pulsegrid-eu-1/cell?region=eu-central-1: is there twice": {"/etc/pulsegrid/us-1", "s3://pulsegrid-eu-1/cell?region=eu-central-1"},
	} {
		require.Contains(t, listed, change[0])
		_, err := parseCells([]byte(strings.Replace(listed, change[0], change[1], 1)))
		require.ErrorContains(t, err, want)
	}
	_, err := parseCells([]byte("cells: [1]"))
	require.ErrorContains(t, err, "the 1. is no mapping")
	_, err = parseCells([]byte("cells: ["))
	require.ErrorContains(t, err, "yaml")
}

func cellIn(dir, name, jurisdiction string) Cell {
	return Cell{Name: name, Jurisdiction: jurisdiction, State: filepath.Join(dir, name)}
}

// Guarantees: what is written is what gateways read; a cell that is as it shall be is not written again; the last cell of a jurisdiction is told.
func TestACellIsDrainedAndBack(t *testing.T) {
	dir := t.TempDir()
	cells := []Cell{cellIn(dir, "eu-1", "eu"), cellIn(dir, "eu-2", "eu"), cellIn(dir, "us-1", "us")}
	for _, c := range cells {
		require.NoError(t, os.Mkdir(c.State, 0o700))
	}
	eu1, eu2 := &cells[0], &cells[1]
	require.NoError(t, CheckLast(t.Context(), cells, eu1))
	require.ErrorIs(t, CheckLast(t.Context(), cells, &cells[2]), ErrLast)

	before, after, err := Set(t.Context(), eu1, true, "kernel upgrade", now)
	require.NoError(t, err)
	require.Equal(t, cellhealth.State{Cell: "eu-1"}, before)
	want := cellhealth.State{Cell: "eu-1", Drained: true, Since: now.Truncate(time.Second), Reason: "kernel upgrade"}
	require.Equal(t, want, after)
	got, err := Read(t.Context(), eu1)
	require.NoError(t, err)
	require.Equal(t, want, got)

	before, after, err = Set(t.Context(), eu1, true, "another reason", now.Add(time.Hour))
	require.NoError(t, err)
	require.Equal(t, want, before)
	require.Equal(t, want, after, "it is not written again")

	err = CheckLast(t.Context(), cells, eu2)
	require.ErrorIs(t, err, ErrLast)
	require.EqualError(t, err, "draining eu-2 would leave no cell of its jurisdiction that takes its tenants (eu)")
	require.NoError(t, os.RemoveAll(eu1.State))
	err = CheckLast(t.Context(), cells, eu2)
	require.ErrorIs(t, err, ErrLast, "nobody knows")
	require.ErrorContains(t, err, "cell eu-1 cannot be told")
	_, _, err = Set(t.Context(), eu1, false, "", now)
	require.Error(t, err, "what cannot be read is not written over")

	_, _, err = Set(t.Context(), eu2, true, "two\nlines", now)
	require.ErrorContains(t, err, "reason: ")
	_, after, err = Set(t.Context(), eu2, false, "", now)
	require.NoError(t, err)
	require.Equal(t, cellhealth.State{Cell: "eu-2"}, after)
	require.NoFileExists(t, filepath.Join(eu2.State, cellhealth.StateFile))
}

// exposed are metrics of a gateway as Prometheus reads them.
func exposed(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	m, err := parser.TextToMetricFamilies(strings.NewReader(text))
	require.NoError(t, err)
	return m
}

// gateway is one that follows a drain, with more of its metrics.
func gateway(t *testing.T, idle int, more string) map[string]*dto.MetricFamily {
	t.Helper()
	return exposed(t, fmt.Sprintf(`# TYPE otelcol_cell_health_drained gauge
otelcol_cell_health_drained{extension="cell_health"} 1
# TYPE otelcol_cell_health_serving gauge
otelcol_cell_health_serving{extension="cell_health"} 0
# TYPE otelcol_ingest_idle gauge
otelcol_ingest_idle{receiver="ingest"} %d
otelcol_ingest_idle{receiver="ingest/2"} 1000
# TYPE otelcol_ingest_in_flight_bytes gauge
otelcol_ingest_in_flight_bytes{receiver="ingest"} 0
# TYPE otelcol_msk_exporter_spill_backlog_bytes gauge
otelcol_msk_exporter_spill_backlog_bytes{exporter="msk"} 0
%s`, idle, more))
}

// Guarantees: a cell is safe only if all that must be so is known to be so; each thing that is not is named.
func TestACellIsSafeOnlyIfAllIsKnown(t *testing.T) {
	c := Cell{Name: "eu-1", Jurisdiction: "eu", Gateways: []string{"http://a", "http://b"}}
	safe := func() Sources {
		return Sources{
			Scrape: func(context.Context, string) (map[string]*dto.MetricFamily, error) { return gateway(t, 60, ""), nil },
			State: func(context.Context, *Cell) (cellhealth.State, error) {
				return cellhealth.State{Cell: "eu-1", Drained: true, Since: now}, nil
			},
			Backlog: func(context.Context, *Cell) (Backlog, error) {
				return Backlog{Groups: []Waiting{{"hot", 0}, {"lake", 0}}}, nil
			},
		}
	}
	s := Look(t.Context(), &c, safe(), nil)
	require.Empty(t, s.Unsafe)
	require.Equal(t, Gateway{URL: "http://b", Drained: true, IdleSeconds: 60, Rate: -1}, s.Gateways[1])

	second := func(m map[string]*dto.MetricFamily, err error) func(*Sources) {
		return func(ask *Sources) {
			ask.Scrape = func(_ context.Context, url string) (map[string]*dto.MetricFamily, error) {
				if url == "http://b" {
					return m, err
				}
				return gateway(t, 60, ""), nil
			}
		}
	}
	backlog := func(b Backlog, err error) func(*Sources) {
		return func(ask *Sources) { ask.Backlog = func(context.Context, *Cell) (Backlog, error) { return b, err } }
	}
	state := func(s cellhealth.State, err error) func(*Sources) {
		return func(ask *Sources) {
			ask.State = func(context.Context, *Cell) (cellhealth.State, error) { return s, err }
		}
	}
	away := errors.New("away")
	for want, change := range map[string]func(*Sources){
		"it is not drained: senders come":                                                              state(cellhealth.State{Cell: "eu-1"}, nil),
		"whether it is drained is not known: away":                                                     state(cellhealth.State{}, away),
		"http://b: its metrics cannot be read: away":                                                   second(nil, away),
		"http://b: its metrics have no otelcol_cell_health_drained: is it a gateway with cell_health?": second(exposed(t, ""), nil),
		"http://b: its last request came 59s ago; 1m0s without one are wanted":                         second(gateway(t, 59, ""), nil),
		"http://b: 7 bytes of requests are not answered yet":                                           second(gateway(t, 60, "# TYPE otelcol_msk_exporter_buffered_bytes gauge\notelcol_msk_exporter_buffered_bytes 7\n"), nil),
		"http://b: requests for 2 partitions go to the spill":                                          second(gateway(t, 60, "# TYPE otelcol_msk_exporter_spilling_partitions gauge\notelcol_msk_exporter_spilling_partitions 2\n"), nil),
		"9 bytes wait in the spill":                                                                    second(gateway(t, 60, "otelcol_msk_exporter_spill_backlog_bytes{exporter=\"msk/2\"} 9\n"), nil),
		"what waits in Kafka is not known: away":                                                       backlog(Backlog{}, away),
		"group lake: 3 records wait in Kafka":                                                          backlog(Backlog{Groups: []Waiting{{"hot", 0}, {"lake", 3}}}, nil),
		"topic otlp.logs.premium.v1 has records, and no group of it is known (groups)":                 backlog(Backlog{Unread: []string{"otlp.logs.premium.v1"}}, nil),
		"http://b: does not follow the drain (yet)": func(ask *Sources) {
			m := gateway(t, 60, "")
			m[metricDrained].Metric[0].Gauge.Value = new(float64)
			second(m, nil)(ask)
		},
	} {
		ask := safe()
		change(&ask)
		require.Equal(t, []string{want}, Look(t.Context(), &c, ask, nil).Unsafe)
	}
}

// Guarantees: a rate is of the requests since the look before; a gateway that has started anew, or that could not be read, has none.
func TestRatesAreSinceTheLookBefore(t *testing.T) {
	c := Cell{Gateways: []string{"http://a"}}
	requests := func(n float64) map[string]*dto.MetricFamily {
		return gateway(t, 0, fmt.Sprintf("# TYPE otelcol_ingest_requests counter\notelcol_ingest_requests{outcome=\"accepted\"} %v\notelcol_ingest_requests{outcome=\"retry\"} 1\n", n))
	}
	var m map[string]*dto.MetricFamily
	var fails error
	ask := Sources{
		Scrape:  func(context.Context, string) (map[string]*dto.MetricFamily, error) { return m, fails },
		State:   func(context.Context, *Cell) (cellhealth.State, error) { return cellhealth.State{}, nil },
		Backlog: func(context.Context, *Cell) (Backlog, error) { return Backlog{}, nil },
	}
	m = requests(100)
	first := Look(t.Context(), &c, ask, nil)
	require.EqualValues(t, -1, first.Gateways[0].Rate)
	first.at = first.at.Add(-10 * time.Second)
	m = requests(150)
	second := Look(t.Context(), &c, ask, &first)
	require.InDelta(t, 5, second.Gateways[0].Rate, 0.5)
	m = requests(3)
	third := Look(t.Context(), &c, ask, &second)
	require.EqualValues(t, -1, third.Gateways[0].Rate)
	fails = errors.New("away")
	fourth := Look(t.Context(), &c, ask, &third)
	require.EqualValues(t, -1, fourth.Gateways[0].Rate)
	fails = nil
	require.EqualValues(t, -1, Look(t.Context(), &c, ask, &fourth).Gateways[0].Rate)
}

// Scenario: topics with records, of which groups have committed all, some or none.
// Guarantees: what is not committed waits, whether the group has ever read or not; a topic of events that nobody reads is named; what is no data is left out.
func TestTheBacklogIsWhatGroupsHaveNotCommitted(t *testing.T) {
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "otlp.logs.v1", "otlp.metrics.v1", "otlp.logs.premium.v1", "quarantine.v1", "other"))
	require.NoError(t, err)
	defer k.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	defer client.Close()
	for _, topic := range []string{"otlp.logs.v1", "other"} {
		for p := range int32(2) {
			for range 3 {
				require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Partition: p, Value: []byte("x")}).FirstErr())
			}
		}
	}
	commit := func(group string, at ...int64) {
		var offsets kadm.Offsets
		for p, o := range at {
			offsets.AddOffset("otlp.logs.v1", int32(p), o, -1)
		}
		require.NoError(t, kadm.NewClient(client).CommitAllOffsets(t.Context(), group, offsets))
	}
	c := Cell{Kafka: kafka.NewDefaultClientConfig(), Groups: Groups()}
	c.Kafka.Brokers = k.ListenAddrs()
	waits := func() map[string]int64 {
		b, err := ReadBacklog(t.Context(), &c)
		require.NoError(t, err)
		require.Len(t, b.Groups, 8)
		out := map[string]int64{}
		for _, g := range b.Groups {
			if g.Records > 0 {
				out[g.Group] = g.Records
			}
		}
		return out
	}
	require.Equal(t, map[string]int64{"pulsegrid-hot": 6, "pulsegrid-lake": 6}, waits())
	commit("pulsegrid-hot", 3, 1)
	require.Equal(t, map[string]int64{"pulsegrid-hot": 2, "pulsegrid-lake": 6}, waits())
	commit("pulsegrid-hot", 3, 3)
	commit("pulsegrid-lake", 3, 3)
	require.Empty(t, waits())

	b, err := ReadBacklog(t.Context(), &c)
	require.NoError(t, err)
	require.Empty(t, b.Unread)
	require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: "otlp.logs.premium.v1", Value: []byte("x")}).FirstErr())
	b, err = ReadBacklog(t.Context(), &c)
	require.NoError(t, err)
	require.Equal(t, []string{"otlp.logs.premium.v1"}, b.Unread)

	k.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = ReadBacklog(ctx, &c)
	require.Error(t, err)
}

package cost

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Measured is deploy/cost/measured.json: what this repository's benchmarks measured.
type Measured struct {
	Hops    HopsRun  `json:"hops"`
	Gateway []Rate   `json:"gateway"` // the table in README.md
	CPU     CPU      `json:"cpu"`
	Memory  Memories `json:"memory"`
}

// HopsRun is a run of `make bench-hops`.
type HopsRun struct {
	Taken   string          `json:"taken"` // YYYY-MM-DD
	Machine string          `json:"machine"`
	Events  int             `json:"events"` // of each signal
	Signals map[string]Hops `json:"signals"`
}

// Hops are bytes and CPU of one event of a signal, at each hop.
type Hops struct {
	JSONBytes       float64 `json:"json_bytes"`       // as one line of JSON that repeats its resource, as the old collectors write it
	ProtobufBytes   float64 `json:"protobuf_bytes"`   // its part of an OTLP request, not compressed
	WireBytes       float64 `json:"wire_bytes"`       // its part of the request as agents send it
	KafkaBytes      float64 `json:"kafka_bytes"`      // in one replica's log
	InsertBytes     float64 `json:"insert_bytes"`     // that ClickHouse receives for it
	ClickHouseBytes float64 `json:"clickhouse_bytes"` // of rows, merged, with indexes
	LakeBytes       float64 `json:"lake_bytes"`       // of data files

	GatewayMicroseconds    float64 `json:"gateway_cpu_us"`
	HotMicroseconds        float64 `json:"hot_cpu_us"`        // of the aggregator's pipeline to ClickHouse
	ClickHouseMicroseconds float64 `json:"clickhouse_cpu_us"` // of ClickHouse, merges and rollups included
	LakeMicroseconds       float64 `json:"lake_cpu_us"`       // of the aggregator's pipeline to the lake
	ScanNanoseconds        float64 `json:"scan_cpu_ns"`       // of ClickHouse, for each row that a dashboard's query reads
}

// Rate is a row of README.md's table of gateways.
type Rate struct {
	Requests            string  `json:"requests"` // "OTLP/HTTP zstd, 500"
	EventsPerCoreSecond float64 `json:"events_per_core_second"`
}

// CPU is what README.md says of an event of logs, measured where the machine did nothing else. Runs of hops may not have that luck: of them the ratios between signals and hops are taken.
type CPU struct {
	HotMicroseconds        float64 `json:"hot_us"`        // of the aggregator, to ClickHouse
	ClickHouseMicroseconds float64 `json:"clickhouse_us"` // merges included
}

// Memories are bytes of memory.
type Memories struct {
	DedupeBytesPerEvent  float64 `json:"dedupe_bytes_per_event"` // of the window (docs/decisions/0018)
	AggregatorPeakMBytes float64 `json:"aggregator_peak_mb"`     // README.md
}

// ParseMeasured reads a file of figures. Every figure must be there.
func ParseMeasured(text []byte) (*Measured, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	var m Measured
	if err := dec.Decode(&m); err != nil {
		return nil, fmt.Errorf("measured: %w", err)
	}
	for _, s := range signal.All {
		h, ok := m.Hops.Signals[s.String()]
		if !ok {
			return nil, fmt.Errorf("measured: hops: no %s", s)
		}
		for name, v := range h.all() {
			if v <= 0 {
				return nil, fmt.Errorf("measured: hops: %s: %s is %v", s, name, v)
			}
		}
	}
	if len(m.Gateway) == 0 || m.CPU.HotMicroseconds <= 0 || m.CPU.ClickHouseMicroseconds <= 0 || m.Memory.DedupeBytesPerEvent <= 0 || m.Memory.AggregatorPeakMBytes <= 0 {
		return nil, errors.New("measured: want figures of gateways, CPU and memory")
	}
	for _, r := range m.Gateway {
		if r.EventsPerCoreSecond <= 0 {
			return nil, fmt.Errorf("measured: gateway: %s is %v", r.Requests, r.EventsPerCoreSecond)
		}
	}
	return &m, nil
}

// all are the figures by their names in the file.
func (h Hops) all() map[string]float64 {
	text, err := json.Marshal(h)
	out := map[string]float64{}
	if err = errors.Join(err, json.Unmarshal(text, &out)); err != nil {
		panic(err) // a struct of numbers
	}
	return out
}

// mixed is the mean of the signals' figures, by their shares of the events. CPU is README.md's of logs, by the run's ratios: to logs, and of the lake to ClickHouse.
func (m *Measured) mixed(mix map[string]float64) (out Hops) {
	add := func(to *float64, share, v float64) { *to += share * v }
	for name, share := range mix {
		h := m.Hops.Signals[name]
		add(&out.JSONBytes, share, h.JSONBytes)
		add(&out.ProtobufBytes, share, h.ProtobufBytes)
		add(&out.WireBytes, share, h.WireBytes)
		add(&out.KafkaBytes, share, h.KafkaBytes)
		add(&out.InsertBytes, share, h.InsertBytes)
		add(&out.ClickHouseBytes, share, h.ClickHouseBytes)
		add(&out.LakeBytes, share, h.LakeBytes)
		add(&out.GatewayMicroseconds, share, h.GatewayMicroseconds)
		add(&out.HotMicroseconds, share, h.HotMicroseconds)
		add(&out.ClickHouseMicroseconds, share, h.ClickHouseMicroseconds)
		add(&out.LakeMicroseconds, share, h.LakeMicroseconds)
		add(&out.ScanNanoseconds, share, h.ScanNanoseconds)
	}
	logs := m.Hops.Signals[signal.Logs.String()]
	hot := m.CPU.HotMicroseconds / logs.HotMicroseconds
	out.GatewayMicroseconds *= 1e6 / m.Gateway[0].EventsPerCoreSecond / logs.GatewayMicroseconds
	out.HotMicroseconds, out.LakeMicroseconds = out.HotMicroseconds*hot, out.LakeMicroseconds*hot
	out.ClickHouseMicroseconds *= m.CPU.ClickHouseMicroseconds / logs.ClickHouseMicroseconds
	return out
}

// requestFactor is how much more CPU an event costs a gateway when it comes in each of the kinds of requests of the table equally often, than in those of the first row.
func (m *Measured) requestFactor() float64 {
	sum := 0.0
	for _, r := range m.Gateway {
		sum += 1 / r.EventsPerCoreSecond
	}
	return sum / float64(len(m.Gateway)) * m.Gateway[0].EventsPerCoreSecond
}

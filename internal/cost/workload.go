package cost

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Workload is what a deployment takes in, keeps and is asked, with what is assumed of it. deploy/cost/scenarios.yaml says what each field is.
type Workload struct {
	Title   string             `yaml:"title"`
	Regions map[string]float64 `yaml:"regions"`

	EventsPerSecond     float64            `yaml:"events_per_second"`
	PeakEventsPerSecond float64            `yaml:"peak_events_per_second"`
	PeakShare           float64            `yaml:"peak_share"`
	RawBytesPerEvent    float64            `yaml:"raw_bytes_per_event"`
	RawCountedAs        string             `yaml:"raw_counted_as"`
	Growth              float64            `yaml:"growth"`
	Mix                 map[string]float64 `yaml:"mix"`
	Tenants             int                `yaml:"tenants"`
	LargestTenant       float64            `yaml:"largest_tenant"`

	KafkaHours       float64 `yaml:"kafka_hours"`
	HotDays          float64 `yaml:"hot_days"`
	HotCopies        int     `yaml:"hot_copies"`
	HotLocalHours    float64 `yaml:"hot_local_hours"`
	LakeDays         float64 `yaml:"lake_days"`
	LakeStandardDays float64 `yaml:"lake_standard_days"`
	LakeCold         string  `yaml:"lake_cold"`
	LakeDeepDays     float64 `yaml:"lake_deep_days"`

	DashboardQueries float64 `yaml:"dashboard_queries_per_second"`
	DashboardRows    float64 `yaml:"rows_per_dashboard_query"`
	AdhocQueries     float64 `yaml:"adhoc_queries_per_second"`
	AdhocRows        float64 `yaml:"rows_per_adhoc_query"`
	LakeScanTB       float64 `yaml:"lake_scan_tb"`
	S3Gets           float64 `yaml:"s3_gets_per_second"`

	VCPUPerCore           float64 `yaml:"vcpu_per_core"`
	GatewayUtilisation    float64 `yaml:"gateway_utilisation"`
	AggregatorUtilisation float64 `yaml:"aggregator_utilisation"`
	ClickHouseUtilisation float64 `yaml:"clickhouse_utilisation"`
	CatchUp               float64 `yaml:"catch_up"`
	GatewayTask           Task    `yaml:"gateway_task"`
	AggregatorTask        Task    `yaml:"aggregator_task"`
	DedupeWindow          float64 `yaml:"dedupe_window_seconds"`
	SmallServices         float64 `yaml:"small_services_vcpu"`
	Compaction            float64 `yaml:"compaction"`
	EC2Discount           float64 `yaml:"ec2_discount"`
	FargateDiscount       float64 `yaml:"fargate_discount"`

	KafkaKind        string  `yaml:"kafka_kind"`
	KafkaUtilisation float64 `yaml:"kafka_utilisation"`
	FollowerFetch    bool    `yaml:"follower_fetch"`
	LocalProduce     float64 `yaml:"local_produce"`

	HotKind            string  `yaml:"hot_kind"`
	HotInZone          float64 `yaml:"hot_in_zone"`
	Rollups            float64 `yaml:"rollups"`
	WriteAmplification float64 `yaml:"write_amplification"`
	DiskSlack          float64 `yaml:"disk_slack"`
	MovedObjectMiB     float64 `yaml:"moved_object_mib"`
	LakeObjectMiB      float64 `yaml:"lake_object_mib"`
	LakeCommitSeconds  float64 `yaml:"lake_commit_seconds"`
	LakePutsPerCommit  float64 `yaml:"lake_puts_per_commit"`

	ResponseShare   float64 `yaml:"response_share"`
	CrossRegionGiB  float64 `yaml:"cross_region_gib"`
	SeriesPerTask   float64 `yaml:"series_per_task"`
	ScrapeSeconds   float64 `yaml:"scrape_seconds"`
	LogGiBPerTask   float64 `yaml:"log_gib_per_task"`
	Editors         float64 `yaml:"dashboard_editors"`
	Viewers         float64 `yaml:"dashboard_viewers"`
	Endpoints       float64 `yaml:"endpoints"`
	TemporalActions float64 `yaml:"temporal_actions"`
	Miscellaneous   float64 `yaml:"miscellaneous_usd"`
}

// Task is the size of a Fargate task.
type Task struct {
	VCPU float64 `yaml:"vcpu"`
	GiB  float64 `yaml:"gib"`
}

// Change is a workload that differs from another in a few fields.
type Change struct {
	What  string         `yaml:"what"`
	Costs string         `yaml:"costs"` // of a lever: what is given up
	Set   map[string]any `yaml:"set"`   // by the fields' names; "x0.8": so many times what it was
}

// Scenarios is deploy/cost/scenarios.yaml.
type Scenarios struct {
	Names       []string
	Sensitivity []Change
	Levers      []Change

	of map[string]Workload
}

// ParseScenarios reads a file of scenarios, strictly.
func ParseScenarios(text []byte) (*Scenarios, error) {
	var file struct {
		Defaults    map[string]any            `yaml:"defaults"`
		Scenarios   map[string]map[string]any `yaml:"scenarios"`
		Sensitivity []Change                  `yaml:"sensitivity"`
		Levers      []Change                  `yaml:"levers"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil {
		return nil, fmt.Errorf("scenarios: %w", err)
	}
	if len(file.Scenarios) == 0 {
		return nil, errors.New("scenarios: there is none")
	}
	s := &Scenarios{Names: slices.Sorted(maps.Keys(file.Scenarios)), Sensitivity: file.Sensitivity, Levers: file.Levers, of: map[string]Workload{}}
	defaults, err := Workload{}.With(file.Defaults)
	if err != nil {
		return nil, fmt.Errorf("scenarios: defaults: %w", err)
	}
	for name, set := range file.Scenarios {
		w, err := defaults.With(set)
		if err == nil {
			err = w.Validate()
		}
		if err != nil {
			return nil, fmt.Errorf("scenarios: %s: %w", name, err)
		}
		for _, c := range append(slices.Clone(s.Sensitivity), s.Levers...) {
			changed, err := w.With(c.Set)
			if err == nil {
				err = changed.Validate()
			}
			if err != nil {
				return nil, fmt.Errorf("scenarios: %s: %s: %w", name, c.What, err)
			}
		}
		s.of[name] = w
	}
	return s, nil
}

// Workload returns a scenario's.
func (s *Scenarios) Workload(name string) (Workload, error) {
	w, ok := s.of[name]
	if !ok {
		return w, fmt.Errorf("there is no scenario %q: want one of %s", name, strings.Join(s.Names, ", "))
	}
	return w, nil
}

// With returns the workload with some fields set. A map replaces the map that was there. A text "x0.8" multiplies a number.
func (w Workload) With(set map[string]any) (Workload, error) {
	set = maps.Clone(set)
	now := map[string]any{}
	text, err := yaml.Marshal(w)
	if err = errors.Join(err, yaml.Unmarshal(text, &now)); err != nil {
		return w, err
	}
	for name, v := range set {
		factor, isFactor := strings.CutPrefix(fmt.Sprint(v), "x")
		if !isFactor {
			continue
		}
		f, err := strconv.ParseFloat(factor, 64)
		if err != nil {
			return w, fmt.Errorf("%s: %q: want x and a number", name, v)
		}
		was, err := strconv.ParseFloat(fmt.Sprint(now[name]), 64)
		if err != nil {
			return w, fmt.Errorf("%s: is no number that could be multiplied", name)
		}
		set[name] = was * f
	}
	for _, name := range []string{"regions", "mix"} { // decoding would add to them
		if set[name] != nil {
			now[name] = nil
		}
	}
	maps.Copy(now, set)
	if text, err = yaml.Marshal(now); err != nil {
		return w, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	var out Workload
	if err := dec.Decode(&out); err != nil && !errors.Is(err, io.EOF) {
		return w, err
	}
	return out, nil
}

// Validate names each field that the model cannot reckon with.
func (w Workload) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	shares := func(name string, of map[string]float64) {
		sum := 0.0
		for _, v := range of {
			sum += v
			if v < 0 {
				fail("%s: %v is negative", name, v)
			}
		}
		if sum < 0.999 || sum > 1.001 {
			fail("%s: the shares add up to %v, want 1", name, sum)
		}
	}
	shares("regions", w.Regions)
	shares("mix", w.Mix)
	for name := range w.Mix {
		if _, err := signal.Parse(name); err != nil {
			fail("mix: %w", err)
		}
	}
	for name, v := range map[string]float64{
		"events_per_second": w.EventsPerSecond, "peak_events_per_second": w.PeakEventsPerSecond, "raw_bytes_per_event": w.RawBytesPerEvent, "kafka_hours": w.KafkaHours,
		"hot_days": w.HotDays, "lake_days": w.LakeDays, "vcpu_per_core": w.VCPUPerCore, "gateway_utilisation": w.GatewayUtilisation, "tenants": float64(w.Tenants),
		"aggregator_utilisation": w.AggregatorUtilisation, "clickhouse_utilisation": w.ClickHouseUtilisation, "catch_up": w.CatchUp, "kafka_utilisation": w.KafkaUtilisation,
		"gateway_task::vcpu": w.GatewayTask.VCPU, "gateway_task::gib": w.GatewayTask.GiB, "aggregator_task::vcpu": w.AggregatorTask.VCPU, "aggregator_task::gib": w.AggregatorTask.GiB,
		"moved_object_mib": w.MovedObjectMiB, "lake_object_mib": w.LakeObjectMiB, "lake_commit_seconds": w.LakeCommitSeconds, "scrape_seconds": w.ScrapeSeconds, "disk_slack": w.DiskSlack,
	} {
		if !(v > 0) {
			fail("%s: %v: want more than zero", name, v)
		}
	}
	for name, v := range map[string]float64{
		"peak_share": w.PeakShare, "largest_tenant": w.LargestTenant, "ec2_discount": w.EC2Discount, "fargate_discount": w.FargateDiscount, "local_produce": w.LocalProduce,
		"hot_in_zone": w.HotInZone, "growth": w.Growth, "response_share": w.ResponseShare,
	} {
		if !(v >= 0 && v <= 1) {
			fail("%s: %v: want 0 to 1", name, v)
		}
	}
	if w.HotCopies < 1 {
		fail("hot_copies: %d: want at least 1", w.HotCopies)
	}
	if w.PeakEventsPerSecond < w.EventsPerSecond {
		fail("peak_events_per_second: %v is below events_per_second", w.PeakEventsPerSecond)
	}
	for name, v := range map[string][3]string{"raw_counted_as": {w.RawCountedAs, "json", "protobuf"}, "kafka_kind": {w.KafkaKind, kafkaExpress, kafkaStandard}, "hot_kind": {w.HotKind, hotSelf, hotCloud}} {
		if v[0] != v[1] && v[0] != v[2] {
			fail("%s: %q: want %s or %s", name, v[0], v[1], v[2])
		}
	}
	return errors.Join(errs...)
}

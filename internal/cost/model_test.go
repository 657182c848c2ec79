package cost

import (
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func workload(t *testing.T, name string) (Workload, *Scenarios, *Measured, *PriceFile) {
	t.Helper()
	s, m, p := data(t)
	w, err := s.Workload(name)
	require.NoError(t, err)
	return w, s, m, p
}

func line(t *testing.T, b *Bill, region, item string) Line {
	t.Helper()
	for _, l := range b.Lines {
		if l.Region == region && l.Item == item {
			return l
		}
	}
	require.Failf(t, "no line", "%s in %s", item, region)
	return Line{}
}

// Guarantees: the scenarios are those that were asked for: 93 and 200 TB of raw bytes a day, in three regions, two hot copies.
func TestScenariosHaveTheirVolumes(t *testing.T) {
	for name, tb := range map[string]float64{"a": 93, "b": 200} {
		w, _, _, _ := workload(t, name)
		require.InDelta(t, tb, w.EventsPerSecond*86400*w.RawBytesPerEvent/1e12, 0.5)
		require.Equal(t, 2, w.HotCopies)
		require.Len(t, w.Regions, 3)
	}
}

// Guarantees: lines that can be reckoned by hand are what one gets by hand, from round figures.
func TestABillByHand(t *testing.T) {
	w, _, m, p := workload(t, "a")
	round := Hops{JSONBytes: 1000, ProtobufBytes: 500, WireBytes: 100, KafkaBytes: 100, InsertBytes: 200, ClickHouseBytes: 100, LakeBytes: 50,
		GatewayMicroseconds: 10, HotMicroseconds: 10, ClickHouseMicroseconds: 20, LakeMicroseconds: 10, ScanNanoseconds: 10}
	m.Hops.Signals = map[string]Hops{"logs": round, "metrics": round, "traces": round}
	m.CPU = CPU{HotMicroseconds: 10, ClickHouseMicroseconds: 20} // the run was as quick as README.md's
	w, err := w.With(map[string]any{
		"regions": map[string]any{"us-east-1": 1}, "events_per_second": 1e6, "peak_events_per_second": 3e6, "raw_bytes_per_event": 2000, "kafka_hours": 24, "hot_days": 10, "rollups": 0,
		"lake_days": 100, "lake_standard_days": 10, "lake_deep_days": 60, "local_produce": 0.5, "hot_in_zone": 1, "ec2_discount": 0, "fargate_discount": 0, "compaction": 0,
		"dashboard_queries_per_second": 10, "rows_per_dashboard_query": 1e7, "adhoc_queries_per_second": 0,
	})
	require.NoError(t, err)
	b, err := Reckon(w, m, p)
	require.NoError(t, err)
	const region = "us-east-1"
	require.InDelta(t, 2, b.Event.Growth, 1e-9, "2,000 bytes instead of 1,000")
	require.InDelta(t, 200, b.Event.KafkaBytes, 1e-9)

	gibMonth := 1e6 * 730 * 3600 * 200 / math.Pow(2, 30) // of 200 B an event
	require.InDelta(t, gibMonth*0.006, line(t, b, region, "load balancer, capacity").USD, 1)
	require.InDelta(t, gibMonth*0.01, line(t, b, region, "data in").USD, 1)
	require.InDelta(t, gibMonth*0.5*0.02, line(t, b, region, "gateway to broker across zones").USD, 1)
	gibDay := 1e6 * 86400 / math.Pow(2, 30) // of 1 B an event
	require.InDelta(t, gibDay*200*0.10, line(t, b, region, "storage").USD, 1, "Kafka, 24 h")
	// Peak: 3 M/s x 200 B are 572 MiB/s. At 0.75 of 31.2 MiB/s a broker that is 24.5, so 27 of size xlarge; of large ones it would be 51, beyond 30; 15 of 2xlarge cost more.
	require.InDelta(t, 27*0.816*730, line(t, b, region, "brokers").USD, 1)

	standard := 2*10*200*gibDay + 10*100*gibDay               // two hot copies, and the lake
	mean := (51200*0.023 + (standard-51200)*0.022) / standard // the third tier begins at 512,000 GiB
	require.InDelta(t, 2*10*200*gibDay*mean, line(t, b, region, "rows in S3").USD, 1)
	require.InDelta(t, 10*100*gibDay*mean, line(t, b, region, "files in S3 Standard").USD, 1)
	require.InDelta(t, 50*100*gibDay*0.004, line(t, b, region, "files in s3.glacier_ir").USD, 1)
	require.InDelta(t, 40*100*gibDay*0.00099, line(t, b, region, "files in s3.deep_archive").USD, 1)

	// ClickHouse: 1 M/s x 40 us x 1.5 = 60 cores, and half of 10 x 1e7 x 10 ns = 1 core; x 1.5 / 0.6 = 151 vCPU a copy: two shards of 96 vCPU.
	servers := line(t, b, region, "servers")
	require.InDelta(t, 2*2*6*0.9426*730, servers.USD, 1)
	require.Zero(t, line(t, b, region, "inserts across zones").USD)

	sum := 0.0
	for _, l := range b.Lines {
		require.GreaterOrEqual(t, l.USD, 0., l.Item)
		require.NotContains(t, l.Inputs, "%!", "a format and its arguments")
		sum += l.USD
	}
	require.InDelta(t, sum, b.USD, 1e-6)
	for _, key := range []func(Line) string{func(l Line) string { return l.Component }, func(l Line) string { return l.Region }} {
		total := 0.0
		for _, v := range b.By(key) {
			total += v
		}
		require.InDelta(t, b.USD, total, 1e-6)
	}
	for _, l := range b.Lines {
		require.Contains(t, Components, l.Component)
	}
}

// Guarantees: more of anything is never cheaper.
func TestMoreCostsMore(t *testing.T) {
	w, _, m, p := workload(t, "a")
	base, err := Reckon(w, m, p)
	require.NoError(t, err)
	for name, v := range map[string]any{
		"events_per_second": "x1.5", "peak_events_per_second": "x1.5", "raw_bytes_per_event": "x1.5", "kafka_hours": "x2", "hot_days": "x2", "hot_copies": 3, "lake_days": "x2",
		"lake_standard_days": "x2", "dashboard_queries_per_second": "x20", "vcpu_per_core": "x2", "ec2_discount": 0, "fargate_discount": 0, "follower_fetch": false, "hot_in_zone": 0,
		"local_produce": 0, "lake_scan_tb": "x2", "endpoints": "x2", "temporal_actions": "x2", "series_per_task": "x2", "compaction": 2, "rollups": 0.2, "disk_slack": 3, "dedupe_window_seconds": "x20",
	} {
		more, err := w.With(map[string]any{name: v})
		require.NoError(t, err)
		b, err := Reckon(more, m, p)
		require.NoError(t, err, name)
		require.Greater(t, b.USD, base.USD, name)
	}
}

func TestAWorkloadThatIsWrongIsRefused(t *testing.T) {
	w, _, m, p := workload(t, "a")
	for want, set := range map[string]map[string]any{
		"regions: the shares add up": {"regions": map[string]any{"us-east-1": 0.5}},
		"peak_events_per_second":     {"peak_events_per_second": 1},
		"kafka_kind":                 {"kafka_kind": "serverless"},
		"hot_copies":                 {"hot_copies": 0},
		"vcpu_per_core":              {"vcpu_per_core": 0},
		"ec2_discount":               {"ec2_discount": 2},
		"mix: unknown signal":        {"mix": map[string]any{"profiles": 1}},
		"in moon-1":                  {"regions": map[string]any{"moon-1": 1}},
	} {
		changed, err := w.With(set)
		require.NoError(t, err)
		_, err = Reckon(changed, m, p)
		require.ErrorContains(t, err, want)
	}
	for want, set := range map[string]map[string]any{"field unheard not found": {"unheard": 1}, "want x and a number": {"hot_days": "xyz"}, "cannot unmarshal": {"hot_days": "long"}} {
		_, err := w.With(set)
		require.ErrorContains(t, err, want)
	}
	_, err := ParseScenarios([]byte("scenarios: {}"))
	require.Error(t, err)
}

func TestPricesAreChecked(t *testing.T) {
	good := `{"note":"","prices":[{"name":"a","unit":"h","regions":{"r":{"tiers":[{"usd":2,"upto":10},{"usd":1}],"source":"s","date":"2026-01-01","status":"read"}}}]}`
	f, err := ParsePrices([]byte(good))
	require.NoError(t, err)
	q := f.Find("a").Regions["r"]
	for amount, want := range map[float64]float64{0: 0, 5: 10, 10: 20, 15: 25} {
		require.InDelta(t, want, q.Of(amount), 1e-9)
	}
	for _, change := range [][2]string{
		{`"status":"read"`, `"status":"guessed"`}, {`"source":"s"`, `"source":""`}, {`2026-01-01`, `yesterday`}, {`,{"usd":1}`, ``}, {`"upto":10`, `"upto":0`}, {`"usd":2`, `"usd":-2`}, {`"unit":"h"`, `"unit":""`},
	} {
		_, err := ParsePrices([]byte(strings.Replace(good, change[0], change[1], 1)))
		require.Error(t, err, change[1])
	}
}

// offers serves testdata as AWS serves its price list, with what is not there answered 404.
func offers(t *testing.T) func(string) (io.ReadCloser, error) {
	t.Helper()
	server := httptest.NewServer(http.FileServer(http.Dir(filepath.Join("testdata"))))
	t.Cleanup(server.Close)
	return OverHTTP(t.Context(), server.Client(), server.URL)
}

// Guarantees: prices come from the offer file with its date; those that it has not, has twice, or has by another unit stay, and are named.
func TestRefresh(t *testing.T) {
	quote := func(tiers ...Tier) *Quote {
		return &Quote{Tiers: tiers, Source: "before", Date: "2020-01-01", Status: StatusUnverified}
	}
	msk := func(usage string) *Offer {
		return &Offer{Service: "AmazonMSK", Attributes: map[string]string{"usagetype": "(.+-)?Kafka\\.m7g\\." + usage}, Unit: "Hrs", Scale: 1}
	}
	s3 := func(usage, unit string, scale float64) *Offer {
		return &Offer{Service: "AmazonS3", Attributes: map[string]string{"usagetype": "(.+-)?" + usage}, Unit: unit, Scale: scale}
	}
	f := &PriceFile{Prices: []*Price{
		{Name: "large", Unit: "h", Offer: msk("large"), Regions: map[string]*Quote{"us-east-1": quote(Tier{USD: 9})}},
		{Name: "xlarge", Unit: "h", Offer: msk("xlarge"), Regions: map[string]*Quote{"us-east-1": quote(Tier{USD: 9})}},
		{Name: "huge", Unit: "h", Offer: msk("huge"), Regions: map[string]*Quote{"us-east-1": quote(Tier{USD: 9})}},
		{Name: "standard", Unit: "GiB", Offer: s3("TimedStorage-ByteHrs", "GB-Mo", 1), Regions: map[string]*Quote{"eu-central-1": quote(Tier{USD: 9})}},
		{Name: "put", Unit: "thousand", Offer: s3("Requests-Tier1", "Requests", 1000), Regions: map[string]*Quote{"eu-central-1": quote(Tier{USD: 9})}},
		{Name: "ia", Unit: "GiB", Offer: s3("TimedStorage-SIA-ByteHrs", "GB-Mo", 1), Regions: map[string]*Quote{"eu-central-1": quote(Tier{USD: 9})}},
		{Name: "other", Unit: "h", Regions: map[string]*Quote{"us-east-1": quote(Tier{USD: 9})}},
	}}
	found, err := f.Refresh(offers(t))
	require.NoError(t, err)
	problems := map[string]string{}
	for _, finding := range found {
		problems[finding.Name] = finding.Problem
	}
	require.Len(t, problems, 6, "a price without an offer is not looked for")
	require.Empty(t, problems["large"]+problems["standard"]+problems["put"])
	require.Contains(t, problems["xlarge"], "2 products match, with different prices: AAAA0002, AAAA0003")
	require.Contains(t, problems["huge"], "no product matches")
	require.Contains(t, problems["ia"], `its unit is "Objects"`)
	require.Equal(t, &Quote{Tiers: []Tier{{USD: 0.21}}, Source: "AWS price list, offers/v1.0/aws/AmazonMSK/current/us-east-1/index.json", Date: "2026-09-01", Status: StatusOffer},
		f.Find("large").Regions["us-east-1"])
	require.Equal(t, []Tier{{USD: 0.0245, Upto: 51200}, {USD: 0.0235, Upto: 512000}, {USD: 0.0225}}, f.Find("standard").Regions["eu-central-1"].Tiers)
	require.InDelta(t, 0.0054, f.Find("put").Regions["eu-central-1"].Tiers[0].USD, 1e-12, "a thousand requests")
	for _, name := range []string{"xlarge", "huge", "other"} {
		require.Equal(t, quote(Tier{USD: 9}), f.Find(name).Regions["us-east-1"])
	}

	missing := &PriceFile{Prices: []*Price{{Name: "x", Unit: "h", Offer: &Offer{Service: "AmazonNone", Attributes: map[string]string{"a": "b"}, Unit: "h", Scale: 1}, Regions: map[string]*Quote{"us-east-1": quote(Tier{})}}}}
	_, err = missing.Refresh(offers(t))
	require.ErrorContains(t, err, "404")
	for _, text := range []string{"", "[]", `{"publicationDate":"2026-01-01T00:00:00Z"}`, `{"terms":{},"products":{}}`, `{"products":{"A":{}}`, `{"publicationDate":"x","products":{}}`} {
		_, err := f.Refresh(func(string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil })
		require.Error(t, err, text)
	}
}

// Guarantees: what refresh writes can be read, and keeps what it does not know better.
func TestARefreshedFileIsReadAgain(t *testing.T) {
	_, _, p := data(t)
	path := filepath.Join(t.TempDir(), "prices.json")
	require.NoError(t, p.Write(path))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	again, err := ParsePrices(text)
	require.NoError(t, err)
	require.Equal(t, p, again)
}

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	costdata "github.com/pulsegrid/pulsegrid/deploy/cost"
)

// Guarantees: the printed bill is the model's, in each form; a changed workload changes it.
func TestCostPrintsTheBill(t *testing.T) {
	var bill struct {
		USD   float64 `json:"usd"`
		Lines []struct {
			USD float64 `json:"usd"`
		} `json:"lines"`
	}
	require.NoError(t, json.Unmarshal([]byte(ends(t, 0, "cost", "--json")), &bill))
	sum := 0.0
	for _, l := range bill.Lines {
		sum += l.USD
	}
	require.InDelta(t, bill.USD, sum, 0.01)
	whole := bill.USD
	require.NoError(t, json.Unmarshal([]byte(ends(t, 0, "cost", "--json", "--set", "hot_days=x0.5", "--set", "mix={logs: 0.5, metrics: 0.3, traces: 0.2}")), &bill))
	require.Less(t, bill.USD, whole)
	for by, want := range map[string]string{"component": "hot store", "item": "rows in S3", "count": "r8g."} {
		out := ends(t, 0, "cost", "--scenario", "b", "--by", by)
		require.Contains(t, out, want)
		require.Contains(t, out, "200 TB/day")
	}
	require.Contains(t, ends(t, 0, "cost", "what-if"), "Deep Archive after 90 days")
}

func TestCostRefusesWhatItCannotReckonWith(t *testing.T) {
	for want, args := range map[string][]string{
		`no scenario "c"`: {"--scenario", "c"}, "want NAME=VALUE": {"--set", "hot_days"}, "field hot not found": {"--set", "hot=1"}, "hot_copies: 0": {"--set", "hot_copies=0"},
		`--by "x"`: {"--by", "x"}, "is not a tenant id": {"--tenant", "a b"}, "--window 1s": {"--tenant", "a", "--window", "1s"}, "--sample 1:": {"--tenant", "a", "--sample", "1"},
		"--services 0": {"--tenant", "a", "--services", "0"},
	} {
		require.Contains(t, ends(t, exitUsage, append([]string{"cost"}, args...)...), want)
	}
	require.Contains(t, ends(t, exitNotRunning, "cost", "--tenant", "a", "--data", t.TempDir()), "pulsegrid local")
	require.Contains(t, ends(t, exitFailed, "cost", "--prices", filepath.Join(t.TempDir(), "none")), "no such file")
	require.Contains(t, ends(t, exitUsage, "cost", "refresh"), "--prices")
}

// Guarantees: a refresh writes what the price list has, says what it has not found and then fails; without a price list nothing is written.
func TestRefreshedPricesAreWritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "prices.json")
	require.NoError(t, os.WriteFile(path, costdata.Prices, 0o600))
	require.Contains(t, ends(t, exitFailed, "cost", "refresh", "--prices", path, "--from", "file://"+dir), "nothing was written")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(costdata.Prices), string(text))

	const list = `{"publicationDate":"2026-10-01T00:00:00Z","products":{"A":{"attributes":{"usagetype":"Requests-Tier1"}}},
		"terms":{"OnDemand":{"A":{"A.T":{"priceDimensions":{"A.T.1":{"unit":"Requests","beginRange":"0","endRange":"Inf","pricePerUnit":{"USD":"0.000007"}}}}}}}}`
	var file struct {
		Prices []struct {
			Offer   *struct{ Service string }
			Regions map[string]any
		}
	}
	require.NoError(t, json.Unmarshal(costdata.Prices, &file))
	for _, p := range file.Prices {
		for region := range p.Regions {
			if p.Offer != nil {
				at := filepath.Join(dir, "offers", "v1.0", "aws", p.Offer.Service, "current", region)
				require.NoError(t, os.MkdirAll(at, 0o700))
				require.NoError(t, os.WriteFile(filepath.Join(at, "index.json"), []byte(list), 0o600))
			}
		}
	}
	out := ends(t, exitFailed, "cost", "refresh", "--prices", path, "--from", "file://"+dir)
	require.Contains(t, out, "prices were not found")
	require.Contains(t, out, "no product matches")
	require.Regexp(t, `s3\.put +us-east-1 +0\.005 -> 0\.007`, out)
	item := ends(t, 0, "cost", "--prices", path, "--by", "item")
	require.Contains(t, item, "moves to S3")
	require.NotEqual(t, strings.TrimSpace(ends(t, 0, "cost", "--by", "item")), strings.TrimSpace(item))
}

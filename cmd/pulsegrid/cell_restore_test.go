package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/audit"
	"github.com/pulsegrid/pulsegrid/internal/drain"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
	"github.com/pulsegrid/pulsegrid/internal/testkit/s3test"
)

// replicate copies what a bucket has and another has not, but for objects that are held back.
func replicate(t *testing.T, server *s3test.Server, from, to string, held func(key string) bool) {
	t.Helper()
	client := server.Client()
	for pages := s3.NewListObjectsV2Paginator(client, &s3.ListObjectsV2Input{Bucket: &from}); pages.HasMorePages(); {
		page, err := pages.NextPage(t.Context())
		require.NoError(t, err)
		for _, o := range page.Contents {
			if held(*o.Key) {
				continue
			}
			got, err := client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &from, Key: o.Key})
			require.NoError(t, err)
			content, err := io.ReadAll(got.Body)
			require.NoError(t, err)
			require.NoError(t, got.Body.Close())
			_, err = client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &to, Key: o.Key, Body: strings.NewReader(string(content)), ContentLength: aws.Int64(int64(len(content)))})
			require.NoError(t, err)
		}
	}
}

// Scenario: a cell is lost for good. Its lake was replicated object by object into another bucket; of the newest commits the metadata had arrived, and not all files. Some events had been sent to the
// other cell, too. Its rows are restored there: the job is killed at its steps and run again; then the rest of the replica turns up.
// Guarantees: the other cell has each event of the tenant that the newest whole version of the replica has, once, in every column but the topic's name; other tenants' are not read; what had not arrived
// is told, and restored when it has; running it again changes nothing. Once rollups are built anew the cell's audit is equal. A process elsewhere, a cell that the tenant may not be in, and a replica elsewhere
// are refused.
func TestARestoreFillsAnotherCellFromTheReplica(t *testing.T) {
	s3 := s3test.Start(t)
	t.Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
	lost, into := newRegion(t, "eu-1", s3, false), newRegion(t, "eu-2", s3, false)
	base := time.Now().UTC().Truncate(24 * time.Hour).Add(-12 * time.Hour) // yesterday: its rollups' partitions are over
	both, past := requests(t, "acme", "both", span(0, 5), base, 12, 20), requests(t, "acme", "past", span(0, 10), base, 30, 20)
	lost.acknowledge(base.Add(time.Minute), slices.Concat(both, past, requests(t, "globex", "past", span(0, 5), base, 12, 20))...)
	lost.store(audit.DefaultHotGroup, audit.DefaultLakeGroup)
	into.acknowledge(base.Add(30*time.Minute), slices.Concat(both, requests(t, "acme", "present", span(5, 10), base, 12, 20))...)
	into.store(audit.DefaultHotGroup, audit.DefaultLakeGroup)
	bucket, replica := strings.TrimSuffix(strings.TrimPrefix(lost.warehouse, "s3://"), "/lake"), s3.CreateBucket("replica")
	replicate(t, s3, bucket, replica, func(string) bool { return false })
	had := lost.inHot()
	lost.acknowledge(base.Add(2*time.Minute), requests(t, "acme", "newest", span(0, 5), base, 12, 20)...)
	lost.store(audit.DefaultHotGroup, audit.DefaultLakeGroup)
	replicate(t, s3, bucket, replica, func(key string) bool { return strings.HasSuffix(key, ".parquet") })
	all := lost.inHot()

	dir := t.TempDir()
	cells, tenants := filepath.Join(dir, "cells.yaml"), filepath.Join(dir, "tenants")
	list := func(more string) {
		require.NoError(t, os.WriteFile(cells, []byte(fmt.Sprintf(`cells:
  - {name: eu-1, jurisdiction: eu, state: %s, gateways: ['http://127.0.0.1:1'], kafka: {brokers: ['127.0.0.1:1']}, copies: [{url: 's3://%s?prefix=lake/&region=%s&endpoint=%s&use_path_style=true', of: lake%s}]}
  - {name: eu-2, jurisdiction: eu, state: %[1]s/eu-2, gateways: ['http://127.0.0.1:2'], kafka: {brokers: [%[6]q]}, aggregator: [%[7]s]}
`, dir, replica, s3test.Region, s3.Endpoint, more, into.brokers, into.config)), 0o600))
	}
	list("")
	require.NoError(t, os.Mkdir(tenants, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(tenants, "t.yaml"), []byte(`
jurisdictions: {eu: {endpoint: "https://ingest.eu.example.com"}}
cells: {eu-1: {jurisdiction: eu, endpoint: "https://eu-1.example.com"}, eu-2: {jurisdiction: eu, endpoint: "https://eu-2.example.com"}}
tenants: [{id: acme, jurisdiction: eu, home: eu-1, cells: [eu-1, eu-2]}, {id: globex, jurisdiction: eu, home: eu-1, cells: [eu-1]}]
`), 0o600))
	restore := func(more ...string) []string {
		return append([]string{"cell", "restore", "eu-1", "--into", "eu-2", "--cells", cells, "--tenant", "acme", "--from", base.Format(time.RFC3339), "--tenants", tenants, "--jurisdiction", "eu"}, more...)
	}
	was, rest := into.inHot(), into.whole("1")
	require.Contains(t, ends(t, exitUsage, restore("--jurisdiction", "us")...), "not allowed: this process is in us")
	require.Contains(t, ends(t, exitUsage, restore("--tenant", "globex")...), `tenant "globex" may be in eu-1, and not in eu-2`)
	require.Contains(t, ends(t, exitUsage, restore("--tenant", "unknown")...), "where its data may be is not known")
	list(", jurisdiction: us")
	require.Contains(t, ends(t, exitUsage, restore()...), "the copy of the lake of cell eu-1 is in us")
	list("")

	missing := 30 * 20
	require.Contains(t, ends(t, 0, restore("--dry-run")...), fmt.Sprintf("%d rows of acme would be restored: nothing was changed\n", missing))
	require.Equal(t, was, into.inHot())
	for _, step := range []string{"replay-read", "replay-staged", "replay-attached"} {
		killedAt(t, step+"=kill", restore("--quiet")...)
	}
	said := ends(t, exitFailed, restore()...)
	require.Regexp(t, fmt.Sprintf(`logs +%s\S+ +[1-9]\d* `, base.Format("2006")), said, "versions that are not whole are told")
	require.Contains(t, said, rollupsAdvice)
	want := maps.Clone(was)
	for key, rows := range had {
		if strings.HasSuffix(key, " acme past") {
			want[key] = rows
		}
	}
	require.Equal(t, want, into.inHot(), "each event once, with its id")
	require.Equal(t, rest, into.whole("NOT startsWith(kafka_topic, 'cell/')"))
	const but = "SELECT count(), sum(cityHash64(* EXCEPT (kafka_topic))), groupUniqArray(kafka_topic) FROM pulsegrid.logs WHERE tenant_id = 'acme' AND service_name = 'past'"
	require.Equal(t, strings.Replace(lost.hot.Query(but), "'otlp.", "'cell/eu-1/otlp.", 1), into.hot.Query(but))

	ends(t, 0, "job", "run", "rollups", "--config", into.config, "--quiet")
	into.audit(0)
	said = ends(t, 0, restore()...)
	require.Contains(t, said, "0 rows of acme were not in eu-2: 0 were restored")

	replicate(t, s3, bucket, replica, func(string) bool { return false })
	var report restoreReport
	require.NoError(t, json.NewDecoder(strings.NewReader(ends(t, exitFailed, restore("--json", "--quiet")...))).Decode(&report)) // the error follows it
	require.EqualValues(t, 12*20, report.Back)
	require.Zero(t, report.Versions["logs"].Behind)
	for key, rows := range all {
		if strings.HasSuffix(key, " acme newest") {
			want[key] = rows
		}
	}
	require.Equal(t, want, into.inHot())
}

func TestRowsOfALostCellStayWhereTheyMayBe(t *testing.T) {
	cell := func(name, jurisdiction string) *drain.Cell {
		return &drain.Cell{Name: name, Jurisdiction: jurisdiction}
	}
	for name, c := range map[string]struct {
		tenant     tenant.Tenant
		lost, into *drain.Cell
		here, says string
	}{
		"within its jurisdiction":      {tenant.Tenant{ID: "acme", Jurisdiction: "eu"}, cell("eu-1", "eu"), cell("eu-2", "eu"), "eu", ""},
		"a tenant of no jurisdiction":  {tenant.Tenant{ID: "acme"}, cell("us-1", "us"), cell("us-2", "us"), "us", ""},
		"over a border, pinned":        {tenant.Tenant{ID: "acme", Jurisdiction: "eu"}, cell("eu-1", "eu"), cell("us-1", "us"), "us", `must stay in jurisdiction "eu"`},
		"over a border, not pinned":    {tenant.Tenant{ID: "acme"}, cell("eu-1", "eu"), cell("us-1", "us"), "us", "may not leave eu for us"},
		"from elsewhere":               {tenant.Tenant{ID: "acme"}, cell("us-1", "us"), cell("us-2", "us"), "eu", "this process is in eu"},
		"into a cell that is not its":  {tenant.Tenant{ID: "acme", Cells: []string{"eu-1"}}, cell("eu-1", "eu"), cell("eu-2", "eu"), "eu", "may be in eu-1, and not in eu-2"},
		"into the cell that was lost":  {tenant.Tenant{ID: "acme"}, cell("eu-1", "eu"), cell("eu-1", "eu"), "eu", "both lost and filled"},
		"where nobody knows the place": {tenant.Tenant{ID: "acme"}, cell("eu-1", "eu"), cell("eu-2", "eu"), "", "this process is in "},
	} {
		t.Run(name, func(t *testing.T) {
			err := restoreAllowed(&c.tenant, c.lost, c.into, c.here)
			if c.says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.says)
		})
	}
}

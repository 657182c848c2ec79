package guards

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcgzip "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pulsegrid/pulsegrid/integration/rig/markers"
)

// Markers, in all that a tenant sends. That of the cell's own jurisdiction must be found wherever the other's must not: else the search proves nothing.
const (
	markerHere  = "marker-of-america-5d0c3f"
	markerThere = "marker-of-europe-91be27"
)

// marked is a request that has the marker wherever an agent can put it: valid, or violating its schema.
func marked(t *testing.T, marker string, valid bool) plogotlp.ExportRequest {
	t.Helper()
	req := plogotlp.NewExportRequest()
	rl := req.Logs().ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", marker)
	rl.Resource().Attributes().PutStr("pulsegrid.tenant", marker)
	rl.SetSchemaUrl("https://example.com/" + marker)
	sl := rl.ScopeLogs().AppendEmpty()
	sl.Scope().SetName(marker)
	lr := sl.LogRecords().AppendEmpty()
	lr.Body().SetStr(marker)
	lr.SetEventName("order.placed")
	lr.SetSeverityText(marker)
	lr.Attributes().PutStr(marker, marker)
	if valid {
		lr.Attributes().PutInt("amount", 1)
	} else {
		lr.Attributes().PutStr("amount", marker)
	}
	return req
}

// attempt sends once by HTTP and returns the status.
func (c *cell) attempt(t *testing.T, id, marker, path, contentType, encoding string, body []byte) int {
	t.Helper()
	switch encoding {
	case "gzip":
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		_, _ = w.Write(body) // into memory
		_ = w.Close()
		body = out.Bytes()
	case "zstd":
		w, err := zstd.NewWriter(nil)
		require.NoError(t, err)
		body = w.EncodeAll(body, nil)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+c.HTTP+path, bytes.NewReader(body))
	require.NoError(t, err)
	req.Header = http.Header{"Content-Type": {contentType}, "X-Api-Key": {c.keys[id]}, "X-Pulsegrid-Agent": {marker}, "User-Agent": {marker}, "Traceparent": {marker}, "Baggage": {"tenant=" + marker}}
	if encoding != "" {
		req.Header.Set("Content-Encoding", encoding)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	return resp.StatusCode
}

// sendAll sends in every way that there is, and asserts that each attempt is answered with the status that is wanted of it: want, or of what cannot be
// taken anyway 400.
func (c *cell) sendAll(t *testing.T, id, marker string, want int, code codes.Code) {
	t.Helper()
	bad := want
	if want == http.StatusOK {
		bad = http.StatusBadRequest
	}
	valid, invalid := marked(t, marker, true), marked(t, marker, false)
	for _, req := range []plogotlp.ExportRequest{valid, invalid} {
		body, err := req.MarshalProto()
		require.NoError(t, err)
		text, err := req.MarshalJSON()
		require.NoError(t, err)
		for _, encoding := range []string{"", "gzip", "zstd"} {
			require.Equal(t, want, c.attempt(t, id, marker, "/v1/logs", "application/x-protobuf", encoding, body), encoding)
			require.Equal(t, want, c.attempt(t, id, marker, "/v1/logs", "application/json", encoding, text), encoding)
		}
		for _, opts := range [][]grpc.CallOption{nil, {grpc.UseCompressor(grpcgzip.Name)}} {
			conn, err := grpc.NewClient(c.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent(marker))
			require.NoError(t, err)
			ctx := metadata.AppendToOutgoingContext(t.Context(), "x-api-key", c.keys[id], "x-pulsegrid-agent", marker)
			_, err = plogotlp.NewGRPCClient(conn).Export(ctx, req, opts...)
			require.Equal(t, code, status.Code(err), "%v", err)
			require.NoError(t, conn.Close())
		}
	}
	undecodable := []byte("\xff\xff" + marker)
	require.Equal(t, bad, c.attempt(t, id, marker, "/v1/logs", "application/x-protobuf", "", undecodable))
	require.Equal(t, bad, c.attempt(t, id, marker, "/v1/logs", "application/json", "", []byte("{"+marker)))
	legacy := fmt.Sprintf(`[{"type": "log", "service": %[1]q, "message": %[1]q}, {"type": %[1]q}]`, marker)
	require.Equal(t, want, c.attempt(t, id, marker, "/v1/events", "application/json", "gzip", []byte(legacy)))
	large := plogotlp.NewExportRequest() // more than a record may have: it is kept in the object store
	require.NoError(t, large.UnmarshalProto(must(invalid.MarshalProto())))
	large.Logs().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Body().SetStr(strings.Repeat(marker+"\n", 50_000))
	require.Equal(t, want, c.attempt(t, id, marker, "/v1/logs", "application/x-protobuf", "", must(large.MarshalProto())))
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err) // of marshalling into memory
	}
	return b
}

// search names the files below a directory that hold a marker.
func search(t *testing.T, dir, marker string) []string {
	t.Helper()
	files, err := markers.Files(dir, marker)
	require.NoError(t, err)
	return files
}

// hot counts rows of all of ClickHouse's tables, its own logs too, that hold a marker.
func (c *cell) hot(t *testing.T, marker string) (rows int) {
	t.Helper()
	found, err := markers.Rows(c.Rig, marker)
	require.NoError(t, err)
	t.Logf("rows with %s: %v", marker, found)
	for _, n := range found {
		rows += n
	}
	return rows
}

// Scenario: a tenant whose data must stay in Europe sends to an American cell, with valid credentials, in every way that there is: both transports, all
// encodings, JSON, the legacy endpoint; valid, invalid, undecodable and oversized; and while Kafka is down. An American tenant sends the same.
// Guarantees: every request of the first is refused; and where the American's marker is found - Kafka's log, spill, quarantine, the object store of what is
// oversized, ClickHouse, the lake - and anywhere else in all that the cell writes, its debug log and metrics included, the European's is not.
func TestAnotherJurisdictionsDataLeavesNoByteInACell(t *testing.T) {
	c := newCell(t, map[string]string{"GUARDS_CODEC": "none", "GUARDS_LOG": filepath.Join("DIR", "gateway.log")})
	c.startGateway(t)
	require.NoError(t, c.Aggregator.Start(patience))

	c.sendAll(t, "acme", markerHere, http.StatusOK, codes.OK)
	c.sendAll(t, "europe", markerThere, http.StatusForbidden, codes.PermissionDenied)
	require.NoError(t, c.Kafka.Kill(0))
	c.sendAll(t, "acme", markerHere, http.StatusOK, codes.OK)
	c.sendAll(t, "europe", markerThere, http.StatusForbidden, codes.PermissionDenied)
	require.NotEmpty(t, search(t, c.path("spill"), markerHere), "control: spill")
	require.Empty(t, search(t, c.path("spill"), markerThere))
	require.NoError(t, c.Kafka.Restart(0))

	stored := func(table string) int {
		n, err := c.Query("SELECT count() FROM " + table)
		if err != nil {
			return 0 // the table comes with its first rows
		}
		count, err := strconv.Atoi(n)
		require.NoError(t, err)
		return count
	}
	// Most of it are copies of the same few events, of which the stores take one each.
	require.Eventually(t, func() bool { return stored("logs") >= 2 && stored("quarantine") >= 2 && stored("quarantine_pii") >= 3 }, 2*patience, time.Second)
	require.Eventually(t, func() bool { return c.lake(t, "**/*.parquet", markerHere) >= 7 }, 2*patience, time.Second, "control: the lake")

	for _, tier := range []string{"gateway", "aggregator"} {
		text, err := c.Metrics(tier)
		require.NoError(t, err)
		c.write(t, tier+".metrics", text)
		c.write(t, tier+".stderr", map[string]string{"gateway": c.Gateway.Log(), "aggregator": c.Aggregator.Log()}[tier])
	}
	require.Positive(t, c.hot(t, markerHere), "control: ClickHouse")
	require.Zero(t, c.hot(t, markerThere))
	require.Zero(t, c.lake(t, "**/*.parquet", markerThere))
	for _, place := range []string{"cell/kafka", "oversized"} {
		require.NotEmpty(t, search(t, c.path(place), markerHere), "control: %s", place)
	}
	require.Empty(t, search(t, c.dir, markerThere))
	require.NoError(t, c.Close()) // what programs write when they end
	require.Empty(t, search(t, c.dir, markerThere))
}

// lake counts rows with a marker in Parquet files.
func (c *cell) lake(t *testing.T, files, marker string) int {
	t.Helper()
	return markers.Parquet(t, c.path("cell/lake"), files, marker)[marker]
}

// Scenario: the gateway starts and cannot read the registry: it is damaged, or it is not there.
// Guarantees: it takes nothing, says why and that the sender shall come again; Kafka has nothing. Once the registry can be read it takes requests, without
// a restart.
func TestWithAnUnreadableRegistryNothingIsAccepted(t *testing.T) {
	c := newCell(t, nil)
	good, err := os.ReadFile(c.path("tenants/tenants.yaml"))
	require.NoError(t, err)
	body := must(marked(t, markerHere, true).MarshalProto())
	for _, damage := range []func() error{
		func() error { return os.WriteFile(c.path("tenants/tenants.yaml"), good[:len(good)-30], 0o600) },
		func() error { return os.RemoveAll(c.path("tenants")) },
	} {
		require.NoError(t, damage())
		require.NoError(t, c.Gateway.Start(patience))
		for _, id := range []string{"acme", "europe"} {
			require.Equal(t, http.StatusServiceUnavailable, c.attempt(t, id, markerHere, "/v1/logs", "application/x-protobuf", "", body))
		}
		c.write(t, "tenants/tenants.yaml", string(good))
		require.Eventually(t, func() bool {
			return c.attempt(t, "acme", markerHere, "/v1/logs", "application/x-protobuf", "", nil) == http.StatusOK
		}, patience, 200*time.Millisecond)
		require.Equal(t, http.StatusForbidden, c.attempt(t, "europe", markerHere, "/v1/logs", "application/x-protobuf", "", body))
		require.Empty(t, c.records(t, "otlp.logs.v1", "otlp.logs.overflow.v1", "quarantine.v1"))
		require.True(t, c.Gateway.Stop(patience))
	}
}

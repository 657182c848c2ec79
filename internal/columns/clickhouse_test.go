package columns_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

func startEngine(t *testing.T) *chengine.Engine {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	e, err := chengine.Start(ctx, chengine.Options{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, e.Stop(ctx))
	})
	return e
}

func query(t *testing.T, e *chengine.Engine, settings map[string]string, q string, body []byte) []byte {
	t.Helper()
	params := url.Values{}
	if body == nil {
		body = []byte(q)
	} else {
		params.Set("query", q)
	}
	for k, v := range settings {
		params.Set(k, v)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+e.HTTPAddr+"/?"+params.Encode(), bytes.NewReader(body))
	require.NoError(t, err)
	tr := &http.Transport{DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	res, err := (&http.Client{Transport: tr}).Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	out, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode, "%.80s\n%s", q, out)
	return out
}

func arrowStream(t testing.TB, recs ...arrow.RecordBatch) []byte {
	var buf bytes.Buffer
	w := ipc.NewWriter(&buf, ipc.WithSchema(recs[0].Schema()), ipc.WithDictionaryDeltas(false))
	for _, r := range recs {
		require.NoError(t, w.Write(r))
	}
	require.NoError(t, w.Close())
	return buf.Bytes()
}

func TestClickHouseHoldsEveryFieldOfEveryEvent(t *testing.T) {
	e := startEngine(t)
	forEachSignal(t, func(t *testing.T, s signal.Signal) {
		table := columns.ForSignal(s)
		opts := columns.DDLOptions{Database: "pulsegrid", TTLDays: 10_000} // the samples have fixed times
		for range 2 {                                                      // every statement may be run again
			for _, stmt := range table.ClickHouseDDL(opts) {
				query(t, e, nil, stmt, nil)
			}
		}
		mem := checkedMemory(t)
		want, rec := build(t, mem, s)
		defer rec.Release()
		insert := "INSERT INTO pulsegrid." + table.Name + " FORMAT ArrowStream"
		for range 2 { // the same token twice: stored once
			query(t, e, columns.InsertSettings("topic/0/1-2"), insert, arrowStream(t, rec))
		}
		out := query(t, e, nil, "SELECT * FROM pulsegrid."+table.Name+" FORMAT ArrowStream", nil)
		requireSame(t, want, readStream(t, bytes.NewReader(out))...)
	})
}

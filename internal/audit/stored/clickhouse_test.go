package stored

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/columns"
)

// Scenario: ClickHouse breaks an answer off, which may look like its end: at a batch's border, or in a batch.
// Guarantees: rows that did not come are not taken for rows that are not there.
func TestAnAnswerThatBreaksOffIsNoLoss(t *testing.T) {
	rec := logRows(t, 10)
	defer rec.Release()
	var stream bytes.Buffer
	w := ipc.NewWriter(&stream, ipc.WithSchema(rec.Schema()))
	require.NoError(t, w.Write(rec))
	require.NoError(t, w.Close())
	for name, test := range map[string]struct {
		count string
		cut   int
		want  string
	}{
		"whole":              {"10", 0, ""},
		"a batch is missing": {"11", 0, "the answer ended after 10 of 11 rows"},
		"in a batch":         {"10", 500, "Arrow stream"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				sql := make([]byte, 20)
				_, _ = r.Body.Read(sql) // the beginning is enough
				if strings.HasPrefix(string(sql), "SELECT count()") {
					_, _ = w.Write([]byte(test.count + "\n"))
					return
				}
				_, _ = w.Write(stream.Bytes()[:stream.Len()-test.cut])
			}))
			defer server.Close()
			c, err := NewClickHouse(ClickHouseConfig{URL: server.URL, Database: "d"})
			require.NoError(t, err)
			defer c.Close()
			rows := 0
			err = c.Read(t.Context(), Query{Table: columns.Logs, Topic: "t", Content: true, Ranges: []certificate.Range{{Topic: "t", Last: 9}}}, func(_ arrow.RecordBatch, n []int) error {
				rows += len(n)
				return nil
			})
			if test.want == "" {
				require.NoError(t, err)
				require.Equal(t, 10, rows)
				return
			}
			require.ErrorContains(t, err, test.want)
		})
	}
}

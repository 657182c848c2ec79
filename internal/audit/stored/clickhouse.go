package stored

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	errorTextMax     = 1 << 10 // bytes of an answer that an error quotes
	unknownTableCode = 60
	answerTimeout    = 10 * time.Minute // until an answer begins: a sum over all of a table takes its time
	silenceTimeout   = 2 * time.Minute  // between two parts of an answer
)

// ClickHouse asks ClickHouse over HTTP.
type ClickHouse struct {
	config ClickHouseConfig
	base   *url.URL
	http   *http.Client
}

func NewClickHouse(c ClickHouseConfig) (*ClickHouse, error) {
	base, err := url.Parse(c.URL)
	if err != nil || base.Host == "" {
		return nil, fmt.Errorf("ClickHouse URL %q: want http://HOST:PORT", c.URL)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true // Arrow streams are LZ4 already, and gzip would cost both sides more than the rest
	transport.ResponseHeaderTimeout = answerTimeout
	transport.TLSClientConfig = c.TLS.Clone()
	return &ClickHouse{config: c, base: base, http: &http.Client{Transport: transport}}, nil
}

func (c *ClickHouse) Info() certificate.StoreInfo {
	return certificate.StoreInfo{Store: certificate.Hot, Where: c.base.Scheme + "://" + c.base.Host + " database " + c.config.Database, Group: c.config.Group}
}

func (c *ClickHouse) Close() { c.http.CloseIdleConnections() }

// exceptionError is ClickHouse's own refusal.
type exceptionError struct {
	code int
	text string
}

func (e *exceptionError) Error() string { return e.text }

// ask sends a query and returns its answer's body, which the caller closes.
func (c *ClickHouse) ask(ctx context.Context, sql string, params map[string]string, settings ...string) (io.ReadCloser, error) {
	values := url.Values{"database": {c.config.Database}}
	for k, v := range params {
		values.Set("param_"+k, v)
	}
	for i := 0; i+1 < len(settings); i += 2 {
		values.Set(settings[i], settings[i+1])
	}
	u := *c.base
	u.RawQuery = values.Encode()
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(sql))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	if c.config.Username != "" {
		req.Header.Set("X-ClickHouse-User", c.config.Username)
		req.Header.Set("X-ClickHouse-Key", c.config.Password)
	}
	resp, err := c.http.Do(req) //nolint:bodyclose // the caller closes it
	if err != nil {
		cancel(nil)
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // the URL is long and says nothing new
		}
		return nil, fmt.Errorf("ClickHouse at %s does not answer: %w", c.base.Host, err)
	}
	answer := &answer{ReadCloser: resp.Body, ctx: ctx, cancel: cancel}
	answer.silence = time.AfterFunc(silenceTimeout, func() { cancel(errSilent) })
	if resp.StatusCode == http.StatusOK {
		return answer, nil
	}
	defer answer.Close()
	text, err := io.ReadAll(io.LimitReader(answer, errorTextMax))
	code, _ := strconv.Atoi(resp.Header.Get("X-ClickHouse-Exception-Code")) // 0: it has none
	return nil, &exceptionError{code, errors.Join(fmt.Errorf("ClickHouse at %s: status %d: %s", c.base.Host, resp.StatusCode, bytes.TrimSpace(text)), err).Error()}
}

var errSilent = fmt.Errorf("nothing came for %s", silenceTimeout)

// answer is a body that must not fall silent.
type answer struct {
	io.ReadCloser
	ctx     context.Context
	cancel  context.CancelCauseFunc
	silence *time.Timer
}

func (a *answer) Read(b []byte) (int, error) {
	a.silence.Reset(silenceTimeout)
	n, err := a.ReadCloser.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := context.Cause(a.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (a *answer) Close() error {
	a.silence.Stop()
	defer a.cancel(nil)
	return a.ReadCloser.Close()
}

// where is q's condition. Offsets and partitions are numbers of ours; text goes in parameters.
func (c *ClickHouse) where(q Query) (string, map[string]string) {
	params := map[string]string{"topic": q.Topic}
	var parts []string
	for _, r := range q.Ranges {
		part := fmt.Sprintf("kafka_partition = %d AND kafka_offset >= %d", r.Partition, r.First)
		if r.Last != Beyond {
			part += fmt.Sprintf(" AND kafka_offset <= %d", r.Last)
		}
		parts = append(parts, "("+part+")")
	}
	if q.Strangers > 0 {
		parts = append(parts, fmt.Sprintf("kafka_partition >= %d OR kafka_partition < 0", q.Strangers))
	}
	sql := "kafka_topic = {topic:String} AND (" + strings.Join(parts, " OR ") + ")"
	if q.Tenant != "" {
		sql += " AND tenant_id = {tenant:String}"
		params["tenant"] = q.Tenant
	}
	if q.Places != nil {
		var in []string
		for _, p := range q.Places {
			in = append(in, fmt.Sprintf("(%d,%d,%d)", p.Partition, p.Offset, p.Index))
		}
		sql += " AND (kafka_partition, kafka_offset, event_index) IN (" + strings.Join(in, ",") + ")"
	}
	return sql, params
}

func (c *ClickHouse) Read(ctx context.Context, q Query, f RowsFunc) error {
	if q.Empty() {
		return nil
	}
	where, params := c.where(q)
	names := make([]string, 0, len(q.Table.Columns))
	for _, n := range q.columnNames() {
		names = append(names, "`"+n+"`")
	}
	// One snapshot answers both: how many rows there are is asked first, and rows of a finished range do not come or go.
	want, err := c.number(ctx, "SELECT count() FROM "+q.Table.Name+" WHERE "+where, params)
	if err != nil {
		return err
	}
	body, err := c.ask(ctx, "SELECT "+strings.Join(names, ", ")+" FROM "+q.Table.Name+" WHERE "+where+" FORMAT ArrowStream", params,
		"max_block_size", "16384", "output_format_arrow_string_as_string", "1", "output_format_arrow_fixed_string_as_fixed_byte_array", "1",
		"output_format_arrow_low_cardinality_as_dictionary", "0")
	if err != nil {
		return err
	}
	defer body.Close()
	got, err := eachBatch(body, func(rec arrow.RecordBatch) error { return f(rec, allRows(rec)) })
	if err != nil {
		return fmt.Errorf("ClickHouse table %s: %w", q.Table.Name, err)
	}
	if got < want { // a stream that breaks off may look like one that ends
		return fmt.Errorf("ClickHouse table %s: the answer ended after %d of %d rows: ask again, and see the server's log", q.Table.Name, got, want)
	}
	return nil
}

// eachBatch reads an Arrow stream and counts its rows.
func eachBatch(stream io.Reader, f func(arrow.RecordBatch) error) (int64, error) {
	rd, err := ipc.NewReader(stream)
	if err != nil {
		return 0, fmt.Errorf("read the Arrow stream: %w", err)
	}
	defer rd.Release()
	var n int64
	for rd.Next() {
		rec := rd.RecordBatch()
		n += rec.NumRows()
		if err := f(rec); err != nil {
			return n, err
		}
	}
	if err := rd.Err(); err != nil && !errors.Is(err, io.EOF) {
		return n, fmt.Errorf("read the Arrow stream: %w", err)
	}
	return n, nil
}

func (c *ClickHouse) number(ctx context.Context, sql string, params map[string]string) (int64, error) {
	body, err := c.ask(ctx, sql+" FORMAT TabSeparated", params)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, errorTextMax))
	if err != nil {
		return 0, fmt.Errorf("read ClickHouse's answer: %w", err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("ClickHouse's answer is no number: %w", err)
	}
	return n, nil
}

// askRows decodes one JSON object a row.
func askRows[T any](ctx context.Context, c *ClickHouse, sql string, params map[string]string, f func(T)) error {
	body, err := c.ask(ctx, sql+" FORMAT JSONEachRow", params, "output_format_json_quote_64bit_integers", "0", "wait_end_of_query", "1")
	if err != nil {
		return err
	}
	defer body.Close()
	dec := json.NewDecoder(body)
	for {
		var r T
		switch err := dec.Decode(&r); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("decode ClickHouse's answer: %w", err)
		}
		f(r)
	}
}

func (c *ClickHouse) Sums(ctx context.Context, q Query, b Buckets) (map[Bucket]certificate.Sums, error) {
	out := map[Bucket]certificate.Sums{}
	if q.Empty() {
		return out, nil
	}
	where, params := c.where(q)
	first := "CASE kafka_partition"
	for _, r := range q.Ranges {
		first += fmt.Sprintf(" WHEN %d THEN %d", r.Partition, b.First[r.Partition])
	}
	first += " ELSE 0 END"
	// As Sums.add and placeSum do it; UInt64 sums are modulo 2^64.
	sql := fmt.Sprintf(`SELECT kafka_partition AS p, intDiv(kafka_offset - toInt64(%s), %d) AS b, count() AS rows,
		sum(reinterpretAsUInt64(substring(event_id, 1, 8))) AS ids,
		sum(xxh3(concat(event_id, reinterpretAsFixedString(kafka_offset), reinterpretAsFixedString(event_index)))) AS places
		FROM %s WHERE %s GROUP BY p, b`, first, b.Width, q.Table.Name, where)
	type bucket struct {
		P      int32  `json:"p"`
		B      int64  `json:"b"`
		Rows   int64  `json:"rows"`
		IDs    uint64 `json:"ids"`
		Places uint64 `json:"places"`
	}
	err := askRows(ctx, c, sql, params, func(r bucket) {
		out[Bucket{r.P, r.B}] = certificate.Sums{Rows: r.Rows, IDs: certificate.Hex64(r.IDs), Places: certificate.Hex64(r.Places)}
	})
	return out, err
}

func (c *ClickHouse) Ledger(ctx context.Context, topic string, ranges []certificate.Range) ([]ledger.Entry, error) {
	if len(ranges) == 0 {
		return nil, nil
	}
	var parts []string
	for _, r := range ranges {
		parts = append(parts, fmt.Sprintf("(kafka_partition = %d AND last_offset >= %d AND first_offset <= %d)", r.Partition, r.First, r.Last))
	}
	type line struct {
		Partition   int32  `json:"kafka_partition"`
		First       int64  `json:"first_offset"`
		Last        int64  `json:"last_offset"`
		Signal      string `json:"signal"`
		Events      int64  `json:"events"`
		Duplicates  int64  `json:"duplicates"`
		Quarantined int64  `json:"quarantined"`
		Rows        int64  `json:"rows"`
		IDSum       uint64 `json:"id_sum"`
		Written     int64  `json:"written"`
		TopicID     string `json:"topic_id"` // not in an older ledger, so all columns are asked for
	}
	var out []ledger.Entry
	err := askRows(ctx, c, `SELECT *, toUnixTimestamp64Milli(written_time) AS written
		FROM `+ledger.Name+` FINAL WHERE kafka_topic = {topic:String} AND (`+strings.Join(parts, " OR ")+")", map[string]string{"topic": topic}, func(l line) {
		s, _ := signal.Parse(l.Signal)         // 0 does not compare equal with any
		id, _ := block.ParseTopicID(l.TopicID) // zero: not known
		out = append(out, ledger.Entry{
			Topic: topic, Partition: l.Partition, First: l.First, Last: l.Last, Signal: s, Events: l.Events, Duplicates: l.Duplicates,
			Quarantined: l.Quarantined, Rows: l.Rows, IDSum: l.IDSum, Written: time.UnixMilli(l.Written).UTC(), TopicID: id,
		})
	})
	if e, ok := errors.AsType[*exceptionError](err); ok && e.code == unknownTableCode {
		return nil, ErrNoLedger
	}
	return out, err
}

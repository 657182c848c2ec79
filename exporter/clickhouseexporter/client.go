package clickhouseexporter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configcompression"
)

const (
	errorTextMax = 2 << 10 // bytes of an exception's text that are kept
	answerMax    = 4 << 20 // bytes of a query's answer: descriptions of tables
)

// client speaks ClickHouse's HTTP interface. It is safe for concurrent use.
type client struct {
	http     *http.Client
	base     url.URL
	username string
	password string
	dialed   atomic.Uint64 // connections made
}

func newClient(ctx context.Context, cfg *Config, host component.Host, set component.TelemetrySettings) (*client, error) {
	conf := cfg.ClientConfig
	if conf.Compression == configcompression.TypeZstd {
		conf.Compression = "" // see newPlace
	}
	hc, err := conf.ToClient(ctx, host.GetExtensions(), set)
	if err != nil {
		return nil, err
	}
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // a redirected INSERT would lose its body
	base, err := url.Parse(cfg.ClientConfig.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	return &client{http: hc, base: *base, username: cfg.Username, password: string(cfg.Password)}, nil
}

// body is a request's body: a statement and, for an INSERT, the rows. http.Client may still read it after it has returned an
// error: only a closed body's bytes are free. The statement is not in the URL because a URL is what traces and proxies keep.
type body struct {
	io.Reader
	size     int64
	encoding string // its Content-Encoding; empty: none, or the HTTP client's own
	closed   atomic.Bool
}

// newBody returns the statement's body. ClickHouse takes what follows FORMAT and a line's end for the rows.
func newBody(statement string, rows []byte) *body {
	if len(rows) == 0 {
		return &body{Reader: strings.NewReader(statement), size: int64(len(statement))}
	}
	statement += "\n"
	return &body{Reader: io.MultiReader(strings.NewReader(statement), bytes.NewReader(rows)), size: int64(len(statement) + len(rows))}
}

// newZstdBody returns the body of an INSERT that is compressed already, statement and rows.
func newZstdBody(frame []byte) *body {
	return &body{Reader: bytes.NewReader(frame), size: int64(len(frame)), encoding: "zstd"}
}

func (b *body) Close() error {
	b.closed.Store(true)
	return nil
}

// do sends one statement and returns the answer's body, at most answerMax bytes. The error is a *storeError.
func (c *client) do(ctx context.Context, settings map[string]string, b *body) ([]byte, error) {
	u := c.base
	params := url.Values{"wait_end_of_query": {"1"}} // the status line then tells the outcome
	for k, v := range settings {
		params.Set(k, v)
	}
	u.RawQuery = params.Encode()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(conn httptrace.GotConnInfo) {
		if !conn.Reused {
			c.dialed.Add(1)
		}
	}})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), b)
	if err != nil {
		return nil, &storeError{class: retryable, code: codeOther, cause: err}
	}
	req.ContentLength = b.size
	if b.encoding != "" {
		req.Header.Set("Content-Encoding", b.encoding)
	}
	if c.username != "" {
		req.Header.Set("X-ClickHouse-User", c.username)
		req.Header.Set("X-ClickHouse-Key", c.password)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fromTransport(withoutURL(err))
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, answerMax+1))
	if err != nil && resp.StatusCode == http.StatusOK {
		return nil, fromTransport(fmt.Errorf("read the answer: %w", err))
	}
	if err := exceptionIn(resp, answer); err != nil {
		return nil, err
	}
	if len(answer) > answerMax {
		return nil, &storeError{class: unknown, code: codeOther, cause: fmt.Errorf("the answer is longer than %d bytes", answerMax)}
	}
	return answer, nil
}

// insert sends rows. Nothing answered, and nothing in the answer, is success.
func (c *client) insert(ctx context.Context, settings map[string]string, b *body) error {
	answer, err := c.do(ctx, settings, b)
	if err == nil && len(bytes.TrimSpace(answer)) > 0 {
		err = &storeError{class: unknown, code: codeOther, cause: fmt.Errorf("the answer to an INSERT is not empty: %s", bounded(answer))}
	}
	return err
}

// exec runs a statement that changes something.
func (c *client) exec(ctx context.Context, statement string) error {
	_, err := c.do(ctx, nil, newBody(statement, nil))
	return err
}

// rows runs a SELECT and decodes one JSON object a row. params are ClickHouse's query parameters. The format has an end of its own: a server whose disk is full
// may answer status 200 and nothing, which must not be taken for no rows.
func rows[T any](ctx context.Context, c *client, query string, params map[string]string) ([]T, error) {
	settings := map[string]string{"output_format_json_quote_64bit_integers": "0"}
	for k, v := range params {
		settings["param_"+k] = v
	}
	answer, err := c.do(ctx, settings, newBody(query+" FORMAT JSON", nil))
	if err != nil {
		return nil, err
	}
	var out struct {
		Data []T  `json:"data"`
		Rows *int `json:"rows"`
	}
	if err = json.Unmarshal(answer, &out); err == nil && (out.Rows == nil || *out.Rows != len(out.Data)) {
		err = errors.New("it does not end as it must")
	}
	if err != nil {
		return nil, &storeError{class: retryable, code: codeOther, cause: fmt.Errorf("the answer to a query is not whole: %d bytes: %w", len(answer), err)}
	}
	return out.Data, nil
}

// row is rows of a query that has one.
func row[T any](ctx context.Context, c *client, query string, params map[string]string) (one T, err error) {
	found, err := rows[T](ctx, c, query, params)
	if err == nil && len(found) != 1 {
		err = &storeError{class: retryable, code: codeOther, cause: fmt.Errorf("the answer has %d rows, want one", len(found))}
	}
	if err != nil {
		return one, err
	}
	return found[0], nil
}

// exceptionText finds an exception in an answer: at its beginning, or, where it broke off a response that had begun with status
// 200, at its end.
var exceptionText = regexp.MustCompile(`(?s)Code: (\d+)\. (DB::(?:\w+)?Exception: .*)`)

// exceptionIn returns the failure that an answer tells, nil where it tells success.
func exceptionIn(resp *http.Response, answer []byte) error {
	code := 0
	if h := resp.Header.Get("X-ClickHouse-Exception-Code"); h != "" {
		code, _ = strconv.Atoi(h) // 0 is no code, and then the text decides
	}
	if resp.StatusCode == http.StatusOK && code == 0 && !bytes.Contains(answer, []byte("DB::")) {
		return nil
	}
	text := bounded(answer)
	if m := exceptionText.FindSubmatch(answer); m != nil {
		if code == 0 {
			code, _ = strconv.Atoi(string(m[1]))
		}
		text = bounded(m[2])
	} else if resp.StatusCode == http.StatusOK && code == 0 {
		return nil // rows that happen to hold "DB::"
	}
	if code != 0 {
		return fromException(code, fmt.Sprintf("ClickHouse exception %d: %s", code, text))
	}
	return fromStatus(resp.StatusCode, text)
}

// bounded is an answer's text on one line, at most errorTextMax bytes.
func bounded(text []byte) string {
	if len(text) > errorTextMax {
		text = append(text[:errorTextMax:errorTextMax], "..."...)
	}
	return strings.Join(strings.Fields(strings.ToValidUTF8(string(text), "?")), " ")
}

// withoutURL drops the URL from an HTTP client's error: it says nothing that the error's own text does not.
func withoutURL(err error) error {
	if ue, ok := err.(*url.Error); ok { //nolint:errorlint // only the outermost, which http.Client always adds
		if ue.Timeout() {
			return fmt.Errorf("no answer in time: %w", ue.Err)
		}
		return ue.Err
	}
	return err
}

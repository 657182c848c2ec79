// Package clickhouse sends statements over ClickHouse's HTTP interface and decodes the answers, for the commands that ask or change tables. The exporter, which must know of each
// failure whether rows may have been stored, has a client of its own.
package clickhouse

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

const (
	answerMost    = 64 << 20 // bytes of an answer: a few figures for each hour of a range
	errorTextMost = 2 << 10  // bytes of an exception that are kept
)

// Exception is a statement that ClickHouse has refused: the statement's fault, or the data's.
type Exception struct {
	Code int // ClickHouse's
	Text string
}

func (e *Exception) Error() string { return fmt.Sprintf("ClickHouse exception %d: %s", e.Code, e.Text) }

// Client sends statements over ClickHouse's HTTP interface, each once. It is safe for concurrent use.
type Client struct {
	HTTP               *http.Client
	Base               *url.URL // http[s]://host:port
	Username, Password string   // empty username: ClickHouse's default
}

// NewClient connects to nothing yet.
func NewClient(hc *http.Client, endpoint, username, password string) (*Client, error) {
	base, err := url.Parse(endpoint)
	if err != nil || base.Host == "" {
		return nil, errors.New("endpoint of ClickHouse: want http://HOST:PORT")
	}
	return &Client{HTTP: hc, Base: base, Username: username, Password: password}, nil
}

// Exec runs a statement. settings are those of the query; parameters of the statement begin with param_.
func (c *Client) Exec(ctx context.Context, statement string, settings map[string]string) error {
	answer, err := c.Do(ctx, statement, settings)
	if err == nil && len(bytes.TrimSpace(answer)) > 0 {
		err = fmt.Errorf("ClickHouse at %s answers %q to a statement that has no answer", c.Base.Host, cut(answer))
	}
	return err
}

// Table is the answer to a SELECT.
type Table[T any] struct {
	Columns []Column `json:"meta"`
	Data    []T      `json:"data"`
	Rows    *int     `json:"rows"`
}

// Column of an answer, with its type as ClickHouse writes it.
type Column struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// Select runs a SELECT and decodes one JSON object a row. The format has an end of its own: an answer that was cut off, or that is none, is an error and not fewer rows.
func Select[T any](ctx context.Context, c *Client, query string, settings map[string]string) (out Table[T], err error) {
	// The format is not in the statement: EXPLAIN AST would take it for a part of the query.
	all := map[string]string{"default_format": "JSON", "output_format_json_quote_64bit_integers": "0"}
	maps.Copy(all, settings)
	answer, err := c.Do(ctx, query, all)
	if err != nil {
		return out, err
	}
	if err = json.Unmarshal(answer, &out); err == nil && (out.Rows == nil || *out.Rows != len(out.Data)) {
		err = errors.New("it does not end as it must")
	}
	if err != nil {
		return out, fmt.Errorf("the answer of ClickHouse at %s is not whole: %d bytes: %w", c.Base.Host, len(answer), err)
	}
	return out, nil
}

// Rows is Select without the columns' names and types.
func Rows[T any](ctx context.Context, c *Client, query string, settings map[string]string) ([]T, error) {
	out, err := Select[T](ctx, c, query, settings)
	return out.Data, err
}

// Row is Rows of a query that has one.
func Row[T any](ctx context.Context, c *Client, query string, settings map[string]string) (one T, err error) {
	found, err := Rows[T](ctx, c, query, settings)
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("ClickHouse at %s answers %d rows, want one", c.Base.Host, len(found))
	}
	if err != nil {
		return one, err
	}
	return found[0], nil
}

// Do runs a statement and returns its answer, of 64 MiB at most. The error is an *Exception where ClickHouse refused the statement.
func (c *Client) Do(ctx context.Context, statement string, settings map[string]string) ([]byte, error) {
	all := map[string]string{"wait_end_of_query": "1"} // the status line then tells the outcome
	maps.Copy(all, settings)
	resp, err := c.send(ctx, statement, all)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return c.read(resp)
}

// Stream runs a SELECT and returns its answer as it comes. Its status says nothing of the end: whoever reads it must know what is whole.
func (c *Client) Stream(ctx context.Context, query string, settings map[string]string) (io.ReadCloser, error) {
	resp, err := c.send(ctx, query, settings)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK && resp.Header.Get(exceptionHeader) == "" {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	_, err = c.read(resp)
	return nil, err
}

func (c *Client) send(ctx context.Context, statement string, settings map[string]string) (*http.Response, error) {
	params := url.Values{}
	for k, v := range settings {
		params.Set(k, v)
	}
	u := *c.Base
	u.RawQuery = params.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(statement))
	if err != nil {
		return nil, err
	}
	if c.Username != "" {
		req.Header.Set("X-ClickHouse-User", c.Username)
		req.Header.Set("X-ClickHouse-Key", c.Password)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // the URL is long and says nothing new
		}
		return nil, fmt.Errorf("ClickHouse at %s does not answer: %w", c.Base.Host, err)
	}
	return resp, nil
}

// exceptionHeader has the code of an exception.
const exceptionHeader = "X-ClickHouse-Exception-Code"

// read returns a whole answer.
func (c *Client) read(resp *http.Response) ([]byte, error) {
	answer, err := io.ReadAll(io.LimitReader(resp.Body, answerMost+1))
	code, _ := strconv.Atoi(resp.Header.Get(exceptionHeader)) // 0: it has none
	switch {
	case code != 0 || resp.StatusCode != http.StatusOK && bytes.HasPrefix(answer, []byte("Code: ")):
		return nil, &Exception{Code: code, Text: cut(answer)}
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("ClickHouse at %s: status %d: %s", c.Base.Host, resp.StatusCode, cut(answer))
	case err != nil:
		return nil, fmt.Errorf("read the answer of ClickHouse at %s: %w", c.Base.Host, err)
	case len(answer) > answerMost:
		return nil, fmt.Errorf("the answer of ClickHouse at %s is longer than %d bytes: choose a shorter range", c.Base.Host, answerMost)
	}
	return answer, nil
}

// cut is an answer's text on one line.
func cut(text []byte) string {
	if len(text) > errorTextMost {
		text = append(text[:errorTextMost:errorTextMost], "..."...)
	}
	return strings.Join(strings.Fields(strings.ToValidUTF8(string(text), "?")), " ")
}

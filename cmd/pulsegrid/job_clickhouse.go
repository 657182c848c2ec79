package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/exporter/clickhouseexporter"
)

// questionTo is how a job asks, and changes, the ClickHouse of an exporter.
func questionTo(ctx context.Context, c *clickhouseexporter.Config) (question, error) {
	at, err := clickHouseOf(ctx, c)
	if err != nil {
		return question{}, err
	}
	q, err := at.question()
	q.database, q.format, q.write = "", "TabSeparated", true // jobs name the database in their statements
	return q, err
}

// clickHouseClient speaks to an exporter's ClickHouse as the exporter does, with its certificates, and without its timeout: statements of jobs take longer than inserts, and are short.
func clickHouseClient(ctx context.Context, c *clickhouseexporter.Config) (*http.Client, error) {
	conf := c.ClientConfig
	conf.Timeout, conf.Compression = 0, ""
	client, err := conf.ToClient(ctx, nil, noTelemetry(zap.NewNop()))
	if err != nil {
		return nil, fmt.Errorf("exporters: ClickHouse: %w", err)
	}
	return client, nil
}

// exec runs a statement that changes something.
func (q question) exec(ctx context.Context, sql string) error {
	q.sql = sql
	return q.ask(ctx, io.Discard)
}

// texts returns the words of an answer.
func (q question) texts(ctx context.Context, sql string) ([]string, error) {
	q.sql = sql
	var b bytes.Buffer
	if err := q.ask(ctx, &b); err != nil {
		return nil, err
	}
	return strings.Fields(b.String()), nil
}

// number returns an answer of one number.
func (q question) number(ctx context.Context, sql string) (int64, error) {
	out, err := q.texts(ctx, sql)
	if err != nil {
		return 0, err
	}
	if len(out) != 1 {
		return 0, fmt.Errorf("ClickHouse answered %q to %s", out, sql)
	}
	return strconv.ParseInt(out[0], 10, 64)
}

// arrow calls f for the batches of a SELECT's answer. The statement is not kept in ClickHouse's log of queries.
func (q question) arrow(ctx context.Context, sql string, f func(arrow.RecordBatch) error) error {
	q.format = "ArrowStream"
	q.sql = sql + " SETTINGS log_queries = 0, output_format_arrow_string_as_string = 1, output_format_arrow_fixed_string_as_fixed_byte_array = 1, " +
		"output_format_arrow_low_cardinality_as_dictionary = 0"
	r, w := io.Pipe()
	asked := make(chan error, 1)
	go func() {
		err := q.ask(ctx, w)
		_ = w.CloseWithError(err) // it never fails; without an error the reader ends
		asked <- err
	}()
	var refused error // by f
	err := eachRecord(r, func(rec arrow.RecordBatch) error {
		refused = f(rec)
		return refused
	})
	_ = r.CloseWithError(errors.New("the answer was not read to its end")) // it never fails, and nobody sees it where it was
	failed := <-asked
	switch {
	case refused != nil:
		return refused
	case failed != nil:
		return failed
	}
	return err
}

// eachRecord reads an Arrow stream.
func eachRecord(stream io.Reader, f func(arrow.RecordBatch) error) error {
	rd, err := ipc.NewReader(stream)
	if err != nil {
		return err
	}
	defer rd.Release()
	for rd.Next() {
		if err := f(rd.RecordBatch()); err != nil {
			return err
		}
	}
	if err := rd.Err(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, stream)
	return err
}

// quoted is an identifier of ClickHouse.
func quoted(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

// literal is a text of ClickHouse.
func literal(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

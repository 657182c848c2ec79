package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/cell"
)

// outputFormats are the short names of ClickHouse's output formats.
var outputFormats = map[string]string{
	"table":    "PrettyCompactMonoBlock",
	"vertical": "Vertical",
	"json":     "JSONEachRow",
	"csv":      "CSVWithNames",
	"tsv":      "TabSeparatedWithNames",
}

func newQuery() *cobra.Command {
	cmd := &cobra.Command{
		Use:   `query "SQL"`,
		Short: "Run SQL on the running cell's ClickHouse",
		Long: `Run SQL on the running cell's ClickHouse, over its HTTP interface. The default database is pulsegrid, with one table a signal:
logs, metrics (one row a data point) and spans.`,
		Example: `  pulsegrid query "SELECT metric_name, count() FROM metrics GROUP BY ALL ORDER BY 2 DESC LIMIT 10"
  pulsegrid query --format json "SELECT time, body FROM logs ORDER BY time DESC LIMIT 5"`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || strings.TrimSpace(args[0]) == "" {
				return usageError{fmt.Errorf("want one argument, the SQL in quotes; see `%s --help`", cmd.CommandPath())}
			}
			return nil
		},
	}
	data := dataFlag(cmd)
	format := cmd.Flags().String("format", "table", "table, vertical, json (one object a line), csv, tsv, or any ClickHouse format")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		state, err := cell.ReadState(*data)
		if err != nil {
			return err
		}
		name, ok := outputFormats[*format]
		if !ok {
			name = *format
		}
		return query(cmd.Context(), cmd.OutOrStdout(), "http://"+state.Endpoints.ClickHouseHTTP, args[0], name)
	}
	return cmd
}

// query copies the answer to w once the whole of it is known to be good.
func query(ctx context.Context, w io.Writer, endpoint, sql, format string) error {
	params := url.Values{
		"database":       {cell.Database},
		"default_format": {format},
		// The server keeps the answer until it is whole, so that a failure half-way has a status of its own.
		"wait_end_of_query":                       {"1"},
		"output_format_pretty_color":              {"0"},
		"output_format_pretty_row_numbers":        {"0"},
		"output_format_pretty_max_rows":           {"10000"},
		"output_format_json_quote_64bit_integers": {"0"},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint+"/?"+params.Encode(), strings.NewReader(sql))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ClickHouse at %s does not answer: %w", endpoint, unwrapURL(err))
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		message, err := io.ReadAll(io.LimitReader(resp.Body, 16<<10))
		if err != nil {
			return fmt.Errorf("read ClickHouse's answer: %w", err)
		}
		return errors.New(clickHouseMessage(message))
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("read ClickHouse's answer: %w", err)
	}
	return nil
}

var messageNoise = regexp.MustCompile(`(?s)^Code: (\d+)\. DB::Exception: (.*?)( \(version [^)]*\(official build\)\)| \(version [^)]*\))?\s*$`)

const expectedMax = 200

// clickHouseMessage strips what does not help the reader of an error.
func clickHouseMessage(answer []byte) string {
	answer = bytes.TrimSpace(answer)
	if m := messageNoise.FindSubmatch(answer); m != nil {
		message, expected, ok := strings.Cut(string(m[2]), " Expected one of: ")
		if ok && len(expected) < expectedMax { // else it lists the whole grammar
			message += " Expected one of: " + expected
		}
		return fmt.Sprintf("%s [ClickHouse error %s]", message, m[1])
	}
	return string(answer)
}

// unwrapURL drops the URL that http.Client repeats, which here is long and carries nothing the user wrote.
func unwrapURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

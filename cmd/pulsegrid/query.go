package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/cell"
)

// jsonFormat carries names and types before the rows; jsonLines makes objects of it.
const jsonFormat = "JSONCompactEachRowWithNamesAndTypes"

// outputFormats are the short names of ClickHouse's output formats.
var outputFormats = map[string]string{
	"table":    "PrettyCompactMonoBlock",
	"vertical": "Vertical",
	"json":     jsonFormat,
	"csv":      "CSVWithNames",
	"tsv":      "TabSeparatedWithNames",
}

func newQuery() *cobra.Command {
	cmd := &cobra.Command{
		Use:   `query "SQL"`,
		Short: "Run SQL on a cell's ClickHouse",
		Long: `Run SQL on the ClickHouse of the running local cell, or of the cell whose aggregators have a configuration (--config). The default database is pulsegrid, with one table a signal:
logs, metrics (one row a data point) and spans. Ids are raw bytes there: --format json prints them as hexadecimal digits, in other formats use
lower(hex(trace_id)). Control characters that senders put into texts are printed as \uFFFD by table and vertical, and by every format on a terminal.

Statements that change something are refused without --write.`,
		Example: `  pulsegrid query "SELECT metric_name, count() FROM metrics GROUP BY ALL ORDER BY 2 DESC LIMIT 10"
  pulsegrid query --format json "SELECT time, body FROM logs ORDER BY time DESC LIMIT 5"
  pulsegrid query --config env:PULSEGRID_CONFIG --config env:PULSEGRID_CONFIG_AWS "SELECT count() FROM spans"`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || strings.TrimSpace(args[0]) == "" {
				return usageError{fmt.Errorf("want one argument, the SQL in quotes; see `%s --help`", cmd.CommandPath())}
			}
			return nil
		},
	}
	var where reach
	where.flags(cmd)
	format := cmd.Flags().String("format", "table", "table, vertical, json (one object a line), csv, tsv, or any ClickHouse format; not beside FORMAT in the SQL")
	write := cmd.Flags().Bool("write", false, "let the SQL change data, tables and settings")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		at, err := where.clickHouse(cmd.Context())
		if err != nil {
			return err
		}
		q, err := at.question()
		if err != nil {
			return err
		}
		name, ok := outputFormats[*format]
		if !ok {
			name = *format
		}
		q.sql, q.format, q.formatAsked, q.write = args[0], name, cmd.Flags().Changed("format"), *write
		q.terminal = isTerminal(cmd.OutOrStdout())
		return q.ask(cmd.Context(), cmd.OutOrStdout())
	}
	return cmd
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// question is one statement for ClickHouse.
type question struct {
	client        *http.Client // nil: one that trusts what the system trusts
	database      string       // empty: cell.Database
	endpoint, sql string       // a URL, with user and password where there are any; a statement
	format        string       // of ClickHouse
	formatAsked   bool         // by --format: FORMAT in the SQL contradicts it
	write         bool         // the statement may change something
	terminal      bool         // a person reads the answer
}

// ask copies the answer to w once the whole of it is known to be good.
func (q question) ask(ctx context.Context, w io.Writer) error {
	params := url.Values{
		"database":       {cmp.Or(q.database, cell.Database)},
		"default_format": {q.format},
		// The server keeps the answer until it is whole, so that a failure half-way has a status of its own.
		"wait_end_of_query":                       {"1"},
		"output_format_pretty_color":              {"0"},
		"output_format_pretty_row_numbers":        {"0"},
		"output_format_pretty_max_rows":           {"10000"},
		"output_format_json_quote_64bit_integers": {"0"},
		"output_format_json_quote_denormals":      {"1"}, // NaN and Infinity as texts, not as null
	}
	if !q.write {
		params.Set("readonly", "2") // SELECT and settings of the statement
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, q.endpoint+"/?"+params.Encode(), strings.NewReader(q.sql))
	if err != nil {
		return err
	}
	resp, err := cmp.Or(q.client, http.DefaultClient).Do(req)
	if err != nil {
		return fmt.Errorf("ClickHouse at %s does not answer: %w", redacted(q.endpoint), unwrapURL(err))
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		message, err := io.ReadAll(io.LimitReader(resp.Body, 16<<10))
		if err != nil {
			return fmt.Errorf("read ClickHouse's answer: %w", err)
		}
		text := clickHouseMessage(message)
		if strings.HasSuffix(text, "[ClickHouse error 164]") && !q.write { // READONLY
			text += ": add --write if the statement is meant to change something"
		}
		return errors.New(text)
	}
	given := resp.Header.Get("X-ClickHouse-Format")
	switch {
	case given != "" && given != q.format && q.formatAsked:
		return usageError{fmt.Errorf("the SQL says FORMAT %s and --format asks for %s: leave one of them out", given, q.format)}
	case given == jsonFormat && q.format == jsonFormat:
		err = jsonLines(w, resp.Body)
	case q.terminal || strings.HasPrefix(given, "Pretty") || given == "Vertical":
		err = printableCopy(w, resp.Body)
	default:
		_, err = io.Copy(w, resp.Body)
	}
	if err != nil {
		return fmt.Errorf("read ClickHouse's answer: %w", err)
	}
	return nil
}

var messageNoise = regexp.MustCompile(`(?s)^Code: (\d+)\. DB::Exception: (.*?)( \(version [^)]*\(official build\)\)| \(version [^)]*\))?\s*$`)

const expectedMax = 200

// redacted is a URL for people: without its password.
func redacted(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return "an address that is none"
	}
	return u.Redacted()
}

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

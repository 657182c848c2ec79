package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
)

// answer asks the engine as `pulsegrid query` does.
func answer(t *testing.T, q question) string {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, q.ask(t.Context(), &out), q.sql)
	return out.String()
}

// Scenario: ids are raw bytes in the tables, texts hold whatever senders put there.
// Guarantees: each line is a JSON object whose ids are hexadecimal digits, NaN and Infinity are told apart, and no byte is lost without a sign.
func TestJSONIsOneValidObjectALineWithHexIds(t *testing.T) {
	ch := clickhousetest.Start(t)
	ch.Query("CREATE DATABASE IF NOT EXISTS pulsegrid")
	got := answer(t, question{endpoint: ch.URL, format: jsonFormat, sql: `SELECT * FROM VALUES(
		'id FixedString(4), ids Array(FixedString(2)), none Nullable(FixedString(1)), body String, d Array(Float64), m Map(String, Int64), big UInt64',
		(unhex('00fe22ff'), [unhex('fe0a'), unhex('5c00')], NULL, concat('a"', char(92), char(27), char(255), 'ü', char(10)), [nan, inf, 0.5], map('k"', 1), 18446744073709551615),
		(unhex('00000000'), [], unhex('61'), '', [], map(), 0))`})
	lines := strings.Split(strings.TrimSpace(got), "\n")
	require.Len(t, lines, 2)
	require.JSONEq(t, `{"id":"00fe22ff","ids":["fe0a","5c00"],"none":null,"body":"a\"\\\u001b\ufffdü\n","d":["nan","inf",0.5],"m":{"k\"":1},"big":18446744073709551615}`, lines[0])
	require.JSONEq(t, `{"id":"00000000","ids":[],"none":"61","body":"","d":[],"m":{},"big":0}`, lines[1])
	require.Empty(t, answer(t, question{endpoint: ch.URL, format: jsonFormat, sql: "SELECT 1 WHERE 0"}))
	require.True(t, json.Valid([]byte(lines[0])))
}

// Guarantees: what a sender wrote into a log cannot clear an operator's screen.
func TestControlCharactersOfSendersNeverReachATerminal(t *testing.T) {
	ch := clickhousetest.Start(t)
	ch.Query("CREATE DATABASE IF NOT EXISTS pulsegrid")
	sql := "SELECT concat('before', char(27), '[2J', char(27), ']0;owned', char(7), char(194), char(155), 'after') AS body"
	for _, format := range []string{"table", "vertical"} {
		got := answer(t, question{endpoint: ch.URL, format: outputFormats[format], sql: sql})
		require.NotContains(t, got, "\x1b", format)
		require.NotContains(t, got, "\x07", format)
		require.NotContains(t, got, "\u009b", format)
		require.Contains(t, got, "before\uFFFD[2J", format)
	}
	require.NotContains(t, answer(t, question{endpoint: ch.URL, format: outputFormats["tsv"], sql: sql, terminal: true}), "\x1b")
	require.Contains(t, answer(t, question{endpoint: ch.URL, format: outputFormats["tsv"], sql: sql}), "\x1b", "a file gets the bytes")
}

func TestAStatementThatWritesIsRefusedUnlessAskedFor(t *testing.T) {
	ch := clickhousetest.Start(t)
	ch.Query("CREATE DATABASE IF NOT EXISTS pulsegrid")
	ch.Query("CREATE TABLE pulsegrid.kept (n Int64) ENGINE = MergeTree ORDER BY n")
	for _, sql := range []string{"DROP TABLE kept", "INSERT INTO kept VALUES (1)", "ALTER TABLE kept DELETE WHERE 1", "TRUNCATE TABLE kept"} {
		err := question{endpoint: ch.URL, format: "CSV", sql: sql}.ask(t.Context(), &bytes.Buffer{})
		require.ErrorContains(t, err, "--write", sql)
	}
	answer(t, question{endpoint: ch.URL, format: "CSV", sql: "INSERT INTO kept VALUES (1)", write: true})
	require.Equal(t, "1\n", answer(t, question{endpoint: ch.URL, format: "CSV", sql: "SELECT count() FROM kept SETTINGS max_threads = 1"}))
}

func TestFormatInTheSQLAndFormatAreNotBothTaken(t *testing.T) {
	ch := clickhousetest.Start(t)
	ch.Query("CREATE DATABASE IF NOT EXISTS pulsegrid")
	err := question{endpoint: ch.URL, format: jsonFormat, formatAsked: true, sql: "SELECT 1 FORMAT CSV"}.ask(t.Context(), &bytes.Buffer{})
	require.ErrorContains(t, err, "FORMAT CSV")
	require.True(t, errors.As(err, &usageError{}))
	require.Equal(t, "1\n", answer(t, question{endpoint: ch.URL, format: outputFormats["table"], sql: "SELECT 1 FORMAT CSV"}))
	require.Equal(t, "1\n", answer(t, question{endpoint: ch.URL, format: "CSV", formatAsked: true, sql: "SELECT 1 FORMAT CSV"}))
}

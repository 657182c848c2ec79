package alerting

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const rightRules = `groups:
  - name: web
    tenant: acme
    rules:
      - alert: Errors
        window: 5m
        for: 1m
        annotations: {summary: "{{ $labels.service }}"}
        sql: |
          SELECT service_name AS service, sum(errors) AS value
          FROM spans_10s
          GROUP BY service
`

// Guarantees: what is left out has the default.
func TestRulesAreRead(t *testing.T) {
	groups, err := Parse("r.yaml", []byte(rightRules))
	require.NoError(t, err)
	require.Len(t, groups, 1)
	g, r := groups[0], groups[0].Rules[0]
	require.Equal(t, []any{Tick, defaultFreshness, defaultStale, defaultLimit}, []any{g.Interval, g.Freshness, g.StaleAfter, r.Limit})
	require.Equal(t, "acme/web", g.key())
	require.ErrorContains(t, r.bad(2, 6, "x"), "r.yaml:11:16: Errors.sql: x", "the second line of the SQL, its sixth character")
}

// Guarantees: each interval that is allowed can be had with each freshness.
func TestTheLongestIntervalCanBeHad(t *testing.T) {
	_, err := Parse("r.yaml", []byte(strings.Replace(rightRules, "    rules:", "    interval: 1h\n    freshness: 10m\n    stale_after: 2h10m\n    rules:", 1)))
	require.NoError(t, err)
}

// Scenario: one thing is wrong with a file of rules.
// Guarantees: it is refused with file, line, column, field and reason.
func TestAWrongRuleIsRefusedWithItsPlace(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{"tenant: acme", "tenant: 'a b'", `r.yaml:3:13: groups[0].tenant: "a b": want a tenant's id`},
		{"    tenant: acme\n", "", "r.yaml:2:5: groups[0]: tenant is missing"},
		{"name: web", "name: ''", `r.yaml:2:11: groups[0].name: want a name`},
		{"for: 1m", "for: 1min", `r.yaml:7:14: groups[0].rules[0].for: "1min": want a duration from 0s to 24h0m0s in steps of 10s`},
		{"for: 1m", "for: 15s", `r.yaml:7:14: groups[0].rules[0].for: "15s": want`},
		{"for: 1m", "fro: 1m", "r.yaml:7:9: groups[0].rules[0].fro: unknown field, want one of alert, annotations,"},
		{"for: 1m", "for: 1m\n        for: 2m", "r.yaml:8:9: groups[0].rules[0].for: is there twice"},
		{"window: 5m", "window: 200h", "r.yaml:6:17: groups[0].rules[0].window"},
		{"        window: 5m\n", "", "groups[0].rules[0]: window is missing"},
		{"alert: Errors", "alert: Stale", `r.yaml:5:16: groups[0].rules[0].alert: "Stale": want`},
		{"for: 1m", "limit: 2.5", `groups[0].rules[0].limit: "2.5": want a whole number from 1 to`},
		{"for: 1m", "labels: {alertname: x}", `r.yaml:7:18: groups[0].rules[0].labels.alertname: "alertname": is the evaluator's to set`},
		{"for: 1m", "labels: {tenant: other}", `labels.tenant: "tenant": is the evaluator's to set`},
		{"for: 1m", "params: {tenant: other}", `params.tenant: "tenant": is the evaluator's to set`},
		{"for: 1m", "labels: {a-b: x}", `labels.a-b: "a-b": want a name`},
		{"{{ $labels.service }}", "{{ .Labels.service }}", "annotations.summary: \"{{ .Labels.service }}\": want {{ $labels.NAME }} or {{ $value }}"},
		{"groups:", "groups: [", "r.yaml: is no YAML"},
		{rightRules, "", "r.yaml: is empty, want groups"},
		{rightRules, "groups: []", "holds no group"},
		{"    rules:", "    stale_after: 20s\n    rules:", "groups[0].stale_after: 20s: want two intervals and freshness at least, 25s"},
		{rightRules, rightRules + "---\n" + rightRules, "several YAML documents"},
		{"rules:\n      - alert: Errors\n", "rules:\n      - {alert: Errors, window: 1m, sql: SELECT 1}\n      - alert: Errors\n", "alert Errors is there twice"},
	} {
		text := strings.Replace(rightRules, c.from, c.to, 1)
		_, err := Parse("r.yaml", []byte(text))
		require.ErrorContains(t, err, c.want, c.to)
	}
}

// Guarantees: directories are read, in whole; a group that two files have is refused.
func TestFilesAndDirectoriesOfRules(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(rightRules), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "README.md"), []byte("no rules"), 0o600))
	groups, err := Load([]string{dir})
	require.NoError(t, err)
	require.Len(t, groups, 1)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "b.yml"), []byte(rightRules), 0o600))
	_, err = Load([]string{dir})
	require.ErrorContains(t, err, `group "web" of tenant acme is in`)
	_, err = Load([]string{t.TempDir()})
	require.ErrorContains(t, err, "holds no *.yaml")
	_, err = Load([]string{filepath.Join(dir, "none.yaml")})
	require.ErrorIs(t, err, os.ErrNotExist)
}

// documented are the examples of the documents, which TestOnClickHouse has ClickHouse check.
func documented(t *testing.T) []*Group {
	t.Helper()
	var groups []*Group
	for _, page := range []string{"../../docs/alerts.md", "../../docs/formats/alerts.md"} {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
		require.NotEmpty(t, examples, page)
		for _, m := range examples {
			found, err := Parse(page, []byte(m[1]))
			require.NoError(t, err, m[1])
			groups = append(groups, found...)
		}
	}
	return groups
}

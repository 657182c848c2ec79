package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// A database of one made-up vulnerability, of a package that this command is made of.
const osv = `{
  "schema_version": "1.3.1", "id": "GO-2999-0001", "modified": "2026-01-01T00:00:00Z", "published": "2026-01-01T00:00:00Z", "summary": "Made up",
  "affected": [{
    "package": {"name": "stdlib", "ecosystem": "Go"},
    "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}]}],
    "ecosystem_specific": {"imports": [{"path": "encoding/json"}]}
  }, {
    "package": {"name": "github.com/pulsegrid/pulsegrid", "ecosystem": "Go"},
    "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}]}],
    "ecosystem_specific": {"imports": [{"path": "github.com/pulsegrid/pulsegrid/not/built/in"}]}
  }]
}`

// Scenario: govulncheck finds a vulnerability in a package of a program.
// Guarantees: it fails the check until it is explained; an explanation that fits nothing fails it too.
func TestWhatIsFoundMustBeExplainedAndWhatIsExplainedMustBeFound(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "GO-2999-0001.json"), []byte(osv), 0o600))
	versions, err := os.ReadFile("../versions.env")
	require.NoError(t, err)
	version := regexp.MustCompile(`(?m)^GOVULNCHECK_VERSION=(\S+)$`).FindSubmatch(versions)
	require.NotNil(t, version)
	var out bytes.Buffer
	c := check{version: string(version[1]), database: "file://" + dir, out: &out, err: &out, explained: filepath.Join(dir, "explained.txt")}

	explain := func(text string) { require.NoError(t, os.WriteFile(c.explained, []byte("# comment\n\n"+text), 0o600)) }
	explain("")
	err = c.run([]string{"."})
	require.ErrorContains(t, err, "GO-2999-0001: Made up: package encoding/json of stdlib", out.String())
	require.ErrorContains(t, err, "explain it in "+c.explained)
	require.NotContains(t, err.Error(), "not/built/in")

	explain("GO-2999-0001 stdlib because it is made up\n")
	require.NoError(t, c.run([]string{"."}), out.String())

	explain("GO-2999-0001 stdlib because it is made up\nGO-2999-0002 stdlib was there once\n")
	require.EqualError(t, c.run([]string{"."}), "GO-2999-0002 stdlib is explained in "+c.explained+" and found no more: remove the line")
}

func TestAnExplanationHasAReason(t *testing.T) {
	file := filepath.Join(t.TempDir(), "explained.txt")
	require.NoError(t, os.WriteFile(file, []byte("# fine\nGO-2999-0001 stdlib\n"), 0o600))
	_, err := readExplained(file)
	require.ErrorContains(t, err, file+`:2: "GO-2999-0001 stdlib": want a vulnerability's id, a module's path and why`)
}

// Scenario: there is no database.
// Guarantees: the check fails, unless it may be left out; then it says that nothing was checked.
func TestWithoutADatabaseNothingPassesForChecked(t *testing.T) {
	var out bytes.Buffer
	c := check{version: "never asked", out: &out, err: &out, explained: "explained.txt"}
	notFound := httptest.NewServer(http.NotFoundHandler())
	defer notFound.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	for _, database := range []string{notFound.URL, gone.URL} {
		c.database, c.unlessUnreachable = database, false
		require.ErrorContains(t, c.run([]string{"."}), database+" cannot be reached")
		require.Empty(t, out.String())
		c.unlessUnreachable = true
		require.NoError(t, c.run([]string{"."}))
		require.Contains(t, out.String(), "NOT CHECKED for known vulnerabilities: "+database+" cannot be reached")
		out.Reset()
	}
}

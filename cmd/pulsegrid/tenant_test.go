package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
	"github.com/pulsegrid/pulsegrid/internal/testkit/runbook"
)

// Guarantees: what the command prints for the registry lets the key in that it prints for the tenant, until it expires.
func TestANewKeyOpensItsTenant(t *testing.T) {
	out, code, err := run(t, "tenant", "key", "new", "acme", "--expires", "2027-01-31T01:00:00+01:00")
	require.NoError(t, err)
	require.Zero(t, code)
	lines := strings.Split(out, "\n")
	key := lines[1]
	dir := t.TempDir()
	_, yaml, ok := strings.Cut(out, "last line only.\n")
	require.True(t, ok)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "acme.yaml"), []byte("tenants:\n"+yaml), 0o600))
	source, err := fileset.Open(t.Context(), dir)
	require.NoError(t, err)
	loader := tenant.NewLoader(source)
	report, err := loader.Reload(t.Context())
	require.NoError(t, err)
	require.Empty(t, report.Refused)
	end := time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)
	got, _, err := loader.Snapshot().ByKey(key, end.Add(-time.Second))
	require.NoError(t, err)
	require.Equal(t, "acme", got.ID)
	_, _, err = loader.Snapshot().ByKey(key, end)
	require.ErrorIs(t, err, tenant.ErrKeyExpired)
	require.Equal(t, 1, strings.Count(out, key[len(key)-20:]), "the secret is printed once")

	out, code, err = run(t, "tenant", "check", dir)
	require.NoError(t, err)
	require.Zero(t, code)
	require.Equal(t, "1 tenants, 1 keys\n", out)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bad.yaml"), []byte("tenants:\n  - id: acme\n"), 0o600))
	out, code, err = run(t, "tenant", "check", dir)
	require.Equal(t, exitFailed, code)
	require.ErrorContains(t, err, "1 files would be refused")
	require.Contains(t, out, `bad.yaml:2: id: "acme": is in acme.yaml:2 too`)
	_, code, err = run(t, "tenant", "check", filepath.Join(dir, "none"))
	require.Equal(t, exitFailed, code)
	require.ErrorContains(t, err, "no such file")
}

// Scenario: a tenant's key is changed as the runbook says, by its commands.
// Guarantees: each key that agents may have is taken until its end; when it is over the registry has one key, the new one.
func TestAKeyIsRotatedAsTheRunbookSays(t *testing.T) {
	page, err := os.ReadFile("../../docs/runbooks/planned.md")
	require.NoError(t, err)
	commands := runbook.Commands(runbook.Section(string(page), "rotate-keys"))
	require.Equal(t, []string{"pulsegrid tenant key new acme", "pulsegrid tenant check tenants/"}, commands)
	dir := t.TempDir()
	made := func() (key, line string) {
		out, _, err := run(t, strings.Fields(commands[0])[1:]...)
		require.NoError(t, err)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		return lines[1], lines[len(lines)-1]
	}
	push := func(lines ...string) *tenant.Snapshot {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "acme.yaml"), []byte("tenants:\n  - id: acme\n    keys:\n"+strings.Join(lines, "\n")+"\n"), 0o600))
		out, _, err := run(t, strings.Fields(strings.Replace(commands[1], "tenants/", dir, 1))[1:]...)
		require.NoError(t, err, out)
		require.Equal(t, fmt.Sprintf("1 tenants, %d keys\n", len(lines)), out)
		source, err := fileset.Open(t.Context(), dir)
		require.NoError(t, err)
		loader := tenant.NewLoader(source)
		_, err = loader.Reload(t.Context())
		require.NoError(t, err)
		return loader.Snapshot()
	}
	opens := func(s *tenant.Snapshot, key string, at time.Time) error {
		_, _, err := s.ByKey(key, at)
		return err
	}
	end := time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)
	old, oldLine := made()
	fresh, freshLine := made()

	both := push(oldLine, freshLine)
	require.NoError(t, opens(both, old, end))
	require.NoError(t, opens(both, fresh, end))
	ending := push(strings.TrimSuffix(oldLine, "}")+", expires: 2027-01-31T00:00:00Z}", freshLine)
	require.NoError(t, opens(ending, old, end.Add(-time.Second)))
	require.ErrorIs(t, opens(ending, old, end), tenant.ErrKeyExpired)
	require.NoError(t, opens(ending, fresh, end))
	over := push(freshLine)
	require.ErrorIs(t, opens(over, old, end.Add(-time.Second)), tenant.ErrKeyUnknown)
	require.NoError(t, opens(over, fresh, end))
}

// Guarantee: nobody takes retention_days for a promise that is kept.
func TestTheCheckSaysThatARetentionIsNotEnforced(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("tenants:\n  - {id: acme, retention_days: 7}\n  - {id: globex}\n"), 0o600))
	out, code, err := run(t, "tenant", "check", dir)
	require.NoError(t, err)
	require.Zero(t, code)
	require.Contains(t, out, "2 tenants, 0 keys\n1 tenants have retention_days, which nothing enforces")
}

// Guarantee: the check names the classes that each cell sheds, and says which of them no tenant has.
func TestTheCheckSaysWhatIsShed(t *testing.T) {
	dir := t.TempDir()
	registry := `
cells:
  eu-1: {jurisdiction: eu, endpoint: "https://eu-1.example.com", shed: {standard: overflow, trail: refuse}}
tenants:
  - {id: acme}
`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(registry), 0o600))
	out, code, err := run(t, "tenant", "check", dir)
	require.NoError(t, err)
	require.Zero(t, code)
	require.Equal(t, "1 tenants, 0 keys\ncell eu-1 sheds class standard: overflow\ncell eu-1 sheds class trail: refuse; no tenant has this class\n", out)
}

func TestWrongTenantCommandLinesExitWith2(t *testing.T) {
	for want, args := range map[string][]string{
		"name one tenant":         {"tenant", "key", "new"},
		`"a b" is not a tenant`:   {"tenant", "key", "new", "a b"},
		`--expires "soon"`:        {"tenant", "key", "new", "a", "--expires", "soon"},
		"name one directory":      {"tenant", "check"},
		`neither a directory nor`: {"tenant", "check", "ftp://x"},
		`unknown command "frob"`:  {"tenant", "frob"},
	} {
		_, code, err := run(t, args...)
		require.ErrorContains(t, err, want)
		require.Equal(t, exitUsage, code, "%v", args)
	}
}

package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/schema"
)

// refusesARollout: the report of a rehearsal stops a rollout of what it has rehearsed, with its figures, and nothing is written.
func (r *rehearsed) refusesARollout(report, want string) {
	t := r.t
	t.Helper()
	gateway := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})) // it has no metrics yet
	defer gateway.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	r.write("rehearsed.json", report)
	r.write("plan.yaml", fmt.Sprintf("proposed: proposed\ncells: [{name: eu-1, registry: schemas, gateways: [%q], rehearsed: rehearsed.json}]\n", gateway.URL))
	for _, more := range [][]string{nil, {"--dry-run"}, {"--yes"}} {
		out, code, err := run(t, append([]string{"job", "run", "rollout", "--plan", "plan.yaml"}, more...)...)
		require.EqualError(t, err, "cell eu-1: rehearsed: "+want, out)
		require.Equal(t, exitFailed, code)
	}
	found, err := os.ReadDir("schemas")
	require.NoError(t, err)
	require.Len(t, found, 1)
}

// Guarantees: a command line or a plan that means nothing ends with 2, before any cell is looked at; a registry is read as gateways read it, so a diff of a cell is one of the version that
// its rollout's file names, and a registry with subdirectories is read whole.
func TestARolloutsCommandLine(t *testing.T) {
	t.Chdir(t.TempDir())
	write := func(name, content string) {
		require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
	}
	for want, args := range map[string][]string{
		"--plan: name the plan's file":          {},
		"--plan: stat gone.yaml":                {"--plan", "gone.yaml"},
		"goes with neither --yes nor --dry-run": {"--plan", "plan.yaml", "--rollback", "--yes"},
	} {
		_, code, err := run(t, append([]string{"job", "run", "rollout"}, args...)...)
		require.ErrorContains(t, err, want)
		require.Equal(t, exitUsage, code)
	}
	write("plan.yaml", "proposed: proposed\ncells: [{name: eu-1, registry: schemas, gateways: [eu-1]}]\n")
	_, code, err := run(t, "job", "run", "rollout", "--plan", "plan.yaml")
	require.ErrorContains(t, err, `cells: eu-1: gateways: "eu-1": want a URL`)
	require.Equal(t, exitUsage, code)
	write("plan.yaml", "proposed: proposed\ncells: [{name: eu-1, registry: schemas, gateways: [http://127.0.0.1:1/metrics]}]\n")
	_, code, err = run(t, "job", "run", "rollout", "--plan", "plan.yaml")
	require.ErrorContains(t, err, "proposed: list proposed")
	require.Equal(t, exitFailed, code)

	for _, dir := range []string{"cell/.versions/", "proposed/deep"} {
		require.NoError(t, os.MkdirAll(dir, 0o700))
	}
	write("proposed/deep/shop.yaml", proposedSchemas)
	proposed, err := schema.Load([]schema.File{{Name: "deep/shop.yaml", Content: []byte(proposedSchemas)}})
	require.NoError(t, err)
	require.NoError(t, os.CopyFS("cell/.versions/"+proposed.Version(), os.DirFS("proposed")))
	write("cell/shop.yaml", currentSchemas)
	write("cell/rollout.yaml", "current: "+proposed.Version()+"\n")
	out, code, err := run(t, "schema", "diff", "cell", "proposed")
	require.NoError(t, err)
	require.Zero(t, code)
	require.Contains(t, out, "registry "+proposed.Version()+" is the old one, "+proposed.Version()+" the new one: 0 changes")
	write("cell/rollout.yaml", "current: 0a1b2c3d4e5f\n")
	_, _, err = run(t, "schema", "diff", "cell", "proposed")
	require.ErrorContains(t, err, "OLD cell: rollout.yaml: version 0a1b2c3d4e5f")
}

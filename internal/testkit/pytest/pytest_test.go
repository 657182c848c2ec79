package pytest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAScriptSeesItsArgumentsAndThePackages(t *testing.T) {
	var got struct {
		Args    []string
		Answer  int
		Version string
	}
	RunJSON(t, &got, `
import json, sys, duckdb, pyiceberg
print(json.dumps({"Args": sys.argv[1:], "Answer": duckdb.sql("select 6 * 7").fetchall()[0][0], "Version": pyiceberg.__version__}))
`, "a", "b c")
	require.Equal(t, []string{"a", "b c"}, got.Args)
	require.Equal(t, 42, got.Answer)
	require.NotEmpty(t, got.Version)
}

package audit

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Guarantees: the audit shares no code with what it proves: not the data path's idea of an event's identity, its dedupe, its hashes, or how it tells a
// record's source. Of internal/otlpwire it has the bounds alone that say what the data path refuses to read.
func TestTheAuditSharesNoCodeWithTheDedupe(t *testing.T) {
	const module = "github.com/pulsegrid/pulsegrid/"
	denied := []string{module + "internal/eventid", module + "internal/dedupe", module + "internal/otlpdecode", module + "processor", "github.com/zeebo/blake3", "github.com/minio/highwayhash"}
	allowed := map[string]bool{"Count": true, "Limits": true, "ErrTooDeep": true, "ErrTooManyEvents": true}
	files := 0
	require.NoError(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		files++
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		require.NoError(t, err)
		for _, i := range f.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			require.NoError(t, err)
			for _, no := range denied {
				require.False(t, name == no || strings.HasPrefix(name, no+"/"), "%s imports %s", path, name)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if of, ok := s.X.(*ast.Ident); ok && of.Name == "otlpwire" {
					require.True(t, allowed[s.Sel.Name], "%s uses otlpwire.%s", path, s.Sel.Name)
				}
			}
			return true
		})
		return nil
	}))
	require.Greater(t, files, 15)
}

package aggregate

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

//go:embed models
var shipped embed.FS

const (
	modelsMost     = 1_000
	definitionMost = 64 << 10 // bytes
)

// Shipped are the models that come with PulseGrid, by name.
func Shipped() ([]*Model, error) {
	sub, err := fs.Sub(shipped, "models")
	if err != nil {
		return nil, err
	}
	return Load(sub)
}

// Load reads all models of a directory: NAME.yaml and NAME.sql for each, NAME.ENGINE.sql where an engine has a query of its own, beside nothing but *.md. One that is wrong makes
// all fail, with every error named.
func Load(dir fs.FS) ([]*Model, error) {
	entries, err := fs.ReadDir(dir, ".")
	if err != nil {
		return nil, err
	}
	has := map[string]bool{}
	for _, e := range entries {
		has[e.Name()] = true
	}
	var models []*Model
	var errs []error
	targets := map[string]string{}
	for _, e := range entries {
		name, ext := strings.TrimSuffix(e.Name(), path.Ext(e.Name())), path.Ext(e.Name())
		other := map[string]string{".yaml": ".sql", ".sql": ".yaml"}[ext]
		if of, engine, own := strings.Cut(name, "."); own && ext == ".sql" {
			if err := KnowsEngine(engine); err != nil {
				errs = append(errs, fmt.Errorf("%s: NAME.ENGINE.sql: engine %w", e.Name(), err))
				continue
			}
			name = of
		}
		switch {
		case ext == ".md":
			continue
		case !e.Type().IsRegular() || other == "":
			errs = append(errs, fmt.Errorf("%s: want NAME.yaml and NAME.sql for each model, NAME.ENGINE.sql beside them, and nothing else", e.Name()))
			continue
		case !has[name+other]:
			errs = append(errs, fmt.Errorf("%s: %s is missing", e.Name(), name+other))
			continue
		case ext == ".sql":
			continue
		}
		m, err := load(dir, name, has)
		if err != nil {
			errs = append(errs, fmt.Errorf("model %s: %w", name, err))
			continue
		}
		if before, ok := targets[m.Target.Table]; ok {
			errs = append(errs, fmt.Errorf("model %s: target: table: %s is that of model %s", name, m.Target.Table, before))
		}
		targets[m.Target.Table] = name
		models = append(models, m)
	}
	switch {
	case len(errs) > 0:
		return nil, errors.Join(errs...)
	case len(models) == 0:
		return nil, errors.New("no model is here: want NAME.yaml and NAME.sql")
	case len(models) > modelsMost:
		return nil, fmt.Errorf("%d models: at most %d", len(models), modelsMost)
	}
	slices.SortFunc(models, func(a, b *Model) int { return strings.Compare(a.Name, b.Name) })
	return models, nil
}

// load reads a model of a directory that has these files.
func load(dir fs.FS, name string, has map[string]bool) (*Model, error) {
	definition, err := readDefinition(dir, name+".yaml")
	if err != nil {
		return nil, err
	}
	queries := map[string]string{}
	for _, engine := range []string{"", EngineClickHouse, EngineDuckDB, EngineAthena} {
		file := name + ".sql"
		if engine != "" {
			file = name + "." + engine + ".sql"
		}
		if !has[file] {
			continue
		}
		text, err := readDefinition(dir, file)
		if err != nil {
			return nil, err
		}
		queries[engine] = strings.TrimSpace(string(text))
	}
	return parse(name, bytes.NewReader(definition), queries)
}

func readDefinition(dir fs.FS, file string) ([]byte, error) {
	f, err := dir.Open(file)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, definitionMost+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if len(text) > definitionMost {
		return nil, fmt.Errorf("%s: is longer than %d bytes", file, definitionMost)
	}
	return text, nil
}

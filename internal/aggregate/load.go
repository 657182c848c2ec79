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

// Load reads all models of a directory: NAME.yaml and NAME.sql for each, beside nothing but *.md. One that is wrong makes all fail, with every error named.
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
		switch {
		case ext == ".md":
			continue
		case !e.Type().IsRegular() || other == "":
			errs = append(errs, fmt.Errorf("%s: want NAME.yaml and NAME.sql for each model, and nothing else", e.Name()))
			continue
		case !has[name+other]:
			errs = append(errs, fmt.Errorf("%s: %s is missing", e.Name(), name+other))
			continue
		case ext == ".sql":
			continue
		}
		m, err := load(dir, name)
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

func load(dir fs.FS, name string) (*Model, error) {
	var texts [2][]byte
	for i, file := range []string{name + ".yaml", name + ".sql"} {
		f, err := dir.Open(file)
		if err != nil {
			return nil, err
		}
		texts[i], err = io.ReadAll(io.LimitReader(f, definitionMost+1))
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		if len(texts[i]) > definitionMost {
			return nil, fmt.Errorf("%s: is longer than %d bytes", file, definitionMost)
		}
	}
	return parse(name, bytes.NewReader(texts[0]), string(texts[1]))
}

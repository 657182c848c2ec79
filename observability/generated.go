package observability

import (
	"io/fs"
	"maps"
	"slices"
)

//go:generate go run ./generate ..

// Generate makes the files that are generated, by their paths in the checkout.
func Generate(root fs.FS) (map[string][]byte, error) {
	metrics, err := Declared(root)
	if err != nil {
		return nil, err
	}
	content, err := fs.ReadFile(root, "observability/slo.yaml")
	if err != nil {
		return nil, err
	}
	slos, err := Parse(content, metrics)
	if err != nil {
		return nil, err
	}
	rules, err := slos.Rules()
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for name, file := range rules {
		out["observability/rules/"+name] = file
	}
	all, err := allRules(root, out)
	if err != nil {
		return nil, err
	}
	if content, err = fs.ReadFile(root, "observability/metrics.yaml"); err != nil {
		return nil, err
	}
	notes, err := ParseNotes(content, metrics)
	if err != nil {
		return nil, err
	}
	dashboards, err := Dashboards(slos, all)
	if err != nil {
		return nil, err
	}
	for i := range dashboards {
		if out["dashboards/"+dashboards[i].Name+".json"], err = dashboards[i].JSON(); err != nil {
			return nil, err
		}
	}
	uses, err := FindUses(root, all, dashboards, metrics)
	if err != nil {
		return nil, err
	}
	out["docs/metrics.md"] = Document(metrics, notes, uses)
	return out, nil
}

// allRules are the rules of these files and those written by hand.
func allRules(root fs.FS, generated map[string][]byte) (all []Rule, err error) {
	files := maps.Clone(generated)
	byHand, err := fs.Glob(root, "observability/alerts/*.yaml")
	if err != nil {
		return nil, err
	}
	for _, file := range byHand {
		if files[file], err = fs.ReadFile(root, file); err != nil {
			return nil, err
		}
	}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		rules, err := ParseRules(file, files[file])
		if err != nil {
			return nil, err
		}
		all = append(all, rules...)
	}
	return all, nil
}

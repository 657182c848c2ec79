package rig

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Warnings are the last warnings and errors of every gateway and aggregator, and the last lines that are not the Collector's own.
func (r *Rig) Warnings() string {
	const most = 15 // lines of a process
	var b strings.Builder
	for _, tier := range slices.Concat(r.Gateways, r.Aggregators) {
		var lines []string
		for line := range strings.Lines(tier.Log()) {
			if !strings.Contains(line, `"level":"info"`) {
				lines = append(lines, resource.ReplaceAllString(line, ""))
			}
		}
		fmt.Fprintf(&b, "%s:\n%s\n", tier.Name, strings.Join(lines[max(0, len(lines)-most):], ""))
	}
	return b.String()
}

// WriteLogs writes all that the rig still has of what its gateways and aggregators logged, each to a file of its own.
func (r *Rig) WriteLogs(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, tier := range slices.Concat(r.Gateways, r.Aggregators) {
		if err := os.WriteFile(filepath.Join(dir, tier.Name+".log"), []byte(tier.Log()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// resource is the same in every line of a process.
var resource = regexp.MustCompile(`"resource":\{[^}]*\},|,"resource":\{[^}]*\}`)

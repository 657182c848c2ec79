package rollout

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/rehearsal"
)

// Defaults and bounds of a Plan.
const (
	defaultStage         = time.Hour
	defaultRefuseAbove   = "1%"
	defaultLatencyGrowth = 25 * time.Millisecond
	defaultMinEvents     = 1000
	minStage             = time.Second
	maxStage             = 30 * 24 * time.Hour
	maxCells             = 1000
	maxGateways          = 1000
	planBytesMax         = 4 << 20
)

// Plan says what goes where, and what is too much.
type Plan struct {
	// Proposed is the location of the proposed version. Required.
	Proposed string `yaml:"proposed"`
	// Cells in the order in which they get it. Required.
	Cells []Cell `yaml:"cells"`
	// WarnFor and EnforceFor are how long each stage is watched. Default 1h; 1s to 720h.
	WarnFor    time.Duration `yaml:"warn_for"`
	EnforceFor time.Duration `yaml:"enforce_for"`
	// RefuseAbove is the share of a tenant's events that the proposed version may refuse beyond what the current one refuses. Default 1%.
	RefuseAbove string `yaml:"refuse_above"`
	// LatencyGrowth is by how much a request may take longer than before the rollout, on average over a cell's gateways. Default 25ms.
	LatencyGrowth time.Duration `yaml:"latency_growth"`
	// MinEvents is how many events of a cell a stage must see to pass, and how many of a tenant it takes to stop before the stage ends. Default 1000.
	MinEvents int64 `yaml:"min_events"`

	refusePercent float64
}

// Cell is a set of gateways with one registry of schemas.
type Cell struct {
	Name string `yaml:"name"`
	// Registry is the `location` of the gateways' schema_registry.
	Registry string `yaml:"registry"`
	// Gateways are the URLs of all the cell's gateways' metrics.
	Gateways []string `yaml:"gateways"`
	// Rehearsed is the file of the report of a rehearsal in this cell (`--json`). Required where the proposed version may refuse what the current one accepts.
	Rehearsed string `yaml:"rehearsed"`
}

// ReadPlan reads a plan's file.
func ReadPlan(path string) (Plan, error) {
	p := Plan{WarnFor: defaultStage, EnforceFor: defaultStage, RefuseAbove: defaultRefuseAbove, LatencyGrowth: defaultLatencyGrowth, MinEvents: defaultMinEvents}
	info, err := os.Stat(path)
	if err != nil {
		return p, err
	}
	if info.Size() > planBytesMax {
		return p, fmt.Errorf("%s: %d bytes are more than %d", path, info.Size(), planBytesMax)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return p, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(content))
	dec.KnownFields(true)
	if err := dec.Decode(&p); err != nil {
		return p, fmt.Errorf("%s: %w", path, err)
	}
	if err := p.validate(); err != nil {
		return p, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

func (p *Plan) validate() (err error) {
	if err := fileset.Check(p.Proposed); err != nil {
		return fmt.Errorf("proposed: %w", err)
	}
	if p.refusePercent, err = rehearsal.ParsePercent(p.RefuseAbove); err != nil {
		return fmt.Errorf("refuse_above: %w", err)
	}
	for key, d := range map[string]time.Duration{"warn_for": p.WarnFor, "enforce_for": p.EnforceFor} {
		if d < minStage || d > maxStage {
			return fmt.Errorf("%s: is %v, want %v to %v", key, d, minStage, maxStage)
		}
	}
	switch {
	case p.LatencyGrowth <= 0:
		return fmt.Errorf("latency_growth: is %v, want more than 0", p.LatencyGrowth)
	case p.MinEvents < 1:
		return fmt.Errorf("min_events: is %d, want 1 or more", p.MinEvents)
	case len(p.Cells) == 0 || len(p.Cells) > maxCells:
		return fmt.Errorf("cells: are %d, want 1 to %d", len(p.Cells), maxCells)
	}
	seen := map[string]bool{}
	once := func(what string) error {
		if seen[what] {
			return fmt.Errorf("%s: is there twice", what)
		}
		seen[what] = true
		return nil
	}
	for i, c := range p.Cells {
		if c.Name == "" {
			return fmt.Errorf("cells: the %d. has no name", i+1)
		}
		if err := errors.Join(c.validate(), once("name "+c.Name), once("registry "+c.Registry)); err != nil {
			return fmt.Errorf("cells: %s: %w", c.Name, err)
		}
		for _, g := range c.Gateways {
			if err := once("gateway " + g); err != nil {
				return fmt.Errorf("cells: %s: %w", c.Name, err)
			}
		}
	}
	return nil
}

func (c *Cell) validate() error {
	if err := fileset.Check(c.Registry); err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	if len(c.Gateways) == 0 || len(c.Gateways) > maxGateways {
		return fmt.Errorf("gateways: are %d, want the URLs of 1 to %d gateways' metrics", len(c.Gateways), maxGateways)
	}
	for _, g := range c.Gateways {
		if u, err := url.Parse(g); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("gateways: %q: want a URL such as http://10.0.0.1:8888/metrics", g)
		}
	}
	return nil
}

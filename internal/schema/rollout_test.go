package schema_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/schema"
)

var began = time.Date(2026, 11, 30, 2, 40, 0, 0, time.UTC)

// Guarantees: a rollout's file is read as it was written; what is not understood is refused, and named.
func TestARolloutsFile(t *testing.T) {
	const one, two = "0a1b2c3d4e5f", "3f2a1b2c3d4e"
	for _, r := range []schema.Rollout{
		{Current: one}, {Current: one, Proposed: two, Stage: schema.StageWarn, Since: began, LatencyBefore: 4100 * time.Microsecond}, {Current: two, Proposed: one, Stage: schema.StageDone, Since: began},
	} {
		got, err := schema.ParseRollout(r.Marshal())
		require.NoError(t, err)
		require.Equal(t, r, got)
	}
	for text, want := range map[string]string{
		"":                                  "EOF",
		"current: ../../secrets":            `current: is "../../secrets", want a version`,
		"current: " + one + "\nextra: 1":    "field extra not found",
		"current: " + one + "\nstage: warn": `stage: is "warn", and proposed names no version`,
		"current: " + one + "\nproposed: v2\nstage: warn":                            `proposed: is "v2"`,
		"current: " + one + "\nproposed: " + two:                                     `stage: is "", want warn, enforce or done`,
		"current: " + one + "\nproposed: " + two + "\nstage: soon":                   `stage: is "soon"`,
		"current: " + one + "\nproposed: " + one + "\nstage: warn":                   "proposed: is the current version",
		"current: " + one + "\n#" + strings.Repeat("x", 5000):                        "at most 4096",
		"current: " + one + "\nproposed: " + two + "\nstage: warn\nsince: yesterday": "yesterday",
	} {
		_, err := schema.ParseRollout([]byte(text))
		require.ErrorContains(t, err, want, text)
	}
}

// place is a registry's location with two versions in it.
type place struct {
	t        *testing.T
	dir      string
	tree     fileset.Tree
	loader   *schema.Loader
	one, two *schema.Registry
	writes   int
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{t: t, dir: t.TempDir()}
	var err error
	p.tree, err = fileset.OpenTree(t.Context(), p.dir)
	require.NoError(t, err)
	p.loader = schema.NewLoader(p.tree)
	load := func(files ...schema.File) *schema.Registry {
		r, err := schema.Load(files)
		require.NoError(t, err)
		return r
	}
	p.one = load(schema.File{Name: "a.yaml", Content: []byte(event("a"))})
	p.two = load(schema.File{Name: "a.yaml", Content: []byte(event("a"))}, schema.File{Name: "b/b.yaml", Content: []byte(event("b"))})
	p.write("a.yaml", event("a"))
	return p
}

// write gives each content a time of its own: file systems' clocks are coarse.
func (p *place) write(name, content string) {
	p.t.Helper()
	require.NoError(p.t, p.tree.Write(p.t.Context(), name, []byte(content)))
	p.writes++
	at := began.Add(time.Duration(p.writes) * time.Second)
	require.NoError(p.t, os.Chtimes(filepath.Join(p.dir, name), at, at))
}

func (p *place) says(r schema.Rollout) { p.write(schema.RolloutFile, string(r.Marshal())) }

// holds reloads and says what is then in force, beside it, and refused.
func (p *place) holds(registry, beside *schema.Registry, refused string) {
	p.t.Helper()
	report, err := p.loader.Reload(p.t.Context())
	require.NoError(p.t, err)
	now := p.loader.InForce()
	require.Equal(p.t, registry.Version(), now.Registry.Version())
	require.Equal(p.t, registry.Schemas(), now.Registry.Schemas())
	require.Equal(p.t, len(registry.Files()), report.Files)
	if beside == nil {
		require.Nil(p.t, now.Trial)
	} else {
		require.Equal(p.t, beside.Version(), now.Trial.Beside.Version())
	}
	if refused == "" {
		require.Empty(p.t, report.Refused)
	} else {
		require.Len(p.t, report.Refused, 1)
		require.ErrorContains(p.t, report.Refused[0], refused)
	}
}

// Scenario: a rollout's file goes through its stages, and is wrong now and then; versions come later than the file that names them, and one has been changed.
// Guarantees: what is in force is one of the two versions, whole, at each moment. What is wrong changes nothing and is told; it counts as soon as it is right. Without the file the
// location's own files are in force again.
func TestALocationWithARollout(t *testing.T) {
	p := newPlace(t)
	p.holds(p.one, nil, "")
	warn := schema.Rollout{Current: p.one.Version(), Proposed: p.two.Version(), Stage: schema.StageWarn, Since: began}
	p.says(warn) // nobody has written the versions yet
	p.holds(p.one, nil, "rollout.yaml: version "+p.two.Version())
	_, follows := p.loader.Rollout()
	require.False(t, follows)
	require.NoError(t, p.tree.Write(t.Context(), ".versions/"+p.two.Version()+"/a.yaml", []byte(event("a")))) // half of it
	p.holds(p.one, nil, "the 1 files in .versions/"+p.two.Version()+" are version "+p.one.Version())
	require.NoError(t, schema.WriteVersion(t.Context(), p.tree, p.two))
	p.holds(p.one, p.two, "") // the current one is the one in force: it is not read
	got, follows := p.loader.Rollout()
	require.True(t, follows)
	require.Equal(t, warn, got)
	was := p.loader.InForce()
	p.write("a.yaml", event("a")) // written anew, as a copy of the whole location does
	p.holds(p.one, p.two, "")
	require.Same(t, was, p.loader.InForce(), "the same attempt goes on counting")
	again := warn
	again.Since = began.Add(time.Second)
	p.says(again)
	p.holds(p.one, p.two, "")
	require.NotSame(t, was, p.loader.InForce(), "another attempt counts anew")

	require.NoError(t, schema.WriteVersion(t.Context(), p.tree, p.one))
	enforce := warn
	enforce.Stage = schema.StageEnforce
	p.says(enforce)
	p.holds(p.two, p.one, "")
	p.write(schema.RolloutFile, "current: [")
	p.holds(p.two, p.one, "rollout.yaml: ")
	done := enforce
	done.Stage = schema.StageDone
	p.says(done)
	p.holds(p.two, nil, "")

	p.write("a.yaml", event("c")) // as one changes schemas where there is no rollout
	report, err := p.loader.Reload(t.Context())
	require.NoError(t, err)
	require.Empty(t, report.Refused)
	require.ErrorContains(t, report.Unused, "the location's own files are version")
	require.Equal(t, p.two.Version(), p.loader.Registry().Version())
	p.write("a.yaml", event("a"))

	p.says(schema.Rollout{Current: p.one.Version()}) // back
	p.holds(p.one, nil, "")
	report, err = p.loader.Reload(t.Context())
	require.NoError(t, err)
	require.NoError(t, report.Unused)

	require.NoError(t, p.tree.Write(t.Context(), ".versions/"+p.two.Version()+"/b/b.yaml", []byte(event("x"))))
	p.says(again)
	p.holds(p.one, nil, "are version")
	require.NoError(t, schema.WriteVersion(t.Context(), p.tree, p.two)) // written anew, since it is not what it is called
	p.holds(p.one, p.two, "")
	require.NoError(t, os.Remove(filepath.Join(p.dir, schema.RolloutFile)))
	p.write("c.yaml", event("c"))
	report, err = p.loader.Reload(t.Context())
	require.NoError(t, err)
	require.True(t, report.Changed)
	require.Nil(t, p.loader.InForce().Trial)
	require.Equal(t, 2, p.loader.Registry().Schemas())
}

// Guarantee: a gateway that starts while its rollout's file is bad does not guess: only limits are checked, as long as it is.
func TestAGatewayThatCannotTellWhatIsInForce(t *testing.T) {
	p := newPlace(t)
	p.write(schema.RolloutFile, "stage: warn")
	p.holds(schema.Empty(), nil, "rollout.yaml: current: is")
	require.NoError(t, schema.WriteVersion(t.Context(), p.tree, p.two))
	p.says(schema.Rollout{Current: p.two.Version()})
	p.holds(p.two, nil, "")
	require.NoError(t, os.Remove(filepath.Join(p.dir, schema.RolloutFile)))
	require.NoError(t, os.Symlink("/etc/hostname", filepath.Join(p.dir, schema.RolloutFile)))
	p.holds(p.two, nil, "a link is followed only if")
	require.NoError(t, os.Remove(filepath.Join(p.dir, schema.RolloutFile)))
	p.holds(p.one, nil, "")
}

func finding(events ...int) (f schema.Findings) {
	for _, e := range events {
		f = append(f, schema.Finding{Event: e, Verdicts: []schema.Verdict{{Code: schema.AttributeMissing}, {Code: schema.AttributeType}}})
	}
	return f
}

// Guarantees: counted is what the proposed version refuses and the current one does not, whichever of the two is in force; an enforced version is compared only where it has found
// something.
func TestATrialCountsWhatTheProposedVersionAloneRefuses(t *testing.T) {
	asked := 0
	compare := func(stage schema.Stage, found, beside schema.Findings) []schema.TenantTrial {
		trial := &schema.Trial{Rollout: schema.Rollout{Stage: stage}}
		res := schema.Result{Events: 10, Findings: found}
		if trial.Asks(res) {
			asked++
			trial.Count("acme", res, schema.Result{Events: 10, Findings: beside})
		} else {
			trial.Count("acme", res, schema.Result{})
		}
		return trial.Tenants()
	}
	for stage, each := range map[schema.Stage]func(current, proposed schema.Findings) []schema.TenantTrial{
		schema.StageWarn: func(current, proposed schema.Findings) []schema.TenantTrial {
			return compare(schema.StageWarn, current, proposed)
		},
		schema.StageEnforce: func(current, proposed schema.Findings) []schema.TenantTrial {
			return compare(schema.StageEnforce, proposed, current)
		},
	} {
		require.Equal(t, []schema.TenantTrial{{Tenant: "acme", Events: 10, Refused: 3, Code: schema.AttributeMissing}}, each(finding(1, 4, 9), finding(0, 1, 3, 5, 9)), stage)
		require.Equal(t, []schema.TenantTrial{{Tenant: "acme", Events: 10}}, each(finding(1, 4), finding(4)), stage)
		require.Equal(t, []schema.TenantTrial{{Tenant: "acme", Events: 10}}, each(finding(1, 4), nil), stage)
	}
	require.Equal(t, 5, asked, "not where an enforced version has found nothing")
}

// Guarantees: however many tenants there are, what is kept and what is told are bounded, no event is left out of it, and the tenants with refused events are told by name.
func TestATrialOfManyTenants(t *testing.T) {
	trial := &schema.Trial{Rollout: schema.Rollout{Stage: schema.StageWarn}}
	const tenants = 12_000
	var all sync.WaitGroup
	for part := range 4 {
		all.Go(func() {
			for i := part; i < tenants; i += 4 {
				var beside schema.Result
				if i%20 == 0 && i < 2000 {
					beside.Findings = finding(0)
				}
				trial.Count(fmt.Sprintf("t%d", i), schema.Result{Events: 2}, beside)
			}
		})
	}
	all.Wait()
	got := trial.Tenants()
	require.Equal(t, 1000, len(got)) // Len would print them
	require.Equal(t, "(others)", got[999].Tenant)
	events, refused := int64(0), 0
	for i, c := range got {
		events += c.Events
		if c.Refused > 0 {
			refused++
			require.Less(t, i, 100, "those come first")
		}
	}
	require.EqualValues(t, 2*tenants, events)
	require.Equal(t, 100, refused)
}

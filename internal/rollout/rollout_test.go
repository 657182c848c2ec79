package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/rehearsal"
	"github.com/pulsegrid/pulsegrid/internal/schema"
)

const (
	currentSchemas  = "groups: [{id: e, type: event, name: e, attributes: [{id: n, type: int}]}]"
	proposedSchemas = "groups: [{id: e, type: event, name: e, attributes: [{id: n, type: int, requirement_level: required}]}]"
)

// world is two cells, each a directory with two gateways that follow it, and an operator.
type world struct {
	t                 *testing.T
	dir               string
	current, proposed *schema.Registry
	config            Config
	gateways          map[string]*gatewayDouble
	approved          []string
	said              []string
	failWrite         func(name string) (before, after error) // nil: none fails
}

// gatewayDouble follows its registry as the extension does, and makes its traffic up: as much as time has passed between two looks at it.
type gatewayDouble struct {
	dir      string
	loader   *schema.Loader
	last     time.Time
	rate     float64                                               // events a second, and requests
	refused  func(stage schema.Stage, since time.Duration) float64 // share of acme's events, by stage and how long the gateway has it
	latency  func(stage schema.Stage) time.Duration
	down     bool
	stuck    bool // it does not read its registry any more
	requests uint64
	seconds  float64
	had      time.Time // the stage at hand
	stage    schema.Stage
	stages   []schema.Stage // that it has had
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), gateways: map[string]*gatewayDouble{}}
	load := func(content string) *schema.Registry {
		r, err := schema.Load([]schema.File{{Name: "e.yaml", Content: []byte(content)}})
		require.NoError(t, err)
		return r
	}
	w.current, w.proposed = load(currentSchemas), load(proposedSchemas)
	plan := Plan{Proposed: "proposed", WarnFor: 10 * time.Minute, EnforceFor: 20 * time.Minute, RefuseAbove: "1%", LatencyGrowth: 20 * time.Millisecond, MinEvents: 1000}
	for _, name := range []string{"one", "two"} {
		c := Cell{Name: name, Registry: filepath.Join(w.dir, name), Rehearsed: filepath.Join(w.dir, "rehearsed.json")}
		require.NoError(t, os.Mkdir(c.Registry, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(c.Registry, "e.yaml"), []byte(currentSchemas), 0o600))
		for i := range 2 {
			url := fmt.Sprintf("http://%s-%d/metrics", name, i)
			c.Gateways = append(c.Gateways, url)
			tree, err := fileset.OpenTree(t.Context(), c.Registry)
			require.NoError(t, err)
			w.gateways[url] = &gatewayDouble{
				dir: c.Registry, loader: schema.NewLoader(tree), rate: 50, refused: func(schema.Stage, time.Duration) float64 { return 0.005 },
				latency: func(schema.Stage) time.Duration { return 10 * time.Millisecond },
			}
		}
		plan.Cells = append(plan.Cells, c)
	}
	require.NoError(t, plan.validate())
	w.config = Config{
		Plan: plan, Proposed: w.proposed, Limits: schema.DefaultLimits(), Scrape: w.scrape, Open: w.open,
		Approve: func(s Step) bool { w.approved = append(w.approved, s.String()); return true },
		Say:     func(format string, args ...any) { w.said = append(w.said, fmt.Sprintf(format, args...)) },
	}
	w.rehearsed(func(*rehearsal.Report) {})
	return w
}

// rehearsed writes the report of a rehearsal that has passed, but for what change does to it.
func (w *world) rehearsed(change func(*rehearsal.Report)) {
	w.t.Helper()
	r := rehearsal.Report{Events: 1000, Current: rehearsal.Registry{Version: w.current.Version()}, Proposed: rehearsal.Registry{Version: w.proposed.Version()}}
	change(&r)
	b, err := json.Marshal(r)
	require.NoError(w.t, err)
	require.NoError(w.t, os.WriteFile(filepath.Join(w.dir, "rehearsed.json"), b, 0o600))
}

// brittle is a registry in which writing fails.
type brittle struct {
	fileset.Tree
	fail func(name string) (before, after error)
	at   string
}

func (b brittle) Below(dir string) fileset.Tree { return brittle{b.Tree.Below(dir), b.fail, dir + "/"} }

func (b brittle) Write(ctx context.Context, name string, content []byte) error {
	before, after := b.fail(b.at + name)
	if before != nil {
		return before
	}
	return errors.Join(b.Tree.Write(ctx, name, content), after)
}

func (w *world) open(ctx context.Context, location string) (fileset.Tree, error) {
	tree, err := fileset.OpenTree(ctx, location)
	if err != nil || w.failWrite == nil {
		return tree, err
	}
	return brittle{tree, w.failWrite, ""}, nil
}

func (w *world) scrape(_ context.Context, url string) (map[string]*dto.MetricFamily, error) {
	g := w.gateways[url]
	if g.down {
		return nil, errors.New("connection refused")
	}
	if !g.stuck {
		report, err := g.loader.Reload(w.t.Context())
		require.NoError(w.t, err)
		require.Empty(w.t, report.Refused, "a gateway never sees half a version")
	}
	now, in := time.Now(), g.loader.InForce()
	require.Contains(w.t, []string{w.current.Version(), w.proposed.Version()}, in.Registry.Version())
	stage := schema.Stage("")
	if in.Trial != nil {
		stage = in.Trial.Rollout.Stage
	} else if in.Registry.Version() == w.proposed.Version() {
		stage = schema.StageDone
	}
	if stage != g.stage {
		g.stage, g.had, g.stages = stage, now, append(g.stages, stage)
	}
	passed := 0.0
	if !g.last.IsZero() {
		passed = now.Sub(g.last).Seconds()
	}
	g.last = now
	events := int(passed * g.rate)
	g.requests += uint64(events)
	g.seconds += float64(events) * g.latency(stage).Seconds()
	m := map[string]*dto.MetricFamily{metricLatency: {Metric: []*dto.Metric{{Histogram: &dto.Histogram{SampleCount: &g.requests, SampleSum: &g.seconds}}}}}
	if in.Trial == nil {
		return m, nil
	}
	g.count(in.Trial, events, g.refused(stage, now.Sub(g.had)))
	of := map[string]string{"version": in.Trial.Rollout.Proposed, "stage": string(stage), "since": in.Trial.Rollout.Since.Format(time.RFC3339)}
	gauge := func(name string, n float64, labels ...string) {
		one := &dto.Metric{Gauge: &dto.Gauge{Value: &n}}
		for k, v := range of {
			one.Label = append(one.Label, &dto.LabelPair{Name: &k, Value: &v})
		}
		for i := 0; i < len(labels); i += 2 {
			one.Label = append(one.Label, &dto.LabelPair{Name: &labels[i], Value: &labels[i+1]})
		}
		if m[name] == nil {
			m[name] = &dto.MetricFamily{}
		}
		m[name].Metric = append(m[name].Metric, one)
	}
	gauge(metricRollout, 1)
	for _, c := range in.Trial.Tenants() {
		gauge(metricEvents, float64(c.Events), "tenant", c.Tenant)
		if c.Refused > 0 {
			gauge(metricRefused, float64(c.Refused), "tenant", c.Tenant, "code", string(c.Code))
		}
	}
	return m, nil
}

// count gives a trial the events of two tenants, in halves; the share is of the first one's.
func (g *gatewayDouble) count(trial *schema.Trial, events int, share float64) {
	var refused schema.Findings
	for i := range int(float64(events/2)*share + 0.5) {
		refused = append(refused, schema.Finding{Event: i, Verdicts: []schema.Verdict{{Code: schema.AttributeMissing}}})
	}
	found, beside := schema.Result{Events: events / 2}, schema.Result{Events: events / 2, Findings: refused}
	if trial.Rollout.Stage == schema.StageEnforce {
		found, beside = beside, found
	}
	trial.Count("acme", found, beside)
	trial.Count("globex", schema.Result{Events: events / 2}, schema.Result{})
}

// state is what a cell's registry says.
func (w *world) state(cell int) schema.Rollout {
	w.t.Helper()
	r, err := openRegistry(w.t.Context(), fileset.OpenTree, w.config.Plan.Cells[cell].Registry)
	require.NoError(w.t, err)
	return r.state
}

func (w *world) each(f func(*gatewayDouble)) {
	for _, g := range w.gateways {
		f(g)
	}
}

// Guarantees: a version that is within its budgets goes through warn and enforce in one cell and then, once that is approved, in the next; each for its time.
func TestAGoodVersionGoesCellByCell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		began := time.Now()
		w.config.Approve = func(s Step) bool {
			require.Equal(t, Step{Cell: "two", Stage: schema.StageWarn}, s)
			require.Equal(t, schema.StageDone, w.state(0).Stage)
			require.Equal(t, schema.Rollout{Current: w.current.Version()}, w.state(1), "nothing has begun there")
			w.approved = append(w.approved, s.String())
			return true
		}
		require.NoError(t, Run(t.Context(), w.config))
		require.Equal(t, []string{"warn in cell two"}, w.approved)
		took := time.Since(began)
		require.GreaterOrEqual(t, took, 2*(time.Minute+10*time.Minute+20*time.Minute))
		require.Less(t, took, 2*(time.Minute+10*time.Minute+20*time.Minute)+4*maxEvery)
		for cell := range 2 {
			s := w.state(cell)
			require.Equal(t, []string{w.current.Version(), w.proposed.Version()}, []string{s.Current, s.Proposed})
			require.Equal(t, schema.StageDone, s.Stage)
			require.Equal(t, 10*time.Millisecond, s.LatencyBefore)
		}
		w.each(func(g *gatewayDouble) {
			require.Equal(t, []schema.Stage{schema.StageWarn, schema.StageEnforce}, g.stages, "nobody has looked since")
		})
		require.Contains(t, strings.Join(w.said, "\n"), "stage warn has passed: ")
		require.NoError(t, Run(t.Context(), w.config), "again: it is in force already")
		require.Len(t, w.approved, 1)
	})
}

// Guarantees: a version that refuses more than its budget of one tenant, in either stage, also where that begins late, or that makes requests slow, is rolled back in its cell and goes no
// further; the error names the stage, the tenant, the code and the figures.
func TestABudgetThatIsExceededRollsTheCellBack(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*gatewayDouble)
		want  string
		stage schema.Stage
		after time.Duration // of the stage; at most
	}{
		"in warn": {
			func(g *gatewayDouble) { g.refused = func(schema.Stage, time.Duration) float64 { return 0.05 } },
			`^cell one: rolled back from stage warn: version \w+ refuses \d+ of \d+ events of tenant acme \(\d\.\d\d%\), attribute_missing, more than 1%; nothing was quarantined by it$`, schema.StageWarn, time.Minute,
		},
		"in enforce": {
			func(g *gatewayDouble) {
				g.refused = func(s schema.Stage, _ time.Duration) float64 {
					return map[schema.Stage]float64{schema.StageEnforce: 0.05}[s]
				}
			},
			`rolled back from stage enforce: version \w+ refuses \d+ of \d+ events of tenant acme .*what was quarantined meanwhile can be repaired`, schema.StageEnforce, time.Minute,
		},
		"late, hidden by what was good before": {
			func(g *gatewayDouble) {
				g.refused = func(s schema.Stage, since time.Duration) float64 {
					if s == schema.StageEnforce && since > 18*time.Minute {
						return 0.06
					}
					return 0
				}
			},
			`rolled back from stage enforce: version \w+ refuses .* tenant acme`, schema.StageEnforce, 20 * time.Minute,
		},
		"slow": {
			func(g *gatewayDouble) {
				g.latency = func(s schema.Stage) time.Duration {
					if s == schema.StageWarn {
						return 35 * time.Millisecond
					}
					return 10 * time.Millisecond
				}
			},
			`rolled back from stage warn: a request takes 3\d(\.\d+)?ms on average \(\d+ requests\) and took 10ms before, more than 20ms longer`, schema.StageWarn, time.Minute,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.each(c.spoil)
				err := Run(t.Context(), w.config)
				require.Error(t, err)
				require.Regexp(t, c.want, err.Error())
				require.ErrorAs(t, err, new(Ended))
				require.Equal(t, schema.Rollout{Current: w.current.Version()}, w.state(0))
				require.Equal(t, schema.Rollout{Current: w.current.Version()}, w.state(1))
				require.Empty(t, w.approved)
				for url, g := range w.gateways {
					if strings.Contains(url, "one") {
						require.Equal(t, schema.Stage(""), g.stage, "the gateways have followed")
						require.Equal(t, c.stage, g.stages[len(g.stages)-2])
					}
				}
			})
		})
	}
}

// Guarantees: small tenants are judged when the stage ends, so that one event among few does not stop a rollout at once, and does stop it then.
func TestATenantWithFewEventsIsJudgedAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.each(func(g *gatewayDouble) {
			g.refused = func(_ schema.Stage, since time.Duration) float64 {
				if since == 0 {
					return 0.015 // of the few events of the first look
				}
				return 0
			}
		})
		require.NoError(t, Run(t.Context(), w.config))
		w = newWorld(t)
		w.each(func(g *gatewayDouble) {
			g.rate = 0.8
			g.refused = func(_ schema.Stage, since time.Duration) float64 {
				if since < 40*time.Second {
					return 0.13 // one event of four, eight in all
				}
				return 0
			}
		})
		w.config.Plan.MinEvents = 900
		began := time.Now()
		require.ErrorContains(t, Run(t.Context(), w.config), "rolled back from stage warn")
		require.Greater(t, time.Since(began), 10*time.Minute)
	})
}

// Guarantees: where a gateway's metrics cannot be read, where it does not follow, or where there is no traffic, nothing passes and nothing goes back: it stops where it is, says why, and
// goes on from there once that is mended.
func TestSilenceIsNoConsent(t *testing.T) {
	for name, c := range map[string]struct {
		spoil, mend func(*gatewayDouble)
		want        string
		began       bool
	}{
		"not to be read": {
			func(g *gatewayDouble) {
				g.latency = func(s schema.Stage) time.Duration { g.down = s == schema.StageWarn; return 10 * time.Millisecond }
			},
			func(g *gatewayDouble) {
				g.down = false
				g.latency = func(schema.Stage) time.Duration { return 10 * time.Millisecond }
			},
			`cell one: paused in stage warn: for 1m\d+s: connection refused; the same command goes on, --rollback undoes`, true,
		},
		"never to be read": {func(g *gatewayDouble) { g.down = true }, func(g *gatewayDouble) { g.down = false }, "nothing was begun: metrics of a gateway cannot be read: connection refused", false},
		"does not follow": {
			func(g *gatewayDouble) { g.stuck = true }, func(g *gatewayDouble) { g.stuck = false }, `paused in stage warn: for 1m\d+s: http://one-0/metrics does not have stage warn of version`, true,
		},
		"no requests": {func(g *gatewayDouble) { g.rate = 0 }, func(g *gatewayDouble) { g.rate = 50 }, "nothing was begun: its gateways have had no requests in 1m0s", false},
		"few events": {
			func(g *gatewayDouble) { g.rate = 0.7 }, func(g *gatewayDouble) { g.rate = 50 },
			`paused in stage warn: the gateways have checked \d\d\d events in this stage, and answered \d+ requests while it was watched: want 1000 events or more`, true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.each(func(g *gatewayDouble) {
					_, err := g.loader.Reload(t.Context()) // it runs already
					require.NoError(t, err)
				})
				w.each(c.spoil)
				err := Run(t.Context(), w.config)
				require.Error(t, err)
				require.Regexp(t, c.want, err.Error())
				if c.began {
					require.Equal(t, schema.StageWarn, w.state(0).Stage)
				} else {
					require.Equal(t, schema.Rollout{Current: w.current.Version()}, w.state(0))
				}
				w.each(c.mend)
				require.NoError(t, Run(t.Context(), w.config))
				require.Equal(t, schema.StageDone, w.state(1).Stage)
			})
		})
	}
}

// Guarantee: a stage does not pass while one of its gateways is silent, however short that is.
func TestAStageDoesNotPassWhileAGatewayIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		began := time.Now()
		scrape := w.config.Scrape
		w.config.Scrape = func(ctx context.Context, url string) (map[string]*dto.MetricFamily, error) {
			if passed := time.Since(began); strings.HasSuffix(url, "one-1/metrics") && passed > 10*time.Minute+30*time.Second && passed < 11*time.Minute+20*time.Second {
				return nil, errors.New("connection refused")
			}
			return scrape(ctx, url)
		}
		require.NoError(t, Run(t.Context(), w.config))
		enforced := w.state(0).Since.Add(-20 * time.Minute)
		require.WithinDuration(t, began.Add(11*time.Minute+20*time.Second), enforced, 2*maxEvery)
		require.False(t, enforced.Before(began.Add(11*time.Minute+20*time.Second)))
	})
}

var errKilled = errors.New("killed")

// Guarantees: whoever runs a rollout may be killed before or after any write: gateways go on with one of the two versions (scrape checks that at each look), and the same call ends it.
func TestARolloutIsKilledAtEachWriteAndGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		writes := -1
		for kill := 0; writes < 0 || kill < 2*writes; kill++ {
			w, n := newWorld(t), 0
			w.failWrite = func(string) (before, after error) {
				n++
				switch {
				case n-1 != kill/2:
					return nil, nil
				case kill%2 == 0:
					return errKilled, nil
				}
				return nil, errKilled
			}
			require.ErrorIs(t, Run(t.Context(), w.config), errKilled)
			for cell := range 2 {
				s := w.state(cell)
				require.Contains(t, []string{w.current.Version(), w.proposed.Version()}, s.InForce())
			}
			w.failWrite = nil
			require.NoError(t, Run(t.Context(), w.config), "killed at write %d", kill)
			require.Equal(t, schema.StageDone, w.state(0).Stage)
			require.Equal(t, schema.StageDone, w.state(1).Stage)
			if writes < 0 {
				w, n = newWorld(t), 0
				w.failWrite = func(string) (before, after error) { n++; return nil, nil }
				require.NoError(t, Run(t.Context(), w.config))
				writes = n
			}
		}
		require.Equal(t, 10, writes, "two versions and three stages in each of two cells")
	})
}

// Guarantees: a program that is told to stop says in which stage; the next run watches for what is left of the stage, and does not believe a time in which nobody looked.
func TestAStageGoesOnWhereItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
		defer cancel()
		require.ErrorContains(t, Run(ctx, w.config), "cell one: stopped in stage warn")
		warned := w.state(0).Since
		ctx, cancel = context.WithTimeout(t.Context(), 4*time.Minute)
		defer cancel()
		require.ErrorContains(t, Run(ctx, w.config), "cell one: stopped in stage enforce")
		require.WithinDuration(t, warned.Add(10*time.Minute), w.state(0).Since, 2*maxEvery)
		time.Sleep(24 * time.Hour) // nobody watches
		w.each(func(g *gatewayDouble) { g.last = time.Time{} })
		began := time.Now()
		w.config.Approve = func(Step) bool { return false }
		require.ErrorContains(t, Run(t.Context(), w.config), "cell two: waits for an approval")
		require.GreaterOrEqual(t, time.Since(began), window)
		require.Equal(t, schema.StageDone, w.state(0).Stage)
		require.Equal(t, schema.Rollout{Current: w.current.Version()}, w.state(1))
	})
}

// Scenario: to enforce the version wants an approval. It is given for the attempt at hand; the cell is rolled back and begun once more; then it is given for that one, a day
// late.
// Guarantees: nothing is enforced without the approval of this very attempt, and not before somebody has watched again; the error says which step waits.
func TestToEnforceTheVersionWantsAnApproval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config.Plan.Cells = w.config.Plan.Cells[:1]
		w.config.AskToEnforce = true
		var given []string
		w.config.Approve = func(s Step) bool { return slices.Contains(given, s.String()) }
		waits := func() string {
			t.Helper()
			var waiting *WaitsError
			err := Run(t.Context(), w.config)
			require.ErrorAs(t, err, &waiting)
			require.ErrorContains(t, err, "cell one: stage warn has passed, and to enforce the version waits for an approval")
			require.NotErrorAs(t, err, new(Ended))
			require.Equal(t, schema.StageWarn, w.state(0).Stage)
			return waiting.Step.String()
		}
		given = []string{waits()}
		require.NoError(t, Rollback(t.Context(), w.config))
		second := waits()
		require.NotContains(t, given, second)
		time.Sleep(24 * time.Hour) // nobody watches
		w.each(func(g *gatewayDouble) { g.last = time.Time{} })
		given = append(given, second)
		began := time.Now()
		require.NoError(t, Run(t.Context(), w.config))
		require.GreaterOrEqual(t, time.Since(began), window+20*time.Minute)
		require.Equal(t, schema.StageDone, w.state(0).Stage)
	})
}

// Guarantees: somebody may roll back while the rollout runs, which then stops and undoes nothing of it; cells that have the version get the one before, others are left alone.
func TestARolloutIsRolledBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ended := make(chan error)
		go func() { ended <- Run(t.Context(), w.config) }()
		time.Sleep(time.Minute + 5*time.Minute + time.Second) // between two looks
		require.Equal(t, schema.StageWarn, w.state(0).Stage)
		require.NoError(t, Rollback(t.Context(), w.config))
		require.ErrorIs(t, <-ended, errChanged)
		require.Equal(t, schema.Rollout{Current: w.current.Version()}, w.state(0))

		require.NoError(t, Run(t.Context(), w.config))
		require.NoError(t, Rollback(t.Context(), w.config))
		require.Equal(t, schema.Rollout{Current: w.current.Version()}, w.state(0))
		require.Equal(t, schema.Rollout{Current: w.current.Version()}, w.state(1))
		said := len(w.said)
		require.NoError(t, Rollback(t.Context(), w.config))
		require.Contains(t, w.said[said], "cell two: nothing to roll back")

		// A version that was rolled back is not the one that another rollout is of.
		other := w.config
		var err error
		other.Proposed, err = schema.Load([]schema.File{{Name: "e.yaml", Content: []byte(strings.Replace(proposedSchemas, "int", "string", 1))}})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		require.ErrorContains(t, Run(ctx, w.config), "stopped in stage warn")
		require.ErrorContains(t, Run(t.Context(), other), "another rollout is under way: version "+w.proposed.Version()+" is in stage warn")
		require.ErrorContains(t, Check(t.Context(), other), "another rollout is under way")
		require.NoError(t, Rollback(t.Context(), other))
		require.Equal(t, schema.StageWarn, w.state(0).Stage, "it is not its own")
	})
}

// Guarantees: a cell is begun only where no change is breaking, or where a rehearsal of these two versions, of all tenants, has passed; else nothing is written. A dry run says the same.
func TestACellBeginsOnlyWithAVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for want, change := range map[string]func(*rehearsal.Report){
			"run the rehearsal again": func(r *rehearsal.Report) { r.Current.Version = "0a1b2c3d4e5f" },
			w.current.Version() + ", and here it is " + w.proposed.Version(): func(r *rehearsal.Report) { r.Proposed = r.Current },
			"is of tenant acme alone":   func(r *rehearsal.Report) { r.Tenant = "acme" },
			"nothing was rehearsed":     func(r *rehearsal.Report) { r.Events = 0 },
			"2 rows could not be check": func(r *rehearsal.Report) { r.Unreadable = 2 },
			"refused: 50 of 1000 events of tenant acme (5.00%) would violate the proposed version, more than 1%": func(r *rehearsal.Report) {
				r.Tenants = []rehearsal.Tenant{{Tenant: "acme", Events: 1000, Proposed: rehearsal.Outcome{Violating: 50, Percent: 5}}}
			},
		} {
			w.rehearsed(change)
			require.ErrorContains(t, Run(t.Context(), w.config), want)
			require.ErrorContains(t, Check(t.Context(), w.config), want)
		}
		w.config.Plan.Cells[0].Rehearsed = ""
		require.ErrorContains(t, Run(t.Context(), w.config), "1 of 1 changes are breaking, and `rehearsed` names no report")
		w.config.Plan.Cells[0].Rehearsed = filepath.Join(w.dir, "one", "e.yaml")
		require.ErrorContains(t, Run(t.Context(), w.config), "e.yaml: invalid character")
		found, err := os.ReadDir(w.config.Plan.Cells[0].Registry)
		require.NoError(t, err)
		require.Len(t, found, 1, "nothing was written")

		w.config.Plan.Cells[0].Rehearsed, w.config.Plan.Cells[1].Rehearsed = "", ""
		w.config.Proposed, err = schema.Load([]schema.File{{Name: "e.yaml", Content: []byte(currentSchemas + " # the same, in other words")}})
		require.NoError(t, err)
		w.proposed = w.config.Proposed
		require.NoError(t, Check(t.Context(), w.config))
		require.NoError(t, Run(t.Context(), w.config), "no change is breaking")
		require.Equal(t, schema.StageDone, w.state(1).Stage)
	})
}

// Guarantee: what a gateway has counted in another attempt, or of another version, is not taken for this one's.
func TestCountsAreOfOneAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		require.ErrorContains(t, Run(ctx, w.config), "stopped in stage warn")
		m, err := w.scrape(t.Context(), w.config.Plan.Cells[0].Gateways[0])
		require.NoError(t, err)
		own := readGateway(m, w.state(0))
		require.True(t, own.follows)
		require.Positive(t, own.tenants["acme"].refused)
		for _, change := range []func(*schema.Rollout){
			func(s *schema.Rollout) { s.Since = s.Since.Add(time.Second) }, func(s *schema.Rollout) { s.Stage = schema.StageEnforce }, func(s *schema.Rollout) { s.Proposed = s.Current },
		} {
			s := w.state(0)
			change(&s)
			other := readGateway(m, s)
			require.False(t, other.follows)
			require.Empty(t, other.tenants)
			require.True(t, other.trying)
		}
	})
}

// Guarantee: a gateway that starts anew counts from 0, and its latency is not taken for negative.
func TestAGatewayThatStartsAnew(t *testing.T) {
	was := gateway{requests: 100, seconds: 10, tenants: map[string]counts{"a": {events: 50, refused: 5}}}
	now := gateway{requests: 30, seconds: 3, tenants: map[string]counts{"a": {events: 20, refused: 1, code: "x"}, "b": {events: 10}}}
	f := together(map[string]gateway{"g": now.since(was)})
	require.Equal(t, figures{events: 30, requests: 30, latency: 100 * time.Millisecond, tenants: []tenant{{"a", counts{20, 1, "x"}}, {"b", counts{events: 10}}}}, f)
	was.requests, was.seconds, was.tenants["a"] = 10, 1, counts{events: 10}
	f = together(map[string]gateway{"g": now.since(was)})
	require.Equal(t, []any{20.0, 20.0, tenant{"a", counts{10, 1, "x"}}}, []any{f.events, f.requests, f.tenants[0]})
}

// Guarantees: a plan that means nothing is refused with the key and the value; the runbook's is a plan.
func TestAPlan(t *testing.T) {
	path := filepath.Join(t.TempDir(), "plan.yaml")
	write := func(text string) {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	page, err := os.ReadFile("../../docs/runbooks/rollout.md")
	require.NoError(t, err)
	_, example, found := strings.Cut(string(page), "```yaml\n")
	require.True(t, found)
	example, _, _ = strings.Cut(example, "```")
	write(example)
	p, err := ReadPlan(path)
	require.NoError(t, err)
	require.Len(t, p.Cells, 2)

	write("proposed: p\ncells: [{name: a, registry: r, gateways: [http://h/metrics]}]")
	p, err = ReadPlan(path)
	require.NoError(t, err)
	require.Equal(t, []any{time.Hour, time.Hour, 1.0, 25 * time.Millisecond, int64(1000)}, []any{p.WarnFor, p.EnforceFor, p.refusePercent, p.LatencyGrowth, p.MinEvents})
	const cell = "{name: a, registry: r, gateways: [http://h/metrics]}"
	for text, want := range map[string]string{
		"":                      "EOF",
		"cells: [" + cell + "]": "proposed: is empty",
		"proposed: p":           "cells: are 0",
		"proposed: p\nwarn: 1h": "field warn not found",
		"proposed: p\ncells: [" + cell + "]\nwarn_for: 0s":                                        "warn_for: is 0s, want 1s to 720h",
		"proposed: p\ncells: [" + cell + "]\nenforce_for: 1000h":                                  "enforce_for: is 1000h0m0s",
		"proposed: p\ncells: [" + cell + "]\nrefuse_above: 2":                                     `refuse_above: "2": want 0% to 100%`,
		"proposed: p\ncells: [" + cell + "]\nlatency_growth: 0s":                                  "latency_growth: is 0s",
		"proposed: p\ncells: [" + cell + "]\nmin_events: 0":                                       "min_events: is 0",
		"proposed: p\ncells: [" + cell + "," + cell + "]":                                         "cells: a: name a: is there twice",
		"proposed: p\ncells: [" + cell + ",{name: b, registry: s, gateways: [http://h/metrics]}]": "gateway http://h/metrics: is there twice",
		"proposed: p\ncells: [{registry: r, gateways: [http://h/metrics]}]":                       "the 1. has no name",
		"proposed: p\ncells: [{name: a, gateways: [http://h/metrics]}]":                           "cells: a: registry: is empty",
		"proposed: p\ncells: [{name: a, registry: r}]":                                            "gateways: are 0",
		"proposed: p\ncells: [{name: a, registry: r, gateways: [10.0.0.1:8888]}]":                 `gateways: "10.0.0.1:8888": want a URL`,
	} {
		write(text)
		_, err := ReadPlan(path)
		require.ErrorContains(t, err, want, text)
	}
	write("#" + strings.Repeat("x", planBytesMax))
	_, err = ReadPlan(path)
	require.ErrorContains(t, err, "are more than")
	_, err = ReadPlan(path + ".gone")
	require.ErrorIs(t, err, os.ErrNotExist)
}

package fault

import (
	"flag"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
)

var (
	all          = flag.Bool("all", false, "run every fault of the table, not only the short ones")
	seed         = flag.Uint64("seed", 0, "of every run's random choices; 0: a new one")
	scale        = flag.Float64("scale", 0.05, "how long faults last that last minutes in full: 1 is full length")
	events       = flag.Int("events", 0, "events of a run, at least; 0: what the fault's row says, times -scale, but 4,000 at least")
	rate         = flag.Int("rate", 1500, "events a second")
	certificates = flag.String("certificates", "", "directory to which each run adds its audit's certificate")
	results      = flag.String("results", "", "file to which each run adds a line of JSON")
	logsOf       = flag.String("logs", "", "directory to which a run that failed writes what gateways and aggregators logged, each to a file of its own")
)

// runsPerRig bounds how many runs share a rig: the tables grow, and so does what one run's wreckage can do to the next.
const runsPerRig = 12

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	runAttackIfAsked()
	if status, ran := rig.RunWithOwnMounts(); ran {
		os.Exit(status)
	}
	flag.Parse()
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	code := m.Run()
	closeShared()
	os.Exit(code)
}

// Scenario: a fleet sends events that it knows to two gateways, with time-outs, retries and duplicates, while one fault is injected.
// Guarantees: when the stores are quiet again, every acknowledged event is in ClickHouse once and in the lake once, every other at
// most once, and what the stores derive from the rows (rollups) says the same.
func TestFault(t *testing.T) {
	for _, f := range faults {
		if !f.short && !*all && !named(f.name) {
			continue
		}
		t.Run(f.name, func(t *testing.T) { inject(t, f) })
	}
}

// named tells whether -run asks for that very fault.
func named(name string) bool {
	_, asked, _ := strings.Cut(flag.Lookup("test.run").Value.String(), "/")
	return strings.Trim(asked, "^$") == name
}

// random is a run's: a function of the seed and the fault's name, so that a run is repeated without those before it.
func random(name string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // a hash takes everything
	return rand.New(rand.NewPCG(*seed, h.Sum64()))
}

// kind is what a rig is made of.
type kind struct {
	name                 string
	gateway, aggregators []string // configs over those of distributions/, paths from the repository's root
	secured              bool     // as rig.Options.Secured
	env                  func(dir string) (map[string]string, error)
	lanes                []lane
	catalog              rig.CatalogKind
	alone                bool  // one of each part, no proxies between them, and disks as they are: for what measures times
	kafkaMetrics         bool  // Kafka's nodes serve metrics to Prometheus
	roomy                bool  // disks as they are: for what goes on for hours
	clickHouseDisk       int64 // bytes of a disk of ClickHouse's own; 0: it has none
}

const testdata = "integration/fault/testdata/"

// plain has no tenants: what runs under a fault.
var plain = &kind{
	name: "plain", gateway: []string{testdata + "gateway.yaml"}, aggregators: []string{testdata + "aggregator.yaml"}, lanes: []lane{fastLane},
}

// restLake and glueLake have a lake whose catalog is asked over HTTP.
var (
	restLake = overHTTP("rest", rig.CatalogREST)
	glueLake = overHTTP("glue", rig.CatalogGlue)
)

func overHTTP(name string, c rig.CatalogKind) *kind {
	return &kind{
		name: name, gateway: plain.gateway, aggregators: append(slices.Clone(plain.aggregators), testdata+name+"-aggregator.yaml"), lanes: plain.lanes, catalog: c,
	}
}

// shared is the rig that runs use one after another. A run that broke off leaves none behind.
var shared struct {
	rig  *rig.Rig
	kind *kind
	dir  string
	runs int
}

func rigFor(t *testing.T, k *kind) *rig.Rig {
	t.Helper()
	if shared.runs >= runsPerRig || shared.kind != k {
		closeShared()
	}
	if shared.rig == nil {
		dir, err := os.MkdirTemp("", "pulsegrid-fault-")
		if err != nil {
			t.Fatal(err)
		}
		shared.dir, shared.kind = dir, k
		env := map[string]string{"PULSEGRID_SCHEMAS": filepath.Join(rig.Root(), testdata, "schemas")}
		if k.env != nil {
			further, err := k.env(dir)
			if err != nil {
				t.Fatal(err)
			}
			maps.Copy(env, further)
		}
		o := rig.Options{KafkaNodes: 3, Gateways: 2, Aggregators: 2, Spares: 1, Faulty: true, SmallDisks: os.Geteuid() == 0 && !k.roomy}
		if k.alone {
			o = rig.Options{}
		}
		o.ClickHouseDisk = k.clickHouseDisk
		o.Dir, o.Catalog, o.Secured, o.Env, o.KafkaMetrics = dir, k.catalog, k.secured, env, k.kafkaMetrics
		o.GatewayConfigs, o.AggregatorConfigs = fromRoot(k.gateway), fromRoot(k.aggregators)
		shared.rig, err = rig.New(o)
		if err == nil {
			err = shared.rig.Start()
		}
		if err != nil {
			if shared.rig != nil {
				err = fmt.Errorf("%w\n%s", err, shared.rig.Warnings())
			}
			closeShared()
			t.Fatal(err)
		}
	}
	shared.runs++
	return shared.rig
}

func fromRoot(paths []string) []string {
	var out []string
	for _, p := range paths {
		out = append(out, filepath.Join(rig.Root(), p))
	}
	return out
}

func closeShared() {
	if shared.rig != nil {
		if err := shared.rig.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	if shared.dir != "" {
		_ = os.RemoveAll(shared.dir) // a temporary directory
	}
	shared.rig, shared.kind, shared.dir, shared.runs = nil, nil, "", 0
}

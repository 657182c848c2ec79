package schema_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// published are the semantic conventions as they were released: testdata/README.md.
func published(t testing.TB, under string) []schema.File {
	t.Helper()
	f, err := os.Open("testdata/semconv-1.44.0.tar.gz")
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	var files []schema.File
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		require.NoError(t, err)
		if name, ok := strings.CutPrefix(h.Name, "model/"); ok {
			content, err := io.ReadAll(r)
			require.NoError(t, err)
			files = append(files, schema.File{Name: under + name, Content: content})
		}
	}
}

// Guarantees: the published conventions, of both editions of the format, load as they are, and hold events against what they say.
func TestThePublishedConventionsLoadAsTheyAre(t *testing.T) {
	files := published(t, "otel/")
	require.Greater(t, len(files), 240)
	r, err := schema.Load(files)
	require.NoError(t, err)
	require.Greater(t, r.Schemas(), 500)
	c := schema.NewChecker(r, schema.Limits{})
	codes := func(res schema.Result, err error) (out []string) {
		require.NoError(t, err)
		require.Equal(t, res.Events, res.Matched)
		for _, f := range res.Findings {
			for _, v := range f.Verdicts {
				out = append(out, string(v.Code)+" "+v.Path+" "+v.Schema+" "+v.Version)
			}
		}
		return out
	}
	// Defined by groups, its attributes inherited over three of them.
	md := metric(func(m pmetric.Metric) {
		m.SetName("http.server.request.duration")
		m.SetUnit("ms")
		p := m.SetEmptyHistogram().DataPoints().AppendEmpty()
		p.SetTimestamp(pcommon.NewTimestampFromTime(now))
		p.Attributes().PutStr("http.request.method", "GET")
		p.Attributes().PutStr("http.response.status_code", "200")
		p.Attributes().PutStr("error.type", "anything: enums of the conventions are open")
	})
	res, err := c.CheckMetrics(md, schema.Open, now)
	require.Equal(t, []string{
		`attribute_type attributes["http.response.status_code"] metric.http.server.request.duration 1.44.0`,
		`attribute_missing attributes["url.scheme"] metric.http.server.request.duration 1.44.0`,
		`metric_unit metric.unit metric.http.server.request.duration 1.44.0`,
	}, codes(res, err))
	// Of the second edition.
	md = metric(func(m pmetric.Metric) { m.SetName("hw.status") })
	res, err = c.CheckMetrics(md, schema.Open, now)
	require.Contains(t, strings.Join(codes(res, err), "\n"), "metric_type metric.type metric.hw.status 1.44.0")
	// An event.
	res, err = c.CheckLogs(record(func(lr plog.LogRecord) {
		lr.SetEventName("session.start")
		lr.Body().SetStr("")
		lr.Attributes().PutInt("session.id", 7)
	}), schema.Open, now)
	require.Equal(t, []string{`attribute_type attributes["session.id"] event.session.start 1.44.0`}, codes(res, err))
}

const manifest = "schema_url: https://shop.example/schemas/%s\ndependencies: [{schema_url: https://opentelemetry.io/schemas/1.44.0, registry_path: ../otel}]\n"

// Scenario: a registry depends on the published conventions, extends one of their spans, refers to their attributes and imports their metrics.
// Guarantees: what it defines and imports is applied, and nothing else of theirs.
func TestARegistryTakesFromAnotherWhatItNames(t *testing.T) {
	files := append(published(t, "otel/"),
		schema.File{Name: "shop/manifest.yaml", Content: fmt.Appendf(nil, manifest, "2.1.0")},
		schema.File{Name: "shop/shop.yaml", Content: []byte(`
imports: {metrics: ["http.server.*"]}
groups:
  - id: span.shop
    type: span
    span_kind: server
    extends: span.http.server
    annotations: {pulsegrid: {match: {name: "GET /shop/*", scope: "shop.*"}}}
    attributes: [{ref: http.route, requirement_level: required}]
`)})
	r, err := schema.Load(files)
	require.NoError(t, err)
	c := schema.NewChecker(r, schema.Limits{})
	res, err := c.CheckMetrics(metric(func(m pmetric.Metric) { m.SetName("http.server.request.duration") }), schema.Open, now)
	require.NoError(t, err)
	require.Equal(t, 1, res.Matched)
	require.Equal(t, "1.44.0", res.Findings[0].Verdicts[0].Version)
	res, err = c.CheckMetrics(metric(func(m pmetric.Metric) { m.SetName("http.client.request.duration") }), schema.Open, now)
	require.NoError(t, err)
	require.Zero(t, res.Matched)

	td := span(func(sp ptrace.Span) {
		sp.SetName("GET /shop/1")
		sp.Attributes().PutStr("http.response.status_code", "200")
	})
	td.ResourceSpans().At(0).ScopeSpans().At(0).Scope().SetName("shop.web")
	res, err = c.CheckTraces(td, schema.Open, now)
	require.NoError(t, err)
	var paths []string
	for _, v := range res.Findings[0].Verdicts {
		require.Equal(t, "2.1.0", v.Version)
		paths = append(paths, v.Path)
	}
	require.ElementsMatch(t, []string{`attributes["http.response.status_code"]`, `attributes["http.request.method"]`, `attributes["http.route"]`, `attributes["url.path"]`, `attributes["url.scheme"]`}, paths)
	td.ResourceSpans().At(0).ScopeSpans().At(0).Scope().SetName("other")
	res, err = c.CheckTraces(td, schema.Open, now)
	require.NoError(t, err)
	require.Zero(t, res.Matched, "of another scope")
}

// Guarantees: of several versions an event gets the one whose schema URL it names, and the newest where it names none.
func TestAnEventGetsTheVersionThatItNames(t *testing.T) {
	version := func(v, required string) []schema.File {
		return []schema.File{
			{Name: v + "/manifest.yaml", Content: []byte("schema_url: https://shop.example/schemas/" + v + "\n")},
			{Name: v + "/a.yaml", Content: []byte("groups: [{id: e, type: event, name: e, attributes: [{id: " + required + ", type: string, requirement_level: required}]}]\n")},
		}
	}
	r, err := schema.Load(append(append(version("1.9.0", "old"), version("1.10.0", "new")...), version("1.2.0", "older")...))
	require.NoError(t, err)
	c := schema.NewChecker(r, schema.Limits{})
	for url, want := range map[string]string{"": "new", "https://shop.example/schemas/1.9.0": "old", "https://shop.example/schemas/1.2.0": "older", "https://elsewhere/1": "new"} {
		for _, onScope := range []bool{true, false} {
			ld := record(func(lr plog.LogRecord) { lr.SetEventName("e") })
			if onScope {
				ld.ResourceLogs().At(0).ScopeLogs().At(0).SetSchemaUrl(url)
			} else {
				ld.ResourceLogs().At(0).SetSchemaUrl(url)
			}
			res, err := c.CheckLogs(ld, schema.Open, now)
			require.Equal(t, `attributes["`+want+`"]`, only(t, res, err)[0].Path, url)
		}
	}
}

// Guarantees: the most particular schema that fits a span is its own.
func TestTheMostParticularSchemaHolds(t *testing.T) {
	group := func(id, match string) string {
		return "  - {id: " + id + ", type: span, span_kind: server, annotations: {pulsegrid: {match: " + match + "}}, attributes: [{id: " + id + ".x, type: string, requirement_level: required}]}\n"
	}
	r := load(t, "groups:\n"+group("any", `{name: "*"}`)+group("get", `{name: "GET *"}`)+group("cart", `{name: "GET /*/cart"}`)+group("exact", `{name: "GET /a/cart"}`)+group("scoped", `{name: "GET *", scope: "s.*"}`))
	c := schema.NewChecker(r, schema.Limits{})
	for name, want := range map[string]string{"POST /": "any", "GET /": "get", "GET /b/cart": "cart", "GET /a/cart": "exact", "s.GET /": "scoped", "": "any"} {
		scope, after, scoped := strings.Cut(name, ".GET")
		td := span(func(sp ptrace.Span) { sp.SetName(name) })
		if scoped {
			td = span(func(sp ptrace.Span) { sp.SetName("GET" + after) })
			td.ResourceSpans().At(0).ScopeSpans().At(0).Scope().SetName(scope + ".x")
		}
		res, err := c.CheckTraces(td, schema.Open, now)
		require.Equal(t, want, only(t, res, err)[0].Schema, name)
	}
}

// Guarantees: what is wrong with a file is refused by name, with what to look for.
func TestABadFileIsRefusedByName(t *testing.T) {
	for name, test := range map[string]struct{ file, want string }{
		"no YAML":               {"groups: [", "yaml"},
		"two documents":         {"groups: []\n---\ngroups: []\n", "more than one YAML document"},
		"a misspelt field":      {"groups: [{id: a, type: event, name: a, attribute: []}]", "attribute"},
		"a misspelt annotation": {"groups: [{id: a, type: event, name: a, annotations: {pulsegrid: {release: 1}}}]", "release"},
		"a group's type":        {"groups: [{id: a, type: thing}]", `type: is "thing"`},
		"no such ref":           {"groups: [{id: a, type: event, name: a, attributes: [{ref: gone}]}]", `no attribute "gone"`},
		"no such parent":        {"groups: [{id: a, type: event, name: a, extends: gone}]", `no group "gone"`},
		"a circle":              {"groups: [{id: a, type: event, name: a, extends: b}, {id: b, type: event, name: b, extends: a}]", "extends or refers to itself"},
		"twice":                 {"groups: [{id: a, type: event, name: a}, {id: a, type: event, name: b}]", "id: is that of a group in"},
		"the same events":       {"groups: [{id: a, type: event, name: e}, {id: b, type: event, name: e}]", "applies to the same events as group"},
		"an attribute's type":   {"groups: [{id: a, type: event, name: a, attributes: [{id: x, type: float}]}]", `type: is "float"`},
		"two types":             {"groups: [{id: a, type: event, name: a, attributes: [{id: x, type: int}]}, {id: b, type: event, name: b, attributes: [{id: x, type: string}]}]", "is defined twice"},
		"a level":               {"groups: [{id: a, type: event, name: a, attributes: [{id: x, type: int, requirement_level: must}]}]", `requirement_level: is "must"`},
		"a pattern":             {`groups: [{id: a, type: event, name: a, attributes: [{id: x, type: string, annotations: {pulsegrid: {pattern: "("}}}]}]`, "pattern: error parsing regexp"},
		"a pattern of an int":   {`groups: [{id: a, type: event, name: a, attributes: [{id: x, type: int, annotations: {pulsegrid: {pattern: "a"}}}]}]`, "pattern: the type is int"},
		"a range of text":       {`groups: [{id: a, type: event, name: a, attributes: [{id: x, type: string, annotations: {pulsegrid: {min: 1}}}]}]`, "min and max: the type is string"},
		"a range upside down":   {`groups: [{id: a, type: event, name: a, attributes: [{id: x, type: int, annotations: {pulsegrid: {min: 2, max: 1}}}]}]`, "is above max"},
		"no members":            {"groups: [{id: a, type: event, name: a, attributes: [{id: x, type: {members: []}}]}]", "members: are none"},
		"a column of arrays":    {"groups: [{id: a, type: event, name: a, attributes: [{id: x, type: 'int[]', annotations: {pulsegrid: {promote: true}}}]}]", "promote: the type is int[]"},
		"an instrument":         {"groups: [{id: a, type: metric, metric_name: m, instrument: dial, unit: s}]", `instrument: is "dial"`},
		"a limit":               {"groups: [{id: a, type: event, name: a, annotations: {pulsegrid: {limits: {depth_max: -1}}}}]", "depth_max: is -1"},
		"an edition":            {"file_format: definition/3\n", `file_format: is "definition/3"`},
		"no edition":            {"spans: [{type: a, kind: client}]", "file_format: is missing"},
		"two matches":           {"groups: [{id: a, type: event, name: a, annotations: {pulsegrid: {match: {name: b}}}}]", "go by their own name"},
		"YAML bomb":             {bomb(), "yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			good := schema.File{Name: "good.yaml", Content: []byte("groups: [{id: ok, type: event, name: ok}]")}
			_, err := schema.Load([]schema.File{good, {Name: "team/bad.yaml", Content: []byte(test.file)}})
			require.ErrorContains(t, err, test.want)
			require.ErrorContains(t, err, "team/bad.yaml: ")
			require.NotContains(t, err.Error(), "good.yaml: ")
		})
	}
	_, err := schema.Load([]schema.File{{Name: "a/manifest.yaml", Content: []byte("name: a\ndependencies: [{name: b}]\n")}})
	require.ErrorContains(t, err, `a/manifest.yaml: dependencies: no registry of name "b"`)
}

func bomb() string {
	s := "a: &a [x]\n"
	for c := 'b'; c < 'z'; c++ {
		s += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.Repeat(fmt.Sprintf("*%c,", c-1), 10))
	}
	return s
}

func TestWhatWantsAColumnIsListed(t *testing.T) {
	r := load(t, `groups: [{id: a, type: event, name: a, attributes: [{id: x, type: int, annotations: {pulsegrid: {promote: true}}}, {id: y, type: string}]},
  {id: s, type: span, annotations: {pulsegrid: {match: {name: "a*"}}}, attributes: [{id: z, type: string, annotations: {pulsegrid: {promote: true}}}]}]`)
	require.Equal(t, []schema.Promotion{{Key: "x", Type: "int"}}, r.Promoted(signal.Logs))
	require.Equal(t, []schema.Promotion{{Key: "z", Type: "string"}}, r.Promoted(signal.Traces))
	require.Empty(t, r.Promoted(signal.Metrics))
}

// thousand is a registry of n event schemas of 20 attributes each.
func thousand(n int) []schema.File {
	var out []schema.File
	for f := 0; f < n; f += 10 {
		var b bytes.Buffer
		b.WriteString("groups:\n")
		for i := f; i < min(f+10, n); i++ {
			fmt.Fprintf(&b, "  - id: event.e%d\n    type: event\n    name: team%d.event.e%d\n    attributes:\n", i, f, i)
			for a := range 20 {
				fmt.Fprintf(&b, "      - {id: e%d.attribute.number%d, type: %s, requirement_level: %s, brief: what it is}\n", i, a, []string{"string", "int", "double", "boolean"}[a%4], []string{"required", "recommended"}[a%2])
			}
		}
		out = append(out, schema.File{Name: fmt.Sprintf("team%d.yaml", f), Content: b.Bytes()})
	}
	return out
}

// BenchmarkLoad prints what a registry takes: time ("ms/load") and memory that it holds ("KiB/schema").
func BenchmarkLoad(b *testing.B) {
	for name, files := range map[string][]schema.File{"schemas=10": thousand(10), "schemas=1000": thousand(1000), "published": published(b, "")} {
		b.Run(name, func(b *testing.B) {
			var r *schema.Registry
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			start := cpuTime()
			for b.Loop() {
				var err error
				if r, err = schema.Load(files); err != nil {
					b.Fatal(err)
				}
			}
			took := cpuTime() - start
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(took.Milliseconds())/float64(b.N), "cpu-ms/load")
			b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/1024/float64(r.Schemas()), "KiB/schema")
		})
	}
}

// BenchmarkManySchemas: events of ten kinds, each with its own schema, in a registry of 10 and of 1000.
func BenchmarkManySchemas(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprintf("schemas=%d", n), func(b *testing.B) {
			r, err := schema.Load(thousand(n))
			require.NoError(b, err)
			ld := record(func(plog.LogRecord) {})
			lrs := ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
			lrs.RemoveIf(func(plog.LogRecord) bool { return true })
			for i := range benchEvents {
				e := i % 10 * n / 10
				lr := lrs.AppendEmpty()
				lr.SetTimestamp(pcommon.NewTimestampFromTime(now))
				lr.SetEventName(fmt.Sprintf("team%d.event.e%d", e/10*10, e))
				for a := range 20 {
					k := fmt.Sprintf("e%d.attribute.number%d", e, a)
					switch a % 4 {
					case 0:
						lr.Attributes().PutStr(k, "some text")
					case 1:
						lr.Attributes().PutInt(k, 42)
					case 2:
						lr.Attributes().PutDouble(k, 0.5)
					case 3:
						lr.Attributes().PutBool(k, true)
					}
				}
			}
			m := plog.ProtoMarshaler{}
			req, err := m.MarshalLogs(ld)
			require.NoError(b, err)
			c := schema.NewChecker(r, schema.DefaultLimits())
			b.ReportAllocs()
			start := cpuTime()
			for b.Loop() {
				res, err := c.Check(signal.Logs, req, schema.Strict, now)
				if err != nil || res.Matched != benchEvents || len(res.Findings) > 0 {
					b.Fatal(res, err)
				}
			}
			b.ReportMetric(float64((cpuTime()-start)/time.Duration(b.N))/benchEvents, "cpu-ns/event")
		})
	}
}

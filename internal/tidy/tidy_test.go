// Package tidy_test holds what is said of the whole repository to be so: the anatomy of components, documents that name what
// exists, and the bounds that keep files readable.
package tidy_test

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
)

const linesMax = 700 // of a Go file that is not a test

// kinds of component: each is a folder of component folders.
var kinds = []string{"receiver", "processor", "exporter", "extension"}

// repository is the tree as it would be committed.
type repository struct {
	fs.FS
	files []string
}

func open(t *testing.T) repository {
	t.Helper()
	r := repository{FS: os.DirFS(filepath.Join("..", ".."))}
	notOurs := []string{".git", "_build", "pulsegrid-data", "pulsegrid"} // .gitignore
	require.NoError(t, fs.WalkDir(r, ".", func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (slices.Contains(notOurs, file) || strings.Contains(file, "testdata/fuzz")):
			return fs.SkipDir
		case d.Type().IsRegular() && !slices.Contains(notOurs, file): // .git of a linked work tree is a file
			r.files = append(r.files, file)
		}
		return nil
	}))
	require.Contains(t, r.files, "go.mod")
	return r
}

func (r repository) read(t *testing.T, file string) string {
	t.Helper()
	text, err := fs.ReadFile(r, file)
	require.NoError(t, err)
	return string(text)
}

// those returns the files of which match is true.
func (r repository) those(match func(file string) bool) []string {
	return slices.DeleteFunc(slices.Clone(r.files), func(file string) bool { return !match(file) })
}

// folders directly below each of the parents.
func (r repository) folders(parents ...string) []string {
	var out []string
	for _, file := range r.files {
		if parts := strings.Split(file, "/"); len(parts) > 2 && slices.Contains(parents, parts[0]) {
			out = append(out, parts[0]+"/"+parts[1])
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func isGo(file string) bool       { return path.Ext(file) == ".go" }
func isTest(file string) bool     { return strings.HasSuffix(file, "_test.go") }
func isProgram(file string) bool  { return isGo(file) && !isTest(file) }
func isDocument(file string) bool { return path.Ext(file) == ".md" }

// components calls check once for each component folder.
func components(t *testing.T, check func(t *testing.T, r repository, folder string)) {
	r := open(t)
	folders := r.folders(kinds...)
	require.NotEmpty(t, folders)
	for _, folder := range folders {
		t.Run(folder, func(t *testing.T) { check(t, r, folder) })
	}
}

// Guarantee: what is built is not committed.
func TestNoFileIsLarge(t *testing.T) {
	r := open(t)
	for _, file := range r.files {
		info, err := fs.Stat(r, file)
		require.NoError(t, err)
		require.Less(t, info.Size(), int64(512<<10), file)
	}
}

func TestEveryComponentHasTheSameAnatomy(t *testing.T) {
	components(t, func(t *testing.T, r repository, folder string) {
		for _, name := range []string{"doc.go", "metadata.yaml", "config.go", "factory.go", "README.md", "testdata/config.yaml"} {
			require.Contains(t, r.files, folder+"/"+name)
		}
		read := ""
		for _, file := range r.those(func(file string) bool { return isTest(file) && path.Dir(file) == folder }) {
			read += r.read(t, file)
		}
		for pattern, why := range map[string]string{
			`"README\.md"`:                    "a test loads the README's examples",
			`"testdata(/|", ")config\.yaml"`:  "a test loads testdata/config.yaml",
			`goleak\.(VerifyTestMain|Find)\(`: "a component leaves no goroutine behind",
		} {
			require.True(t, regexp.MustCompile(pattern).MatchString(read), "the tests have no %s: %s", pattern, why)
		}
	})
}

// depguard says it of the code; this says it of tests, which may import their own component.
func TestNoComponentNotEvenItsTestsImportsAnother(t *testing.T) {
	imported := regexp.MustCompile(`"github\.com/pulsegrid/pulsegrid/((` + strings.Join(kinds, "|") + `)/\w+)"`)
	components(t, func(t *testing.T, r repository, folder string) {
		for _, file := range r.those(func(file string) bool { return isGo(file) && strings.HasPrefix(file, folder+"/") }) {
			for _, m := range imported.FindAllStringSubmatch(r.read(t, file), -1) {
				require.Equal(t, folder, m[1], "%s: share through internal", file)
			}
		}
	})
}

func TestEveryREADMEOpensWithTheHop(t *testing.T) {
	components(t, func(t *testing.T, r repository, folder string) {
		opening, _, _ := strings.Cut(r.read(t, folder+"/README.md"), "\n## ")
		at := 0
		for _, row := range []string{"From", "To", "Durable when", "Acked when", "On failure"} {
			found := regexp.MustCompile(`(?m)^\| \**` + row + `\** \| \S`).FindStringIndex(opening[at:])
			require.NotNil(t, found, "a row %q, in this order, before the first heading", row)
			at += found[1]
		}
	})
}

func TestMetricsAreTheSameInMetadataCodeAndREADME(t *testing.T) {
	components(t, func(t *testing.T, r repository, folder string) {
		meta, err := componentmeta.Parse([]byte(r.read(t, folder+"/metadata.yaml")))
		require.NoError(t, err)
		code := ""
		for _, file := range r.those(func(file string) bool { return isProgram(file) && path.Dir(file) == folder }) {
			code += r.read(t, file)
		}
		readme := r.read(t, folder+"/README.md")
		for name := range meta.Metrics() {
			require.True(t, strings.Contains(code, `"`+name+`"`), "no code measures %s", name)
			require.True(t, regexp.MustCompile("`(otelcol_)?"+name+"`").MatchString(readme), "README.md does not mention %s", name)
		}
	})
}

func TestEveryMetricThatIsNamedAnywhereIsDeclared(t *testing.T) {
	r := open(t)
	declared := map[string]bool{}
	prefixes := map[string]bool{}
	for _, folder := range r.folders(kinds...) {
		for name := range componentmeta.MustParse([]byte(r.read(t, folder+"/metadata.yaml"))).Metrics() {
			declared[name] = true
			prefix, _, _ := strings.Cut(name, "_")
			prefixes[prefix] = true
		}
	}
	named := regexp.MustCompile(`otelcol_(([a-z]+)_[a-z_]+[a-z])`)
	for _, file := range r.those(func(file string) bool { return isDocument(file) || isGo(file) || path.Ext(file) == ".yaml" }) {
		for _, m := range named.FindAllStringSubmatch(r.read(t, file), -1) {
			name := m[1]
			for _, suffix := range []string{"_bucket", "_sum", "_count"} { // Prometheus' series of a histogram
				name = strings.TrimSuffix(name, suffix)
			}
			if prefixes[m[2]] && !declared[name] {
				t.Errorf("%s: no metadata.yaml declares %s", file, m[0])
			}
		}
	}
}

func TestEachHopHasALatencyMetric(t *testing.T) {
	r := open(t)
	_, table, found := strings.Cut(r.read(t, "docs/ARCHITECTURE.md"), "\n## Hops\n")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n## ")
	rows := regexp.MustCompile(`(?m)^\| \d\w? \|.*\| (.*) \|$`).FindAllStringSubmatch(table, -1)
	require.NotEmpty(t, rows)
	for _, row := range rows {
		require.Regexp(t, "^`otelcol_\\w+`$", row[1], row[0]) // that it is declared: TestEveryMetricThatIsNamedAnywhereIsDeclared
	}
}

func TestTheFileMapNamesEveryFolderAndNoOther(t *testing.T) {
	r := open(t)
	_, table, found := strings.Cut(r.read(t, "docs/ARCHITECTURE.md"), "\n## File map\n")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n## ")
	var mapped []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| \\S").FindAllStringSubmatch(table, -1) {
		folder := strings.TrimSuffix(row[1], "/")
		mapped = append(mapped, folder)
		require.True(t, slices.ContainsFunc(r.files, func(file string) bool { return strings.HasPrefix(file, folder+"/") }), "the map names %s, which does not exist", folder)
	}
	for _, folder := range r.folders(append(kinds, "internal", "cmd", "integration")...) {
		require.Contains(t, mapped, folder)
	}
}

// Decisions and the changelog speak of the time when they were written.
func TestDocumentsNameTestsThatExist(t *testing.T) {
	r := open(t)
	have := map[string]bool{}
	for _, file := range r.those(isTest) {
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(r.read(t, file), -1) {
			have[m[1]] = true
		}
	}
	for _, file := range r.those(isDocument) {
		if strings.HasPrefix(file, "docs/decisions/") || file == "CHANGELOG.md" {
			continue
		}
		for _, m := range regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(r.read(t, file), -1) {
			require.True(t, have[m[1]], "%s names %s", file, m[1])
		}
	}
}

// Guarantees: each row of docs/recovery.md names a fault, a guard or a rehearsal that has been run, a target of the Makefile or a test (TestDocumentsNameTestsThatExist), or says that
// it is not measured. Figures are those of the fault in docs/faults.md, and nothing was lost or doubled in it where the RPO is 0.
func TestRecoveryNamesRunsThatExistWithTheirFigures(t *testing.T) {
	r := open(t)
	type outcome struct{ lost, doubled, freshness string }
	faults := map[string]outcome{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\| (.+) \\|$").FindAllStringSubmatch(r.read(t, "docs/faults.md"), -1) {
		cells := strings.Split(row[2], " | ")
		require.Greater(t, len(cells), 4, row[0])
		last := cells[len(cells)-4:]
		faults[row[1]] = outcome{last[0], last[1], last[2]}
	}
	require.NotEmpty(t, faults)
	named, seconds := regexp.MustCompile("(?:(fault|guard|rehearsal) )?`([^`]+)`"), regexp.MustCompile(`^\d+ s, \d+ s$`)
	rows := 0
	for line := range strings.Lines(r.read(t, "docs/recovery.md")) {
		row := strings.TrimSpace(line)
		if !strings.HasPrefix(row, "| ") || strings.HasPrefix(row, "| loss |") {
			continue
		}
		rows++
		cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(row, "| "), " |"), " | ")
		require.Len(t, cells, 5, row)
		rpo, rto, shown := cells[1], cells[2], cells[4]
		runs := named.FindAllStringSubmatch(shown, -1)
		require.True(t, len(runs) > 0 || shown == "not measured", "it names no run: %s", row)
		for _, m := range runs {
			kind, name := m[1], m[2]
			target, isTarget := strings.CutPrefix(name, "make ")
			switch {
			case kind == "fault":
				require.Contains(t, faults, name, row)
			case kind != "":
				require.True(t, strings.Contains(r.read(t, "docs/"+kind+"s.md"), "\n| `"+name+"`"), "docs/%ss.md has no outcome of %s", kind, name)
			case isTarget:
				require.True(t, strings.Contains(r.read(t, "Makefile"), "\n"+target+":"), "the Makefile has no target %s", target)
			default:
				require.True(t, strings.HasPrefix(name, "Test"), "%s: want fault, guard or rehearsal before it, make in it, or a test: %s", name, row)
			}
		}
		if seconds.MatchString(rto) {
			require.NotEmpty(t, runs, row)
			require.Equal(t, "fault", runs[0][1], "figures are those of the first run, a fault: %s", row)
			of := faults[runs[0][2]]
			require.Equal(t, of.freshness, strings.ReplaceAll(rto, " s", ""), "docs/faults.md, %s", runs[0][2])
			if rpo == "0" {
				require.Equal(t, "0 0", of.lost+" "+of.doubled, row)
			}
		}
	}
	require.Greater(t, rows, 40)
}

func TestFilesStayReadable(t *testing.T) {
	r := open(t)
	for _, file := range r.those(isProgram) {
		if lines := strings.Count(r.read(t, file), "\n"); lines > linesMax {
			t.Errorf("%s has %d lines: a file is one idea, at most %d", file, lines, linesMax)
		}
	}
}

// Patterns are written so that they do not match themselves.
var forbidden = []struct {
	in      func(file string) bool
	pattern string
	why     string
}{
	{isTest, `\b[tbf]\.Ski[p](Now|f)?\(`, "a test that cannot run here fails and names the make target that installs what it misses"},
	{func(string) bool { return true }, `\b(TOD[O]|FIXM[E]|XX[X])\b`, "do it, or say what is missing where its user reads it"},
	{func(string) bool { return true }, `(^|[\s"'=(:` + "`" + `])/(roo[t]|wor[k]|hom[e])(/|\b)`, "a path of one machine"},
	{func(string) bool { return true }, `proxy\.golan[g]|registry\.npmj[s]|\bpyp[i]\.org|repo\.mave[n]|repo1\.mave[n]|docker\.i[o]`, "a registry is the choice of whoever builds"},
}

func TestNothingForbiddenIsWritten(t *testing.T) {
	r := open(t)
	for _, f := range forbidden {
		pattern := regexp.MustCompile(`(?m)` + f.pattern)
		for _, file := range r.those(func(file string) bool { return f.in(file) && path.Base(file) != "go.sum" }) {
			text := r.read(t, file)
			if strings.ContainsRune(text, 0) { // not text
				continue
			}
			for _, at := range pattern.FindAllStringIndex(text, -1) {
				t.Errorf("%s:%d: %q: %s", file, 1+strings.Count(text[:at[0]], "\n"), text[at[0]:at[1]], f.why)
			}
		}
	}
}

func TestLinksInDocumentsResolve(t *testing.T) {
	r := open(t)
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, file := range r.those(isDocument) {
		text := regexp.MustCompile("(?s)```.*?```|`[^`\n]*`").ReplaceAllString(r.read(t, file), "") // code has brackets of its own
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, ":") { // another site
				continue
			}
			to := file
			if target != "" {
				to = path.Join(path.Dir(file), target)
			}
			if _, err := fs.Stat(r, to); err != nil {
				t.Errorf("%s: link %s: %v", file, m[1], err)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(r.read(t, to)), anchor) {
				t.Errorf("%s: link %s: %s has no such heading", file, m[1], to)
			}
		}
	}
}

// anchors of a document's headings, as GitHub makes them.
func anchors(text string) []string {
	var out []string
	drop := regexp.MustCompile(`[^\p{L}\p{N}_\- ]`)
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		out = append(out, strings.ReplaceAll(drop.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return out
}

func TestPinnedVersionsDoNotMoveUnseen(t *testing.T) {
	r := open(t)
	for module, version := range map[string]string{
		"go.opentelemetry.io/collector/component":               "v1.67.0",
		"go.opentelemetry.io/collector/exporter/exporterhelper": "v0.161.0",
		"github.com/apache/arrow-go/v18":                        "v18.8.0",
		"github.com/apache/iceberg-go":                          "v0.7.0",
		"github.com/twmb/franz-go":                              "v1.22.2",
	} {
		require.Contains(t, r.read(t, "go.mod"), fmt.Sprintf("\t%s %s\n", module, version), "these resolve and build together, with the versions of builder-config.yaml")
	}
}

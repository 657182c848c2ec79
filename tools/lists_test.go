// Package tools_test holds what is installed, and what is told of the programs, to the lists that are checked in.
package tools_test

import (
	"debug/buildinfo"
	"encoding/json"
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func read(t *testing.T, file ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(file...))
	require.NoError(t, err)
	return string(text)
}

// Scenario: a version is changed, and `make lock` is forgotten.
// Guarantees: this test says so. (npm refuses by itself.)
func TestListsAreOfWhatIsAskedFor(t *testing.T) {
	for _, name := range []string{"requirements", "duckdb-iceberg", "deploy", "checkov"} {
		listed := read(t, "python", name+".txt")
		for line := range strings.Lines(read(t, "python", name+".in")) {
			pinned := regexp.MustCompile(`\[.*\]`).ReplaceAllString(strings.TrimSpace(line), "") // the list has no extras
			require.Contains(t, listed, "\n"+pinned+" \\\n", "tools/python/%s.txt: run `make lock`", name)
		}
	}
	for _, dir := range []string{"kafka", "jmx_exporter", "iceberg", "../integration/clients/testdata/java"} {
		type property struct {
			XMLName xml.Name
			Value   string `xml:",chardata"`
		}
		var pom struct {
			Properties struct {
				All []property `xml:",any"`
			} `xml:"properties"`
			Dependencies []struct {
				Artifact string `xml:"artifactId"`
				Version  string `xml:"version"`
			} `xml:"dependencies>dependency"`
		}
		require.NoError(t, xml.Unmarshal([]byte(read(t, dir, "pom.xml")), &pom))
		require.NotEmpty(t, pom.Dependencies)
		listed := read(t, dir, "jars.sha256")
		for _, d := range pom.Dependencies {
			for _, p := range pom.Properties.All {
				d.Version = strings.ReplaceAll(d.Version, "${"+p.XMLName.Local+"}", p.Value)
			}
			require.Contains(t, listed, "  "+d.Artifact+"-"+d.Version+".jar\n", "%s/jars.sha256: run `make lock`", dir)
		}
	}
}

func TestEveryListedPackageHasAChecksumAndNamesNoRegistry(t *testing.T) {
	type entry struct {
		Version, Integrity, Resolved string
	}
	var lock struct{ Packages map[string]entry }
	require.NoError(t, json.Unmarshal([]byte(read(t, "../integration/clients/testdata/js/package-lock.json")), &lock))
	require.Greater(t, len(lock.Packages), 10)
	for name, p := range lock.Packages {
		if name != "" { // the clients themselves
			require.True(t, strings.HasPrefix(p.Integrity, "sha512-"), name)
			require.Empty(t, p.Resolved, name)
		}
	}
	for _, list := range []string{"requirements.txt", "duckdb-iceberg.txt"} {
		require.NotContains(t, read(t, "python", list), "://")
	}
}

// Guarantees: an SBOM names each module that Go says is built into the program, with its version and a checksum, and Go's standard library. The module of this
// repository, which has no checksum, is named by its name.
func TestTheSBOMNamesWhatIsBuiltIn(t *testing.T) {
	for _, program := range []string{"pulsegrid", "collector/pulsegrid-collector"} {
		program = filepath.Join("..", "_build", program)
		info, err := buildinfo.ReadFile(program)
		require.NoError(t, err, "run `make build`")
		require.NotEmpty(t, info.Deps)
		file := filepath.Join(t.TempDir(), "sbom.json")
		out, err := exec.Command("./sbom.sh", program, "1.2.3", file).CombinedOutput()
		require.NoError(t, err, "%s", out)
		var sbom struct {
			BOMFormat  string `json:"bomFormat"`
			Components []struct {
				Name, Version, PURL string
				Hashes              []struct{ Alg, Content string }
			}
		}
		require.NoError(t, json.Unmarshal([]byte(read(t, file)), &sbom))
		require.Equal(t, "CycloneDX", sbom.BOMFormat)
		const own = "github.com/pulsegrid/pulsegrid"
		versions := map[string]string{}
		for _, c := range sbom.Components {
			versions[c.Name] = c.Version
			require.True(t, strings.HasPrefix(c.PURL, "pkg:golang/"+c.Name+"@"+c.Version+"?"), c.PURL)
			require.True(t, c.Name == "std" || c.Name == own || len(c.Hashes) > 0, c.Name)
		}
		for _, m := range info.Deps {
			want := m.Version
			if m.Replace != nil {
				require.Equal(t, own, m.Path)
				want = "1.2.3"
			}
			require.Equal(t, want, versions[m.Path], m.Path)
		}
		require.Equal(t, info.GoVersion, versions["std"])
		require.Len(t, versions, len(info.Deps)+1)
		require.NotContains(t, read(t, file), "../..")
	}
}

package tools_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const otherSum = "0000000000000000000000000000000000000000000000000000000000000000"

// checkout is a copy of tools/install.sh and what it reads, with lists of its own, and a cache of its own.
type checkout struct {
	dir, cache string
	env        []string
}

func newCheckout(t *testing.T) checkout {
	t.Helper()
	c := checkout{dir: t.TempDir(), cache: t.TempDir()}
	for file, text := range map[string]string{
		"tools/install.sh":                                  read(t, "install.sh"),
		"tools/step.sh":                                     read(t, "step.sh"),
		"tools/versions.env":                                read(t, "versions.env"),
		"tools/python/requirements.txt":                     "",
		"tools/python/duckdb-iceberg.txt":                   "",
		"tools/kafka/pom.xml":                               "",
		"tools/kafka/jars.sha256":                           "",
		"integration/bench/peers/a-manifest.yaml":           "",
		"integration/clients/testdata/go/go.mod":            "module client\n",
		"integration/clients/testdata/go/main.go":           "package main\n\nfunc main() {}\n",
		"orchestration/devserver/go.mod":                    "module devserver\n",
		"orchestration/devserver/go.sum":                    "",
		"orchestration/devserver/main.go":                   "package main\n\nfunc main() {}\n",
		"integration/clients/testdata/java/pom.xml":         "",
		"integration/clients/testdata/java/jars.sha256":     "",
		"integration/clients/testdata/js/package-lock.json": "",
	} {
		c.write(t, file, text)
	}
	return c
}

func (c checkout) write(t *testing.T, file, text string) {
	t.Helper()
	file = filepath.Join(c.dir, file)
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, []byte(text), 0o755))
}

func (c checkout) install(part string) (string, error) {
	cmd := exec.Command("bash", filepath.Join(c.dir, "tools", "install.sh"), part)
	cmd.Env = append(append(os.Environ(), "PULSEGRID_CACHE="+c.cache), c.env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// installed returns the folders of the cache. What an install left half done is one, too.
func (c checkout) installed(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(c.cache)
	require.NoError(t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// maven puts a mvn into the PATH that copies these jars, each with its name as text.
func (c *checkout) maven(t *testing.T, jars ...string) {
	t.Helper()
	c.write(t, "bin/mvn", "#!/bin/sh\nmkdir libs && for jar in "+strings.Join(jars, " ")+"; do printf %s $jar >libs/$jar; done\n")
	c.env = []string{"PATH=" + filepath.Join(c.dir, "bin") + string(os.PathListSeparator) + os.Getenv("PATH")}
}

func sum(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

func TestJarsAreThoseThatAreListed(t *testing.T) {
	list := func(sums ...string) string { return strings.Join(sums, "\n") + "\n" }
	a, b := sum("a.jar")+"  a.jar", sum("b.jar")+"  b.jar"
	for name, tt := range map[string]struct{ list, wrong string }{
		"as listed":  {list: list(a, b)},
		"altered":    {list: list(a, otherSum+"  b.jar"), wrong: "> " + b},
		"not listed": {list: list(a), wrong: "> " + b},
		"missing":    {list: list(a, b, sum("c.jar")+"  c.jar"), wrong: "< " + sum("c.jar") + "  c.jar"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCheckout(t)
			c.maven(t, "a.jar", "b.jar")
			c.write(t, "tools/kafka/jars.sha256", tt.list)
			out, err := c.install("kafka")
			if tt.wrong == "" {
				require.NoError(t, err, out)
				require.Len(t, c.installed(t), 1)
				return
			}
			require.Error(t, err, out)
			require.Contains(t, out, tt.wrong)
			require.Contains(t, out, "these jars (>) are not those of kafka/jars.sha256 (<): checksums differ")
			require.Empty(t, c.installed(t))
		})
	}
}

func TestPythonPackagesAreThoseThatAreListed(t *testing.T) {
	c := newCheckout(t)
	wheels := t.TempDir()
	wheel := filepath.Join(wheels, "sample-1.0-py3-none-any.whl")
	f, err := os.Create(wheel)
	require.NoError(t, err)
	z := zip.NewWriter(f)
	for name, text := range map[string]string{
		"sample.py":                     "",
		"sample-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n",
		"sample-1.0.dist-info/WHEEL":    "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
		"sample-1.0.dist-info/RECORD":   "sample.py,,\nsample-1.0.dist-info/METADATA,,\nsample-1.0.dist-info/WHEEL,,\nsample-1.0.dist-info/RECORD,,\n",
	} {
		w, err := z.Create(name)
		require.NoError(t, err)
		_, err = w.Write([]byte(text))
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	require.NoError(t, f.Close())
	bytes, err := os.ReadFile(wheel)
	require.NoError(t, err)
	c.env = []string{"PIP_NO_INDEX=1", "PIP_FIND_LINKS=" + wheels}

	whole := func() []string {
		marks, err := filepath.Glob(filepath.Join(c.cache, "python-*", "installed"))
		require.NoError(t, err)
		return marks
	}
	for list, says := range map[string]string{
		"sample==1.0 --hash=sha256:" + otherSum: "DO NOT MATCH THE HASHES",
		"sample==1.0":                           "Hashes are required",
	} {
		c.write(t, "tools/python/requirements.txt", list+"\n")
		out, err := c.install("python")
		require.Error(t, err, out)
		require.Contains(t, out, says)
		require.Empty(t, whole())
	}

	c.write(t, "tools/python/requirements.txt", "sample==1.0 --hash=sha256:"+otherSum+" --hash=sha256:"+sum(string(bytes))+"\n")
	c.write(t, "tools/python/duckdb-iceberg.txt", "sample==1.0 --hash=sha256:"+otherSum+"\n")
	out, err := c.install("python")
	require.Error(t, err, out)
	require.Contains(t, out, "DO NOT MATCH THE HASHES")
	require.Len(t, whole(), 1)
	require.Len(t, c.installed(t), 3, "the environments of the first list and of the last")
}

// npmPackage is a package's archive.
func npmPackage(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	w := tar.NewWriter(gz)
	for name, text := range files {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: "package/" + name, Mode: 0o644, Size: int64(len(text))}))
		_, err := w.Write([]byte(text))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, gz.Close())
	return b.Bytes()
}

// npmRegistry serves version 1.0.0 of one package, as whoever controls a registry would: with the integrity of what it serves.
func npmRegistry(t *testing.T, name string, tgz []byte) (url, integrity string) {
	t.Helper()
	digest := sha512.Sum512(tgz)
	integrity = "sha512-" + base64.StdEncoding.EncodeToString(digest[:])
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, ".tgz"):
			_, _ = w.Write(tgz)
		case r.URL.Path == "/"+name:
			_ = json.NewEncoder(w).Encode(map[string]any{"name": name, "dist-tags": map[string]string{"latest": "1.0.0"}, "versions": map[string]any{"1.0.0": map[string]any{
				"name": name, "version": "1.0.0", "dist": map[string]string{"integrity": integrity, "tarball": "http://" + r.Host + "/" + name + "/-/" + path.Base(name) + "-1.0.0.tgz"},
			}}})
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL, integrity
}

func TestNpmPackagesAreThoseThatAreListed(t *testing.T) {
	url, integrity := npmRegistry(t, "sample", npmPackage(t, map[string]string{"package.json": `{"name":"sample","version":"1.0.0","scripts":{"postinstall":"touch ran"}}`}))
	other := "sha512-" + base64.StdEncoding.EncodeToString(make([]byte, sha512.Size))
	for name, listed := range map[string]string{"as listed": integrity, "altered": other} {
		t.Run(name, func(t *testing.T) {
			c := newCheckout(t)
			c.maven(t, "a.jar")
			c.env = append(c.env, "npm_config_registry="+url, "npm_config_cache="+t.TempDir())
			const clients = "integration/clients/testdata/"
			c.write(t, clients+"java/jars.sha256", sum("a.jar")+"  a.jar\n")
			c.write(t, clients+"js/package.json", `{"name":"clients","dependencies":{"sample":"1.0.0"}}`)
			c.write(t, clients+"js/package-lock.json", `{"name":"clients","lockfileVersion":3,"requires":true,"packages":{"":{"name":"clients","dependencies":{"sample":"1.0.0"}},
				"node_modules/sample":{"version":"1.0.0","integrity":"`+listed+`"}}}`)
			out, err := c.install("clients")
			if listed == other {
				require.Error(t, err, out)
				require.Contains(t, out, "EINTEGRITY")
				require.Empty(t, c.installed(t))
				return
			}
			require.NoError(t, err, out)
			require.Len(t, c.installed(t), 1)
			sample := filepath.Join(c.cache, c.installed(t)[0], "js", "node_modules", "sample")
			require.FileExists(t, filepath.Join(sample, "package.json"))
			require.NoFileExists(t, filepath.Join(sample, "ran"), "no script of a package is run")
		})
	}
}

func TestTheEngineIsTheOneThatIsListed(t *testing.T) {
	url, integrity := npmRegistry(t, "@chdb/lib-linux-x64-gnu", npmPackage(t, map[string]string{
		"package.json": `{"name":"@chdb/lib-linux-x64-gnu","version":"1.0.0"}`, "libchdb.so": "engine",
	}))
	for name, listed := range map[string]string{"as listed": strings.TrimPrefix(integrity, "sha512-"), "altered": base64.StdEncoding.EncodeToString(make([]byte, sha512.Size))} {
		t.Run(name, func(t *testing.T) {
			c := newCheckout(t)
			c.env = []string{"npm_config_registry=" + url, "npm_config_cache=" + t.TempDir()}
			versions, err := os.ReadFile("versions.env")
			require.NoError(t, err)
			text := regexp.MustCompile(`(?m)^CHDB_VERSION=.*$`).ReplaceAllString(string(versions), "CHDB_VERSION=1.0.0")
			c.write(t, "tools/versions.env", regexp.MustCompile(`(?m)^CHDB_SHA512=.*$`).ReplaceAllString(text, "CHDB_SHA512="+listed))
			out, err := c.install("clickhouse")
			if name == "altered" {
				require.Error(t, err, out)
				require.Contains(t, out, "@chdb/lib-linux-x64-gnu@1.0.0: checksum differs")
				require.Empty(t, c.installed(t))
				return
			}
			require.NoError(t, err, out)
			require.FileExists(t, filepath.Join(c.cache, "clickhouse-1.0.0", "libchdb.so"))
		})
	}
}

// Package pytest runs Python scripts in tests, with the interpreter that `tools/install.sh python` put into the tool cache. It
// holds the independent readers and clients that tests trust more than our own code: pyiceberg, DuckDB, pyarrow, the OpenTelemetry SDK.
package pytest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// timeout bounds one script, so that a hanging reader fails its test and not the whole run.
const timeout = 2 * time.Minute

// Python is the interpreter's path. A missing one fails the test: an independent check that silently does not run is none.
func Python(t testing.TB) string {
	t.Helper()
	path, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Find is Python for programs that are no tests.
func Find() (string, error) {
	venv, err := installed("python", "requirements.txt")
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(venv, "installed")); err != nil {
		return "", fmt.Errorf("pytest: the Python packages of tools/python are not installed: run `make tools` (tools/install.sh python): %w", err)
	}
	return filepath.Join(venv, "bin", "python"), nil
}

// DuckDBIceberg is a directory that holds a DuckDB with its Iceberg extension: a script puts it at the head of sys.path, and loads the
// extensions avro and iceberg from duckdb_extension_NAME/extensions/vVERSION/NAME.duckdb_extension.
func DuckDBIceberg(t testing.TB) string {
	t.Helper()
	dir, err := installed("duckdb-iceberg", "duckdb-iceberg.txt")
	if err == nil {
		_, err = os.Stat(dir)
	}
	if err != nil {
		t.Fatalf("pytest: DuckDB's Iceberg extension is not installed: run `make tools` (tools/install.sh python): %v", err)
	}
	return dir
}

// DuckDB is a program that is DuckDB's command line with the extensions avro and iceberg loaded.
func DuckDB(t testing.TB) string {
	t.Helper()
	dir := DuckDBIceberg(t)
	load := ""
	for _, name := range []string{"avro", "iceberg"} {
		found, err := filepath.Glob(filepath.Join(dir, "duckdb_extension_"+name, "extensions", "v*", name+".duckdb_extension"))
		if err != nil || len(found) != 1 {
			t.Fatalf("pytest: DuckDB's extension %s: %v, want one file: run `make tools` (tools/install.sh python): %v", name, found, err)
		}
		load += "LOAD '" + found[0] + "'; "
	}
	program := filepath.Join(t.TempDir(), "duckdb")
	script := "#!/bin/sh\nexec '" + filepath.Join(dir, "duckdb_cli", "duckdb") + "' -cmd \"" + load + "\" \"$@\"\n"
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return program
}

// installed is where tools/install.sh installs the packages of a list of tools/python.
func installed(name, list string) (string, error) {
	_, self, _, _ := runtime.Caller(0)
	text, err := os.ReadFile(filepath.Join(filepath.Dir(self), "..", "..", "..", "tools", "python", list))
	if err != nil {
		return "", fmt.Errorf("pytest: %w", err)
	}
	cache := os.Getenv("PULSEGRID_CACHE")
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("pytest: %w", err)
		}
		cache = filepath.Join(base, "pulsegrid")
	}
	return filepath.Join(cache, name+"-"+fmt.Sprintf("%x", sha256.Sum256(text))[:12]), nil
}

// Run runs a script with arguments (sys.argv[1:]) and returns its standard output. A script that exits with another status than
// 0, or that takes longer than two minutes, fails the test with what it wrote to standard error.
func Run(t testing.TB, script string, args ...string) []byte {
	t.Helper()
	return RunWithin(t, timeout, script, args...)
}

// RunWithin is Run for a script that may take another time.
func RunWithin(t testing.TB, timeout time.Duration, script string, args ...string) []byte {
	t.Helper()
	python := Python(t)
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, append([]string{"-"}, args...)...)
	cmd.Dir = t.TempDir()
	cmd.Stdin = bytes.NewReader([]byte(script))
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("pytest: %v\n%s\n%s", err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.Bytes()
}

// RunJSON runs a script like Run and decodes its standard output, one JSON value, into out.
func RunJSON(t testing.TB, out any, script string, args ...string) {
	t.Helper()
	text := Run(t, script, args...)
	if err := json.Unmarshal(text, out); err != nil {
		t.Fatalf("pytest: the script printed no JSON: %v\n%s", err, text)
	}
}

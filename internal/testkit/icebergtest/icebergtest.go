// Package icebergtest runs Java programs with Iceberg's own Java library, which most engines read the lake with (Spark, Flink, Trino, Athena).
// The jars are those that `tools/install.sh iceberg` installs; a JDK 17 or later must be in the PATH or below $JAVA_HOME.
package icebergtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// Run compiles and runs a program of one source file, whose class is Scan, with arguments, and returns its standard output. A program that
// fails, or takes longer than timeout, fails the test with what it wrote to standard error.
func Run(t testing.TB, timeout time.Duration, source string, args ...string) []byte {
	t.Helper()
	libs, err := libraries()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "Scan.java")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	java := "java"
	if home := os.Getenv("JAVA_HOME"); home != "" {
		java = filepath.Join(home, "bin", "java")
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, java, append([]string{"-XX:TieredStopAtLevel=1", "-Xmx1g", "-cp", filepath.Join(libs, "*"), file}, args...)...)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("icebergtest: %v (a JDK 17 or later must be in the PATH, or below JAVA_HOME)\n%s\n%s", err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.Bytes()
}

// libraries is the folder of the jars. The list of jars names it, as in tools/install.sh.
func libraries() (string, error) {
	_, self, _, _ := runtime.Caller(0)
	jars, err := os.ReadFile(filepath.Join(filepath.Dir(self), "..", "..", "..", "tools", "iceberg", "jars.sha256"))
	if err != nil {
		return "", fmt.Errorf("icebergtest: %w", err)
	}
	cache := os.Getenv("PULSEGRID_CACHE")
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("icebergtest: %w", err)
		}
		cache = filepath.Join(base, "pulsegrid")
	}
	libs := filepath.Join(cache, fmt.Sprintf("iceberg-%x", sha256.Sum256(jars))[:len("iceberg-")+12], "libs")
	if _, err := os.Stat(libs); err != nil {
		return "", fmt.Errorf("icebergtest: Iceberg's Java library is not installed: run `make tools` (tools/install.sh iceberg): %w", err)
	}
	return libs, nil
}

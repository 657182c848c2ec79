package kafkatest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const kafkaVersion = "4.4.0"

// tools are what a node is run with.
type tools struct {
	java, javac string
	classpath   string
	exporter    string // the JMX exporter's jar; empty: none
	archive     string // of parsed classes (AppCDS), which halves the time to start; empty: none
}

func findTools() (tools, error) {
	cache, err := cacheDir()
	if err != nil {
		return tools{}, err
	}
	home := filepath.Join(cache, "kafka-"+kafkaVersion)
	jars, err := filepath.Glob(filepath.Join(home, "libs", "*.jar"))
	if err != nil || len(jars) == 0 {
		return tools{}, fmt.Errorf("no Apache Kafka %s in %s: run `make tools` (tools/install.sh kafka)", kafkaVersion, home)
	}
	tl := tools{classpath: strings.Join(jars, ":")} // Glob sorts: the archive fits one order only
	if tl.java, err = javaTool("java"); err != nil {
		return tools{}, err
	}
	if tl.javac, err = javaTool("javac"); err != nil {
		return tools{}, err
	}
	tl.archive = ensureArchive(home, tl)
	return tl, nil
}

func findExporter() (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	jars, err := filepath.Glob(filepath.Join(cache, "jmx_exporter-*", "libs", "jmx_prometheus_javaagent-*.jar"))
	if err != nil || len(jars) == 0 {
		return "", fmt.Errorf("no JMX exporter in %s: run tools/install.sh jmx_exporter", cache)
	}
	return jars[len(jars)-1], nil
}

func cacheDir() (string, error) {
	if dir := os.Getenv("PULSEGRID_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "pulsegrid"), err
}

func javaTool(name string) (string, error) {
	if home := os.Getenv("JAVA_HOME"); home != "" {
		return filepath.Join(home, "bin", name), nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("no %s: install a JDK 17 or later (for instance openjdk-17-jdk-headless), or set JAVA_HOME: %w", name, err)
	}
	return path, nil
}

// ensureArchive returns the class archive beside the jars; the first caller on a machine makes it by running a broker once,
// while others wait. Without one Kafka runs all the same, slower: a failure is not an error.
func ensureArchive(home string, tl tools) string {
	version, err := exec.Command(tl.java, "-version").CombinedOutput()
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(append(version, tl.classpath...))
	archive := filepath.Join(home, fmt.Sprintf("classes-%x.jsa", sum[:6]))
	if _, err := os.Stat(archive); err == nil {
		return archive
	}
	lock, err := os.OpenFile(archive+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return ""
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return ""
	}
	if _, err := os.Stat(archive); err == nil {
		return archive
	}
	if err := makeArchive(archive, tl); err != nil {
		fmt.Fprintln(os.Stderr, "kafkatest: no class archive, nodes start more slowly:", err)
		return ""
	}
	return archive
}

func makeArchive(archive string, tl tools) error {
	tl.archive = ""
	c := &Cluster{opts: Options{Nodes: 1}, tools: tl}
	var err error
	if c.dir, err = os.MkdirTemp("", "kafka-"); err != nil {
		return err
	}
	c.removeDir = true
	partial := archive + ".partial"
	c.tools.java, err = wrapJava(c.dir, tl.java, partial)
	if err == nil {
		err = c.up()
	}
	if err == nil {
		err = exercise(c.Brokers())
	}
	if err == nil {
		err = c.nodes[0].end(false) // an orderly end writes the archive
	}
	if err = errors.Join(err, c.Close()); err != nil {
		return err
	}
	return os.Rename(partial, archive)
}

// wrapJava makes a java that writes the archive when it ends; the last one to end (the broker) wins.
func wrapJava(dir, java, archive string) (string, error) {
	path := filepath.Join(dir, "java")
	return path, os.WriteFile(path, []byte(fmt.Sprintf("#!/bin/sh\nexec '%s' '-XX:ArchiveClassesAtExit=%s' \"$@\"\n", java, archive)), 0o700)
}

// exercise makes the broker load what it needs to serve.
func exercise(brokers []string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.AllowAutoTopicCreation())
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return client.Ping(ctx)
}

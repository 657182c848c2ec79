// Package s3test runs versitygw, an S3 server over a folder, on a free loopback port for the length of a test. It can be killed
// and started again with its data, which is how tests see an object store fail.
package s3test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/pulsegrid/pulsegrid/internal/testkit/freeport"
)

// Credentials and region of every server; they protect nothing but the test from itself.
const (
	AccessKey = "pulsegrid-test"
	SecretKey = "pulsegrid-test-secret"
	Region    = "us-east-1"
)

// startTimeout bounds the wait for a started server to answer.
const startTimeout = time.Minute

// Server is one running (or killed) object store.
type Server struct {
	Endpoint string // "http://127.0.0.1:port", the same after a Restart
	Dir      string // where the objects lie: Dir/bucket/key

	t      testing.TB
	binary string
	addr   string

	mu     sync.Mutex
	cmd    *exec.Cmd // nil: not running
	exited chan struct{}
	stderr *bytes.Buffer
}

// Start runs a server until the test ends. A missing binary fails the test.
func Start(t testing.TB) *Server {
	t.Helper()
	path, err := Binary()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, Dir: t.TempDir(), binary: path}
	if s.addr, err = freeport.Addr(); err != nil {
		t.Fatalf("s3test: %v", err)
	}
	s.Endpoint = "http://" + s.addr
	t.Cleanup(s.Kill)
	s.Restart()
	return s
}

// Restart starts a killed server again, with its data and on its address, and returns when it answers.
func (s *Server) Restart() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		s.t.Fatal("s3test: the server is running already")
	}
	s.stderr = &bytes.Buffer{}
	cmd := exec.Command(s.binary, "--access", AccessKey, "--secret", SecretKey, "--region", Region, "--port", s.addr, "--quiet", "posix", s.Dir)
	cmd.Stdout, cmd.Stderr = s.stderr, s.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // no server outlives a test binary that is killed
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("s3test: %v", err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	s.cmd, s.exited = cmd, exited

	client := s.Client()
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := client.ListBuckets(ctx, &s3.ListBucketsInput{})
		cancel()
		if err == nil {
			return
		}
		select {
		case <-exited:
			s.t.Fatalf("s3test: versitygw stopped: %s", s.stderr)
		default:
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("s3test: versitygw does not answer: %v", err)
		}
	}
}

// Kill ends the server at once (SIGKILL); open requests break off. Killing a killed server does nothing.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Errorf("s3test: %v", err)
	}
	<-s.exited
	s.cmd = nil
}

// Client is an S3 client of the server.
func (s *Server) Client() *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(s.Endpoint),
		Region:       Region,
		Credentials:  credentials.NewStaticCredentialsProvider(AccessKey, SecretKey, ""),
		UsePathStyle: true,
		Retryer:      aws.NopRetryer{},
	})
}

// CreateBucket makes a bucket and returns its name.
func (s *Server) CreateBucket(name string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if _, err := s.Client().CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String(name)}); err != nil {
		s.t.Fatalf("s3test: bucket %s: %v", name, err)
	}
	return name
}

var versionLine = regexp.MustCompile(`(?m)^VERSITYGW_VERSION=(.+)$`)

// Binary is the path of the installed server.
func Binary() (string, error) {
	_, self, _, _ := runtime.Caller(0)
	env, err := os.ReadFile(filepath.Join(filepath.Dir(self), "..", "..", "..", "tools", "versions.env"))
	if err != nil {
		return "", fmt.Errorf("s3test: %w", err)
	}
	version := versionLine.FindSubmatch(env)
	if version == nil {
		return "", errors.New("s3test: tools/versions.env names no VERSITYGW_VERSION")
	}
	cache := os.Getenv("PULSEGRID_CACHE")
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("s3test: %w", err)
		}
		cache = filepath.Join(base, "pulsegrid")
	}
	path := filepath.Join(cache, fmt.Sprintf("versitygw-%s", strings.TrimSpace(string(version[1]))), "versitygw")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("s3test: versitygw is not installed: run `make tools` (tools/install.sh versitygw): %w", err)
	}
	return path, nil
}

//go:build deploy

package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/testkit/freeport"
)

const (
	fakeStarts   = 5 * time.Minute // a python that imports moto, on a machine that is busy
	fakeStopping = 30 * time.Second
)

// parts is what Terraform reads, and what the commands of docs/deploy.md use.
var parts = []string{"deploy", "distributions", "observability"}

// site is a copy of the repository's parts in which the commands of docs/deploy.md are run.
type site struct {
	t    *testing.T
	root string
	env  []string
	url  string // of the fake; empty: there is none
}

// newSite makes a site. Terraform writes into its folders, which is why they are copies.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, root: t.TempDir()}
	for _, part := range parts {
		require.NoError(t, os.CopyFS(filepath.Join(s.root, part), os.DirFS(filepath.Join(rig.Root(), part))))
	}
	prod := filepath.Join(s.root, "deploy", "live", "prod")
	for _, leftover := range []string{".terraform", ".terraform.lock.hcl"} { // of somebody who has used it
		require.NoError(t, os.RemoveAll(filepath.Join(prod, leftover)))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(s.root, "_build"), 0o755))
	require.NoError(t, os.Symlink(filepath.Join(rig.Root(), "_build", "pulsegrid"), filepath.Join(s.root, "_build", "pulsegrid")))
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); !strings.HasPrefix(name, "AWS_") && !strings.HasPrefix(name, "TF_") {
			s.env = append(s.env, variable)
		}
	}
	s.env = append(s.env, "PATH="+filepath.Dir(python(t, "deploy"))+string(os.PathListSeparator)+os.Getenv("PATH"), "TF_IN_AUTOMATION=1", "TF_CLI_ARGS=-no-color",
		"TF_CLI_ARGS_init=-input=false", "TF_CLI_ARGS_plan=-input=false -parallelism=30", "TF_CLI_ARGS_apply=-input=false -auto-approve -parallelism=30",
		"TF_CLI_ARGS_destroy=-input=false -auto-approve -parallelism=30")
	s.findProvider()
	return s
}

// python is the interpreter of a list of tools/python.
func python(t *testing.T, list string) string {
	t.Helper()
	dir, err := exec.Command(filepath.Join(rig.Root(), "tools", "install.sh"), "--dir", list).Output()
	require.NoError(t, err)
	path := filepath.Join(strings.TrimSpace(string(dir)), "bin", "python")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is not installed: run `tools/install.sh %s`", list, list)
	}
	return path
}

// findProvider has Terraform take the AWS provider from a folder of this machine, if there is one. Without Terraform or the provider the test fails.
func (s *site) findProvider() {
	s.t.Helper()
	if _, err := exec.LookPath("terraform"); err != nil {
		s.t.Fatal("terraform is not in PATH: install it as https://developer.hashicorp.com/terraform/install says")
	}
	if mirror := providerMirror(); mirror != "" {
		config := filepath.Join(s.root, "terraformrc")
		text := fmt.Sprintf("disable_checkpoint = true\nprovider_installation {\n  filesystem_mirror {\n    path    = %q\n    include = [\"registry.terraform.io/hashicorp/*\"]\n  }\n"+
			"  direct {\n    exclude = [\"registry.terraform.io/hashicorp/*\"]\n  }\n}\n", mirror)
		require.NoError(s.t, os.WriteFile(config, []byte(text), 0o600))
		s.env = append(s.env, "TF_CLI_CONFIG_FILE="+config)
	}
	// Asked with a folder that has the provider alone: what is wrong with deploy/ must not look like a machine without it.
	probe := s.t.TempDir()
	versions, err := os.ReadFile(filepath.Join(s.root, "deploy", "modules", "cell", "versions.tf"))
	require.NoError(s.t, err)
	require.NoError(s.t, os.WriteFile(filepath.Join(probe, "versions.tf"), versions, 0o600))
	if out, err := s.try("terraform -chdir=" + probe + " init"); err != nil {
		s.t.Fatalf("Terraform cannot have its AWS provider here, from its registry or a folder of this machine:\n%s", out)
	}
}

// providerMirror is a folder that holds registry.terraform.io/hashicorp/aws; empty: none.
func providerMirror() (found string) {
	home, _ := os.UserHomeDir()
	for _, root := range []string{"/opt", "/usr/local/share", "/usr/share/terraform", filepath.Join(home, ".terraform.d"), filepath.Join(home, ".local", "share")} {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error { // what cannot be read is no mirror
			rel, _ := filepath.Rel(root, path)
			switch {
			case err != nil || strings.Count(rel, string(filepath.Separator)) > 4:
				return fs.SkipDir
			case strings.HasSuffix(filepath.ToSlash(path), "/registry.terraform.io/hashicorp/aws"):
				found = strings.TrimSuffix(filepath.ToSlash(path), "/registry.terraform.io/hashicorp/aws")
				return fs.SkipAll
			}
			return nil
		})
		if found != "" {
			return found
		}
	}
	return ""
}

// startFake starts AWS on loopback, and has every command ask it.
func (s *site) startFake() {
	s.t.Helper()
	port, err := freeport.Port()
	require.NoError(s.t, err)
	s.url = "http://127.0.0.1:" + strconv.Itoa(port)
	fake := rig.NewProcess(nil, nil, python(s.t, "deploy"), filepath.Join(s.root, "deploy", "fake", "awsfake.py"), strconv.Itoa(port))
	require.NoError(s.t, fake.Start(fakeStarts))
	s.t.Cleanup(func() {
		fake.Stop(fakeStopping)
		if s.t.Failed() {
			s.t.Log(fake.Log())
		}
	})
	s.env = append(s.env, "AWS_ENDPOINT_URL="+s.url, "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null",
		"AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_PAGER=", "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1", "TF_CLI_ARGS_init=-input=false -backend-config=use_path_style=true")
	require.Eventually(s.t, func() bool { _, err := s.gaps(); return err == nil }, fakeStarts, 200*time.Millisecond, "the fake answers")
}

// gaps are the calls that the fake could not answer.
func (s *site) gaps() (string, error) {
	answer, err := http.Get(s.url + "/awsfake/gaps")
	if err != nil {
		return "", err
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status)
	}
	return string(body), err
}

// try runs a script of bash in the site.
func (s *site) try(script string) (string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Hour)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir, cmd.Env, cmd.WaitDelay = s.root, s.env, time.Minute
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// run is try, of what must succeed.
func (s *site) run(script string) string {
	s.t.Helper()
	begun := time.Now()
	out, err := s.try(script)
	require.NoError(s.t, err, "%s\n%s", script, tail(out))
	s.t.Logf("%.0f s: %s", time.Since(begun).Seconds(), firstLine(script))
	return out
}

// exit is the exit code of a script, and what it said.
func (s *site) exit(script string) (int, string) {
	s.t.Helper()
	out, err := s.try(script)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), out
	}
	require.NoError(s.t, err)
	return 0, out
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}

func tail(text string) string { return text[max(0, len(text)-8000):] }

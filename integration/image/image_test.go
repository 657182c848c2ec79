// Package image tests what is released: that the images are the same whenever the same is built, what is in them, that what they hold runs in them and carries events as the built
// programs do, and what comes with a release. Images are read, unpacked and run without any code of what writes them.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"debug/buildinfo"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
)

var (
	archsFlag    = flag.String("archs", runtime.GOARCH, "architectures to test; those of other machines run under qemu")
	programsFlag = flag.String("programs", "", "folder of linux-ARCH/PROGRAM; empty: _build, with the Collector that `make build` built")
	againFlag    = flag.String("again", "healthcheck", "programs to build again elsewhere")
	revisionFlag = flag.String("revision", "unknown", "revision that the programs were built with")
)

const (
	testVersion  = "1.2.3"
	testRevision = "0123456789abcdef0123456789abcdef01234567"
	testSeconds  = "1700000000"
)

var names = []string{"pulsegrid", "pulsegrid-collector"}

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	if status, ran := rig.RunWithOwnMounts(); ran { // no mount outlives the tests
		os.Exit(status)
	}
	flag.Parse()
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir) // a temporary directory
	}
	os.Exit(code)
}

func archs() []string { return strings.Fields(*archsFlag) }

// built are the images that the tests share: what tools/image writes, below dir/image, of the programs in dir/linux-ARCH.
var built struct {
	once sync.Once
	dir  string
	err  error
}

func build(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "pulsegrid-image-"); built.err != nil {
			return
		}
		for _, arch := range archs() {
			if built.err = gather(filepath.Join(built.dir, "linux-"+arch), arch); built.err != nil {
				return
			}
		}
		_, built.err = write(built.dir, filepath.Join(built.dir, "image"))
	})
	require.NoError(t, built.err)
	return built.dir
}

// gather links the programs of an architecture into a folder.
func gather(dir, arch string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, program := range []string{"pulsegrid", "pulsegrid-collector", "healthcheck"} {
		source := filepath.Join(rig.Root(), "_build", "linux-"+arch, program)
		switch {
		case *programsFlag != "":
			source = filepath.Join(*programsFlag, "linux-"+arch, program)
		case program == "pulsegrid-collector":
			source = filepath.Join(rig.Root(), "_build", "collector", program)
		}
		source, err := filepath.Abs(source)
		if err != nil {
			return err
		}
		if _, err := os.Stat(source); err != nil {
			return fmt.Errorf("%s is not built (run `make build _build/linux-%s/%s`): %w", program, arch, program, err)
		}
		if err := os.Symlink(source, filepath.Join(dir, program)); err != nil {
			return err
		}
	}
	for _, name := range names {
		cmd := exec.Command("go", "run", "./tools/licenses", filepath.Join(dir, "licenses", name), filepath.Join(dir, name))
		cmd.Dir = rig.Root()
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	return nil
}

// write has tools/image write the images of dir/linux-ARCH into out, and returns what it printed.
func write(dir, out string, images ...string) (string, error) {
	tool := filepath.Join(rig.Root(), "tools", "image")
	args := []string{"-C", tool, "run", ".", "-root", rig.Root(), "-out", out, "-version", testVersion, "-revision", testRevision, "-time", testSeconds}
	for _, arch := range archs() {
		args = append(args, "-programs", arch+"="+filepath.Join(dir, "linux-"+arch))
	}
	cmd := exec.Command("go", append(args, images...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, stderr.String())
	}
	return string(text), nil
}

// each opens every image for every architecture.
func each(t *testing.T, check func(t *testing.T, name, arch string, image *rig.Image)) {
	dir := build(t)
	for _, name := range names {
		for _, arch := range archs() {
			t.Run(name+"/"+arch, func(t *testing.T) {
				image, err := rig.OpenImage(filepath.Join(dir, "image", name), arch)
				require.NoError(t, err)
				check(t, name, arch, image)
			})
		}
	}
}

// contents are the digests of all files below dir, by path.
func contents(t *testing.T, dir string) map[string][32]byte {
	t.Helper()
	out := map[string][32]byte{}
	require.NoError(t, fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, path))
		out[path] = sha256.Sum256(text)
		return err
	}))
	require.NotEmpty(t, out)
	return out
}

// Scenario: the images are built again, elsewhere, later, from programs with other times and rights.
// Guarantees: every byte is the same. Other programs are other images.
func TestTheSameProgramsMakeTheSameImages(t *testing.T) {
	dir := build(t)
	again := t.TempDir()
	for _, arch := range archs() {
		folder := filepath.Join(again, "linux-"+arch)
		require.NoError(t, os.MkdirAll(folder, 0o700))
		require.NoError(t, os.CopyFS(filepath.Join(folder, "licenses"), os.DirFS(filepath.Join(dir, "linux-"+arch, "licenses"))))
		for _, program := range []string{"pulsegrid-collector", "healthcheck"} {
			text, err := os.ReadFile(filepath.Join(dir, "linux-"+arch, program))
			require.NoError(t, err)
			copied := filepath.Join(folder, program)
			require.NoError(t, os.WriteFile(copied, text, 0o600))
			require.NoError(t, os.Chtimes(copied, time.Unix(1, 0), time.Unix(1, 0)))
		}
	}
	const name = "pulsegrid-collector"
	printed, err := write(again, filepath.Join(again, "image"), name)
	require.NoError(t, err)
	require.Equal(t, contents(t, filepath.Join(dir, "image", name)), contents(t, filepath.Join(again, "image", name)))

	image, err := rig.OpenImage(filepath.Join(again, "image", name), archs()[0])
	require.NoError(t, err)
	require.Equal(t, name+"@"+image.Index+"\n", printed)
	t.Logf("%s", printed)

	changed, err := os.OpenFile(filepath.Join(again, "linux-"+archs()[0], "healthcheck"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = changed.WriteString("x")
	require.NoError(t, errors.Join(err, changed.Close()))
	other, err := write(again, filepath.Join(again, "image"), name)
	require.NoError(t, err)
	require.NotEqual(t, printed, other)
}

// Scenario: a program that was built with cgo, or for another machine, is to be put into an image.
// Guarantees: none is written.
func TestAProgramThatCouldNotRunIsRefused(t *testing.T) {
	dir := t.TempDir()
	shell, err := filepath.EvalSymlinks("/bin/sh")
	require.NoError(t, err)
	for _, arch := range archs() {
		require.NoError(t, os.CopyFS(filepath.Join(dir, "linux-"+arch, "licenses"), os.DirFS(filepath.Join(build(t), "linux-"+arch, "licenses"))))
		require.NoError(t, os.Symlink(shell, filepath.Join(dir, "linux-"+arch, "healthcheck")))
	}
	_, err = write(dir, filepath.Join(dir, "image"))
	require.ErrorContains(t, err, "wants a dynamic loader")

	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[archs()[0]]
	args := []string{"-C", filepath.Join(rig.Root(), "tools", "image"), "run", ".", "-root", rig.Root(), "-out", filepath.Join(dir, "image"), "-version", "1", "-programs",
		other + "=" + filepath.Join(build(t), "linux-"+archs()[0])}
	out, err := exec.Command("go", args...).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "healthcheck is for EM_")
	require.NoDirExists(t, filepath.Join(dir, "image"))
}

// Guarantees: an image holds the programs, the licences of all that is in them, the configurations of the distributions, CA certificates, and who nonroot is; nobody but root may write any of it, no file runs as another
// user, and only its own folder is the user's. Its programs need no C library.
func TestWhatIsInAnImage(t *testing.T) {
	each(t, func(t *testing.T, name, arch string, image *rig.Image) {
		files, programs := map[string]bool{}, 0
		var modules []*debug.Module
		require.NoError(t, image.Files(func(h *tar.Header, content io.Reader) error {
			require.False(t, files[h.Name], "%s is there twice", h.Name)
			files[h.Name] = true
			require.Equal(t, testSeconds, fmt.Sprint(h.ModTime.Unix()), h.Name)
			require.Zero(t, h.Mode&0o6000, h.Name)
			switch h.Name {
			case "var/lib/pulsegrid/":
				require.Equal(t, []int{65532, 65532, 0o700}, []int{h.Uid, h.Gid, int(h.Mode)})
			case "tmp/":
				require.Equal(t, []int{0, 0, 0o1777}, []int{h.Uid, h.Gid, int(h.Mode)})
			default:
				require.Equal(t, []int{0, 0}, []int{h.Uid, h.Gid}, h.Name)
				require.Zero(t, h.Mode&0o222&^0o200, "%s may be written by others", h.Name)
			}
			text, err := io.ReadAll(content)
			require.NoError(t, err)
			switch {
			case h.Name == "etc/ssl/certs/ca-certificates.crt":
				wantRoots(t, text)
			case strings.HasPrefix(h.Name, "etc/pulsegrid/") && h.Typeflag == tar.TypeReg:
				want, err := os.ReadFile(filepath.Join(rig.Root(), "distributions", strings.TrimPrefix(h.Name, "etc/pulsegrid/")))
				require.NoError(t, err)
				require.Equal(t, string(want), string(text))
			case h.Mode&0o111 != 0 && h.Typeflag == tar.TypeReg:
				programs++
				want, err := os.ReadFile(filepath.Join(built.dir, "linux-"+arch, h.Name))
				require.NoError(t, err)
				require.Equal(t, sha256.Sum256(want), sha256.Sum256(text), h.Name)
				modules = append(modules, wantStatic(t, h.Name, arch, text)...)
			}
			return nil
		}))
		require.Equal(t, 2, programs)
		require.Greater(t, len(modules), 100)
		for _, m := range modules {
			require.True(t, files["licenses/"+m.Path+"@"+m.Version+"/"] || m.Path == "github.com/nexus-rpc/nexus-proto-annotations", "%s: its licence", m.Path) // it has none
		}
		for _, tier := range []string{"gateway", "aggregator"} {
			configs, err := filepath.Glob(filepath.Join(rig.Root(), "distributions", tier, "*.yaml"))
			require.NoError(t, err)
			require.NotEmpty(t, configs)
			for _, c := range configs {
				require.True(t, files["etc/pulsegrid/"+tier+"/"+filepath.Base(c)], c)
			}
		}
		for _, file := range []string{name, "healthcheck", "etc/passwd", "etc/group", "etc/ssl/certs/ca-certificates.crt", "proc/", "tmp/"} {
			require.True(t, files[file], file)
		}

		c := image.Config
		require.Equal(t, "65532:65532", c.User)
		require.Equal(t, []string{"/" + name}, c.Entrypoint)
		require.Empty(t, c.Cmd)
		require.Equal(t, "/var/lib/pulsegrid", c.WorkingDir)
		for _, labels := range []map[string]string{c.Labels, image.Annotations} {
			for key, want := range map[string]string{
				"title": name, "version": testVersion, "revision": testRevision, "licenses": "Apache-2.0", "created": "2023-11-14T22:13:20Z", "source": "https://github.com/pulsegrid/pulsegrid",
			} {
				require.Equal(t, want, labels["org.opencontainers.image."+key])
			}
		}
		if name == "pulsegrid-collector" {
			require.Equal(t, []string{"CMD", "/healthcheck"}, c.Healthcheck.Test)
			require.Contains(t, c.ExposedPorts, "4317/tcp")
		}
		require.Less(t, image.Size(), int64(100<<20), "a task pulls it each time it starts")
		t.Logf("a pull transfers %.1f MB", float64(image.Size())/1e6)
	})
}

// wantRoots checks that a store of roots is one: every certificate parses and may sign others, and those by which AWS's endpoints are known are in it.
func wantRoots(t *testing.T, text []byte) {
	t.Helper()
	subjects := map[string]bool{}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		require.NoError(t, err)
		require.True(t, c.IsCA, c.Subject)
		subjects[c.Subject.CommonName] = true
	}
	require.Greater(t, len(subjects), 80)
	for _, name := range []string{"Amazon Root CA 1", "Amazon Root CA 3", "ISRG Root X1"} {
		require.True(t, subjects[name], name)
	}
}

// wantStatic holds a program to what Go recorded when it built it, and returns the modules of others in it.
func wantStatic(t *testing.T, name, arch string, program []byte) (modules []*debug.Module) {
	t.Helper()
	info, err := buildinfo.Read(bytes.NewReader(program))
	require.NoError(t, err)
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	require.Equal(t, "0", settings["CGO_ENABLED"], name)
	require.Equal(t, "linux/"+arch, settings["GOOS"]+"/"+settings["GOARCH"], name)
	require.Equal(t, "true", settings["-trimpath"], name)
	for _, m := range info.Deps {
		require.NotEqual(t, "github.com/ebitengine/purego", m.Path, "%s opens C libraries: build it with -tags noengine", name)
		if m.Replace == nil { // the Collector takes this repository's module from its folder
			modules = append(modules, m)
		}
	}
	return modules
}

// Scenario: the programs are built again from a copy of the repository in another folder.
// Guarantees: every byte is the same. `make test-image` builds all of them, make test the smallest.
func TestAProgramIsTheSameWhereverItIsBuilt(t *testing.T) {
	dir, copied := build(t), filepath.Join(t.TempDir(), "elsewhere")
	require.NoError(t, copyTree(rig.Root(), copied))
	for _, arch := range archs() {
		for _, program := range strings.Fields(*againFlag) {
			target := filepath.Join("_build", "linux-"+arch, program)
			out, err := exec.Command("make", "-C", copied, "REVISION="+*revisionFlag, target).CombinedOutput()
			require.NoError(t, err, "%s", out)
			want, err := os.ReadFile(filepath.Join(dir, "linux-"+arch, program))
			require.NoError(t, err)
			got, err := os.ReadFile(filepath.Join(copied, target))
			require.NoError(t, err)
			require.Equal(t, sha256.Sum256(want), sha256.Sum256(got), "%s for %s", program, arch)
			t.Logf("%s for %s is the same", program, arch)
		}
	}
}

// copyTree copies the repository, without what is built and what git has.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() && (name == "_build" || name == "pulsegrid-data" || name == ".git"):
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), text, info.Mode().Perm())
	})
}

package image

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/integration/rig"
)

const releaseVersion = "0.1.0" // CHANGELOG.md has it

// release runs tools/release.sh over the images that the tests share.
func release(t *testing.T, env ...string) (out, said string, err error) {
	t.Helper()
	out = filepath.Join(t.TempDir(), "release")
	args := append([]string{out, build(t), releaseVersion, testRevision, testSeconds}, archs()...)
	cmd := exec.Command(filepath.Join(rig.Root(), "tools", "release.sh"), args...)
	cmd.Env = append(os.Environ(), env...)
	text, err := cmd.CombinedOutput()
	return out, string(text), err
}

func key(t *testing.T) (private, public string) {
	t.Helper()
	private = filepath.Join(t.TempDir(), "key")
	text, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", private).CombinedOutput()
	require.NoError(t, err, "%s", text)
	public = read(t, private+".pub")
	return private, public
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	require.NoError(t, err)
	return string(text)
}

func sum(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

// verify asks OpenSSH whether a signer has signed the checksums, as docs/images.md tells users to.
func verify(dir, signers string) error {
	cmd := exec.Command("ssh-keygen", "-Y", "verify", "-f", signers, "-I", "release@pulsegrid", "-n", "pulsegrid-release", "-s", filepath.Join(dir, "checksums.txt.sig"))
	checksums, err := os.Open(filepath.Join(dir, "checksums.txt"))
	if err != nil {
		return err
	}
	defer checksums.Close()
	cmd.Stdin = checksums
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, text)
	}
	return nil
}

// Guarantees: the archive of a release holds the programs as they were built, the checksums are of every file, the signature is of the checksums, the provenance names every archive and
// image by its digest and the commit, each program has an SBOM that names what is built into it, and the notes are the changelog's.
func TestARelease(t *testing.T) {
	private, public := key(t)
	signers := filepath.Join(t.TempDir(), "signers")
	require.NoError(t, os.WriteFile(signers, []byte(`release@pulsegrid namespaces="pulsegrid-release" `+public), 0o600))
	out, said, err := release(t, "RELEASE_KEY="+private, "ALLOWED_SIGNERS="+signers)
	require.NoError(t, err, said)

	listed := map[string]string{}
	lines := bufio.NewScanner(strings.NewReader(read(t, out, "checksums.txt")))
	for lines.Scan() {
		digest, name, ok := strings.Cut(lines.Text(), "  ")
		require.True(t, ok, lines.Text())
		require.Equal(t, sum(read(t, out, name)), digest, name)
		listed[name] = digest
	}
	files, err := os.ReadDir(out)
	require.NoError(t, err)
	require.Len(t, listed, len(files)-2) // the checksums, and their signature
	require.NoError(t, verify(out, signers))

	_, stranger := key(t)
	strangers := filepath.Join(t.TempDir(), "strangers")
	require.NoError(t, os.WriteFile(strangers, []byte(`release@pulsegrid namespaces="pulsegrid-release" `+stranger), 0o600))
	require.Error(t, verify(out, strangers))

	for _, arch := range archs() {
		folder := "pulsegrid_" + releaseVersion + "_linux_" + arch
		have := archived(t, filepath.Join(out, folder+".tar.gz"))
		for _, program := range []string{"pulsegrid", "pulsegrid-collector", "healthcheck"} {
			path := filepath.Join(build(t), "linux-"+arch, program)
			require.Equal(t, sum(read(t, path)), have[folder+"/"+program], program)
			wantSBOM(t, filepath.Join(out, program+"_"+releaseVersion+"_linux_"+arch+".cdx.json"), path)
		}
		require.NotEmpty(t, have[folder+"/licenses/pulsegrid-collector/github.com/pulsegrid/pulsegrid/LICENSE"])
		for _, file := range []string{"LICENSE", "README.md", "CHANGELOG.md", "distributions/gateway/config.yaml", "distributions/aggregator/config.yaml"} {
			require.Equal(t, sum(read(t, rig.Root(), file)), have[folder+"/"+file], file)
		}
	}
	wantProvenance(t, out, listed)

	notes := strings.TrimSpace(read(t, out, "notes.md"))
	require.NotEmpty(t, notes)
	require.NotContains(t, notes, "\n## ")
	require.Contains(t, notes, "](https://github.com/pulsegrid/pulsegrid/blob/v"+releaseVersion+"/docs/")
	require.Contains(t, read(t, rig.Root(), "CHANGELOG.md"), strings.ReplaceAll(notes, "https://github.com/pulsegrid/pulsegrid/blob/v"+releaseVersion+"/", ""))
}

// archived are the digests of an archive's files.
func archived(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	require.NoError(t, err)
	out := map[string]string{}
	for files := tar.NewReader(unzipped); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		require.NoError(t, err)
		require.Equal(t, testSeconds, fmt.Sprint(h.ModTime.Unix()), h.Name)
		text, err := io.ReadAll(files)
		require.NoError(t, err)
		out[h.Name] = sum(string(text))
	}
}

// wantSBOM holds an SBOM to what Go says is built into a program.
func wantSBOM(t *testing.T, sbom, program string) {
	t.Helper()
	info, err := buildinfo.ReadFile(program)
	require.NoError(t, err)
	var have struct {
		Components []struct{ Name, Version string }
	}
	require.NoError(t, json.Unmarshal([]byte(read(t, sbom)), &have))
	versions := map[string]string{}
	for _, c := range have.Components {
		versions[c.Name] = c.Version
	}
	want := map[string]string{"std": info.GoVersion}
	for _, m := range info.Deps {
		want[m.Path] = m.Version
		if m.Replace != nil { // this repository's module, in the Collector
			want[m.Path] = releaseVersion
		}
	}
	require.Equal(t, want, versions, program)
	t.Logf("%s: %d modules", filepath.Base(sbom), len(want))
}

func wantProvenance(t *testing.T, out string, listed map[string]string) {
	t.Helper()
	var statement struct {
		Type          string `json:"_type"`
		PredicateType string
		Subject       []struct {
			Name   string
			Digest map[string]string
		}
		Predicate struct {
			BuildDefinition struct {
				BuildType            string
				ResolvedDependencies []struct {
					URI    string
					Digest map[string]string
				}
			}
			RunDetails struct{ Builder struct{ ID string } }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(read(t, out, "provenance.intoto.json")), &statement))
	require.Equal(t, "https://in-toto.io/Statement/v1", statement.Type)
	require.Equal(t, "https://slsa.dev/provenance/v1", statement.PredicateType)
	subjects := map[string]string{}
	for _, s := range statement.Subject {
		subjects[s.Name] = s.Digest["sha256"]
	}
	for _, name := range names {
		image, err := rig.OpenImage(filepath.Join(build(t), "image", name), archs()[0])
		require.NoError(t, err)
		require.Equal(t, image.Index, "sha256:"+subjects[name+":"+releaseVersion])
		delete(subjects, name+":"+releaseVersion)
	}
	for name, digest := range listed {
		if name != "provenance.intoto.json" {
			require.Equal(t, digest, subjects[name], name)
			delete(subjects, name)
		}
	}
	require.Empty(t, subjects, "what is not there has no provenance")
	require.NotEmpty(t, statement.Predicate.BuildDefinition.BuildType)
	require.NotEmpty(t, statement.Predicate.RunDetails.Builder.ID)
	require.Len(t, statement.Predicate.BuildDefinition.ResolvedDependencies, 1)
	require.Equal(t, testRevision, statement.Predicate.BuildDefinition.ResolvedDependencies[0].Digest["gitCommit"])
}

// Scenario: a release is signed with a key that no user has been told of.
// Guarantees: there is no release.
func TestAReleaseThatNobodyCouldCheckIsRefused(t *testing.T) {
	private, _ := key(t)
	out, said, err := release(t, "RELEASE_KEY="+private)
	require.Error(t, err)
	require.Contains(t, said, "nobody could check the signature")
	require.NoDirExists(t, out)
}

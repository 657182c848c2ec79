package tidy_test

import (
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// forNewcomers are the documents whose every command must work for somebody who knows nothing yet.
var forNewcomers = []string{"CONTRIBUTING.md", "SECURITY.md", "docs/images.md", ".github/pull_request_template.md"}

// codeOf returns what a document sets as code: indented lines, and what is between backticks.
func codeOf(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "    ") {
			out = append(out, strings.TrimSpace(line))
			continue
		}
		for _, m := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(line, -1) {
			out = append(out, m[1])
		}
	}
	return out
}

// wantTargets checks each target of a command that calls make: up to an option, a variable or the next command.
func wantTargets(t *testing.T, makefile, file, code string) (found int) {
	t.Helper()
	for _, m := range regexp.MustCompile(`(?:^|[^\w./-])make((?: +[a-z][a-z-]*\b)+)`).FindAllStringSubmatch(code, -1) {
		for _, target := range strings.Fields(m[1]) {
			found++
			require.Regexp(t, `(?m)^`+regexp.QuoteMeta(target)+`:`, makefile, "%s: make %s", file, target)
		}
	}
	return found
}

// Scenario: a newcomer follows CONTRIBUTING.md.
// Guarantees: the targets, files and tests that it names exist.
func TestWhatNewcomersAreToldExists(t *testing.T) {
	r := open(t)
	makefile, targets, paths, runs := r.read(t, "Makefile"), 0, 0, 0
	elsewhere := regexp.MustCompile(`^(_build/|testdata/|~/|https?:|/|application/|REGISTRY/|\.\./|PROGRAM_|NAME_)|[A-Z]{4,}|[():$"']`) // what is built, of a component, of other machines, or of whoever reads
	for _, file := range forNewcomers {
		for _, code := range codeOf(r.read(t, file)) {
			command, _, _ := strings.Cut(code, " # ")
			targets += wantTargets(t, makefile, file, command)
			if m := regexp.MustCompile(`go test .*(\./\S+) -run (\w+)`).FindStringSubmatch(command); m != nil {
				runs++
				require.True(t, slices.ContainsFunc(r.those(isTest), func(f string) bool {
					return path.Dir(f) == path.Clean(m[1]) && strings.Contains(r.read(t, f), "\nfunc "+m[2]+"(")
				}), "%s: %s has no %s", file, m[1], m[2])
			}
			for _, word := range strings.Fields(command) {
				word = strings.TrimRight(strings.TrimPrefix(word, "./"), ",;:")
				if !strings.Contains(word, "/") || elsewhere.MatchString(word) || strings.HasPrefix(word, "-") {
					continue
				}
				paths++
				_, err := fs.Stat(r, path.Clean(word))
				require.NoError(t, err, "%s: %s", file, code)
			}
		}
	}
	require.Greater(t, targets, 10)
	require.Greater(t, paths, 30)
	require.Greater(t, runs, 1)
}

// Guarantees: what CI runs is what everybody can run, and each action of others is of one commit: who takes over a tag of theirs does not get into our releases.
func TestWorkflowsRunMakeTargetsAndPinnedActions(t *testing.T) {
	r := open(t)
	targets := 0
	workflows := r.those(func(file string) bool { return path.Dir(file) == ".github/workflows" })
	require.NotEmpty(t, workflows)
	for _, file := range workflows {
		text := r.read(t, file)
		require.Contains(t, text, "\npermissions: {contents: read}\n", file)
		for line := range strings.Lines(text) {
			code, comment, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "#")
			targets += wantTargets(t, r.read(t, "Makefile"), file, code)
			if _, action, ok := strings.Cut(code, "uses: "); ok {
				require.Regexp(t, `^[\w-]+/[\w-]+@[0-9a-f]{40} $`, action, file)
				require.Regexp(t, `^ v\d+\.\d+\.\d+$`, comment, "%s: the version of that commit", file)
			}
		}
	}
	require.Greater(t, targets, 5)
}

// Guarantees: the changelog has the headings of keepachangelog.com, the newest version first, and tells of the version that is built.
func TestTheChangelogTellsOfTheVersion(t *testing.T) {
	r := open(t)
	text := r.read(t, "CHANGELOG.md")
	version := regexp.MustCompile(`(?m)^  version: (\S+)$`).FindStringSubmatch(r.read(t, "builder-config.yaml"))
	require.NotNil(t, version)
	released, before, _ := strings.Cut(text, "\n## Before 0.1.0\n")
	require.NotEmpty(t, before)
	headings := regexp.MustCompile(`(?m)^## (.*)$`).FindAllStringSubmatch(released, -1)
	require.Greater(t, len(headings), 1)
	require.Equal(t, "[Unreleased]", headings[0][1])
	for _, h := range headings[1:] {
		require.Regexp(t, `^\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}$`, h[1])
	}
	require.Contains(t, headings[1][1], "["+version[1]+"]", "the newest version is that of builder-config.yaml")
	for _, h := range regexp.MustCompile(`(?m)^### (.*)$`).FindAllStringSubmatch(released, -1) {
		require.Contains(t, []string{"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}, h[1])
	}
}

func TestWhatHasAnOwnerExists(t *testing.T) {
	r := open(t)
	owned := regexp.MustCompile(`(?m)^/(\S+) @`).FindAllStringSubmatch(r.read(t, ".github/CODEOWNERS"), -1)
	require.NotEmpty(t, owned)
	for _, o := range owned {
		_, err := fs.Stat(r, strings.TrimSuffix(o[1], "/"))
		require.NoError(t, err)
	}
}

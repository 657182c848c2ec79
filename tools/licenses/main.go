// Command licenses copies the licences and notices of what Go programs are made of, Go's own and this repository's too: whoever hands a program on must hand these on.
//
//	go run ./tools/licenses DIR PROGRAM...
//
// writes DIR/MODULE@VERSION/FILE, from the module cache that the programs were built with.
package main

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"unicode"
)

const own = "github.com/pulsegrid/pulsegrid"

// without are modules that have no licence's text, not even in their repository. A module that comes to be without one is an error, so that somebody looks.
var without = map[string]string{
	"github.com/nexus-rpc/nexus-proto-annotations": "of Temporal's Nexus project, whose other modules are under the MIT licence",
}

var text = regexp.MustCompile(`(?i)^(un)?(licen[cs]e|copying|notice|patents)`)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: licenses DIR PROGRAM...")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "licenses:", err)
		os.Exit(1)
	}
}

func run(dir string, programs []string) error {
	env, err := exec.Command("go", "env", "GOMODCACHE", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env: %w", err)
	}
	places := strings.Fields(string(env))
	if len(places) != 2 {
		return fmt.Errorf("go env says %q, want two folders", env)
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	modules := map[string]string{own: "."} // name in dir, and folder
	for _, program := range programs {
		info, err := buildinfo.ReadFile(program)
		if err != nil {
			return fmt.Errorf("%s: %w", program, err)
		}
		modules["go@"+info.GoVersion] = places[1]
		for _, m := range info.Deps {
			if m.Replace != nil {
				m = m.Replace
			}
			if m.Path == own || strings.HasPrefix(m.Path, ".") { // of this repository
				continue
			}
			modules[m.Path+"@"+m.Version] = folder(places[0], m)
		}
	}
	for name, from := range modules {
		if err := take(from, filepath.Join(dir, name)); err != nil {
			path, _, _ := strings.Cut(name, "@")
			if without[path] == "" || !errors.Is(err, errNone) {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

// folder of a module in the module cache, which has a capital as ! and the small letter.
func folder(cache string, m *debug.Module) string {
	escaped := strings.Builder{}
	for _, r := range m.Path + "@" + m.Version {
		if unicode.IsUpper(r) {
			escaped.WriteByte('!')
		}
		escaped.WriteRune(unicode.ToLower(r))
	}
	return filepath.Join(cache, escaped.String())
}

var errNone = errors.New("no licence")

// take copies the texts of a folder; errNone where there are none.
func take(from, to string) error {
	files, err := os.ReadDir(from)
	if err != nil {
		return fmt.Errorf("build the programs first, with this module cache: %w", err)
	}
	found := false
	for _, f := range files {
		if !f.Type().IsRegular() || !text.MatchString(f.Name()) || filepath.Ext(f.Name()) == ".go" {
			continue
		}
		content, err := os.ReadFile(filepath.Join(from, f.Name()))
		if err != nil {
			return err
		}
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, f.Name()), content, 0o644); err != nil {
			return err
		}
		found = true
	}
	if !found {
		return fmt.Errorf("%s: %w", from, errNone)
	}
	return nil
}

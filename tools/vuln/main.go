// Command vuln runs govulncheck over programs and fails unless every known vulnerability in a package that they are made of is explained
// in a list, and every explanation is still needed.
//
//	vuln -govulncheck VERSION [-db URL] [-unless-unreachable] PROGRAM-DIRECTORY ...
package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// goDatabase is the Go team's, which govulncheck asks unless it is told another one.
const goDatabase = "https://vuln.go.dev"

// reachableWithin bounds the wait for a database's first answer.
const reachableWithin = 20 * time.Second

func main() {
	var c check
	flag.StringVar(&c.version, "govulncheck", "latest", "`version` of golang.org/x/vuln")
	flag.StringVar(&c.database, "db", "", "`URL` of the database, file:///DIRECTORY too; empty: "+goDatabase)
	flag.StringVar(&c.explained, "explained", "tools/vuln/explained.txt", "`file` of explained findings")
	flag.BoolVar(&c.unlessUnreachable, "unless-unreachable", false, "succeed, and say so, where the database cannot be reached")
	flag.Parse()
	c.out, c.err = os.Stdout, os.Stderr
	if err := c.run(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "vuln:", err)
		os.Exit(1)
	}
}

type check struct {
	version, database, explained string
	unlessUnreachable            bool
	out, err                     io.Writer
}

func (c check) run(programs []string) error {
	explained, err := readExplained(c.explained)
	if err != nil {
		return err
	}
	database := cmp.Or(c.database, goDatabase)
	if err := reach(database); err != nil {
		err = fmt.Errorf("%s cannot be reached (-db, or make's VULNDB, names a mirror): %w", database, err)
		if c.unlessUnreachable {
			fmt.Fprintln(c.out, "vuln: NOT CHECKED for known vulnerabilities:", err)
			return nil
		}
		return err
	}
	var found []finding
	for _, program := range programs {
		cmd := exec.Command("go", "run", "golang.org/x/vuln/cmd/govulncheck@"+c.version, "-db", database, "-format", "json", "-scan", "package", "-C", program, ".")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, c.err
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("govulncheck of %s: %w", program, err)
		}
		of, err := findings(&out)
		if err != nil {
			return fmt.Errorf("govulncheck of %s: %w", program, err)
		}
		fmt.Fprintf(c.out, "vuln: %s: %d known vulnerabilities in the packages that it is made of\n", program, len(of))
		found = append(found, of...)
	}
	return compare(found, explained, c.explained)
}

// reach returns nil if the database answers. One of files is for govulncheck to judge.
func reach(database string) error {
	if !strings.HasPrefix(database, "http") {
		return nil
	}
	client := http.Client{Timeout: reachableWithin}
	resp, err := client.Get(strings.TrimRight(database, "/") + "/index/db.json")
	if err != nil {
		return err
	}
	_ = resp.Body.Close() // nothing was read of it
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// key is a vulnerability in a module.
type key struct{ id, module string }

// finding is a vulnerability in a package that a program is made of.
type finding struct {
	key
	version, pkg, fixed, summary string
}

// findings reads govulncheck's JSON. Vulnerabilities of packages that a program does not have are left out.
func findings(r io.Reader) ([]finding, error) {
	type message struct {
		OSV *struct {
			ID      string `json:"id"`
			Summary string `json:"summary"`
		} `json:"osv"`
		Finding *struct {
			OSV   string `json:"osv"`
			Fixed string `json:"fixed_version"`
			Trace []struct {
				Module  string `json:"module"`
				Version string `json:"version"`
				Package string `json:"package"`
			} `json:"trace"`
		} `json:"finding"`
	}
	summaries := map[string]string{}
	var out []finding
	for d := json.NewDecoder(r); ; {
		var m message
		switch err := d.Decode(&m); {
		case errors.Is(err, io.EOF):
			for i := range out {
				out[i].summary = summaries[out[i].id]
			}
			return out, nil
		case err != nil:
			return nil, err
		}
		if m.OSV != nil {
			summaries[m.OSV.ID] = m.OSV.Summary
		}
		if m.Finding != nil && len(m.Finding.Trace) > 0 && m.Finding.Trace[0].Package != "" { // the vulnerable package comes first
			at := m.Finding.Trace[0]
			out = append(out, finding{key: key{m.Finding.OSV, at.Module}, version: at.Version, pkg: at.Package, fixed: m.Finding.Fixed})
		}
	}
}

// readExplained reads lines "ID MODULE WHY". Empty lines and those that begin with # say nothing.
func readExplained(file string) ([]key, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var out []key
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) < 3 {
			return nil, fmt.Errorf("%s:%d: %q: want a vulnerability's id, a module's path and why it does no harm here", file, number, strings.TrimSpace(line))
		}
		out = append(out, key{fields[0], fields[1]})
	}
	return out, nil
}

// compare returns an error that names what was found and is not explained, and what is explained and was not found.
func compare(found []finding, explained []key, file string) error {
	var wrong []string
	for _, f := range found {
		if slices.Contains(explained, f.key) {
			continue
		}
		fixed := cmp.Or(f.fixed, "no version yet")
		wrong = append(wrong, fmt.Sprintf("%s: %s: package %s of %s %s; fixed in %s: take that version, or explain it in %s", f.id, f.summary, f.pkg, f.module, f.version, fixed, file))
	}
	for _, e := range explained {
		if !slices.ContainsFunc(found, func(f finding) bool { return f.key == e }) {
			wrong = append(wrong, fmt.Sprintf("%s %s is explained in %s and found no more: remove the line", e.id, e.module, file))
		}
	}
	if wrong == nil {
		return nil
	}
	slices.Sort(wrong)
	return errors.New(strings.Join(slices.Compact(wrong), "\n"))
}

package main

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/residency"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

const (
	documentsMax  = 100_000   // files of a directory that are read
	documentBytes = 256 << 20 // of a file
)

type residencyOptions struct {
	cellOptions
	day           string
	registry      string
	inventories   string
	inventoryKeys []string
	tenants       []string
	signKey       string
	out           string
}

func newCellResidency() *cobra.Command {
	var o residencyOptions
	cmd := &cobra.Command{
		Use:   "residency",
		Short: "State where each tenant's bytes of a day were, and whether they may be there",
		Long: `Put the inventories of all declared cells ("pulsegrid cell inventory") beside the registry of tenants, and make one statement of each tenant and day: in which topics, tables,
objects, spills, quarantines and copies its bytes were. It needs the inventories only, and reads nothing in a cell.

A statement's verdict is
  inside    the tenant is pinned to a jurisdiction, all of its bytes are there, and every place of every cell was looked at
  outside   bytes of a pinned tenant were found in another jurisdiction: the places are named
  unproven  none were found elsewhere, and something is not known: a cell has no inventory that was begun after the day, a place could not be read, a place in another jurisdiction
            holds bytes that name no tenant, or the registry does not know the tenant
  unpinned  the tenant may be anywhere

With --inventory-key each inventory must be signed by one of these keys; with --sign-key statements are signed. "pulsegrid cell residency verify" checks both.

Exit codes: 0 no verdict is outside or unproven; 1 one is, or it failed; 2 wrong command line or file.`,
		Example: `  pulsegrid cell residency --tenants tenants/ --inventories inventories/ --inventory-key eu-1.key.pub --inventory-key us-1.key.pub --sign-key statements.key --out statements/
  pulsegrid cell residency --day 2026-11-29 --tenants tenants/ --inventories inventories/ --tenant acme --json
  pulsegrid cell residency verify statements/2026-11-29/acme.json --public-key statements.key.pub`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.cellsFlag(cmd)
	f := cmd.Flags()
	dayFlag(cmd, &o.day)
	f.StringVar(&o.registry, "tenants", "", "the registry of tenants: a directory or s3://BUCKET/PREFIX; required")
	f.StringVar(&o.inventories, "inventories", "", "directory of inventories, as --out of `pulsegrid cell inventory` has it; required")
	f.StringArrayVar(&o.inventoryKeys, "inventory-key", nil, "public key of a cell; may be repeated (default: signatures are not asked for)")
	f.StringArrayVar(&o.tenants, "tenant", nil, "only this tenant's statement; may be repeated (default: all that an inventory names)")
	f.StringVar(&o.signKey, "sign-key", "", "file of the private key that statements are signed by")
	f.StringVar(&o.out, "out", "", "directory that statements are written to, as DAY/TENANT.json")
	f.BoolVar(&o.json, "json", false, "print the statements as their files have them, one behind the other")
	cmd.AddCommand(newCellResidencyVerify())
	return cmd
}

func publicKeys(flag string, files []string) (keys []ed25519.PublicKey, err error) {
	for _, file := range files {
		key, err := certificate.ReadPublicKey(file)
		if err != nil {
			return nil, usageError{fmt.Errorf("--%s: %w", flag, err)}
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func (o *residencyOptions) run(cmd *cobra.Command) (err error) {
	day, err := inventoryDay(o.day)
	if err != nil {
		return err
	}
	for flag, value := range map[string]string{"tenants": o.registry, "inventories": o.inventories} {
		if value == "" {
			return usageError{fmt.Errorf("--%s is required; see `%s --help`", flag, cmd.CommandPath())}
		}
	}
	cells, err := readCells(o.cells)
	if err != nil {
		return err
	}
	keys, err := publicKeys("inventory-key", o.inventoryKeys)
	if err != nil {
		return err
	}
	key, err := signer(o.signKey)
	if err != nil {
		return err
	}
	in := residency.Input{Day: day, Tenants: o.tenants, Now: time.Now()}
	for _, c := range cells {
		in.Cells = append(in.Cells, residency.Declared{Name: c.Name, Jurisdiction: c.Jurisdiction})
	}
	if in.Registry, err = o.snapshot(cmd); err != nil {
		return err
	}
	if in.Inventories, err = readInventories(o.inventories, day, keys); err != nil {
		return err
	}
	statements := residency.Judge(in)
	var wrong []string
	for _, s := range statements {
		file, err := s.Sealed(cmd.Context(), key)
		if err != nil {
			return err
		}
		if s.Verdict == residency.Outside || s.Verdict == residency.Unproven {
			wrong = append(wrong, s.Tenant)
		}
		if o.out != "" {
			if err := writeDocument(filepath.Join(o.out, day.String(), url.PathEscape(s.Tenant)+".json"), file); err != nil {
				return err
			}
		}
		if o.json {
			if _, err := cmd.OutOrStdout().Write(file); err != nil {
				return err
			}
		}
	}
	if !o.json {
		err = printStatements(cmd.OutOrStdout(), day, statements)
	}
	if n := len(wrong); err == nil && n > 0 {
		err = fmt.Errorf("%d of %d tenants have bytes outside of their jurisdiction, or nothing is proven of them: %s", n, len(statements), printable(strings.Join(wrong[:min(n, 10)], ", ")))
	}
	return err
}

func (o *residencyOptions) snapshot(cmd *cobra.Command) (_ *tenant.Snapshot, err error) {
	if err := fileset.Check(o.registry); err != nil {
		return nil, usageError{fmt.Errorf("--tenants: %w", err)}
	}
	source, err := fileset.Open(cmd.Context(), o.registry)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	loader := tenant.NewLoader(source)
	report, err := loader.Reload(cmd.Context())
	if err == nil && len(report.Refused) > 0 {
		err = fmt.Errorf("--tenants: %w", report.Refused[0])
	}
	return loader.Snapshot(), err
}

// readInventories reads those of a day. One that has been changed, or that none of the keys has signed, is an error: left out, it would only be missing.
func readInventories(dir string, day residency.Day, keys []ed25519.PublicKey) (out []*residency.Inventory, err error) {
	paths, err := filesIn(filepath.Join(dir, day.String()))
	if err != nil {
		return nil, usageError{fmt.Errorf("--inventories: %w", err)}
	}
	for _, path := range paths {
		file, err := readDocument(path)
		if err != nil {
			return nil, fmt.Errorf("--inventories: %w", err)
		}
		v, err := residency.OpenInventory(file, keys)
		if err != nil {
			return nil, fmt.Errorf("--inventories: %s: %w", path, err)
		}
		out = append(out, v)
	}
	return out, nil
}

// readDocument reads a file of at most documentBytes.
func readDocument(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	b, err := io.ReadAll(io.LimitReader(f, documentBytes+1))
	if err == nil && len(b) > documentBytes {
		err = fmt.Errorf("%s: is longer than %d bytes", path, documentBytes)
	}
	return b, err
}

// filesIn are the JSON files of a directory; of a file, itself.
func filesIn(at string) (paths []string, err error) {
	err = filepath.WalkDir(at, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && (path == at || filepath.Ext(path) == ".json") {
			paths = append(paths, path)
		}
		if len(paths) > documentsMax {
			return fmt.Errorf("%s has more than %d documents", at, documentsMax)
		}
		return err
	})
	return paths, err
}

func printStatements(out io.Writer, day residency.Day, statements []*residency.Statement) error {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(w, "tenant\tpinned to\tverdict\tplaces on %s\toutside\n", day) // a Builder takes everything
	problems := map[string]int{}
	var order []string
	for _, s := range statements {
		outside := 0
		for _, p := range s.Places {
			if p.Outside {
				outside++
			}
		}
		pinned := s.Jurisdiction
		if pinned == "" {
			pinned = "-"
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\n", printable(s.Tenant), pinned, s.Verdict, len(s.Places), outside)
		for _, p := range s.Problems {
			if problems[p]++; problems[p] == 1 {
				order = append(order, p)
			}
		}
	}
	_ = w.Flush()
	for _, s := range statements {
		for _, p := range s.Places {
			if p.Outside {
				fmt.Fprintf(&b, "OUTSIDE: %s, pinned to %s, in cell %s (%s): %s %s: %d items%s\n", printable(s.Tenant), s.Jurisdiction, p.Cell, p.Jurisdiction, p.Kind, printable(p.Name), p.Items,
					map[bool]string{true: ", perhaps"}[p.MayHold])
			}
		}
	}
	for _, p := range order {
		fmt.Fprintf(&b, "NOT KNOWN, of %d tenants: %s\n", problems[p], printable(p))
	}
	if len(statements) == 0 {
		b.WriteString("no inventory names a tenant\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func newCellResidencyVerify() *cobra.Command {
	var keys []string
	cmd := &cobra.Command{
		Use:   "verify FILE|DIRECTORY...",
		Short: "Check that statements and inventories are as they were signed",
		Long: `Check of each statement and inventory that it was not changed since it was made; with --public-key, that it is signed by one of these keys. Without, who may write a file may have
written all of it.

Exit codes: 0 all are good; 1 one is not; 2 wrong command line.`,
		Example: "  pulsegrid cell residency verify statements/ --public-key statements.key.pub",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{fmt.Errorf("name files or directories; see `%s --help`", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			public, err := publicKeys("public-key", keys)
			if err != nil {
				return err
			}
			var paths []string
			for _, at := range args {
				found, err := filesIn(at)
				if err != nil {
					return usageError{err}
				}
				paths = append(paths, found...)
			}
			if len(paths) == 0 {
				return usageError{errors.New("there is no file to verify")} // exit code 0 would say that all files are good
			}
			bad := 0
			for _, path := range paths {
				text, err := verifyDocument(path, public)
				if err != nil {
					bad++
					text = "BAD: " + err.Error()
				}
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", path, printable(text)); err != nil {
					return err
				}
			}
			switch {
			case bad > 0:
				return fmt.Errorf("%d of %d files are not as they were signed", bad, len(paths))
			case len(public) == 0:
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "signatures were not checked: give --public-key")
			}
			return err
		},
	}
	cmd.Flags().StringArrayVar(&keys, "public-key", nil, "public key; may be repeated")
	return cmd
}

// verifyDocument checks a statement or an inventory, and says what it is.
func verifyDocument(path string, keys []ed25519.PublicKey) (string, error) {
	file, err := readDocument(path)
	if err != nil {
		return "", err
	}
	var is struct{ Verdict string }
	if err := json.Unmarshal(file, &is); err != nil {
		return "", fmt.Errorf("is neither a statement nor an inventory: %w", err)
	}
	if is.Verdict == "" {
		v, err := residency.OpenInventory(file, keys)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("inventory of cell %s, %s", v.Cell, v.Day), nil
	}
	s, err := residency.OpenStatement(file, keys)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("statement of %s, %s: %s", s.Tenant, s.Day, s.Verdict), nil
}

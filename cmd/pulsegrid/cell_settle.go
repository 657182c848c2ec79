package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/drain"
	"github.com/pulsegrid/pulsegrid/internal/failpoint"
	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/settle"
	"github.com/pulsegrid/pulsegrid/internal/sleep"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
	"github.com/pulsegrid/pulsegrid/internal/wholefile"
	"github.com/pulsegrid/pulsegrid/orchestration"
)

const (
	// settleFolder is where exchanges lie in the home's state location, each in a folder of its id.
	settleFolder = "settle"
	// defaultAround covers what agents keep for later while a cell is away.
	defaultAround = 24 * time.Hour
	// tenantsVariable says where the gateways' registry is.
	tenantsVariable = "PULSEGRID_TENANTS"
	// settlePoll is the time between two looks for the other side's step.
	settlePoll = 2 * time.Second
)

// The sides of a settling that one process does.
const (
	sideBoth  = "both"
	sideHome  = "home"
	sideGuest = "guest"
)

type settleOptions struct {
	cells, home, guest string
	tenant, from, to   string
	around             time.Duration
	id, by, reason     string
	declare            string
	tenants            string
	jurisdiction, side string
	wait               time.Duration
	signKey, copyTo    string
	dryRun             bool
	json, quiet        bool

	request settle.Request
}

func newCellSettle() *cobra.Command {
	var o settleOptions
	cmd := &cobra.Command{
		Use:   "settle",
		Short: "Remove from a cell the events that the tenant's home has, too",
		Long: `After a failover a tenant's agents may have sent the same requests to two cells, and both have acknowledged them. This finds these events and removes them from the cell that is
not the tenant's home, the guest: from ClickHouse and from the lake, and rollups are built anew. An event is removed only while both stores of the home have it. Events that the guest alone has stay.

The cells exchange keyed hashes of event ids, never content, in the folder settle/ID of the home's state location: first counts and sums of each minute, then the hashes of those minutes that both
cells have, and not equally. Hashes go from the guest to the home only. Neither cell reads the other's stores: with --side each side runs in its own cell, and each run does the steps whose turn it is
(--wait: waits for the other side's). Without it this process does both.

Nothing is exchanged unless that is known to be allowed: the registry (--tenants) names the tenant's home; both cells, and this process (--jurisdiction), are in the tenant's jurisdiction; a tenant
without one may be settled over a border only where the guest's entry in the list of cells has identities_may_leave: true.

What is removed is written beside --declare before it is, and declared there afterwards, by name: give that file to the guest's audits and replays (--erased). At the end the home looks again whether it has all
of it, and writes a certificate. Killed at any moment, the same command goes on where it was. Run one at a time.

Exit codes: 0 settled; 1 not (or not all), or it is the other side's turn: the text says why; 2 wrong command line or file, or not allowed.`,
		Example: `  pulsegrid cell settle --home eu-1 --guest eu-2 --tenant acme --from 2026-11-03T08:00:00Z --to 2026-11-03T12:00:00Z --tenants /etc/pulsegrid/tenants --jurisdiction eu --dry-run
  pulsegrid cell settle --home eu-1 --guest eu-2 --tenant acme --from 2026-11-03T08:00:00Z --to 2026-11-03T12:00:00Z --tenants /etc/pulsegrid/tenants --jurisdiction eu \
    --id failover-2026-11-03 --by sre@example.com --reason "eu-1 was away" --declare eu-2-erased.yaml
  pulsegrid audit --config eu-2/aggregator.yaml --erased eu-2-erased.yaml --rollups`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runSettle(cmd, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.cells, "cells", defaultCells, "file that lists the cells (docs/regions.md); the entries of the cells that are read need `aggregator`")
	f.StringVar(&o.home, "home", "", "the tenant's home, which keeps the events; required")
	f.StringVar(&o.guest, "guest", "", "the cell that lets go of its copies; required")
	f.StringVar(&o.tenant, "tenant", "", "whose events; required")
	f.StringVar(&o.from, "from", "", "since when the guest received the events, RFC 3339; required")
	f.StringVar(&o.to, "to", "", "before when, RFC 3339; required")
	f.DurationVar(&o.around, "around", defaultAround, "how much earlier or later the home may have received its copies")
	f.StringVar(&o.id, "id", "", "name of the settling and of its declaration, at most 32 of a-z, 0-9 and -; required but for a dry run")
	f.StringVar(&o.by, "by", "", "who settles; likewise, but for --side home")
	f.StringVar(&o.reason, "reason", "", "why; likewise")
	f.StringVar(&o.declare, "declare", "", "the guest's file of declarations, which the removal is added to; it need not exist; likewise")
	f.StringVar(&o.tenants, "tenants", os.Getenv(tenantsVariable), "the registry of tenants: a directory or s3://BUCKET/PREFIX?region=REGION (default: "+tenantsVariable+")")
	f.StringVar(&o.jurisdiction, "jurisdiction", os.Getenv(jurisdictionVariable), "where this process runs (default: "+jurisdictionVariable+")")
	f.StringVar(&o.side, "side", sideBoth, "both, or the one that this process does: home or guest")
	f.DurationVar(&o.wait, "wait", 0, "how long to wait for the other side's steps")
	f.StringVar(&o.signKey, "sign-key", "", "private key to sign the certificate with (`pulsegrid audit key new`); not for --side guest")
	f.StringVar(&o.copyTo, "certificate", "", "file to write the certificate to as well; not for --side guest")
	f.BoolVar(&o.dryRun, "dry-run", false, "count what would be removed; change nothing and leave nothing behind")
	f.BoolVar(&o.json, "json", false, "print the certificate, or what is known so far, as JSON")
	f.BoolVar(&o.quiet, "quiet", false, "no progress on standard error")
	return cmd
}

func (o *settleOptions) validate() error {
	wrong := func(flag, format string, args ...any) error {
		return usageError{fmt.Errorf("--%s: %w", flag, fmt.Errorf(format, args...))}
	}
	for flag, value := range map[string]string{"home": o.home, "guest": o.guest, "tenant": o.tenant, "from": o.from, "to": o.to, "tenants": o.tenants} {
		if value == "" {
			return wrong(flag, "is required")
		}
	}
	at := func(text string) (time.Time, error) {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return t, fmt.Errorf("%q: want RFC 3339, like 2026-11-03T08:00:00Z", text) // a time ago would be another one in each run
		}
		return t.UTC().Truncate(time.Second), nil
	}
	from, err := at(o.from)
	if err != nil {
		return wrong("from", "%w", err)
	}
	to, err := at(o.to)
	if err != nil {
		return wrong("to", "%w", err)
	}
	switch {
	case !from.Before(to):
		return wrong("to", "%s is not after --from", o.to)
	case o.around < 0:
		return wrong("around", "must not be negative")
	case o.side != sideBoth && o.side != sideHome && o.side != sideGuest:
		return wrong("side", "%q: want both, home or guest", o.side)
	case o.dryRun && o.side != sideBoth:
		return wrong("dry-run", "needs both sides")
	case o.side == sideGuest && (o.signKey != "" || o.copyTo != ""):
		return wrong("side", "the certificate is the home's")
	case !tenant.ValidID(o.tenant):
		return wrong("tenant", "%q is not a tenant id: "+tenant.WantID, o.tenant)
	}
	if o.dryRun {
		o.id = "dry-run"
	}
	if !tenant.ValidName(o.id) {
		return wrong("id", "%q: "+tenant.WantName, o.id)
	}
	if !o.dryRun && o.side != sideHome {
		for flag, value := range map[string]string{"by": o.by, "reason": o.reason, "declare": o.declare} {
			if strings.TrimSpace(value) == "" {
				return wrong(flag, "what is removed is declared: want --by, --reason and --declare")
			}
		}
	}
	o.request = settle.Request{Format: settle.Version, ID: o.id, Tenant: o.tenant, Home: o.home, Guest: o.guest, From: from, To: to, Around: o.around}
	return nil
}

// allowed finds the two cells, and fails where their identities may not be exchanged.
func (o *settleOptions) allowed(ctx context.Context) (home, guest *drain.Cell, err error) {
	cells, err := readCells(o.cells)
	if err != nil {
		return nil, nil, err
	}
	if home, err = drain.Find(cells, o.home); err != nil {
		return nil, nil, usageError{fmt.Errorf("--home: %w", err)}
	}
	if guest, err = drain.Find(cells, o.guest); err != nil {
		return nil, nil, usageError{fmt.Errorf("--guest: %w", err)}
	}
	registry, err := loadTenants(ctx, o.tenants)
	if err != nil {
		return nil, nil, err
	}
	t := registry.Tenant(o.tenant)
	if t == nil {
		return nil, nil, usageError{fmt.Errorf("--tenant: the registry has no tenant %q: whether its identities may leave a cell is not known", o.tenant)}
	}
	place := func(c *drain.Cell) settle.Place {
		return settle.Place{Name: c.Name, Jurisdiction: c.Jurisdiction, MayLeave: c.IdentitiesMayLeave}
	}
	var reads []settle.Place
	if o.side != sideGuest {
		reads = append(reads, place(home))
	}
	if o.side != sideHome {
		reads = append(reads, place(guest))
	}
	if err := settle.Allowed(t, place(home), place(guest), o.jurisdiction, reads...); err != nil {
		return nil, nil, usageError{fmt.Errorf("not allowed: %w", err)}
	}
	return home, guest, nil
}

func runSettle(cmd *cobra.Command, o settleOptions) (err error) {
	ctx := cmd.Context()
	if err := o.validate(); err != nil {
		return err
	}
	home, guest, err := o.allowed(ctx)
	if err != nil {
		return err
	}
	var signer certificate.Signer
	if o.signKey != "" {
		if signer, err = certificate.OpenSigner(o.signKey); err != nil {
			return usageError{fmt.Errorf("--sign-key: %w", err)}
		}
	}
	location := home.State
	if o.dryRun {
		if location, err = os.MkdirTemp("", "pulsegrid-settle-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(location)) }()
	}
	tree, err := fileset.OpenTree(ctx, location)
	if err != nil {
		return fmt.Errorf("state of cell %s: %w", home.Name, err)
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	x, err := settle.Open(ctx, tree.Below(settleFolder).Below(o.id), o.request)
	if err != nil {
		return err
	}
	s := &settling{settleOptions: &o, exchange: x, signer: signer, say: teller(cmd, o.quiet)}
	defer s.close()
	if s.sealed, err = x.Certificate(ctx); err != nil {
		return err
	}
	if s.sealed == nil {
		if o.side != sideHome {
			if s.guest, err = s.open(cmd, guest); err != nil {
				return err
			}
		}
		if o.side != sideGuest {
			if s.home, err = s.open(cmd, home); err != nil {
				return err
			}
		}
	}
	err = s.run(ctx)
	if ctx.Err() != nil {
		return errors.New("stopped; run it again: it goes on where it was")
	}
	if err != nil {
		return err
	}
	return s.end(cmd.OutOrStdout())
}

// settling is one run.
type settling struct {
	*settleOptions
	exchange    *settle.Exchange
	home, guest *settleCell // nil: the other process does that side
	signer      certificate.Signer
	sealed      []byte // the certificate; nil: there is none
	say         func(string, ...any)
}

func (s *settling) close() {
	for _, c := range []*settleCell{s.home, s.guest} {
		if c != nil {
			c.close()
		}
	}
}

// run does the steps whose turn it is until there is none.
func (s *settling) run(ctx context.Context) error {
	guest := &settle.Guest{Exchange: s.exchange}
	home := &settle.Home{Exchange: s.exchange}
	if s.guest != nil {
		guest.Cell = s.guest
	}
	if s.home != nil {
		home.Cell = s.home
	}
	for end := time.Now().Add(s.wait); s.sealed == nil; {
		did := false
		var err error
		if s.guest != nil {
			did, err = guest.Step(ctx)
		}
		if s.home != nil && err == nil && !did {
			did, err = home.Step(ctx)
		}
		switch {
		case err != nil:
			return err
		case s.dryRun && s.exchange.Has(settle.Planned):
			return nil
		case did:
			continue
		case s.exchange.Ready() && s.home != nil:
			return s.certify(ctx, home)
		case s.exchange.Ready():
			return nil
		}
		if time.Now().Add(settlePoll).After(end) {
			return nil
		}
		s.say("waiting for the other side ...")
		if err := sleep.For(ctx, settlePoll); err != nil {
			return err
		}
		if err := s.exchange.Refresh(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *settling) certify(ctx context.Context, home *settle.Home) error {
	c, err := home.Certify(ctx, "pulsegrid "+version)
	if err != nil {
		return err
	}
	if s.sealed, err = home.Seal(ctx, c, s.signer); err != nil {
		return err
	}
	failpoint.Hit("settle-certified")
	return nil
}

// end prints what the run has come to.
func (s *settling) end(w io.Writer) error {
	if s.sealed == nil {
		return s.unfinished(w)
	}
	var c settle.Certificate
	if err := settle.Unseal(s.sealed, nil, &c); err != nil {
		return err
	}
	if s.copyTo != "" {
		if err := wholefile.Write(s.copyTo, s.sealed, 0o644); err != nil {
			return fmt.Errorf("--certificate: %w", err)
		}
	}
	var err error
	if s.json {
		_, err = w.Write(s.sealed)
	} else {
		err = printSettled(w, &c)
	}
	if err != nil {
		return err
	}
	switch c.Verdict {
	case settle.Settled:
		return nil
	case settle.Partly:
		return endError{error: fmt.Errorf("%d events are in both cells still: rows came to cell %s meanwhile. Settle once more, with another --id", c.Left, c.Guest), state: orchestration.StateIncomplete}
	}
	return fmt.Errorf("cell %s lacks %d events whose copies were removed, or cell %s has rows left: see the certificate, and audit both cells", c.Home, c.Missing, c.Guest)
}

// unfinished tells of a dry run, and of one that has done what it could.
func (s *settling) unfinished(w io.Writer) error {
	known := struct {
		DryRun bool            `json:"dry_run"`
		Had    settle.GuestHad `json:"guest_had"`
		Plan   settle.Plan     `json:"plan"`
		ToHome int64           `json:"bytes_to_home"`
		To     int64           `json:"bytes_to_guest"`
	}{DryRun: s.dryRun}
	var err error
	if s.exchange.Has(settle.Summary) {
		if known.Had, err = s.exchange.Had(); err != nil {
			return err
		}
	}
	if s.exchange.Has(settle.Planned) {
		if known.Plan, err = s.exchange.Plan(); err != nil {
			return err
		}
	}
	known.ToHome, known.To = s.exchange.Bytes()
	if s.json {
		err = printJSON(w, known)
	} else {
		var b strings.Builder
		tellHad(&b, s.request.Guest, known.Had)
		if s.exchange.Has(settle.Planned) {
			fmt.Fprintf(&b, "%d of them are in both cells\n", known.Plan.Events)
		}
		fmt.Fprintf(&b, "exchanged: %d bytes to %s, %d bytes to %s\n", known.ToHome, s.request.Home, known.To, s.request.Guest)
		if s.dryRun {
			b.WriteString("nothing was changed\n")
		}
		_, err = io.WriteString(w, b.String())
	}
	switch {
	case err != nil || s.dryRun:
		return err
	case s.exchange.Ready():
		_, err = fmt.Fprintf(w, "the guest's side is done: run it with --side home in cell %s for the certificate\n", s.request.Home)
		return err
	}
	other := map[string]string{sideHome: sideGuest, sideGuest: sideHome}[s.side]
	return endError{error: fmt.Errorf("it is the other side's turn: run it with --side %s in its cell, and then this again", other), state: orchestration.StateIncomplete}
}

func tellHad(b *strings.Builder, guest string, had settle.GuestHad) {
	fmt.Fprintf(b, "%d events in both stores of %s, of %d minutes of signals: the home has none of %d, the same of %d, and was told of %d\n", had.Events, guest, had.Buckets, had.None, had.Equal, had.Told)
}

func printSettled(w io.Writer, c *settle.Certificate) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: tenant %s, home %s, guest %s, received there from %s to %s\n", c.Verdict, c.Tenant, c.Home, c.Guest, c.From.Format(time.RFC3339), c.To.Format(time.RFC3339))
	tellHad(&b, c.Guest, c.Had)
	fmt.Fprintf(&b, "%d were in both stores of %s, too; %d of these were removed: %d rows of ClickHouse, %d of the lake\n", c.Doubled.Events, c.Home, c.Removed.Events, c.Rows[certificate.Hot], c.Rows[certificate.Lake])
	fmt.Fprintf(&b, "exchanged: %d bytes to %s, %d bytes to %s\n", c.ToHome, c.Home, c.ToGuest, c.Guest)
	if c.Declaration != "" {
		fmt.Fprintf(&b, "declared as %s: audits and replays of %s take the file by --erased\n", c.Declaration, c.Guest)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func newCellSettled() *cobra.Command {
	var publicKey string
	cmd := &cobra.Command{
		Use:   "settled CERTIFICATE",
		Short: "Check a certificate of settling, and print it",
		Long: `Check that the certificate of "pulsegrid cell settle" is as it was written, and with --public-key that it is signed by that key; then print what was settled.

Exit codes: 0 it is good, and its verdict is settled; 1 it is not; 2 wrong command line.`,
		Example: "  pulsegrid cell settled failover-2026-11-03.json --public-key audit.key.pub",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("want one certificate; see `%s --help`", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			public, err := readPublicKey(publicKey)
			if err != nil {
				return err
			}
			b, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			var c settle.Certificate
			if err := settle.Unseal(b, public, &c); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if err := printSettled(cmd.OutOrStdout(), &c); err != nil {
				return err
			}
			if c.Verdict != settle.Settled {
				return fmt.Errorf("%s: the verdict is %s", args[0], c.Verdict)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&publicKey, "public-key", "", "public key that it must be signed by")
	return cmd
}

// aggregatorFiles are the files of a cell's aggregators; list is the file that lists the cells.
func aggregatorFiles(list string, c *drain.Cell) (files []string, err error) {
	if len(c.Aggregator) == 0 {
		return nil, usageError{fmt.Errorf("--cells: cell %s has no `aggregator`: the configuration of its aggregators, which says where its stores are", c.Name)}
	}
	for _, f := range c.Aggregator {
		if !filepath.IsAbs(f) && !strings.Contains(f, ":") { // else it is absolute, or a URI of the Collector's
			f = filepath.Join(cmp.Or(filepath.Dir(list), "."), f)
		}
		files = append(files, f)
	}
	return files, nil
}

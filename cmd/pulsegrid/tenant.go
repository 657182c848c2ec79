package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

func newTenant() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tenant",
		Short: "Show tenants, make their keys, check the registry's files",
		Long: `Show what tenants may send and do send, make API keys of theirs, and check the registry's files before they are pushed. docs/formats/tenants.md
describes the files; the gateway's extension tenant_auth reads them.`,
		Example: "  pulsegrid tenant show acme --tenants tenants/\n  pulsegrid tenant key new acme\n  pulsegrid tenant check tenants/",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	key := &cobra.Command{
		Use:     "key",
		Short:   "API keys of tenants",
		Example: "  pulsegrid tenant key new acme",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	key.AddCommand(newTenantKeyNew())
	cmd.AddCommand(key, newTenantCheck(), newTenantShow())
	return cmd
}

func newTenantKeyNew() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "new TENANT",
		Short: "Make an API key of a tenant",
		Long: `Make an API key of a tenant. The key is printed once, for the tenant: it is kept nowhere, and cannot be had from what the registry keeps. The
lines after it belong into the registry. To change a key, add the new one, give it to the agents, and let the old one expire.`,
		Example: "  pulsegrid tenant key new acme\n  pulsegrid tenant key new acme --expires 2027-01-31T00:00:00Z",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("name one tenant; see `%s --help`", cmd.CommandPath())}
			}
			if !tenant.ValidID(args[0]) {
				return usageError{fmt.Errorf("%q is not a tenant id: "+tenant.WantID, args[0])}
			}
			return nil
		},
	}
	expires := cmd.Flags().String("expires", "", "when the key ends, like 2027-01-31T00:00:00Z (default: never)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		end := ""
		if *expires != "" {
			at, err := time.Parse(time.RFC3339, *expires)
			if err != nil {
				return usageError{fmt.Errorf("--expires %q: want a time like 2027-01-31T00:00:00Z", *expires)}
			}
			end = ", expires: " + at.UTC().Format(time.RFC3339)
		}
		key, id, hash := tenant.NewKey()
		_, err := fmt.Fprintf(cmd.OutOrStdout(), `# The key, for the tenant. It is shown this once.
%s

# For the registry, below tenants. A tenant that is there already needs the last line only.
  - id: %s
    keys:
      - {id: %s, hash: "%s"%s}
`, key, args[0], id, hash, end)
		return err
	}
	return cmd
}

func newTenantCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check LOCATION",
		Short: "Check the registry's files without a gateway",
		Long: `Read all files of a registry, a directory or s3://BUCKET/PREFIX?region=REGION, as a gateway that starts would, and name what it would refuse:
file, line, field and value. It says so, too, which cells shed which classes, and where tenants have retention_days: nothing enforces that.`,
		Example: "  pulsegrid tenant check tenants/",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("name one directory or object-store prefix; see `%s --help`", cmd.CommandPath())}
			}
			if err := fileset.Check(args[0]); err != nil {
				return usageError{err}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			source, err := fileset.Open(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, source.Close()) }()
			loader := tenant.NewLoader(source)
			report, err := loader.Reload(cmd.Context())
			if err != nil {
				return err
			}
			for _, refused := range report.Refused {
				for line := range strings.Lines(refused.Error()) {
					if _, err := fmt.Fprintln(cmd.ErrOrStderr(), strings.TrimRight(line, "\n")); err != nil {
						return err
					}
				}
			}
			s := loader.Snapshot()
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%d tenants, %d keys\n", s.Len(), s.Keys()); err != nil {
				return err
			}
			for _, shed := range s.Shedding() {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), shed); err != nil {
					return err
				}
			}
			if n := s.WithRetention(); n > 0 {
				if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "%d tenants have retention_days, which nothing enforces: the stores keep their data as long as all other data\n", n); err != nil {
					return err
				}
			}
			if n := len(report.Refused); n > 0 {
				return fmt.Errorf("%d files would be refused", n)
			}
			return nil
		},
	}
}

package main

import (
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
)

func newAuditVerify() *cobra.Command {
	var publicKey string
	cmd := &cobra.Command{
		Use:   "verify DIR",
		Short: "Check a directory of certificates: that none was changed, put in or taken out",
		Long: `Check that each certificate of a directory is as it was written, and that each follows the one before it. With --public-key, that each is signed by that
key, and that there are as many as the signed head says; without, who may write the directory may have written all of them anew, or taken the last ones away.
An older state of the whole directory, its head included, is a good chain too: keep the number and the hash of the last certificate, which are printed, somewhere else.
Exit code 1 if a certificate is missing, was changed, or is not signed by the key.`,
		Example: "  pulsegrid audit verify ./certificates\n  pulsegrid audit verify ./certificates --public-key audit.key.pub",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("want one directory of certificates; see `%s --help`", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			public, err := readPublicKey(publicKey)
			if err != nil {
				return err
			}
			chain, err := certificate.VerifyChain(args[0], public)
			signed := 0
			for i, c := range chain {
				if c.Signature != "" {
					signed++
				}
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%6d  %s  %-10s  %s\n", i+1, c.Finished.Format(time.RFC3339), c.Verdict, c.SHA256); err != nil {
					return err
				}
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), signatures(len(chain), signed, public != nil))
			return err
		},
	}
	cmd.Flags().StringVar(&publicKey, "public-key", "", "public key that all certificates must be signed by")
	return cmd
}

// signatures says what a chain that has no fault is worth.
func signatures(certificates, signed int, checked bool) string {
	switch {
	case checked:
		return fmt.Sprintf("%d certificates, each signed by the key, and none is missing at the end", certificates)
	case signed > 0:
		return fmt.Sprintf("%d certificates; %d are signed, and the signatures were not checked: give --public-key", certificates, signed)
	}
	return fmt.Sprintf("%d certificates, not signed: who may write the directory may have written them anew, or taken the last ones away", certificates)
}

func newAuditKey() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "key",
		Short:   "Keys that certificates are signed with",
		Example: "  pulsegrid audit key new audit.key",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "new FILE",
		Short: "Make a key to sign certificates with",
		Long: `Make an Ed25519 key: the private one in FILE, for --sign-key, which only its owner may read; the public one in FILE.pub, for those who verify.
Keep the private key where those who could change stores or certificates have no access, and give the public one to the verifiers by another way than the certificates.`,
		Example: "  pulsegrid audit key new audit.key",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return usageError{fmt.Errorf("want one file; see `%s --help`", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			public, err := certificate.NewKey(args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "private key in %s, public key in %s\n", args[0], public)
			return err
		},
	})
	return cmd
}

// readPublicKey reads the key of --public-key; nil: there is none, so signatures are not looked at.
func readPublicKey(file string) (ed25519.PublicKey, error) {
	if file == "" {
		return nil, nil
	}
	public, err := certificate.ReadPublicKey(file)
	if err != nil {
		return nil, usageError{fmt.Errorf("--public-key: %w", err)}
	}
	return public, nil
}

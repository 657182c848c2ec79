// Command pulsegrid is the operator's command: it runs a whole cell on one machine and looks into a running one.
//
// Exit codes: 0 done; 1 it failed, or what was asked about is unhealthy or invalid; 2 the command line is wrong;
// 3 no cell is running; 130 stopped by a second Ctrl-C.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
)

const (
	exitFailed     = 1
	exitUsage      = 2
	exitNotRunning = 3
	exitForced     = 130
)

// version is set by the Makefile, and for releases revision.
var version, revision = "dev", ""

// usageError marks an error of the command line.
type usageError struct{ error }

func main() {
	chengine.RunChildIfAsked() // this program is also the host of the ClickHouse engine
	ctx, stop := signal.NotifyContext(context.Background(), stopSignals()...)
	defer stop()
	root := newRoot()
	err := root.ExecuteContext(ctx)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "pulsegrid:", err)
	os.Exit(exitCode(err))
}

func exitCode(err error) int {
	var usage usageError
	var option cell.OptionError
	var audited auditError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &audited):
		return audited.code
	case errors.As(err, &usage), errors.As(err, &option):
		return exitUsage
	case errors.Is(err, cell.ErrNotRunning):
		return exitNotRunning
	case errors.Is(err, cell.ErrForced):
		return exitForced
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "pulsegrid",
		Short: "Run a PulseGrid cell and look into it",
		Long: `pulsegrid runs a whole cell on this machine (agents -> gateway -> Kafka -> aggregator -> ClickHouse and an Iceberg lake)
and looks into a running one.

Exit codes: 0 done; 1 failed, unhealthy or invalid; 2 wrong command line; 3 no cell is running; 130 stopped by a second Ctrl-C.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())}
	})
	root.AddCommand(newLocal(), newStatus(), newQuery(), newTail(), newAudit(), newProbe(), newAlerts(), newJob(), newCell(), newQuarantine(), newValidate(), newSchema(), newTenant(), newCost(), newVersion())
	return root
}

// noArgs refuses arguments, naming the first.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasSubCommands() {
		return usageError{fmt.Errorf("unknown command %q; see `%s --help`", args[0], cmd.CommandPath())}
	}
	return usageError{fmt.Errorf("%s takes no argument, got %q", cmd.CommandPath(), args[0])}
}

// dataFlag adds --data to a command that looks into a running cell.
func dataFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("data", defaultDataDir, "data directory of the cell")
}

const defaultDataDir = "./pulsegrid-data"

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  pulsegrid version",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "pulsegrid %s (revision %s)\n", version, builtFrom())
			return err
		},
	}
}

// builtFrom is the commit that this program is built from.
func builtFrom() string {
	if revision != "" {
		return revision
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

// printJSON prints a value for programs, and for people who read it.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

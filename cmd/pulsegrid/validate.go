package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/exporter/mskexporter"
	"github.com/pulsegrid/pulsegrid/internal/composition"
	"github.com/pulsegrid/pulsegrid/processor/quarantineprocessor"
)

const collectorName = "pulsegrid-collector"

func newValidate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "validate CONFIG...",
		Short: "Check Collector configurations without running them",
		Long: `Check Collector configurations with the built Collector: every key, every component's own rules, every pipeline; and
whether the components of each pipeline together keep what PulseGrid promises: their order, and that none acknowledges what is only in memory.
Environment variables are taken from this process, as the Collector would.`,
		Example: "  pulsegrid validate distributions/gateway/config.yaml distributions/aggregator/config.yaml",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{fmt.Errorf("name at least one configuration; see `%s --help`", cmd.CommandPath())}
			}
			return nil
		},
	}
	collector := collectorFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		binary, err := findCollector(*collector)
		if err != nil {
			return err
		}
		bad := 0
		for _, path := range args {
			problem, err := validate(cmd.Context(), binary, path)
			if err != nil {
				return err
			}
			if problem == "" {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: valid\n", path)
			} else {
				bad++
				_, err = fmt.Fprintf(cmd.ErrOrStderr(), "%s: invalid\n%s\n", path, indent(problem))
			}
			if err != nil {
				return err
			}
		}
		if bad > 0 {
			return fmt.Errorf("%d of %d configurations are invalid", bad, len(args))
		}
		return nil
	}
	return cmd
}

// validate returns what the Collector has against a configuration, empty if nothing.
func validate(ctx context.Context, binary, path string) (problem string, err error) {
	if _, err := os.Stat(path); err != nil {
		return err.Error(), nil
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, "validate", "--config=file:"+path)
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return collectorProblem(out.String()), nil
	}
	if err != nil {
		return "", fmt.Errorf("run %s: %w", binary, err)
	}
	return composed(ctx, path), nil
}

// composed returns what is wrong with the pipelines as a whole: components that are each right, in a wrong order or with one missing.
func composed(ctx context.Context, path string) (problem string) {
	conf, err := resolve(ctx, path)
	if err != nil {
		return err.Error()
	}
	quarantine := quarantineprocessor.NewFactory().CreateDefaultConfig().(*quarantineprocessor.Config)
	msk := mskexporter.NewFactory().CreateDefaultConfig().(*mskexporter.Config)
	if err := composition.Check(conf, composition.Defaults{QuarantineRecordBytes: quarantine.MaxRecordBytes, ExporterRecordBytes: msk.MaxRecordBytes}); err != nil {
		return err.Error()
	}
	return ""
}

// resolve reads a configuration of the Collector, each file over those before it, with the variables that it names. A path env:NAME is a variable that holds what a
// file would: a container may have none.
func resolve(ctx context.Context, paths ...string) (*confmap.Conf, error) {
	uris := make([]string, len(paths))
	for i, path := range paths {
		if uris[i] = path; !strings.HasPrefix(path, "env:") {
			uris[i] = "file:" + path
		}
	}
	resolver, err := confmap.NewResolver(confmap.ResolverSettings{
		URIs:              uris,
		ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory(), envprovider.NewFactory()},
		DefaultScheme:     "env",
		ProviderSettings:  confmap.ProviderSettings{Logger: zap.NewNop()},
	})
	if err != nil {
		return nil, err
	}
	conf, err := resolver.Resolve(ctx)
	return conf, errors.Join(err, resolver.Shutdown(ctx))
}

// collectorProblem takes the error out of the Collector's output: it prints it twice, once as a log line.
func collectorProblem(output string) string {
	if _, after, ok := strings.Cut(output, "Error: "); ok {
		output = after
	}
	var lines []string
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\n")
		if _, _, isLog := strings.Cut(line, "collector server run finished with error"); isLog || line == "" {
			continue
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func indent(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") }

func collectorFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("collector", "", "path of the Collector (default: collector/"+collectorName+" beside this program)")
}

// findCollector gives the Collector that `make build` puts beside this program.
func findCollector(flag string) (string, error) {
	if flag != "" {
		if _, err := os.Stat(flag); err != nil {
			return "", fmt.Errorf("--collector: %w", err)
		}
		return flag, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the Collector: %w", err)
	}
	path := filepath.Join(filepath.Dir(self), "collector", collectorName)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("no Collector at %s: run `make build`, or name one with --collector", path)
	}
	return path, nil
}

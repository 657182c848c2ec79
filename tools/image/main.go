// Command image writes the container images of PulseGrid as OCI image layouts, without a daemon and without a base image: `make image`.
//
// The same programs, configurations, version, revision and time give the same bytes, on any machine: CA certificates come from a Go module, and
// nothing is read of the machine. Pushing is another program's (crane, skopeo): docs/images.md.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const usage = `image writes the container images of PulseGrid as OCI image layouts: OUT/NAME for each, for every platform. It prints NAME@DIGEST for each.

    image -root . -out _build/image -version 0.1.0 -revision "$(git rev-parse HEAD)" -time "$(git log -1 --format=%ct)" \
        -programs amd64=_build/linux-amd64 -programs arm64=_build/linux-arm64 [NAME...]

A folder of programs holds pulsegrid, pulsegrid-collector and healthcheck, static and of its architecture, and in licenses/NAME what tools/licenses writes. NAME is pulsegrid or pulsegrid-collector;
without one both are written.

`

// folders are the values of -programs: architecture to folder.
type folders map[string]string

func (f folders) String() string { return fmt.Sprint(map[string]string(f)) }

func (f folders) Set(value string) error {
	arch, folder, ok := strings.Cut(value, "=")
	if !ok || machines[arch] == 0 {
		return fmt.Errorf("want ARCHITECTURE=FOLDER, with one of %v, got %q", slices.Sorted(maps.Keys(machines)), value)
	}
	f[arch] = folder
	return nil
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.Usage = func() {
		_, _ = io.WriteString(flags.Output(), usage) // there is nobody else to tell
		flags.PrintDefaults()
	}
	b := build{programs: folders{}}
	var seconds int64
	out := flags.String("out", "", "folder of the layouts; a layout that is there is replaced")
	flags.StringVar(&b.root, "root", ".", "root of the repository, for the configurations")
	flags.StringVar(&b.version, "version", "", "version, as a label")
	flags.StringVar(&b.revision, "revision", "unknown", "commit, as a label")
	flags.Int64Var(&seconds, "time", 0, "time of creation and of every file, seconds since 1970")
	flags.Var(b.programs, "programs", "`ARCHITECTURE=FOLDER` of programs; once for each platform")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *out == "" || b.version == "" || len(b.programs) == 0 {
		return errors.New("-out, -version and -programs are needed; see -help")
	}
	b.when = time.Unix(seconds, 0).UTC()
	wanted, err := choose(flags.Args())
	if err != nil {
		return err
	}
	for _, s := range wanted {
		digest, err := b.write(s, filepath.Join(*out, s.name))
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if _, err := fmt.Fprintf(stdout, "%s@%s\n", s.name, digest); err != nil {
			return err
		}
	}
	return nil
}

// choose returns the images of these names, all for none.
func choose(names []string) ([]image, error) {
	if len(names) == 0 {
		return images, nil
	}
	var out []image
	for _, name := range names {
		i := slices.IndexFunc(images, func(s image) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no image %q", name)
		}
		out = append(out, images[i])
	}
	return out, nil
}

package main

import (
	"debug/elf"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

const (
	uid     = 65532 // nonroot, as in the distroless images
	dataDir = "var/lib/pulsegrid"
)

// image says what is in an image.
type image struct {
	name        string   // also the program that it runs
	programs    []string // in the root; the name's among them
	description string
	ports       []string
	health      []string // command; nil: there is none that suits each of its uses
}

var images = []image{
	{
		name:        "pulsegrid-collector",
		programs:    []string{"healthcheck", "pulsegrid-collector"},
		description: "PulseGrid's distribution of the OpenTelemetry Collector: gateway or aggregator, by its configuration",
		ports:       []string{"4317/tcp", "4318/tcp", "8888/tcp", "13133/tcp", "13135/tcp"},
		health:      []string{"CMD", "/healthcheck"},
	},
	{
		name:        "pulsegrid",
		programs:    []string{"healthcheck", "pulsegrid"},
		description: "The operator's command of PulseGrid: audit, jobs and their workers, probe, alerts",
	},
}

// machines are the architectures, and how ELF names them.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// build is what all images of one run have in common.
type build struct {
	root, version, revision string
	programs                folders
	when                    time.Time // of creation, and of each file
}

// write writes an image for every platform into a layout of its own, reads it again, and returns the digest of its index.
func (b build) write(s image, dir string) (v1.Hash, error) {
	var none v1.Hash
	var index v1.ImageIndex = mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range slices.Sorted(maps.Keys(b.programs)) {
		img, err := b.image(s, arch)
		if err != nil {
			return none, fmt.Errorf("%s: %w", arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	index = mutate.Annotations(index, b.labels(s)).(v1.ImageIndex)
	if err := os.RemoveAll(dir); err != nil {
		return none, err
	}
	written, err := layout.Write(dir, empty.Index)
	if err != nil {
		return none, err
	}
	// The outer index names the version; what is pushed is the one within.
	if err := written.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": b.version})); err != nil {
		return none, err
	}
	again, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return none, err
	}
	if err := validate.Index(again); err != nil {
		return none, fmt.Errorf("what was written is not whole: %w", err)
	}
	return index.Digest()
}

// labels are OCI's predefined annotations (image-spec, annotations.md).
func (b build) labels(s image) map[string]string {
	const at = "org.opencontainers.image."
	return map[string]string{
		at + "title": s.name, at + "description": s.description, at + "version": b.version, at + "revision": b.revision, at + "created": b.when.Format(time.RFC3339),
		at + "licenses": "Apache-2.0", at + "vendor": "PulseGrid", at + "source": "https://github.com/pulsegrid/pulsegrid",
	}
}

func (b build) image(s image, arch string) (v1.Image, error) {
	base, err := b.base()
	if err != nil {
		return nil, err
	}
	configs, err := b.configs()
	if err != nil {
		return nil, err
	}
	licenses, err := b.licenses(s, arch)
	if err != nil {
		return nil, err
	}
	layers := [][]entry{base, licenses, configs} // what changes seldom comes first
	for _, program := range s.programs {
		path := filepath.Join(b.programs[arch], program)
		if err := static(path, machines[arch]); err != nil {
			return nil, err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		layers = append(layers, []entry{{name: program, mode: 0o555, text: text}})
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, entries := range layers {
		l, err := layer(entries, b.when)
		if err != nil {
			return nil, err
		}
		history := v1.History{Created: v1.Time{Time: b.when}, CreatedBy: "tools/image"}
		if img, err = mutate.Append(img, mutate.Addendum{Layer: l, History: history}); err != nil {
			return nil, err
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", arch, v1.Time{Time: b.when}
	config.Config = v1.Config{
		User: fmt.Sprintf("%d:%d", uid, uid), Entrypoint: []string{"/" + s.name}, WorkingDir: "/" + dataDir, Labels: b.labels(s), StopSignal: "SIGTERM",
		Env:          []string{"PATH=/", "HOME=/" + dataDir, "SSL_CERT_FILE=/" + certificatesFile},
		ExposedPorts: map[string]struct{}{},
	}
	for _, p := range s.ports {
		config.Config.ExposedPorts[p] = struct{}{}
	}
	if s.health != nil {
		config.Config.Healthcheck = &v1.HealthConfig{Test: s.health, Interval: 10 * time.Second, Timeout: 5 * time.Second, StartPeriod: time.Minute, Retries: 3}
	}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return nil, err
	}
	return mutate.Annotations(img, b.labels(s)).(v1.Image), nil
}

// static refuses a program of another architecture, and one that an image without a C library cannot start.
func static(path string, machine elf.Machine) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close()
	if f.Machine != machine {
		return fmt.Errorf("%s is for %v, want %v", path, f.Machine, machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s wants a dynamic loader: build it with CGO_ENABLED=0 and -tags noengine", path)
		}
	}
	return nil
}

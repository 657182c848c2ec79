package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

const certificatesFile = "etc/ssl/certs/ca-certificates.crt"

// entry is a file of a layer, or a folder, whose name then ends in a slash.
type entry struct {
	name  string
	mode  int64
	owner int // user and group
	text  []byte
}

// base is what every program expects of a root: folders, who root and nonroot are, and whom to trust.
func (b build) base() ([]entry, error) {
	roots, err := certificates()
	if err != nil {
		return nil, err
	}
	return []entry{
		{name: "dev/", mode: 0o755}, {name: "proc/", mode: 0o755}, {name: "sys/", mode: 0o755}, // the runtime mounts these
		{name: "etc/", mode: 0o755}, {name: "etc/ssl/", mode: 0o755}, {name: "etc/ssl/certs/", mode: 0o755},
		{name: certificatesFile, mode: 0o444, text: roots},
		{name: "etc/passwd", mode: 0o444, text: fmt.Appendf(nil, "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:%[1]d:%[1]d:nonroot:/%[2]s:/sbin/nologin\n", uid, dataDir)},
		{name: "etc/group", mode: 0o444, text: fmt.Appendf(nil, "root:x:0:\nnonroot:x:%d:\n", uid)},
		{name: "etc/nsswitch.conf", mode: 0o444, text: []byte("hosts: files dns\n")},
		{name: "tmp/", mode: 0o1777},
		{name: "var/", mode: 0o755}, {name: "var/lib/", mode: 0o755}, {name: dataDir + "/", mode: 0o700, owner: uid}, // a volume, where one is wanted
	}, nil
}

// certificates are Mozilla's roots as a PEM file. A root with conditions that PEM cannot tell is left out.
func certificates() ([]byte, error) {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, err
		}
	}
	if out.Len() == 0 {
		return nil, errors.New("the bundle of root certificates is empty")
	}
	return out.Bytes(), nil
}

// configs are the configurations of gateway and aggregator as they are in the repository.
func (b build) configs() ([]entry, error) {
	out := []entry{{name: "etc/pulsegrid/", mode: 0o755}}
	for _, tier := range []string{"aggregator", "gateway"} {
		found, err := filepath.Glob(filepath.Join(b.root, "distributions", tier, "*.yaml"))
		if err != nil || len(found) == 0 {
			return nil, fmt.Errorf("%s has no configurations of the %s: %w", b.root, tier, errors.Join(err, os.ErrNotExist))
		}
		slices.Sort(found)
		out = append(out, entry{name: "etc/pulsegrid/" + tier + "/", mode: 0o755})
		for _, file := range found {
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			out = append(out, entry{name: path.Join("etc/pulsegrid", tier, filepath.Base(file)), mode: 0o444, text: text})
		}
	}
	return out, nil
}

// licenses are those of the programs of an image: what tools/licenses wrote.
func (b build) licenses(s image, arch string) ([]entry, error) {
	dir := filepath.Join(b.programs[arch], "licenses", s.name)
	var out []entry
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error { // in lexical order
		if err != nil {
			return err
		}
		inside, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		name := path.Join("licenses", filepath.ToSlash(inside))
		if d.IsDir() {
			out = append(out, entry{name: name + "/", mode: 0o755})
			return nil
		}
		text, err := os.ReadFile(file)
		out = append(out, entry{name: name, mode: 0o444, text: text})
		return err
	})
	return out, err
}

func layer(entries []entry, when time.Time) (v1.Layer, error) {
	var out bytes.Buffer
	t := tar.NewWriter(&out)
	for _, e := range entries {
		kind := byte(tar.TypeReg)
		if strings.HasSuffix(e.name, "/") {
			kind = tar.TypeDir
		}
		header := &tar.Header{Typeflag: kind, Name: e.name, Mode: e.mode, Uid: e.owner, Gid: e.owner, Size: int64(len(e.text)), ModTime: when, Format: tar.FormatPAX}
		if err := t.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := t.Write(e.text); err != nil {
			return nil, err
		}
	}
	if err := t.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(out.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.DefaultCompression), tarball.WithCompressedCaching)
}

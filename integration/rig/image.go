package rig

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Image is what an OCI image layout holds for one platform. It is read by the image specification alone, with no code of what writes images.
type Image struct {
	Index       string // digest of the index of platforms
	Annotations map[string]string
	Config      ImageConfig

	layout string
	layers []descriptor
}

// ImageConfig is the part of an image's configuration that says how to run it.
type ImageConfig struct {
	User, WorkingDir, StopSignal string
	Env, Entrypoint, Cmd         []string
	Labels                       map[string]string
	ExposedPorts                 map[string]struct{}
	Healthcheck                  *struct{ Test []string }
}

type descriptor struct {
	MediaType, Digest string
	Size              int64
	Annotations       map[string]string
	Platform          struct{ OS, Architecture string }
}

type manifest struct {
	MediaType   string
	Manifests   []descriptor // of an index
	Config      descriptor   // of an image
	Layers      []descriptor
	Annotations map[string]string
}

// OpenImage reads a layout that holds one image, for several platforms.
func OpenImage(layout, arch string) (*Image, error) {
	i := &Image{layout: layout}
	text, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err != nil {
		return nil, err
	}
	var outer, index, img manifest
	if err := json.Unmarshal(text, &outer); err != nil {
		return nil, fmt.Errorf("%s: %w", layout, err)
	}
	if len(outer.Manifests) != 1 {
		return nil, fmt.Errorf("%s holds %d images, want one", layout, len(outer.Manifests))
	}
	if err := i.decode(outer.Manifests[0], &index); err != nil {
		return nil, err
	}
	at := slices.IndexFunc(index.Manifests, func(d descriptor) bool { return d.Platform.OS == "linux" && d.Platform.Architecture == arch })
	if at < 0 {
		return nil, fmt.Errorf("%s has no image for linux/%s", layout, arch)
	}
	if err := i.decode(index.Manifests[at], &img); err != nil {
		return nil, err
	}
	var config struct {
		OS, Architecture string
		Config           ImageConfig
	}
	if err := i.decode(img.Config, &config); err != nil {
		return nil, err
	}
	if config.OS != "linux" || config.Architecture != arch {
		return nil, fmt.Errorf("%s: the configuration of linux/%s is of %s/%s", layout, arch, config.OS, config.Architecture)
	}
	i.Index, i.Annotations, i.Config, i.layers = outer.Manifests[0].Digest, index.Annotations, config.Config, img.Layers
	return i, nil
}

// blob returns a blob's bytes after it has compared them with its digest.
func (i *Image) blob(d descriptor) ([]byte, error) {
	name, ok := strings.CutPrefix(d.Digest, "sha256:")
	if !ok {
		return nil, fmt.Errorf("digest %q: want sha256", d.Digest)
	}
	text, err := os.ReadFile(filepath.Join(i.layout, "blobs", "sha256", name))
	if err != nil {
		return nil, err
	}
	if got := fmt.Sprintf("%x", sha256.Sum256(text)); got != name || int64(len(text)) != d.Size {
		return nil, fmt.Errorf("blob %s has digest %s and %d bytes, want %d", d.Digest, got, len(text), d.Size)
	}
	return text, nil
}

func (i *Image) decode(d descriptor, into any) error {
	text, err := i.blob(d)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	return nil
}

// Size is how many bytes a pull transfers.
func (i *Image) Size() int64 {
	var n int64
	for _, l := range i.layers {
		n += l.Size
	}
	return n
}

// Files calls visit for every file of the layers, in their order.
func (i *Image) Files(visit func(h *tar.Header, content io.Reader) error) error {
	for _, l := range i.layers {
		if l.MediaType != "application/vnd.oci.image.layer.v1.tar+gzip" {
			return fmt.Errorf("layer %s is of type %s", l.Digest, l.MediaType)
		}
		text, err := i.blob(l)
		if err != nil {
			return err
		}
		unzipped, err := gzip.NewReader(bytes.NewReader(text))
		if err != nil {
			return err
		}
		files := tar.NewReader(unzipped)
		for {
			h, err := files.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fmt.Errorf("layer %s: %w", l.Digest, err)
			}
			if err := visit(h, files); err != nil {
				return err
			}
		}
	}
	return nil
}

// Unpack writes the image's files below dir.
func (i *Image) Unpack(dir string) (*Container, error) {
	user, group, _ := strings.Cut(i.Config.User, ":")
	uid, err1 := strconv.ParseUint(user, 10, 32)
	gid, err2 := strconv.ParseUint(group, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("user %q: want numbers, as there may be nobody who reads names: %w", i.Config.User, err)
	}
	err := i.Files(func(h *tar.Header, content io.Reader) error {
		if !filepath.IsLocal(h.Name) {
			return fmt.Errorf("the image has %q", h.Name)
		}
		path, mode := filepath.Join(dir, h.Name), h.FileInfo().Mode()
		switch h.Typeflag {
		case tar.TypeDir:
			if err := os.MkdirAll(path, 0o755); err != nil {
				return err
			}
		case tar.TypeReg:
			f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			_, err = io.Copy(f, content)
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s is neither a file nor a folder", h.Name)
		}
		return errors.Join(os.Chown(path, h.Uid, h.Gid), os.Chmod(path, mode)) // in this order: chown takes bits away
	})
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", i.layout, err)
	}
	return &Container{Root: dir, config: i.Config, user: syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
}

// Container runs programs of an unpacked image as a runtime of containers does: in its root, which is read-only, as its user, without any capability, with its environment and
// in its working directory. They share the host's network and processes. It needs root, and a program that called RunWithOwnMounts.
type Container struct {
	Root   string
	config ImageConfig
	user   syscall.Credential
}

// imageConfigs is where images have distributions/.
const imageConfigs = "/etc/pulsegrid"

// Mount makes the root read-only. Each writable folder of the host is seen at its own path, as the image's user's.
func (c *Container) Mount(writable ...string) (err error) {
	mount := func(source, target, kind string, flags uintptr) {
		if err == nil {
			if err = unix.Mount(source, target, kind, flags, ""); err != nil {
				err = fmt.Errorf("mount %s for an image (the tests of images need root): %w", target, err)
			}
		}
	}
	mount(c.Root, c.Root, "", unix.MS_BIND)
	mount("proc", filepath.Join(c.Root, "proc"), "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC)
	for _, dir := range writable {
		if err == nil {
			err = errors.Join(os.MkdirAll(filepath.Join(c.Root, dir), 0o755), os.Chown(dir, int(c.user.Uid), int(c.user.Gid)))
		}
		mount(dir, filepath.Join(c.Root, dir), "", unix.MS_BIND)
	}
	mount("", c.Root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV)
	return err
}

// Unmount undoes Mount, when nothing runs there any more.
func (c *Container) Unmount() error { return unix.Unmount(c.Root, unix.MNT_DETACH) }

// enter has a program start in the container.
func (c *Container) enter(cmd *exec.Cmd) {
	cmd.Dir = c.config.WorkingDir
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Chroot, cmd.SysProcAttr.Credential = c.Root, &c.user
}

// Process describes the image's own program, with arguments; env is added to the image's.
func (c *Container) Process(env map[string]string, ready []string, args ...string) *Process {
	p := NewProcess(env, ready, append(slices.Clone(c.config.Entrypoint), args...)...)
	p.container, p.env = c, c.environment(env)
	return p
}

func (c *Container) environment(env map[string]string) []string {
	out := slices.Clone(c.config.Env)
	for k, v := range env {
		out = append(out, k+"="+v)
	}
	return out
}

// Run runs a program of the image to its end and returns what it wrote.
func (c *Container) Run(ctx context.Context, env map[string]string, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = c.environment(env)
	c.enter(cmd)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

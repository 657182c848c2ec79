package certificate

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// Certificates of a directory are numbered from 1. Each names the hash of the one before it, so none can be changed, put in or taken out
// without changing all that follow.

const chainMax = 999_999

func chainFile(dir string, n int) string {
	return filepath.Join(dir, fmt.Sprintf("certificate-%06d.json", n))
}

// Append links c to the directory's last certificate and writes it; it returns the file. The directory is made if it is missing. With a signer the
// certificate and the directory's head are signed; a directory is signed from its first certificate on by one key, or not at all.
func (c *Certificate) Append(ctx context.Context, dir string, s Signer) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("certificates: %w", err)
	}
	unlock, err := lock(ctx, dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	for {
		n, err := chainLength(dir)
		if err != nil {
			return "", err
		}
		if c.Previous, err = continued(ctx, dir, n, s); err != nil {
			return "", fmt.Errorf("the certificates cannot be continued; run `pulsegrid audit verify %s`, or begin a new directory: %w", dir, err)
		}
		if err := c.Seal(); err != nil {
			return "", err
		}
		if s != nil {
			if c.Signature, err = signatureOf(ctx, s, certificateMessage(n+1, c.SHA256)); err != nil {
				return "", err
			}
			if n == 0 { // before the first certificate: a directory that has certificates has a head
				if err := writeHead(ctx, dir, s, 0, ""); err != nil {
					return "", err
				}
			}
		}
		b, err := c.encode()
		if err != nil {
			return "", err
		}
		file := chainFile(dir, n+1)
		err = writeNew(file, b)
		if errors.Is(err, fs.ErrExist) {
			continue // another audit was faster: link to its certificate
		}
		if err == nil && s != nil {
			err = writeHead(ctx, dir, s, n+1, c.SHA256)
		}
		return file, err
	}
}

// lock waits until no other audit of this machine writes to the directory: certificate and head are two files. An audit of another machine, which a file
// system may not tell of the lock, still replaces nothing.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	for {
		err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = d.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("certificates: lock %s: %w", dir, err), d.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("certificates: another audit writes to %s: %w", dir, ctx.Err()), d.Close())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// continued returns the hash of the last of n certificates. It fails where nothing must follow it: a signature would vouch for what is there.
func continued(ctx context.Context, dir string, n int, s Signer) (previous string, err error) {
	var last *Certificate
	if n > 0 {
		if last, err = readSealed(chainFile(dir, n)); err != nil {
			return "", err
		}
		previous = last.SHA256
	}
	h, err := readHead(dir)
	if err != nil {
		return "", err
	}
	signed := h != nil || last != nil && last.Signature != ""
	switch {
	case s == nil && signed:
		return "", errors.New("they are signed: give the key")
	case s == nil || n == 0 && !signed:
		return previous, nil
	case !signed:
		return "", errors.New("they are not signed, and this one is to be")
	}
	public, err := s.PublicKey(ctx)
	if err != nil {
		return "", fmt.Errorf("public key: %w", err)
	}
	chain, err := verifyLinks(dir, n)
	if err != nil {
		return "", err
	}
	return previous, h.verify(dir, chain, public)
}

// writeNew creates the file with its whole content, or not at all; fs.ErrExist if it is there.
func writeNew(file string, content []byte) error {
	tmp, err := writeTemp(filepath.Dir(file), content)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	if err := os.Link(tmp, file); err != nil { // unlike a rename it never replaces
		return fmt.Errorf("certificate: %w", err)
	}
	return nil
}

// writeTemp returns a new file of the directory, whole and on the disk.
func writeTemp(dir string, content []byte) (string, error) {
	tmp, err := os.CreateTemp(dir, ".certificate-*")
	if err != nil {
		return "", fmt.Errorf("certificate: %w", err)
	}
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return "", errors.Join(fmt.Errorf("certificate: %w", err), os.Remove(tmp.Name()))
	}
	return tmp.Name(), nil
}

// chainLength is the number of the last certificate.
func chainLength(dir string) (int, error) {
	files, err := filepath.Glob(filepath.Join(dir, "certificate-*.json"))
	if err != nil {
		return 0, fmt.Errorf("certificates: %w", err)
	}
	last := 0
	for _, f := range files {
		var n int
		if _, err := fmt.Sscanf(filepath.Base(f), "certificate-%06d.json", &n); err == nil && chainFile(dir, n) == f {
			last = max(last, n)
		}
	}
	if last >= chainMax {
		return 0, fmt.Errorf("directory %s is full: begin a new one", dir)
	}
	return last, nil
}

// readSealed reads a certificate and checks its own hash, by its bytes.
func readSealed(file string) (*Certificate, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	var c Certificate
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("certificate %s: %w", file, err)
	}
	end := `  "sha256": "` + c.SHA256 + "\"\n}\n"
	if c.Signature != "" {
		end = `  "signature": "` + c.Signature + "\",\n" + end
	}
	if !bytes.HasSuffix(b, []byte(end)) {
		return nil, fmt.Errorf("certificate %s: does not end with its sha256", file)
	}
	sum := sha256.Sum256(slices.Concat(bytes.TrimSuffix(b, []byte(end)), []byte("  \"sha256\": \"\"\n}\n")))
	if hex.EncodeToString(sum[:]) != c.SHA256 {
		return nil, fmt.Errorf("certificate %s: was changed after it was written: its sha256 is not that of its content", file)
	}
	return &c, nil
}

// VerifyChain checks every certificate of a directory and that each follows the one before it; with a public key that all are signed by it, and that none
// at the end is missing. It returns those up to the first fault.
func VerifyChain(dir string, public ed25519.PublicKey) ([]*Certificate, error) {
	h, err := readHead(dir) // before the certificates: an audit may add one meanwhile
	if err != nil && public != nil {
		return nil, err
	}
	n, err := chainLength(dir)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, fmt.Errorf("no certificates in %s", dir)
	}
	chain, err := verifyLinks(dir, n)
	if err == nil && public != nil {
		err = h.verify(dir, chain, public)
	}
	return chain, err
}

func verifyLinks(dir string, n int) ([]*Certificate, error) {
	var out []*Certificate
	previous := ""
	for i := 1; i <= n; i++ {
		c, err := readSealed(chainFile(dir, i))
		if errors.Is(err, fs.ErrNotExist) {
			return out, fmt.Errorf("certificate %s is missing", chainFile(dir, i))
		}
		if err != nil {
			return out, err
		}
		if c.Previous != previous {
			return out, fmt.Errorf("certificate %s does not follow the one before it: previous is %q, want %q", chainFile(dir, i), c.Previous, previous)
		}
		previous = c.SHA256
		out = append(out, c)
	}
	return out, nil
}

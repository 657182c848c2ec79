package certificate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Certificates of a directory are numbered from 1. Each names the hash of the one before it, so none can be changed, put in or taken out
// without changing all that follow.

const chainMax = 999_999

func chainFile(dir string, n int) string {
	return filepath.Join(dir, fmt.Sprintf("certificate-%06d.json", n))
}

// Append links c to the directory's last certificate and writes it; it returns the file. The directory is made if it is missing.
func (c *Certificate) Append(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("certificates: %w", err)
	}
	for {
		n, err := chainLength(dir)
		if err != nil {
			return "", err
		}
		c.Previous = ""
		if n > 0 {
			last, err := readSealed(chainFile(dir, n))
			if err != nil {
				return "", fmt.Errorf("the last certificate cannot be trusted; run `pulsegrid audit verify %s`, or begin a new directory: %w", dir, err)
			}
			c.Previous = last.SHA256
		}
		if err := c.Seal(); err != nil {
			return "", err
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
		return file, err
	}
}

// writeNew creates the file with its whole content, or not at all; fs.ErrExist if it is there.
func writeNew(file string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), ".certificate-*")
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	if err := os.Link(tmp.Name(), file); err != nil { // unlike a rename it never replaces
		return fmt.Errorf("certificate: %w", err)
	}
	return nil
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
	end := []byte(`"sha256": "` + c.SHA256 + "\"\n}\n")
	if !bytes.HasSuffix(b, end) {
		return nil, fmt.Errorf("certificate %s: does not end with its sha256", file)
	}
	sum := sha256.Sum256(slices.Concat(bytes.TrimSuffix(b, end), []byte("\"sha256\": \"\"\n}\n")))
	if hex.EncodeToString(sum[:]) != c.SHA256 {
		return nil, fmt.Errorf("certificate %s: was changed after it was written: its sha256 is not that of its content", file)
	}
	return &c, nil
}

// VerifyChain checks every certificate of a directory and that each follows the one before it. It returns those up to the first fault.
func VerifyChain(dir string) ([]*Certificate, error) {
	n, err := chainLength(dir)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, fmt.Errorf("no certificates in %s", dir)
	}
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

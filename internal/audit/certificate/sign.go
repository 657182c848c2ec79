package certificate

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Signer signs certificates, so that who may write their directory cannot write others. It is as narrow as the Sign and GetPublicKey of a key
// management service are; both may ask a network.
type Signer interface {
	// Sign returns the Ed25519 signature (RFC 8032, not of a hash) of a message.
	Sign(ctx context.Context, message []byte) ([]byte, error)
	// PublicKey is what Sign's signatures are checked by.
	PublicKey(ctx context.Context) (ed25519.PublicKey, error)
}

// LocalSigner holds its key itself.
type LocalSigner struct{ key ed25519.PrivateKey }

// Sign implements Signer.
func (s *LocalSigner) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(s.key, message), nil
}

// PublicKey implements Signer.
func (s *LocalSigner) PublicKey(context.Context) (ed25519.PublicKey, error) {
	return s.key.Public().(ed25519.PublicKey), nil
}

// Types of PEM blocks.
const (
	pemPrivate = "PRIVATE KEY" // PKCS #8
	pemPublic  = "PUBLIC KEY"  // SubjectPublicKeyInfo
)

// NewKey makes a key: the private one in file, which only its owner may read, and the public one beside it in file.pub. Neither may be there.
func NewKey(file string) (public string, err error) {
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", fmt.Errorf("key: %w", err)
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", fmt.Errorf("key: %w", err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("key: %w", err)
	}
	public = file + ".pub"
	if err := writeKey(public, 0o644, pemPublic, publicDER); err != nil {
		return "", err
	}
	return public, writeKey(file, 0o600, pemPrivate, privateDER)
}

func writeKey(file string, mode fs.FileMode, kind string, der []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	if err := errors.Join(pem.Encode(f, &pem.Block{Type: kind, Bytes: der}), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("key: %w", err)
	}
	return nil
}

// OpenSigner reads a private key that NewKey wrote, or any Ed25519 key in PKCS #8. It refuses one that others may read.
func OpenSigner(file string) (*LocalSigner, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key %s: others may read it (mode %v): chmod 600", file, info.Mode().Perm())
	}
	private, err := readKey[ed25519.PrivateKey](file, pemPrivate, x509.ParsePKCS8PrivateKey)
	if err != nil {
		return nil, err
	}
	return &LocalSigner{private}, nil
}

// ReadPublicKey reads an Ed25519 public key in PEM.
func ReadPublicKey(file string) (ed25519.PublicKey, error) {
	return readKey[ed25519.PublicKey](file, pemPublic, x509.ParsePKIXPublicKey)
}

func readKey[K any](file, kind string, parse func([]byte) (any, error)) (key K, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return key, fmt.Errorf("key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != kind {
		return key, fmt.Errorf("key %s: has no %q in PEM", file, kind)
	}
	parsed, err := parse(block.Bytes)
	if err != nil {
		return key, fmt.Errorf("key %s: %w", file, err)
	}
	key, ok := parsed.(K)
	if !ok {
		return key, fmt.Errorf("key %s: is %T, want an Ed25519 %s", file, parsed, strings.ToLower(kind))
	}
	return key, nil
}

// The messages that are signed. They say what they are about, so that the one cannot be shown as the other, and where a certificate belongs.

func certificateMessage(number int, sha256 string) []byte {
	return fmt.Appendf(nil, "pulsegrid audit certificate\nnumber %d\nsha256 %s\n", number, sha256)
}

func headMessage(count int, sha256 string) []byte {
	return fmt.Appendf(nil, "pulsegrid audit chain\ncount %d\nsha256 %s\n", count, sha256)
}

func signatureOf(ctx context.Context, s Signer, message []byte) (string, error) {
	signature, err := s.Sign(ctx, message)
	if err != nil {
		return "", fmt.Errorf("sign certificate: %w", err)
	}
	return base64.StdEncoding.EncodeToString(signature), nil
}

func signedBy(public ed25519.PublicKey, message []byte, signature string) bool {
	b, err := base64.StdEncoding.DecodeString(signature)
	return err == nil && ed25519.Verify(public, message, b)
}

// head says, signed, how many certificates a directory has: without it the last ones could be taken away.
type head struct {
	Count     int    `json:"count"`
	SHA256    string `json:"sha256"` // of the last certificate; empty: there is none
	Signature string `json:"signature"`
}

func headFile(dir string) string { return filepath.Join(dir, "head.json") }

// readHead returns nil where there is none.
func readHead(dir string) (*head, error) {
	b, err := os.ReadFile(headFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	var h head
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&h); err != nil || h.Count < 0 || h.Count > chainMax {
		return nil, fmt.Errorf("%s: is no head of a chain of certificates", headFile(dir))
	}
	return &h, nil
}

// writeHead replaces the head, unless another audit has written a later one by now.
func writeHead(ctx context.Context, dir string, s Signer, count int, sha256 string) error {
	if h, err := readHead(dir); err != nil || h != nil && h.Count >= count {
		return err
	}
	signature, err := signatureOf(ctx, s, headMessage(count, sha256))
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(head{count, sha256, signature}, "", "  ")
	if err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	tmp, err := writeTemp(dir, append(b, '\n'))
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	if err := os.Rename(tmp, headFile(dir)); err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	return nil
}

// verify checks the signatures of a whole chain and that it is as long as its head says. A head that is behind is that of an audit that was stopped between
// certificate and head, or is still at it: the certificates are signed too. A nil head is one that is missing.
func (h *head) verify(dir string, chain []*Certificate, public ed25519.PublicKey) error {
	for i, c := range chain {
		if err := verifyCertificate(dir, i+1, c, public); err != nil {
			return err
		}
	}
	switch {
	case h == nil:
		return fmt.Errorf("%s is missing: nothing says how many certificates there were", headFile(dir))
	case !signedBy(public, headMessage(h.Count, h.SHA256), h.Signature):
		return fmt.Errorf("%s: the signature is not of this key", headFile(dir))
	case h.Count > len(chain):
		return fmt.Errorf("certificates %d to %d are missing: %s says that there are %d", len(chain)+1, h.Count, headFile(dir), h.Count)
	case h.Count > 0 && chain[h.Count-1].SHA256 != h.SHA256:
		return fmt.Errorf("certificate %s: is another than %s says", chainFile(dir, h.Count), headFile(dir))
	}
	return nil
}

func verifyCertificate(dir string, number int, c *Certificate, public ed25519.PublicKey) error {
	switch {
	case c.Signature == "":
		return fmt.Errorf("certificate %s: is not signed", chainFile(dir, number))
	case !signedBy(public, certificateMessage(number, c.SHA256), c.Signature):
		return fmt.Errorf("certificate %s: the signature is not of this key, or not of this certificate", chainFile(dir, number))
	}
	return nil
}

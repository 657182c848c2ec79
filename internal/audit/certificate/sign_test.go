package certificate

import (
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func newSigner(t *testing.T) (*LocalSigner, ed25519.PublicKey) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "audit.key")
	public, err := NewKey(file)
	require.NoError(t, err)
	s, err := OpenSigner(file)
	require.NoError(t, err)
	key, err := ReadPublicKey(public)
	require.NoError(t, err)
	return s, key
}

func appendSigned(t *testing.T, dir string, n int, s Signer) {
	t.Helper()
	for range n {
		_, err := someCertificate().Append(t.Context(), dir, s)
		require.NoError(t, err)
	}
}

// resealed changes a certificate and writes it and all behind it anew, as anybody may who can write the directory.
func resealed(dir string, from int) error {
	n, err := chainLength(dir)
	if err != nil {
		return err
	}
	previous := ""
	for i := 1; i <= n; i++ {
		c, err := readSealed(chainFile(dir, i))
		if err != nil {
			return err
		}
		if i >= from {
			signature := c.Signature
			if c.Previous = previous; i == from {
				c.Verdict = Equal + "!"
			}
			if err := c.Seal(); err != nil {
				return err
			}
			c.Signature = signature
			b, err := c.encode()
			if err != nil {
				return err
			}
			if err := os.WriteFile(chainFile(dir, i), b, 0o644); err != nil {
				return err
			}
		}
		previous = c.SHA256
	}
	return nil
}

// Guarantees: who may write the directory but has no key cannot change a certificate, write the chain anew, or take the last ones away.
func TestASignedChainCannotBeWrittenAnewOrCut(t *testing.T) {
	signer, public := newSigner(t)
	other, _ := newSigner(t)
	cut := func(dir string) error { return os.Remove(chainFile(dir, 4)) }
	for name, test := range map[string]struct {
		change func(dir string) error
		want   string
	}{
		"nothing":                    {func(string) error { return nil }, ""},
		"one changed, all resealed":  {func(dir string) error { return resealed(dir, 2) }, "certificate-000002.json: the signature is not of this key"},
		"the last changed, resealed": {func(dir string) error { return resealed(dir, 4) }, "certificate-000004.json: the signature is not of this key"},
		"the last taken away":        {cut, "certificates 4 to 4 are missing"},
		"and the head too": {func(dir string) error {
			if err := os.Remove(headFile(dir)); err != nil {
				return err
			}
			return cut(dir)
		}, "head.json is missing"},
		"and the head says so": {func(dir string) error {
			b, err := os.ReadFile(headFile(dir))
			if err != nil {
				return err
			}
			if err := os.WriteFile(headFile(dir), []byte(strings.Replace(string(b), `"count": 4`, `"count": 3`, 1)), 0o644); err != nil {
				return err
			}
			return cut(dir)
		}, "head.json: the signature is not of this key"},
		"signatures taken off": {func(dir string) error {
			b, err := os.ReadFile(chainFile(dir, 3))
			if err != nil {
				return err
			}
			c, err := readSealed(chainFile(dir, 3))
			if err != nil {
				return err
			}
			return os.WriteFile(chainFile(dir, 3), []byte(strings.Replace(string(b), `  "signature": "`+c.Signature+"\",\n", "", 1)), 0o644)
		}, "certificate-000003.json: is not signed"},
		"all written anew by another key": {func(dir string) error {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			for range 4 {
				if _, err := someCertificate().Append(t.Context(), dir, other); err != nil {
					return err
				}
			}
			return nil
		}, "certificate-000001.json: the signature is not of this key"},
		"a signed one at another place": {func(dir string) error {
			from := t.TempDir()
			appendSigned(t, from, 1, signer)
			for i := range 3 {
				if err := os.Remove(chainFile(dir, i+2)); err != nil {
					return err
				}
			}
			return os.Rename(chainFile(from, 1), chainFile(dir, 1))
		}, "certificates 2 to 4 are missing"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "certificates")
			appendSigned(t, dir, 4, signer)
			require.NoError(t, test.change(dir))
			_, err := VerifyChain(dir, public)
			if test.want == "" {
				require.NoError(t, err)
				appendSigned(t, dir, 1, signer)
				return
			}
			require.ErrorContains(t, err, test.want)
			_, err = someCertificate().Append(t.Context(), dir, signer)
			require.ErrorContains(t, err, "cannot be continued", "a new signature must not vouch for it")
		})
	}
}

// Guarantees: an audit that was stopped between certificate and head is no fault, and the next one makes it good; audits at once make one chain.
func TestASignedChainSurvivesAStopAndAuditsAtOnce(t *testing.T) {
	signer, public := newSigner(t)
	dir := filepath.Join(t.TempDir(), "certificates")
	appendSigned(t, dir, 2, signer)
	former, err := os.ReadFile(headFile(dir))
	require.NoError(t, err)
	appendSigned(t, dir, 1, signer)
	require.NoError(t, os.WriteFile(headFile(dir), former, 0o644))
	_, err = VerifyChain(dir, public)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { appendSigned(t, dir, 1, signer) })
	}
	wg.Wait()
	chain, err := VerifyChain(dir, public)
	require.NoError(t, err)
	require.Len(t, chain, 7)
}

// Guarantee: who verifies while audits add certificates finds no fault.
func TestASignedChainVerifiesWhileItGrows(t *testing.T) {
	signer, public := newSigner(t)
	dir := filepath.Join(t.TempDir(), "certificates")
	appendSigned(t, dir, 1, signer)
	var wg sync.WaitGroup
	wg.Go(func() { appendSigned(t, dir, 40, signer) })
	for n := 1; n < 41; {
		chain, err := VerifyChain(dir, public)
		require.NoError(t, err)
		n = len(chain)
	}
	wg.Wait()
}

// Guarantees: a directory is signed from its first certificate on, or not at all; who has no key can still check its hashes.
func TestADirectoryIsSignedAsAWholeOrNotAtAll(t *testing.T) {
	signer, public := newSigner(t)
	unsigned := chain(t, 2)
	_, err := VerifyChain(unsigned, public)
	require.ErrorContains(t, err, "certificate-000001.json: is not signed")
	_, err = someCertificate().Append(t.Context(), unsigned, signer)
	require.ErrorContains(t, err, "they are not signed")
	signed := t.TempDir()
	appendSigned(t, signed, 2, signer)
	_, err = someCertificate().Append(t.Context(), signed, nil)
	require.ErrorContains(t, err, "give the key")
	all, err := VerifyChain(signed, nil)
	require.NoError(t, err)
	require.Len(t, all, 2)
}

// Guarantees: a private key is its owner's alone, is never replaced, and nothing else is taken for one.
func TestKeysAreReadAndWrittenWithCare(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.key")
	public, err := NewKey(file)
	require.NoError(t, err)
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())
	_, err = NewKey(file)
	require.ErrorIs(t, err, os.ErrExist)
	_, err = ReadPublicKey(file)
	require.ErrorContains(t, err, `has no "PUBLIC KEY"`)
	require.NoError(t, os.Chmod(public, 0o600))
	_, err = OpenSigner(public)
	require.ErrorContains(t, err, `has no "PRIVATE KEY"`)
	require.NoError(t, os.Chmod(file, 0o640))
	_, err = OpenSigner(file)
	require.ErrorContains(t, err, "chmod 600")
}

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
)

// Sealed is the JSON of a statement of another kind than an audit's certificate, which stands alone: an object that ends with its `sha256`, of itself without signature and with an empty
// sha256, as certificates do, and before that, with a signer, its `signature`: Ed25519, in base64, of the lines KIND and `sha256 HASH`.
func Sealed(ctx context.Context, kind string, statement any, s Signer) ([]byte, error) {
	b, err := json.MarshalIndent(statement, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	body, isObject := bytes.CutSuffix(b, []byte("\n}"))
	if !isObject {
		return nil, fmt.Errorf("%s: %T is no object with a field", kind, statement)
	}
	body = append(body, ",\n"...)
	sum := sha256.Sum256(append(bytes.Clone(body), emptySeal...))
	hash := hex.EncodeToString(sum[:])
	if s != nil {
		signature, err := signatureOf(ctx, s, sealMessage(kind, hash))
		if err != nil {
			return nil, err
		}
		body = append(body, `  "signature": "`+signature+"\",\n"...)
	}
	return append(body, `  "sha256": "`+hash+"\"\n}\n"...), nil
}

const emptySeal = "  \"sha256\": \"\"\n}\n"

func sealMessage(kind, hash string) []byte { return fmt.Appendf(nil, "%s\nsha256 %s\n", kind, hash) }

// Unseal checks what Sealed has made, with a public key its signature too, and reads the statement.
func Unseal(kind string, b []byte, public ed25519.PublicKey, statement any) error {
	var seal struct{ Signature, SHA256 string }
	if err := json.Unmarshal(b, &seal); err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	end := `  "sha256": "` + seal.SHA256 + "\"\n}\n"
	if seal.Signature != "" {
		end = `  "signature": "` + seal.Signature + "\",\n" + end
	}
	body, found := bytes.CutSuffix(b, []byte(end))
	if !found {
		return fmt.Errorf("%s: does not end with its sha256", kind)
	}
	sum := sha256.Sum256(append(bytes.Clone(body), emptySeal...))
	switch {
	case hex.EncodeToString(sum[:]) != seal.SHA256:
		return fmt.Errorf("%s: was changed after it was written: its sha256 is not that of its content", kind)
	case public != nil && seal.Signature == "":
		return errors.New(kind + ": is not signed")
	case public != nil && !signedBy(public, sealMessage(kind, seal.SHA256), seal.Signature):
		return errors.New(kind + ": the signature is not of this key, or not of this statement")
	}
	if err := json.Unmarshal(b, statement); err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	return nil
}

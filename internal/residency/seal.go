package residency

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
)

// What is signed says what it is, so that one kind of document cannot be shown as another.
const (
	inventoryKind = "pulsegrid residency inventory"
	statementKind = "pulsegrid residency statement"
)

// Sealed is the file of an inventory (certificate.Sealed). Without a signer it has a hash only.
func (v *Inventory) Sealed(ctx context.Context, signer certificate.Signer) ([]byte, error) {
	return certificate.Sealed(ctx, inventoryKind, v, signer)
}

// Sealed is the file of a statement.
func (s *Statement) Sealed(ctx context.Context, signer certificate.Signer) ([]byte, error) {
	return certificate.Sealed(ctx, statementKind, s, signer)
}

// OpenInventory reads the file of an inventory, as it was sealed. With keys, one of them must have signed it.
func OpenInventory(file []byte, keys []ed25519.PublicKey) (*Inventory, error) {
	v := &Inventory{}
	if err := open(inventoryKind, file, keys, v); err != nil {
		return nil, err
	}
	if v.Format != Format {
		return nil, fmt.Errorf("%s: is of format %d, want %d", inventoryKind, v.Format, Format)
	}
	var seal struct{ SHA256 string }
	err := json.Unmarshal(file, &seal)
	v.SHA256 = seal.SHA256
	return v, err
}

// OpenStatement reads the file of a statement likewise.
func OpenStatement(file []byte, keys []ed25519.PublicKey) (*Statement, error) {
	s := &Statement{}
	return s, open(statementKind, file, keys, s)
}

func open(kind string, file []byte, keys []ed25519.PublicKey, into any) (err error) {
	if len(keys) == 0 {
		return certificate.Unseal(kind, file, nil, into)
	}
	for _, key := range keys {
		if err = certificate.Unseal(kind, file, key, into); err == nil {
			return nil
		}
	}
	if len(keys) > 1 {
		err = fmt.Errorf("by none of the keys: %w", err)
	}
	return err
}

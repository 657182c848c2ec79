package tenant

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"strings"
)

// KeyPrefix begins every API key, so that people and scanners of leaked secrets know one when they see it.
const KeyPrefix = "pgk_"

const (
	keyIDBytes  = 10 // 16 characters
	secretBytes = 32 // 52 characters
	saltBytes   = 16
	hashScheme  = "sha256"
)

var (
	keyEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
	keyIDChars  = keyEncoding.EncodedLen(keyIDBytes)
	secretChars = keyEncoding.EncodedLen(secretBytes)
	keyChars    = len(KeyPrefix) + keyIDChars + 1 + secretChars
	errHashForm = errors.New("want " + hashScheme + ":SALT:HASH, 32 and 64 hex digits, as `pulsegrid tenant key new` prints it")
)

// NewKey makes an API key, pgk_ID_SECRET, and what the registry keeps of it. The key cannot be had again from that.
func NewKey() (key, id string, hash KeyHash) {
	var idBytes [keyIDBytes]byte
	var secret [secretBytes]byte
	_, _ = rand.Read(idBytes[:]) // never fails: crypto/rand ends the program instead
	_, _ = rand.Read(secret[:])
	_, _ = rand.Read(hash.salt[:])
	id = keyEncoding.EncodeToString(idBytes[:])
	key = KeyPrefix + id + "_" + keyEncoding.EncodeToString(secret[:])
	hash.sum = hash.of(key)
	return key, id, hash
}

// SplitKey returns the id of what has the form of an API key.
func SplitKey(key string) (id string, ok bool) {
	if len(key) != keyChars || !strings.HasPrefix(key, KeyPrefix) || key[len(KeyPrefix)+keyIDChars] != '_' {
		return "", false
	}
	return key[len(KeyPrefix) : len(KeyPrefix)+keyIDChars], true
}

func validKeyID(id string) bool {
	b, err := keyEncoding.DecodeString(id)
	return err == nil && len(b) == keyIDBytes
}

// KeyHash is what is kept of an API key: SHA-256 of a salt of its own and the whole key, both of fixed length. A key has 256 random bits, so a slow
// hash would protect nothing more (docs/decisions/0020).
type KeyHash struct {
	salt [saltBytes]byte
	sum  [sha256.Size]byte
}

// ParseHash reads what String wrote. Its errors do not repeat the text, which may be a key that someone pasted there.
func ParseHash(s string) (KeyHash, error) {
	var h KeyHash
	scheme, rest, _ := strings.Cut(s, ":")
	salt, sum, _ := strings.Cut(rest, ":")
	if scheme != hashScheme || len(salt) != 2*saltBytes || len(sum) != 2*sha256.Size {
		return h, errHashForm
	}
	if _, err := hex.Decode(h.salt[:], []byte(salt)); err != nil {
		return h, errHashForm
	}
	if _, err := hex.Decode(h.sum[:], []byte(sum)); err != nil {
		return h, errHashForm
	}
	return h, nil
}

func (h KeyHash) String() string {
	return hashScheme + ":" + hex.EncodeToString(h.salt[:]) + ":" + hex.EncodeToString(h.sum[:])
}

// Matches compares in a time that says nothing of where the two differ.
func (h KeyHash) Matches(key string) bool {
	sum := h.of(key)
	return subtle.ConstantTimeCompare(sum[:], h.sum[:]) == 1
}

func (h KeyHash) of(key string) [sha256.Size]byte {
	var b [saltBytes + 128]byte // on the stack: keys are shorter
	n := copy(b[:], h.salt[:])
	n += copy(b[n:], key)
	return sha256.Sum256(b[:n])
}

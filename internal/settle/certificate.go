package settle

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
)

// Verdict is what a settling has come to.
type Verdict string

// The verdicts.
const (
	Settled Verdict = "settled" // each event that both cells had is in the home's stores, and in none of the guest's
	Partly  Verdict = "partly"  // so are those that were removed, and Left are in both cells still
	Failed  Verdict = "failed"  // the home lacks events whose copies were removed, or rows of the plan are left
)

// Certificate is what a settling has come to (docs/formats/settling.md). Its JSON is sealed as certificate.Sealed says.
type Certificate struct {
	Request
	Tool     string           `json:"tool"`
	Finished time.Time        `json:"finished"`
	Verdict  Verdict          `json:"verdict"`
	Had      GuestHad         `json:"guest_had"`
	Doubled  Total            `json:"doubled"`       // that the home had in both of its stores, and the guest in both of its
	Removed  Total            `json:"removed"`       // of these, from both stores of the guest
	Rows     map[string]int64 `json:"removed_rows"`  // by the guest's store
	Left     int64            `json:"left"`          // doubled events that were not removed: the guest's rows changed meanwhile
	Missing  int64            `json:"home_missing"`  // doubled events that the home's stores had, and do not both have now
	Remains  map[string]int64 `json:"guest_remains"` // rows of the plan that the guest's stores still have
	Rollups  bool             `json:"guest_rollups_equal"`
	// Declaration is the id by which the guest's audit knows of the removal; empty: nothing was removed.
	Declaration string `json:"declaration"`
	ToHome      int64  `json:"bytes_to_home"`
	ToGuest     int64  `json:"bytes_to_guest"`
	// Exchange is the SHA-256 of the exchange's last file. Each file begins with that of the one before.
	Exchange string `json:"exchange_sha256"`
}

// GuestHad counts what was compared.
type GuestHad struct {
	Events  uint64 `json:"events"`
	Buckets int    `json:"buckets"` // minutes of signals
	None    int    `json:"buckets_none"`
	Equal   int    `json:"buckets_equal"`
	Told    int    `json:"buckets_told"`
}

// Had counts what was compared, as far as it has been answered. The summary must be there.
func (x *Exchange) Had() (g GuestHad, err error) {
	_, buckets, err := x.summary()
	if err != nil {
		return g, err
	}
	g.Buckets = len(buckets)
	for _, c := range buckets {
		g.Events += c.Events
	}
	if !x.Has(Answer) {
		return g, nil
	}
	answers, err := x.answers(len(buckets))
	for _, a := range answers {
		switch a {
		case answerNone:
			g.None++
		case answerEqual:
			g.Equal++
		default:
			g.Told++
		}
	}
	return g, err
}

// Ready tells whether all steps are done, so that the home can certify.
func (x *Exchange) Ready() bool { return x.Has(Removed) }

// Certify looks whether the home still has all that was doubled, in both stores, and says what the settling has come to.
func (h *Home) Certify(ctx context.Context, tool string) (*Certificate, error) {
	head, buckets, err := h.summary()
	if err != nil {
		return nil, err
	}
	kept, err := h.kept(ctx)
	if err != nil {
		return nil, err
	}
	p, err := h.Plan()
	if err != nil {
		return nil, err
	}
	var r Removal
	if err := h.decode(Removed, &r); err != nil {
		return nil, err
	}
	events, err := h.read(ctx, head, buckets)
	if err != nil {
		return nil, err
	}
	var now []ID
	for ids := range maps.Values(events) {
		now = append(now, ids...)
	}
	last := sha256.Sum256(h.files[Removed])
	c := &Certificate{
		Request: h.Request, Tool: tool, Finished: time.Now().UTC(), Doubled: TotalOf(kept), Removed: p.Total, Rows: p.Rows, Left: int64(len(kept)) - int64(p.Events), Remains: r.Left,
		Missing: int64(len(kept) - len(intersection(kept, Sorted(now)))), Rollups: r.Rollups, Declaration: r.Declaration, Exchange: hex.EncodeToString(last[:]),
	}
	if c.Had, err = h.Had(); err != nil {
		return nil, err
	}
	c.ToHome, c.ToGuest = h.Bytes()
	remain := int64(0)
	for n := range maps.Values(r.Left) {
		remain += n
	}
	switch {
	case c.Missing > 0 || remain > 0 || c.Left < 0 || c.Left == 0 && c.Doubled != c.Removed:
		c.Verdict = Failed
	case c.Left > 0:
		c.Verdict = Partly
	default:
		c.Verdict = Settled
	}
	return c, nil
}

// Seal seals and signs a certificate, and keeps it beside the exchange.
func (h *Home) Seal(ctx context.Context, c *Certificate, s certificate.Signer) ([]byte, error) {
	b, err := certificate.Sealed(ctx, certificateKind, c, s)
	if err != nil {
		return nil, err
	}
	if err := h.dir.Write(ctx, CertificateFile, b); err != nil {
		return nil, fmt.Errorf("write %s of %s: %w", CertificateFile, h.dir, err)
	}
	return b, nil
}

// certificateKind is what a signature is of.
const certificateKind = "pulsegrid settling"

// Unseal checks a certificate, with a public key its signature too, and reads it.
func Unseal(b []byte, public ed25519.PublicKey, c *Certificate) error {
	return certificate.Unseal(certificateKind, b, public, c)
}

// Certificate returns the exchange's certificate as it was sealed; nil: there is none yet.
func (x *Exchange) Certificate(ctx context.Context) ([]byte, error) {
	b, err := x.read(ctx, CertificateFile)
	if err != nil || b == nil {
		return nil, err
	}
	var c Certificate
	if err := Unseal(b, nil, &c); err != nil {
		return nil, fmt.Errorf("%s of %s: %w", CertificateFile, x.dir, err)
	}
	if head := (summaryHead{Request: c.Request}); !head.same(x.Request) {
		return nil, fmt.Errorf("%s of %s is of another settling: take another id", CertificateFile, x.dir)
	}
	return b, nil
}

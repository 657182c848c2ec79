package quarantineprocessor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"time"

	"gocloud.dev/blob"

	"github.com/pulsegrid/pulsegrid/internal/bucket"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
)

// headerRoom is what a record's headers take beside the findings.
const headerRoom = 2 << 10

// oversized keeps in an object store what is larger than a record of the quarantine topic; the record then has a pointer in place of the body.
type oversized struct {
	url     string // without credentials, for pointers
	bucket  *blob.Bucket
	timeout time.Duration
}

func openOversized(ctx context.Context, cfg OversizedConfig) (*oversized, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("oversized::url: %w", err)
	}
	b, err := bucket.Open(ctx, cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("oversized::url: %w", err)
	}
	return &oversized{
		url:    u.Scheme + "://" + u.Host + strings.TrimSuffix(u.Path, "/") + "/" + u.Query().Get("prefix"),
		bucket: b, timeout: cfg.Timeout,
	}, nil
}

// keep writes e's body and puts the pointer in its place. The object is named by its content, so that a sender that repeats itself writes it again and
// not beside it; what may hold personal data has a prefix of its own.
func (o *oversized) keep(ctx context.Context, e *envelope.Envelope) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	class := "plain"
	if e.Quarantine.PII {
		class = "pii"
	}
	sum := sha256.Sum256(e.Body)
	key := fmt.Sprintf("%s/%s/%s/%s", class, url.PathEscape(e.Tenant), e.Signal, hex.EncodeToString(sum[:]))
	if err := o.bucket.WriteAll(ctx, key, e.Body, &blob.WriterOptions{ContentType: "application/octet-stream"}); err != nil {
		return fmt.Errorf("quarantine: object %s%s of %d bytes: retry: %w", o.url, key, len(e.Body), err)
	}
	q := *e.Quarantine
	q.Object = o.url + key
	e.Body, e.Quarantine = nil, &q
	return nil
}

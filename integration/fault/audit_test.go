package fault

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/pulsegrid/pulsegrid/integration/fault/outcome"
	"github.com/pulsegrid/pulsegrid/integration/rig/recount"
	"github.com/pulsegrid/pulsegrid/internal/audit"
	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
)

const auditTimeout = 15 * time.Minute

// audit lets PulseGrid's own audit judge what was sent since the run began: event by event, column by column, ledgers and rollups.
func (r *run) audit(out *outcome.Run) {
	r.t.Helper()
	for _, l := range r.lanes {
		if r.ranges == nil {
			r.auditLane(l, nil, out)
		}
		for _, ranges := range r.ranges {
			r.auditLane(l, ranges, out)
		}
	}
}

// auditLane audits ranges of offsets, or, without any, all since the run began.
func (r *run) auditLane(l lane, ranges []certificate.Range, out *outcome.Run) {
	r.t.Helper()
	c := audit.DefaultConfig()
	c.Tool, c.Cell = "fault test", r.service
	c.Kafka.Brokers = r.Kafka.Brokers()
	c.Topics = l.topics
	if c.Ranges = ranges; ranges == nil {
		c.From = r.started
	}
	c.Rollups = true
	c.TempDir = r.t.TempDir()
	c.Certificates = *certificates
	c.ClickHouse, c.Lake = recount.Stores(r.Rig, l.hot, l.lake)
	ctx, cancel := context.WithTimeout(context.Background(), auditTimeout)
	defer cancel()
	cert, err := audit.Run(ctx, c)
	if err != nil {
		out.Verdict = "failed"
		r.t.Errorf("audit of %s and %s: %v", l.hot, l.lake, err)
		return
	}
	if out.Certificate = cert.SHA256; out.Verdict == "" || out.Verdict == string(certificate.Equal) {
		out.Verdict = string(cert.Verdict)
	}
	if cert.Verdict == certificate.Equal {
		return
	}
	r.t.Errorf("the audit's verdict on %s and %s is %s: problems %s, totals %s, differences %s, ledger faults %s, rollups %s",
		l.hot, l.lake, cert.Verdict, strings.Join(cert.Problems, "; "), text(cert.Totals), text(cert.Differences), text(cert.LedgerFaults), text(cert.Rollups))
}

// text is a short form of what a certificate lists.
func text(v any) string {
	const most = 1500
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	if len(b) > most {
		return fmt.Sprintf("%s... (%d bytes)", b[:most], len(b))
	}
	return string(b)
}

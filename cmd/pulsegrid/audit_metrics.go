package main

import (
	"fmt"
	"strings"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/wholefile"
)

// writeAuditMetrics writes the verdict for a node exporter's textfile collector, which must never read a half of it.
func writeAuditMetrics(file string, c *certificate.Certificate) error {
	var b strings.Builder
	b.WriteString("# HELP pulsegrid_audit 1 for the verdict of the newest audit, 0 for the others.\n# TYPE pulsegrid_audit gauge\n")
	for _, v := range []certificate.Verdict{certificate.Equal, certificate.Different, certificate.Incomplete} {
		is := 0
		if c.Verdict == v {
			is = 1
		}
		fmt.Fprintf(&b, "pulsegrid_audit{verdict=%q} %d\n", string(v), is)
	}
	b.WriteString("# HELP pulsegrid_audit_end_time_seconds When the newest audit ended.\n# TYPE pulsegrid_audit_end_time_seconds gauge\n")
	fmt.Fprintf(&b, "pulsegrid_audit_end_time_seconds %d\n", c.Finished.Unix())
	return wholefile.Write(file, []byte(b.String()), 0o644) // until then it is no *.prom, which the collector reads
}

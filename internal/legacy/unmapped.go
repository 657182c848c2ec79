package legacy

import (
	"bytes"
	"strings"

	"github.com/pulsegrid/pulsegrid/internal/schema"
)

// TypeLines is the content type of events one a line: of bodies, and of what Unmapped returns.
const TypeLines = "application/x-ndjson"

// Unmapped is what the quarantine keeps of events that Convert rejected: the events as they came, one a line, and a verdict on each.
func Unmapped(rejected []Rejected) (body []byte, findings schema.Findings) {
	var b bytes.Buffer
	for i, bad := range rejected {
		b.Write(bytes.ReplaceAll(bad.Raw, []byte("\n"), []byte(" "))) // between fields: within text a line's end is escaped
		b.WriteByte('\n')
		findings = append(findings, schema.Finding{Event: i, PII: true, Verdicts: []schema.Verdict{{
			Code: schema.Unmapped, Path: bad.Field, Expected: "docs/formats/legacy.md", Got: bad.Code + ": " + strings.ToValidUTF8(bad.Reason, "\uFFFD"),
		}}})
	}
	return b.Bytes(), findings
}

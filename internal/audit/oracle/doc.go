// Package oracle decides which events of a partition are copies: the rules of docs/decisions/0030-what-a-copy-is.md, written a second time from
// that text. It shares no code with the data path (internal/eventid, internal/dedupe, internal/otlpwire), so a fault of one does not hide in the
// other, and it uses other libraries: protowire for the bytes, crypto/sha256 for content, lukechampine.com/blake3 for the request digest.
//
// It claims nothing by a short hash. A copy is named with its earlier occurrence, and the claim holds by comparison: SHA-256 over all bytes that
// the two must share, with nothing cut off.
//
//	uid      the resource, and the name and value of the attribute
//	content  everything around the event, the event, and its ordinal
//	request  the whole value of the two records, or else the content of the two events
//
// The files: request.go (the record's header `request`), content.go (the bytes of each event and of what is around it), memory.go (the rules over
// the records of one partition).
package oracle

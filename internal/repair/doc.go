// Package repair mends what lies in quarantine, by rules from a file (docs/formats/repair.md), and sends it again.
//
//	Parse     rules of a file
//	Mend      one item of the quarantine topic: the events that are valid now, as a request, and what is still wrong with the others
//	Run       all items; a dry run says what would be done, an apply does it
//
// An apply keeps a journal, a compacted topic (docs/decisions/0027): an entry before an item's events are sent (intent) and one when Kafka has them (done).
// So doing it twice changes nothing: events that are done are passed over, and of an intent without its end the topics tell whether it was carried out,
// because each record that is sent names the item that it is of (envelope.HeaderRepaired).
package repair

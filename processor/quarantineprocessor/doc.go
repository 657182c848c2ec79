// Package quarantineprocessor is the processor `quarantine`: it takes the events that earlier processors found fault with out of an envelope,
// and sends them on beside it, in an envelope of their own for the quarantine topic. See README.md.
//
//	envelope with findings --quarantine.go--> healthy events, as an envelope
//	                                      \-> events at fault, as envelopes of the quarantine lane
package quarantineprocessor

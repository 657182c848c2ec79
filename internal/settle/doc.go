// Package settle finds the events that two cells have acknowledged both, and has the one that is not the tenant's home let go of its copies (docs/regions.md, decision 0063).
//
//	identity.go     what an event is compared by: keyed hashes, counted by minutes
//	exchange.go     what the cells tell each other: a chain of files in the home's own store
//	sides.go        the steps of either side, in their order
//	residency.go    between which cells identities may be exchanged at all
//	certificate.go  what both sides come to, signed
//
// No side reads the other's stores. Identities go from the guest to the home only; what comes back says of those that the guest has sent, in their order, which ones the home has.
package settle

// Package eventid says what events are compared by, to tell a copy from another event (decision 0030), and names them.
//
// A Reader makes it of the bytes of a request, without decoding it: for each event a rule and, by content or uid, a key. A key is
// a HighwayHash under a random key of this process, so no tenant can make two events that share one. It is chained: the fields
// of the resource make the key under which those of the scope are hashed, these the metric's, these the event's, so each piece
// is hashed once, and no two sequences of pieces are the same bytes.
//
// An event's id is another thing: the digest of its request plus its index there. Stores and regions agree on it; nothing is
// decided by it.
//
// request.go is the header by which a record says that it is a part of a request, or that the request was another one.
package eventid

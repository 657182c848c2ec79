// Package otlpjson makes protobuf of OTLP/JSON requests, as the mapping of protobuf to JSON (ProtoJSON) and OTLP's exceptions from it say, without decoding them to
// structs on the way.
//
//	message.go   what each message holds, from the descriptors of opentelemetry-proto
//	parse.go     JSON -> protobuf, field by field, in one pass
//	scan.go      tokens of JSON: white space, texts, numbers, what is skipped
//	number.go    numbers, which ProtoJSON has in several forms
//	order.go     the fields of a message in pdata's order
//	request.go   Transcode, and the request of just the events that were rejected
//
// A value that its field cannot have costs the event that it lies in, and no other one: JavaScript writes an attribute of 1e21 as an integer. What is no
// JSON, or is wrong outside of events, costs the request. Names that OTLP does not have are skipped, as OTLP wants it, and counted.
//
// The bytes are those that pdata's encoder would write, in its order: a request has one digest, whether it comes as JSON or from a
// Collector, and whatever the order of names in JSON (decision 0030).
//
// Where ProtoJSON leaves room, the Collector's pdata is followed: null in a list of messages is an empty message, of a name that occurs twice
// protobuf's rules hold (the last scalar counts, messages are merged, lists are joined), and texts need not be UTF-8.
package otlpjson

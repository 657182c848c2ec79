// Package ingestreceiver takes OTLP over gRPC and HTTP and hands each request on as bytes, in an envelope, without decoding it
// to pdata. It answers OK only when the pipeline has returned nil: in a gateway that means that Kafka has the request.
//
// The files in the order of the data:
//
//	receiver.go   lifecycle: listeners, draining
//	http.go       OTLP/HTTP: method, path, content type -> body -> answer
//	grpc.go       OTLP/gRPC: raw messages, without protobuf decoding
//	grpczstd.go   zstd for gRPC, with a bound on the window
//	auth.go       who may come in: credentials, and the registry of tenants, before a body is read
//	body.go       reading an HTTP body within the limits
//	encoding.go   content encodings
//	budget.go     memory of all requests in flight
//	json.go       OTLP/JSON -> protobuf; events that are not OTLP
//	request.go    bytes -> count -> envelope (or pdata) -> pipeline
//	refusal.go    every refusal: its reason, HTTP status, gRPC code, and how downstream errors become answers
//
// Ownership: a request's protobuf bytes are allocated for that request and never reused, since an envelope aliases them.
// Compressed bytes live in pooled buffers that no other part of the program sees.
package ingestreceiver

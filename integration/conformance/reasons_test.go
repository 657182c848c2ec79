package conformance

// reason names why the two receivers differ.
type reason string

const (
	codingNames     reason = "Names of content codings"
	unknownCoding   reason = "Unknown content codings"
	contentTypeText reason = "Refused content types"
	methodText      reason = "Refused methods"
	slashes         reason = "Empty segments of a path"
	trailingSlash   reason = "A slash behind a path"
	dots            reason = "Dots in a path"
	pathText        reason = "Unknown paths"
	profiles        reason = "Profiles"
	headersOfOurs   reason = "Tenant and source"
	otherKinds      reason = "Bodies of another kind"
	otherJSON       reason = "JSON that is not an object"
	secondValue     reason = "A second JSON value"
	emptyName       reason = "Empty names"
	protoJSON       reason = "ProtoJSON"
	wrongValue      reason = "A wrong value costs its event only"
	largeEvents     reason = "Events larger than a Kafka record"
	messageSize     reason = "Size of a gRPC message"
	bodySize        reason = "Size of a body"
	eventLimit      reason = "Number of events"
	nesting         reason = "Nesting"
	fallback        reason = "Errors that quote what was sent"
	malformedCall   reason = "Malformed messages over gRPC"
	bounds          reason = "Size of headers"
)

// reasons in the order of the document: what is taken that the stock receiver refuses, what is refused that it takes, and what is only said in another way.
var reasons = []struct {
	reason reason
	text   string
}{
	{wrongValue, `A value that its field cannot have costs the event that it lies in, and the sender hears so by partial success: JavaScript's SDK writes an attribute of 1e21 as an integer. The stock receiver
refuses the batch, and agents drop it.`},
	{protoJSON, `protobuf's JSON mapping has null for a field that is not set, whole numbers with exponents and fractions of zero, and two alphabets of base64.`},
	{codingNames, `Content codings have no case, x-gzip is gzip, and identity is none (RFC 9110, 8.4.1).`},
	{slashes, `An endpoint that ends with a slash, joined with OTLP's path, makes this. The stock receiver redirects; of the SDKs only Java's follows.`},
	{trailingSlash, `As above, of an endpoint for one signal.`},
	{emptyName, `pdata's JSON decoder takes an empty name for the end of the object.`},
	{messageSize, "The gateway takes gRPC messages up to `limits::max_decompressed_bytes` (64 MiB), as it takes bodies by HTTP; the stock receiver takes 4 MiB by gRPC and 20 MiB by HTTP."},

	{secondValue, `What follows the request would be lost: pdata's decoder stops at the end of the first value.`},
	{otherKinds, `A request that has no events, and fields that OTLP does not have, is one of another kind. An answer of OK means that Kafka has the data, and there nothing of it would be.`},
	{otherJSON, `As above.`},
	{largeEvents, "A Kafka record holds at most `max_record_bytes` of the msk exporter, 1 MB. An event that is larger is rejected alone, and kept where the quarantine has a store."},
	{eventLimit, "`limits::max_events`: an empty event takes two bytes here and hundreds when it is decoded."},
	{nesting, "`limits::max_depth`, 64 levels: decoders recurse. So does whoever reads the records in Kafka."},
	{bounds, `The library's bound is 16 MiB a call.`},
	{headersOfOurs, `These headers say whose the data are; a name that cannot be one is a mistake of the sender's configuration.`},
	{unknownCoding, `415 is HTTP's answer to a content coding that is not known (RFC 9110, 15.5.16). Of two headers the stock receiver reads the first.`},
	{bodySize, "`limits`: 64 MiB decompressed and 16 MiB compressed; beyond 20 MiB at most 200 times as much as compressed. The answer is 413, not 400."},

	{malformedCall, "Both are final for a sender (`Internal` is the gRPC library's answer to what its decoder refuses). InvalidArgument is OTLP's word for it."},
	{fallback, `pdata's error quotes the body, which is not UTF-8; the stock receiver cannot encode its answer then, and says 500.`},
	{contentTypeText, "Refusals have a `google.rpc.Status` in the body, as JSON where the request's encoding is not known; OTLP asks for one with every 4xx."},
	{methodText, `As above.`},
	{pathText, `As above, and for targets that are not paths.`},
	{profiles, `As above; the gateway says that profiles are not served. (So does the stock receiver here: no pipeline of profiles is configured.)`},
	{dots, `The stock receiver redirects to the path without dots.`},
}

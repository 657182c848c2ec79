package conformance

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const mib = 1 << 20

// service is the path of a signal's method.
var service = map[signal.Signal]string{
	signal.Logs:    "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
	signal.Metrics: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
	signal.Traces:  "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
}

// coded is b, compressed by what writes this coding.
func coded(t testing.TB, coding string, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	switch coding {
	case "", "identity":
		return b
	case "gzip", "x-gzip":
		w = gzip.NewWriter(&out)
	case "zlib", "deflate":
		w = zlib.NewWriter(&out)
	case "snappy":
		return snappy.Encode(nil, b)
	case "x-snappy-framed":
		w = snappy.NewBufferedWriter(&out)
	case "lz4":
		w = lz4.NewWriter(&out)
	case "zstd":
		z, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1))
		require.NoError(t, err)
		w = z
	default:
		t.Fatal(coding)
	}
	_, err := w.Write(b)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return out.Bytes()
}

// good is a request of three events.
func good(s signal.Signal) []byte { return otlptest.Realistic(s, 7, 3) }

func goodJSON(t testing.TB, s signal.Signal) []byte {
	t.Helper()
	req := otlptest.NewRequest(s)
	require.NoError(t, req.UnmarshalProto(good(s)))
	b, err := req.MarshalJSON()
	require.NoError(t, err)
	return b
}

// table collects inputs.
type table struct {
	t   *testing.T
	all []*input
}

func (tb *table) add(why reason, in input) {
	in.why = why
	if in.signal == 0 {
		in.signal = signal.Logs
	}
	tb.all = append(tb.all, &in)
}

// http adds a POST of logs.
func (tb *table) http(why reason, name, contentType, coding string, body []byte) {
	tb.add(why, input{name: name, raw: post(signal.Logs, contentType, coding, body)})
}

func (tb *table) call(why reason, name string, s signal.Signal, body []byte, headers ...string) {
	in := input{name: "gRPC, " + name, signal: s, grpc: service[s], body: body, headers: map[string]string{}}
	for i := 0; i < len(headers); i += 2 {
		in.headers[headers[i]] = headers[i+1]
	}
	tb.add(why, in)
}

func inputs(t *testing.T) []*input {
	tb := &table{t: t}
	tb.whatIsUsual()
	tb.codings()
	tb.contentTypes()
	tb.methodsAndPaths()
	tb.framing()
	tb.protobuf()
	tb.sizes()
	tb.calls()
	tb.json()
	seen := map[string]bool{}
	for _, in := range tb.all {
		require.False(t, seen[in.name], "two inputs have the name %q", in.name)
		seen[in.name] = true
	}
	return tb.all
}

// whatIsUsual: each signal by each protocol, encoding and compression.
func (tb *table) whatIsUsual() {
	for _, s := range signal.All {
		for _, encoding := range []string{"protobuf", "JSON"} {
			contentType, body := typeProtobuf, good(s)
			if encoding == "JSON" {
				contentType, body = typeJSON, goodJSON(tb.t, s)
			}
			for _, coding := range []string{"", "gzip", "zstd", "zlib", "deflate", "snappy", "x-snappy-framed", "lz4"} {
				name := fmt.Sprintf("%s as %s", s, encoding)
				if coding != "" {
					name += ", " + coding
				}
				tb.add("", input{name: name, signal: s, raw: post(s, contentType, coding, coded(tb.t, coding, body))})
			}
		}
		for _, coding := range []string{"", "gzip", "zstd", "snappy"} {
			name, headers := s.String(), []string(nil)
			if coding != "" {
				name, headers = name+", "+coding, []string{"Grpc-Encoding", coding}
			}
			msg := good(s)
			switch coding {
			case "snappy": // gRPC's is the framing format
				msg = coded(tb.t, "x-snappy-framed", msg)
			case "gzip", "zstd":
				msg = coded(tb.t, coding, msg)
			}
			tb.call("", name, s, framed(coding != "", msg), headers...)
		}
	}
}

func (tb *table) codings() {
	body := good(signal.Logs)
	for _, coding := range []string{"gzip", "zstd", "zlib", "deflate", "snappy", "x-snappy-framed", "lz4"} {
		sent := coded(tb.t, coding, body)
		spoilt := bytes.Clone(sent)
		for i := len(spoilt) / 2; i < len(spoilt)/2+8; i++ {
			spoilt[i] ^= 0x55
		}
		tb.http("", coding+", cut short", typeProtobuf, coding, sent[:len(sent)/2])
		tb.http("", coding+", damaged", typeProtobuf, coding, spoilt)
		tb.http(codingNames, coding+" in capitals", typeProtobuf, strings.ToUpper(coding), sent)
		tb.http("", coding+" that is none", typeProtobuf, coding, body)
	}
	gz := coded(tb.t, "gzip", body)
	tb.http(codingNames, "x-gzip", typeProtobuf, "x-gzip", gz)
	tb.http(codingNames, "identity", typeProtobuf, "identity", body)
	tb.http("", "an empty Content-Encoding", typeProtobuf, "", body)
	tb.add("", input{name: "Content-Encoding without a value", raw: http1("POST", "/v1/logs", body, "Content-Type: "+typeProtobuf, length(body), "Content-Encoding:")})
	tb.http(unknownCoding, "unknown coding", typeProtobuf, "br", body)
	tb.http(unknownCoding, "gzip twice, in one header", typeProtobuf, "gzip, gzip", coded(tb.t, "gzip", gz))
	tb.add(unknownCoding, input{name: "two Content-Encoding headers", raw: http1("POST", "/v1/logs", gz, "Content-Type: "+typeProtobuf, length(gz), "Content-Encoding: gzip", "Content-Encoding: zstd")})
	tb.http("", "gzip without saying so", typeProtobuf, "", gz)
	tb.http("", "two gzip members", typeProtobuf, "gzip", append(coded(tb.t, "gzip", body[:100]), coded(tb.t, "gzip", body[100:])...))
	tb.http("", "two zstd frames", typeProtobuf, "zstd", append(coded(tb.t, "zstd", body[:100]), coded(tb.t, "zstd", body[100:])...))
	tb.http("", "garbage behind gzip", typeProtobuf, "gzip", append(bytes.Clone(gz), "garbage"...))
	tb.http("", "snappy in the framing format", typeProtobuf, "snappy", coded(tb.t, "x-snappy-framed", body))
	tb.http("", "gzip of nothing", typeProtobuf, "gzip", coded(tb.t, "gzip", nil))
	tb.http("", "gzip of nothing, as JSON", typeJSON, "gzip", coded(tb.t, "gzip", nil))
	for _, coding := range []string{"gzip", "zstd", "zlib", "snappy", "x-snappy-framed", "lz4"} {
		tb.http("", "no byte of "+coding, typeProtobuf, coding, nil)
	}
	var wide bytes.Buffer
	z, err := zstd.NewWriter(&wide, zstd.WithWindowSize(16*mib), zstd.WithEncoderConcurrency(1))
	require.NoError(tb.t, err)
	_, err = z.Write(otlptest.Realistic(signal.Logs, 3, 250))
	require.NoError(tb.t, err)
	require.NoError(tb.t, z.Close())
	tb.http("", "zstd with a window of 16 MiB", typeProtobuf, "zstd", wide.Bytes())
}

func (tb *table) contentTypes() {
	pb, js := good(signal.Logs), goodJSON(tb.t, signal.Logs)
	tb.http("", "protobuf with a charset", typeProtobuf+"; charset=utf-8", "", pb)
	tb.http("", "JSON with a charset", typeJSON+"; charset=utf-8", "", js)
	tb.http("", "JSON with another charset", typeJSON+";charset=ISO-8859-1", "", js)
	tb.http("", "content type in capitals", "Application/JSON", "", js)
	tb.http("", "content type with spaces", " application/json ", "", js)
	tb.http(contentTypeText, "content type with a parameter without a value", typeJSON+"; charset", "", js)
	tb.http("", "content type that ends with a semicolon", typeJSON+";", "", js)
	for _, contentType := range []string{"application/protobuf", "application/octet-stream", "text/plain", "text/json", "application/x-ndjson", "application/x-www-form-urlencoded", "application/grpc", "json"} {
		tb.http(contentTypeText, "content type "+contentType, contentType, "", pb)
	}
	tb.add(contentTypeText, input{name: "no content type", raw: http1("POST", "/v1/logs", js, length(js))})
	tb.add(contentTypeText, input{name: "content type without a value", raw: http1("POST", "/v1/logs", js, length(js), "Content-Type:")})
	tb.add("", input{name: "two content types", raw: http1("POST", "/v1/logs", pb, length(pb), "Content-Type: "+typeProtobuf, "Content-Type: "+typeJSON)})
	tb.http("", "JSON sent as protobuf", typeProtobuf, "", js)
	tb.http(fallback, "protobuf sent as JSON", typeJSON, "", pb)
}

func (tb *table) methodsAndPaths() {
	body := good(signal.Logs)
	request := func(method, path string, headers ...string) []byte {
		return http1(method, path, body, append(headers, "Content-Type: "+typeProtobuf, length(body))...)
	}
	for _, method := range []string{"PUT", "PATCH", "DELETE", "post", "BREW"} {
		tb.add(methodText, input{name: "method " + method, raw: request(method, "/v1/logs")})
	}
	for _, method := range []string{"GET", "HEAD", "OPTIONS"} {
		why := methodText
		if method == "HEAD" { // it has no body anyway
			why = ""
		}
		tb.add(why, input{name: "method " + method, raw: http1(method, "/v1/logs", nil)})
	}
	tb.add(methodText, input{name: "a browser's question before it sends (CORS)", raw: http1("OPTIONS", "/v1/logs", nil, "Origin: http://localhost:3000", "Access-Control-Request-Method: POST")})
	for _, path := range []string{"//v1/logs", "/v1//logs"} {
		tb.add(slashes, input{name: "path " + path, raw: request("POST", path)})
	}
	tb.add(trailingSlash, input{name: "path /v1/logs/", raw: request("POST", "/v1/logs/")})
	for _, path := range []string{"/", "/v1", "/v1/log", "/v1/LOGS", "/v2/logs", "/v1/logs/x", "/collector/v1/logs", "/v1/events"} {
		tb.add(pathText, input{name: "path " + path, raw: request("POST", path)})
	}
	tb.add(dots, input{name: "path /v1/../v1/logs", raw: request("POST", "/v1/../v1/logs")})
	tb.add("", input{name: "path with a query", raw: request("POST", "/v1/logs?key=value")})
	tb.add("", input{name: "path with escapes", raw: request("POST", "/v1/%6Cogs")})
	tb.add("", input{name: "path as a whole URL", raw: request("POST", "http://HOST/v1/logs")})
	for _, path := range []string{"/v1/profiles", "/v1development/profiles"} {
		tb.add(profiles, input{name: "path " + path, raw: request("POST", path)})
	}
	for header, name := range map[string]string{"X-Pulsegrid-Tenant: a b": "a tenant header that is not a valid id", "X-Pulsegrid-Agent: " + strings.Repeat("a", 200): "a source that is too long"} {
		tb.add(headersOfOurs, input{name: name, raw: request("POST", "/v1/logs", header)})
	}
}

func (tb *table) framing() {
	body := otlptest.Realistic(signal.Logs, 7, 1) // that fits in the server's first read: what it has not read when it hangs up resets the connection, answer and all
	require.Less(tb.t, len(body), 2048)
	contentType := "Content-Type: " + typeProtobuf
	request := func(body []byte, headers ...string) []byte {
		return http1("POST", "/v1/logs", body, append(headers, contentType)...)
	}
	tb.add("", input{name: "chunked", raw: request(chunked(body, 100), "Transfer-Encoding: chunked")})
	tb.add("", input{name: "chunked, a byte at a time", raw: request(chunked(body, 1), "Transfer-Encoding: chunked")})
	tb.add("", input{name: "chunked, gzip", raw: request(chunked(coded(tb.t, "gzip", body), 100), "Transfer-Encoding: chunked", "Content-Encoding: gzip")})
	tb.add("", input{name: "chunked, empty", raw: request(chunked(nil, 1), "Transfer-Encoding: chunked")})
	tb.add("", input{name: "chunked, a size that is no number", raw: request([]byte("zz\r\nabc\r\n0\r\n\r\n"), "Transfer-Encoding: chunked")})
	tb.add("", input{name: "chunked, cut short", halfClose: true, raw: request(chunked(body, 100)[:300], "Transfer-Encoding: chunked")})
	tb.add("", input{name: "chunked and a length", raw: request(chunked(body, 100), "Transfer-Encoding: chunked", length(body))})
	tb.add("", input{name: "unknown transfer encoding", raw: request(body, "Transfer-Encoding: gzip, chunked")})
	tb.add("", input{name: "Content-Length longer than the body", halfClose: true, raw: request(body, fmt.Sprintf("Content-Length: %d", len(body)+10))})
	tb.add("", input{name: "Content-Length shorter than the body", raw: request(body, fmt.Sprintf("Content-Length: %d", len(body)-10))})
	tb.add("", input{name: "Content-Length below zero", raw: request(body, "Content-Length: -1")})
	tb.add("", input{name: "two lengths", raw: request(body, length(body), "Content-Length: 7")})
	tb.add("", input{name: "no length, protobuf", raw: request(nil)})
	tb.add("", input{name: "no length, JSON", raw: http1("POST", "/v1/logs", nil, "Content-Type: "+typeJSON)})
	tb.add("", input{name: "Expect: 100-continue", raw: request(body, length(body), "Expect: 100-continue")})
	tb.add("", input{name: "HTTP/1.0", raw: bytes.Replace(request(body, length(body)), []byte("HTTP/1.1"), []byte("HTTP/1.0"), 1)})
	tb.add("", input{name: "HTTP/3.0", raw: bytes.Replace(request(body, length(body)), []byte("HTTP/1.1"), []byte("HTTP/3.0"), 1)})
	tb.add("", input{name: "no Host", raw: bytes.Replace(request(body, length(body)), []byte("Host: HOST\r\n"), nil, 1)})
	tb.add("", input{name: "headers of 2 MiB", large: true, raw: request(body, length(body), "X-A: "+strings.Repeat("a", 2*mib))})
	tb.add("", input{name: "no HTTP", raw: []byte("\x16\x03\x01\x02\x00 hello\r\n\r\n"), halfClose: true})
	tb.add(pathText, input{name: "gRPC to the port of HTTP", raw: []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), halfClose: true})
}

func wrap(num protowire.Number, b []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), b)
}

// record is a request of two log records, the first of which is this message.
func record(msg []byte) []byte {
	other := wrap(3, []byte("WARN"))
	return wrap(1, wrap(2, append(wrap(2, msg), wrap(2, other)...)))
}

func deep(depth int) []byte {
	var v []byte
	for range depth {
		v = wrap(5, wrap(1, v))
	}
	return record(wrap(5, v))
}

func (tb *table) protobuf() {
	both := func(why reason, name string, body []byte) {
		tb.http(why, name, typeProtobuf, "", body)
		tb.call(why, name, signal.Logs, framed(false, body))
	}
	wrong := func(name string, body []byte) {
		tb.http("", name, typeProtobuf, "", body)
		tb.call(malformedCall, name, signal.Logs, framed(false, body))
	}
	body := good(signal.Logs)
	both("", "an empty message", nil)
	both("", "a resource without scopes", wrap(1, nil))
	both("", "a scope without records", wrap(1, wrap(2, nil)))
	both("", "an empty record", wrap(1, wrap(2, wrap(2, nil))))
	both("", "a record without a resource", record(wrap(3, []byte("INFO"))))
	wrong("a byte less", body[:len(body)-1])
	wrong("a byte more", append(bytes.Clone(body), 0x0a))
	both("", "an unknown field beside events", append(bytes.Clone(body), wrap(1000, []byte("x"))...))
	both("", "an unknown field in a record", record(wrap(100, []byte("x"))))
	both(otherKinds, "nothing but an unknown field", wrap(9, []byte("x")))
	both(otherKinds, "an unknown field in a resource without records", wrap(1, wrap(9, []byte("x"))))
	wrong("spans sent as logs", good(signal.Traces))
	wrong("text", []byte("hello, is this the right address?"))
	wrong("zeros", make([]byte, 10))
	wrong("a time that is a varint", record([]byte{1 << 3, 7}))
	wrong("a varint of eleven bytes", append([]byte{9 << 3}, bytes.Repeat([]byte{0xff}, 11)...))
	wrong("a group in a record", record([]byte{100<<3&0x7f | 3, 100<<3&0x7f | 4}))
	wrong("a trace id of 8 bytes", record(wrap(9, make([]byte, 8))))
	both("", "a trace id of 16 zeros", record(wrap(9, make([]byte, 16))))
	wrong("a span id of 16 bytes", record(wrap(10, make([]byte, 16))))
	both("", "text that is not UTF-8", record(wrap(3, []byte("a\xff\xfe"))))
	both("", "a NaN", record(wrap(6, append(wrap(1, []byte("k")), wrap(2, protowire.AppendFixed64(protowire.AppendTag(nil, 4, protowire.Fixed64Type), math.Float64bits(math.NaN())))...))))
	both("", "a field twice", record(append(wrap(3, []byte("INFO")), wrap(3, []byte("WARN"))...)))
	both("", "a resource twice", wrap(1, bytes.Join([][]byte{wrap(1, wrap(1, wrap(1, []byte("a")))), wrap(1, wrap(1, wrap(1, []byte("b")))), wrap(2, wrap(2, wrap(3, []byte("INFO"))))}, nil)))
	both("", "an attribute without a key", record(wrap(6, wrap(2, wrap(1, []byte("v"))))))
	both("", "an attribute twice", record(append(wrap(6, wrap(1, []byte("k"))), wrap(6, wrap(1, []byte("k")))...)))
	both("", "scopes from before OTLP 0.15", wrap(1, wrap(1000, wrap(2, wrap(3, []byte("INFO"))))))
	both("", "values nested 60 deep", deep(60))
	both(nesting, "values nested 100 deep", deep(100))
	both(nesting, "values nested 2,000 deep", deep(2000))
	tb.add("", input{name: "logs to /v1/traces", signal: signal.Traces, raw: http1("POST", "/v1/traces", body, "Content-Type: "+typeProtobuf, length(body))})
	tb.add("", input{name: "metrics to /v1/traces", signal: signal.Traces, raw: http1("POST", "/v1/traces", good(signal.Metrics), "Content-Type: "+typeProtobuf, length(good(signal.Metrics)))})
}

// sizes are of batches that honest senders make, and of those that nobody makes.
func (tb *table) sizes() {
	trace := strings.Repeat("\tat com.acme.pool.Conn.take(Conn.java:117)\n", 70)
	storm, mixed := plogotlp.NewExportRequest(), plogotlp.NewExportRequest()
	fill := func(req plogotlp.ExportRequest, n int, body func(i int) string) []byte {
		lrs := req.Logs().ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
		lrs.EnsureCapacity(n)
		for i := range n {
			lr := lrs.AppendEmpty()
			lr.SetTimestamp(1)
			lr.Body().SetStr(body(i))
		}
		b, err := req.MarshalProto()
		require.NoError(tb.t, err)
		return b
	}
	stack := fill(storm, 512, func(int) string { return trace })
	packed := coded(tb.t, "zstd", stack)
	require.Greater(tb.t, len(stack), 200*len(packed))
	tb.add("", input{name: "512 logs with one stack trace, zstd", large: true, raw: post(signal.Logs, typeProtobuf, "zstd", packed)})
	tb.add("", input{name: "gRPC, 512 logs with one stack trace, zstd", large: true, grpc: service[signal.Logs], headers: map[string]string{"Grpc-Encoding": "zstd"}, body: framed(true, packed)})

	one := fill(mixed, 16, func(i int) string {
		if i == 10 {
			return strings.Repeat("A", 1_050_000)
		}
		return fmt.Sprint("small ", i)
	})
	tb.http(largeEvents, "16 logs, one of 1.05 MB", typeProtobuf, "", one)
	tb.call(largeEvents, "16 logs, one of 1.05 MB", signal.Logs, framed(false, one))
	oneJSON, err := mixed.MarshalJSON()
	require.NoError(tb.t, err)
	tb.http(largeEvents, "16 logs, one of 1.05 MB, as JSON", typeJSON, "gzip", coded(tb.t, "gzip", oneJSON))

	noise := make([]byte, 10_000) // that compresses somewhat
	random := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = 'a' + byte(random.IntN(16))
	}
	hundred := fill(plogotlp.NewExportRequest(), 100, func(int) string { return string(noise) })
	logs := func(hundreds int) []byte { return bytes.Repeat(hundred, hundreds) } // requests laid end to end are one
	large := func(why reason, name, coding string, body []byte) {
		tb.add(why, input{name: name, large: true, raw: post(signal.Logs, typeProtobuf, coding, coded(tb.t, coding, body))})
	}
	five, body := logs(5), logs(21)
	large("", "5 MB of logs", "", five)
	large("", "5 MB of logs, gzip", "gzip", five)
	tb.add(messageSize, input{name: "gRPC, 5 MB of logs", large: true, grpc: service[signal.Logs], body: framed(false, five)})
	large(bodySize, "21 MB of logs", "", body)
	large(bodySize, "21 MB of logs, snappy", "snappy", body)
	large(bodySize, "70 MB of logs", "", logs(70))
	tb.http(bodySize, "21 MiB of zeros, gzip", typeProtobuf, "gzip", coded(tb.t, "gzip", make([]byte, 21*mib)))
	tb.add(eventLimit, input{name: "262,145 empty logs", large: true, raw: post(signal.Logs, typeProtobuf, "", wrap(1, wrap(2, bytes.Repeat([]byte{2<<3 | 2, 0}, 262_145))))})
}

func (tb *table) calls() {
	body := good(signal.Logs)
	gz := coded(tb.t, "gzip", body)
	logs := signal.Logs
	tb.call("", "unknown compression", logs, framed(true, gz), "Grpc-Encoding", "br")
	tb.call("", "compression in capitals", logs, framed(true, gz), "Grpc-Encoding", "GZIP")
	tb.call("", "compressed, and not said by what", logs, framed(true, gz))
	tb.call("", "compressed by identity", logs, framed(true, body), "Grpc-Encoding", "identity")
	tb.call("", "gzip said, message not compressed", logs, framed(false, body), "Grpc-Encoding", "gzip")
	tb.call("", "gzip, cut short", logs, framed(true, gz[:len(gz)/2]), "Grpc-Encoding", "gzip")
	tb.call("", "gzip that is none", logs, framed(true, body), "Grpc-Encoding", "gzip")
	tb.call("", "lz4", logs, framed(true, coded(tb.t, "lz4", body)), "Grpc-Encoding", "lz4")
	tb.call("", "gzip of nothing", logs, framed(true, coded(tb.t, "gzip", nil)), "Grpc-Encoding", "gzip")
	tb.call("", "no message", logs, nil)
	tb.call("", "a message that is cut short", logs, framed(false, body)[:50])
	tb.call("", "two messages", logs, append(framed(false, body), framed(false, body)...))
	tb.call(malformedCall, "JSON", logs, framed(false, goodJSON(tb.t, logs)))
	tb.call("", "content type application/grpc+json", logs, framed(false, body), "Content-Type", "application/grpc+json")
	tb.call("", "content type application/grpc+proto", logs, framed(false, body), "Content-Type", "application/grpc+proto")
	tb.call("", "content type application/json", logs, body, "Content-Type", typeJSON)
	tb.call(bounds, "headers of 100 KiB", logs, framed(false, body), "X-A", strings.Repeat("a", 100<<10))
	tb.call("", "a deadline that has passed", logs, framed(false, body), "Grpc-Timeout", "0n")
	tb.call(headersOfOurs, "a tenant header that is not a valid id", logs, framed(false, body), "X-Pulsegrid-Tenant", "a b")
	for name, method := range map[string]string{
		"unknown method": "/opentelemetry.proto.collector.logs.v1.LogsService/Import", "unknown service": "/some.Service/Export", "no method": "/x",
		"profiles": "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export",
	} {
		tb.add("", input{name: "gRPC, " + name, grpc: method, body: framed(false, body)})
	}
	tb.add("", input{name: "gRPC, GET", grpc: service[logs], verb: "GET", body: framed(false, body)})
	tb.call(malformedCall, "traces to logs", logs, framed(false, good(signal.Traces)))
}

// base64ID is what encoders make of an id that go by ProtoJSON alone.
func base64ID(n int) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, n)) }

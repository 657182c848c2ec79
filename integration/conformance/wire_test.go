package conformance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	typeProtobuf = "application/x-protobuf"
	typeJSON     = "application/json"
	patience     = 2 * time.Minute
)

// input is one request, by HTTP/1 or gRPC.
type input struct {
	name   string
	signal signal.Signal
	why    reason // the two receivers differ; empty: they do not
	large  bool   // events are counted, not compared

	raw       []byte // HTTP/1: what is written; HOST stands for the address
	halfClose bool   // and then nothing more will come

	grpc    string            // gRPC: the path of the method
	headers map[string]string // of the call
	body    []byte            // of the call, frames and all
	verb    string            // of the call; empty: POST
}

// answer is what a sender hears.
type answer struct {
	status   string // of HTTP, or the code of gRPC
	body     string // what kind of body it is
	rejected int64  // by partial success
	// warned: the partial success has a message.
	warned bool
}

func (in *input) send(t *testing.T, p *peer) answer {
	t.Helper()
	once := func() answer {
		if in.grpc != "" {
			return in.call(t, p.grpc)
		}
		return in.post(t, p)
	}
	a := once()
	for tries := 1; a.status == "closed" && tries < 10; tries++ {
		a = once() // an answer that comes before all is written is lost where the connection is reset before it is read
	}
	return a
}

func (in *input) post(t *testing.T, p *peer) answer {
	t.Helper()
	conn, err := net.Dial("tcp", p.http)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	written := make(chan struct{})
	go func() {
		defer close(written)
		head, body, _ := bytes.Cut(in.raw, []byte("\r\n\r\n"))
		_, _ = conn.Write(bytes.ReplaceAll(in.raw[:len(head)], []byte("HOST"), []byte(p.http)))
		_, _ = conn.Write(in.raw[len(head) : len(in.raw)-len(body)])
		_, _ = conn.Write(body) // the answer may come before its end
		if in.halfClose {
			_ = conn.(*net.TCPConn).CloseWrite()
		}
	}()
	defer func() { <-written }()
	method, _, _ := strings.Cut(string(in.raw[:min(len(in.raw), 20)]), " ")
	buffered := bufio.NewReader(conn)
	resp, err := http.ReadResponse(buffered, &http.Request{Method: method})
	for err == nil && resp.StatusCode == http.StatusContinue {
		resp, err = http.ReadResponse(buffered, &http.Request{Method: method})
	}
	if err != nil {
		return answer{status: "closed"}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{status: "closed"}
	}
	a := answer{status: strconv.Itoa(resp.StatusCode)}
	a.read(in.signal, resp.Header.Get("Content-Type"), body)
	return a
}

// read tells of an HTTP body what it is.
func (a *answer) read(s signal.Signal, contentType string, body []byte) {
	isJSON := strings.HasPrefix(contentType, typeJSON)
	switch {
	case a.status == "200" && (isJSON || contentType == typeProtobuf):
		a.response(s, body, isJSON)
	case len(body) == 0:
		a.body = "none"
	case isJSON && protojson.Unmarshal(body, &spb.Status{}) == nil:
		a.body = "Status"
	case contentType == typeProtobuf && proto.Unmarshal(body, &spb.Status{}) == nil:
		a.body = "Status"
	case strings.HasPrefix(contentType, "text/"):
		a.body = "text"
	default:
		a.body = contentType
	}
	if a.body == "Status" && isJSON {
		a.body = "Status as JSON"
	}
}

func (a *answer) response(s signal.Signal, body []byte, isJSON bool) {
	type response interface {
		UnmarshalProto([]byte) error
		UnmarshalJSON([]byte) error
	}
	read := func(r response) bool {
		var err error
		if isJSON {
			err = r.UnmarshalJSON(body)
		} else {
			err = r.UnmarshalProto(body)
		}
		return err == nil
	}
	ok := false
	switch s {
	case signal.Logs:
		r := plogotlp.NewExportResponse()
		ok = read(r)
		a.rejected, a.warned = r.PartialSuccess().RejectedLogRecords(), r.PartialSuccess().ErrorMessage() != ""
	case signal.Metrics:
		r := pmetricotlp.NewExportResponse()
		ok = read(r)
		a.rejected, a.warned = r.PartialSuccess().RejectedDataPoints(), r.PartialSuccess().ErrorMessage() != ""
	default:
		r := ptraceotlp.NewExportResponse()
		ok = read(r)
		a.rejected, a.warned = r.PartialSuccess().RejectedSpans(), r.PartialSuccess().ErrorMessage() != ""
	}
	a.body = "response"
	if isJSON {
		a.body += " as JSON"
	}
	if !ok {
		a.body = "no response of OTLP"
	}
}

// transport speaks HTTP/2 without TLS, as gRPC does, and nothing else.
func transport() *http.Transport {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{Protocols: &protocols, DisableCompression: true}
}

// call is gRPC by hand: what a client library would not send can be sent.
func (in *input) call(t *testing.T, addr string) answer {
	t.Helper()
	tr := transport()
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	verb := in.verb
	if verb == "" {
		verb = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, verb, "http://"+addr+in.grpc, bytes.NewReader(in.body))
	require.NoError(t, err)
	req.ContentLength = -1
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	for name, value := range in.headers {
		req.Header.Set(name, value)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return answer{status: "closed"}
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	code := resp.Trailer.Get("Grpc-Status")
	if code == "" {
		code = resp.Header.Get("Grpc-Status")
	}
	if code == "" || err != nil && code == "" {
		return answer{status: strconv.Itoa(resp.StatusCode), body: "none"}
	}
	n, err := strconv.Atoi(code)
	require.NoError(t, err)
	a := answer{status: codes.Code(n).String()}
	if n == 0 {
		require.GreaterOrEqual(t, len(body), 5)
		msg := body[5:]
		if body[0] == 1 {
			msg = decompressed(t, resp.Header.Get("Grpc-Encoding"), msg)
		}
		a.response(in.signal, msg, false)
	}
	return a
}

func decompressed(t *testing.T, coding string, b []byte) []byte {
	t.Helper()
	c := encoding.GetCompressor(coding)
	require.NotNil(t, c, coding)
	r, err := c.Decompress(bytes.NewReader(b))
	require.NoError(t, err)
	out, err := io.ReadAll(r)
	require.NoError(t, err)
	return out
}

// framed is a gRPC message.
func framed(compressed bool, msg []byte) []byte {
	out := make([]byte, 5, 5+len(msg))
	if compressed {
		out[0] = 1
	}
	binary.BigEndian.PutUint32(out[1:], uint32(len(msg)))
	return append(out, msg...)
}

// http1 is a request by HTTP/1.1 with these headers, "Name: value" each.
func http1(method, path string, body []byte, headers ...string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: HOST\r\n", method, path)
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	b.WriteString("\r\n")
	b.Write(body)
	return b.Bytes()
}

func length(body []byte) string { return "Content-Length: " + strconv.Itoa(len(body)) }

// post is an export request as it should be.
func post(s signal.Signal, contentType, coding string, body []byte) []byte {
	headers := []string{"Content-Type: " + contentType, length(body)}
	if coding != "" {
		headers = append(headers, "Content-Encoding: "+coding)
	}
	return http1("POST", "/v1/"+s.String(), body, headers...)
}

func chunked(body []byte, size int) []byte {
	var b bytes.Buffer
	for len(body) > 0 {
		n := min(size, len(body))
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	b.WriteString("0\r\n\r\n")
	return b.Bytes()
}

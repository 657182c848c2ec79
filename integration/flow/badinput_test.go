package flow

import (
	"bytes"
	"compress/gzip"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
)

// gatewayMemoryLimit is what the gateway may hold at its worst under bad input: its budget for requests in flight, and its program.
const gatewayMemoryLimit = 700 << 20

// Scenario: every kind of bad input of the README's table, sent to a gateway of its own.
// Guarantees: each gets its documented status and a text; the process stays below its memory limit, and serves on.
func TestBadInputGetsItsDocumentedStatus(t *testing.T) {
	r := ownRig(t, rig.Options{})
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	good := otlptest.Logs(1, 10)
	of := func(b []byte) func() io.Reader { return func() io.Reader { return bytes.NewReader(b) } }
	const proto, json = "application/x-protobuf", "application/json"
	for _, c := range []struct {
		name        string
		path        string
		contentType string
		encoding    string
		body        func() io.Reader
		want        int
	}{
		{"truncated protobuf", "/v1/logs", proto, "", of(good[:len(good)-3]), http.StatusBadRequest},
		{"gzip bomb of 1 GiB", "/v1/logs", proto, "gzip", of(gzipZeros(t, 1<<30)), http.StatusRequestEntityTooLarge},
		{"wrong content type", "/v1/logs", "text/plain", "", of([]byte("hello")), http.StatusUnsupportedMediaType},
		{"unknown content encoding", "/v1/logs", proto, "br2", of(good), http.StatusUnsupportedMediaType},
		{"10,000 deep protobuf", "/v1/logs", proto, "", of(deepProtobuf(10_000)), http.StatusBadRequest},
		{"10,000 deep JSON", "/v1/logs", json, "", of([]byte(deepJSON(10_000))), http.StatusBadRequest},
		{"NaN and infinity", "/v1/metrics", proto, "", of(notNumbers(t)), http.StatusOK},
		{"empty request", "/v1/logs", proto, "", of(nil), http.StatusOK},
		{"body over 64 MiB", "/v1/logs", proto, "", func() io.Reader { return io.LimitReader(zeros{}, 64<<20+1) }, http.StatusRequestEntityTooLarge},
		{"unknown fields", "/v1/logs", proto, "", of(protowire.AppendVarint(protowire.AppendTag(bytes.Clone(good), 1000, protowire.VarintType), 7)), http.StatusOK},
		{"unknown path", "/v1/profiles", proto, "", of(good), http.StatusNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			send := func() (status int, text []byte, err error) {
				req, err := http.NewRequest(http.MethodPost, "http://"+r.HTTP+c.path, c.body())
				if err != nil {
					return 0, nil, err
				}
				req.Header.Set("Content-Type", c.contentType)
				if c.encoding != "" {
					req.Header.Set("Content-Encoding", c.encoding)
				}
				resp, err := patient.Do(req)
				if err != nil {
					return 0, nil, err
				}
				defer resp.Body.Close()
				text, err = io.ReadAll(resp.Body)
				return resp.StatusCode, text, err
			}
			status, text, err := send()
			for tries := 1; err != nil && tries < 10; tries++ { // an answer that comes before all is written is lost where the connection is reset before it is read
				status, text, err = send()
			}
			if err != nil {
				t.Fatal(err) // a server that hangs up before it answers leaves a client without a reason
			}
			if status != c.want {
				t.Errorf("status %d, want %d: %s", status, c.want, text)
			}
			if c.want >= 400 && len(text) == 0 {
				t.Error("a refusal without a text")
			}
		})
	}
	u, err := rig.UsageOf(r.Gateway.PID())
	if err != nil {
		t.Fatal(err)
	}
	if u.PeakRSS > gatewayMemoryLimit {
		t.Errorf("the gateway took %d MiB, its limit is %d MiB", u.PeakRSS>>20, gatewayMemoryLimit>>20)
	}
	t.Logf("peak memory of the gateway: %d MiB", u.PeakRSS>>20)
	if err := post(patient, "http://"+r.HTTP+"/v1/logs", "", good); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func gzipZeros(t *testing.T, n int64) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, io.LimitReader(zeros{}, n)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// deepProtobuf is a log record whose body is an array of an array of an array ...
func deepProtobuf(depth int) []byte {
	wrap := func(b []byte, field protowire.Number) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), b)
	}
	var value []byte
	for range depth {
		value = wrap(wrap(value, 1), 5) // AnyValue.array_value { values }
	}
	record := wrap(value, 5)                 // LogRecord.body
	return wrap(wrap(wrap(record, 2), 2), 1) // log_records, scope_logs, resource_logs
}

func deepJSON(depth int) string {
	return `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":` + strings.Repeat(`{"arrayValue":{"values":[`, depth) + strings.Repeat(`]}}`, depth) + `}]}]}]}`
}

func notNumbers(t *testing.T) []byte {
	t.Helper()
	md := pmetric.NewMetrics()
	points := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty().SetEmptyGauge().DataPoints()
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		points.AppendEmpty().SetDoubleValue(v)
	}
	b, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Scenario: a request with no event, in each of the encodings.
// Guarantees: it is answered like any other and leaves no record.
func TestEmptyRequestsAreAccepted(t *testing.T) {
	r := sharedRig(t)
	b, err := plogotlp.NewExportRequestFromLogs(plog.NewLogs()).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	for contentType, body := range map[string]string{"application/x-protobuf": "", "application/json": string(b)} {
		resp, err := patient.Post("http://"+r.HTTP+"/v1/logs", contentType, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d", contentType, resp.StatusCode)
		}
	}
}

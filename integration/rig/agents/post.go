package agents

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// refusedError is an answer after which an agent drops its data: a fleet must never get one.
type refusedError struct {
	status int
	text   string
}

func (e *refusedError) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.text) }

// laterError is an answer that asks to come again.
type laterError struct {
	status int
	after  time.Duration // 0: it does not say when, or says two things
	text   string
}

func (e *laterError) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.text) }

var paths = map[signal.Signal]string{signal.Logs: "/v1/logs", signal.Traces: "/v1/traces", signal.Metrics: "/v1/metrics"}

func (f *Fleet) post(timeout time.Duration, gateway string, r *Request, encoding string, body []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+gateway+paths[r.Signal], bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	if encoding != "" {
		req.Header.Set("Content-Encoding", encoding)
	}
	if f.opts.Key != "" {
		req.Header.Set("Authorization", "Bearer "+f.opts.Key)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return err
	}
	return judge(resp, answer, len(r.Poison))
}

// judge tells what an answer means to an agent of whose events so many are invalid.
func judge(resp *http.Response, answer []byte, invalid int) error {
	text := strings.ToValidUTF8(string(answer), "?")
	switch {
	case resp.StatusCode == http.StatusOK:
		said := plogotlp.NewExportResponse() // the fields of all three signals' are the same
		if err := said.UnmarshalProto(answer); err != nil {
			return err
		}
		if p := said.PartialSuccess(); p.RejectedLogRecords() != int64(invalid) || (invalid == 0 && len(answer) > 0) {
			return &refusedError{resp.StatusCode, fmt.Sprintf("%d events were rejected, %d are invalid: %s", p.RejectedLogRecords(), invalid, text)}
		}
		return nil
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= http.StatusBadGateway:
		return &laterError{resp.StatusCode, retryAfter(resp.Header.Get("Retry-After"), answer), text}
	}
	return &refusedError{resp.StatusCode, text}
}

// retryAfter is what RetryInfo says, where Retry-After says the same in whole seconds; else 0.
func retryAfter(header string, answer []byte) time.Duration {
	var said spb.Status
	if proto.Unmarshal(answer, &said) != nil {
		return 0
	}
	for _, d := range said.GetDetails() {
		var info errdetails.RetryInfo
		if d.UnmarshalTo(&info) != nil {
			continue
		}
		if after := info.GetRetryDelay().AsDuration(); header == strconv.Itoa(int(math.Ceil(after.Seconds()))) {
			return after
		}
	}
	return 0
}

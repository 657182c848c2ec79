package agents

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/pulsegrid/pulsegrid/internal/schema"
)

// later answers 429 with RetryInfo, and with a Retry-After of its own.
func later(t *testing.T, w http.ResponseWriter, after time.Duration, header string) {
	info, err := anypb.New(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	if err != nil {
		t.Error(err)
	}
	body, err := proto.Marshal(&spb.Status{Code: 8, Details: []*anypb.Any{info}})
	if err != nil {
		t.Error(err)
	}
	w.Header().Set("Retry-After", header)
	w.WriteHeader(http.StatusTooManyRequests)
	_, _ = w.Write(body)
}

// serve runs a gateway that answers the n-th request so, one after the other.
func serve(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request, body []byte)) string {
	t.Helper()
	var mu sync.Mutex
	n := 0
	dec, err := zstd.NewReader(nil)
	require.NoError(t, err)
	t.Cleanup(dec.Close)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil && r.Header.Get("Content-Encoding") == "zstd" {
			body, err = dec.DecodeAll(body, nil)
		}
		if err != nil {
			return // the agent gave up
		}
		mu.Lock()
		defer mu.Unlock()
		answer(n, w, r, body)
		n++
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func TestAgentsThatObeyComeWhenTheyAreToldAndOthersDoNot(t *testing.T) {
	const after = 700 * time.Millisecond
	for name, c := range map[string]struct {
		manner Manner
		header string
		acked  bool
		mute   int
	}{
		"obey":                             {Obey, "1", true, 0},
		"insist":                           {Insist, "1", true, 0},
		"drop":                             {Drop, "1", false, 0},
		"the header says another time":     {Obey, "7", true, 1},
		"the header does not say anything": {Insist, "", true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			g := serve(t, func(n int, w http.ResponseWriter, r *http.Request, _ []byte) {
				require.Equal(t, "Bearer pgk", r.Header.Get("Authorization"))
				if n == 0 {
					later(t, w, after, c.header)
				}
			})
			requests, err := Start(Options{Rate: 1000, Events: PerRequest, First: 500, Key: "pgk", Gateways: []string{g}, Refused: c.manner}).Stop()
			require.NoError(t, err)
			require.NotEmpty(t, requests) // and others, where it takes long to stop it
			q := requests[0]
			require.Equal(t, 500, q.Number)
			require.Equal(t, []int{1, c.mute, 0}, []int{q.Throttled, q.Mute, q.Unavailable})
			require.Equal(t, c.acked, q.Acked)
			if c.manner == Obey && c.mute == 0 {
				require.GreaterOrEqual(t, q.Took, after)
			}
		})
	}
}

func TestOrderedAgentsSendARequestWhenTheOneBeforeItIsAcknowledged(t *testing.T) {
	last := map[int]int{} // by source; of acknowledged ones
	g := serve(t, func(n int, w http.ResponseWriter, r *http.Request, body []byte) {
		if n%3 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		first := decode(t, r.URL.Path, body)[0]
		number, err := strconv.Atoi(first[strings.LastIndex(first, " ")+1:])
		require.NoError(t, err)
		q := Request{Number: number / PerRequest}
		require.Less(t, last[q.Source()], q.Number+1)
		last[q.Source()] = q.Number + 1
	})
	requests, err := Start(Options{Rate: 100_000, Events: 10_000, Gateways: []string{g}, Ordered: true}).Stop()
	require.NoError(t, err)
	require.Len(t, last, sources)
	for _, q := range requests {
		require.True(t, q.Acked)
	}
}

// Guarantees: every kind of poison violates the fleet's schemas in the one way that it is meant to; other events do not; agents take a count
// of rejected events that is not theirs for a refusal.
func TestPoisonIsWhatTheSchemasSayAndAgentsHoldTheGatewayToIt(t *testing.T) {
	check, seen := checker(t), map[schema.Code]bool{}
	lie := false
	g := serve(t, func(_ int, w http.ResponseWriter, r *http.Request, body []byte) {
		rejected := int64(0)
		for sig, path := range paths {
			if path != r.URL.Path {
				continue
			}
			found, err := check.Check(sig, body, schema.Open, time.Now())
			require.NoError(t, err)
			for _, f := range found.Findings {
				require.Len(t, f.Verdicts, 1, "%v", f)
				seen[f.Verdicts[0].Code] = true
				rejected++
			}
		}
		if lie {
			rejected++
		}
		if rejected > 0 {
			resp := plogotlp.NewExportResponse()
			resp.PartialSuccess().SetRejectedLogRecords(rejected)
			b, err := resp.MarshalProto()
			require.NoError(t, err)
			_, _ = w.Write(b)
		}
	})
	requests, err := Start(Options{Seed: 1, Rate: 100_000, Events: 20_000, Gateways: []string{g}, Poison: 0.05}).Stop()
	require.NoError(t, err)
	want := map[schema.Code]bool{}
	for _, q := range requests {
		for _, p := range q.Poison {
			want[p.Code] = true
		}
	}
	require.Equal(t, want, seen)
	lie = true
	_, err = Start(Options{Rate: 1000, Events: PerRequest, Gateways: []string{g}}).Stop()
	require.ErrorContains(t, err, "1 events were rejected, 0 are invalid")
}

// checker has the schemas that the guards' gateways enforce.
func checker(t *testing.T) *schema.Checker {
	t.Helper()
	const path = "../../fault/testdata/schemas/fleet.yaml"
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	registry, err := schema.Load([]schema.File{{Name: path, Content: text}})
	require.NoError(t, err)
	return schema.NewChecker(registry, schema.DefaultLimits())
}

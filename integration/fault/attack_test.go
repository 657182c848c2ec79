package fault

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/hostile"
)

const (
	attackers     = 4 // senders that come again when they are told to
	deaf          = 4 // that come again at once
	dribblers     = 6
	attackPause   = 10 * time.Millisecond // of a sender between two requests
	attackTimeout = time.Minute
	dribblePause  = 250 * time.Millisecond
	mib           = 1 << 20
)

// blow is one request of the attacker.
type blow struct {
	name   string // of its kind
	signal signal.Signal
	grpc   bool
	path   string // of HTTP; empty: the signal's
	kind   string // content type, of HTTP
	coding string
	body   []byte        // compressed; of gRPC the message, or what stands for one
	make   func() []byte // makes body, where it is not made yet
	slow   bool          // it comes a little at a time and never whole
	spoilt bool          // no gateway takes it
}

// turn is what an answer that asks to come again holds for.
func (b blow) turn() string {
	if b.spoilt || b.slow {
		return b.name
	}
	return b.signal.String()
}

// target is what is attacked, and how.
type target struct {
	HTTP, GRPC string
	Key        string
	Seed       uint64
	DeafAfter  time.Duration // before those begin that do not wait: beyond the bound of what a tenant may waste not much of its quota is left to it
}

// attacker sends what it can think of, by senders of three kinds. Some send the shapes, and wait where they are told to come again, signal by signal, and
// nowhere else: they use the whole quota. Others send what spends no quota, or more than it allows, and never wait. The last begin what they do not finish.
type attacker struct {
	target
	client *http.Client // HTTP/1
	calls  *http.Client // HTTP/2, as gRPC
	spoilt []blow       // what no gateway takes, made once
	sent   atomic.Int64 // of spoilt

	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu    sync.Mutex
	next  uint64               // guarded by mu: number of the next blow
	later map[string]time.Time // guarded by mu: before which nothing of a signal is taken, or nothing of a spoilt kind
	heard report               // guarded by mu
}

// report is what an attacker has done and heard.
type report struct {
	Answers map[string]map[string]int // by kind of blow
	Bytes   int                       // that were sent
	CPU     time.Duration             // of a process of its own
}

// newAttacker makes what no gateway takes, which takes seconds.
func newAttacker(at target) *attacker {
	var h2 http.Protocols
	h2.SetUnencryptedHTTP2(true)
	a := &attacker{
		target: at, spoilt: spoiltBlows(),
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: attackers + deaf + dribblers, DisableCompression: true}},
		calls:  &http.Client{Transport: &http.Transport{Protocols: &h2, DisableCompression: true}},
		later:  map[string]time.Time{}, heard: report{Answers: map[string]map[string]int{}},
	}
	a.ctx, a.stop = context.WithCancel(context.Background())
	return a
}

func (a *attacker) begin() {
	for range attackers {
		a.wg.Go(func() { a.strike(shaped, a.waits) })
	}
	never := func(blow) bool { return false }
	for range deaf {
		a.wg.Go(func() {
			a.rest(a.DeafAfter)
			a.strike(a.worst, never)
		})
	}
	for range dribblers {
		a.wg.Go(func() { a.strike(dribble, a.waits) })
	}
}

// end stops the attacker and returns when its last request has ended.
func (a *attacker) end() report {
	a.stop()
	a.wg.Wait()
	a.client.CloseIdleConnections()
	a.calls.CloseIdleConnections()
	return a.heard
}

// attackOf is the environment's variable that makes this program an attacker: its target, as JSON.
const attackOf = "PULSEGRID_TEST_ATTACK"

// assault is an attacker in a process of its own.
type assault struct {
	cmd   *exec.Cmd
	input io.WriteCloser
	said  *bufio.Reader
}

// assail starts an attacker that does nothing yet.
func assail(at target) (*assault, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(at)
	if err != nil {
		return nil, err
	}
	a := &assault{cmd: exec.Command(program)}
	a.cmd.Env = append(os.Environ(), attackOf+"="+string(text))
	a.cmd.Stderr = os.Stderr
	if a.input, err = a.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	said, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	a.said = bufio.NewReader(said)
	return a, a.cmd.Start()
}

// ready waits until the attacker can begin.
func (a *assault) ready() error {
	_, err := a.said.ReadString('\n')
	return err
}

func (a *assault) begin() error {
	_, err := fmt.Fprintln(a.input)
	return err
}

// end stops the attacker and returns its report.
func (a *assault) end() (r report, err error) {
	err = errors.Join(a.input.Close(), json.NewDecoder(a.said).Decode(&r), a.cmd.Wait())
	if err == nil {
		r.CPU = a.cmd.ProcessState.UserTime() + a.cmd.ProcessState.SystemTime()
	}
	return r, err
}

// runAttackIfAsked is the attacker's process. It begins at the first line of its standard input and stops at the end of that.
func runAttackIfAsked() {
	text, asked := os.LookupEnv(attackOf)
	if !asked {
		return
	}
	var at target
	err := json.Unmarshal([]byte(text), &at)
	if err == nil {
		a := newAttacker(at)
		fmt.Fprintln(os.Stdout, "ready")
		input := bufio.NewReader(os.Stdin)
		if _, err := input.ReadString('\n'); err != nil {
			os.Exit(0) // it is not wanted any more
		}
		a.begin()
		_, _ = io.Copy(io.Discard, input)
		err = json.NewEncoder(os.Stdout).Encode(a.end())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "attack:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (a *attacker) strike(of func(*rand.Rand) blow, waits func(blow) bool) {
	for a.ctx.Err() == nil {
		a.mu.Lock()
		n := a.next
		a.next++
		a.mu.Unlock()
		b := of(rand.New(rand.NewPCG(a.Seed, n)))
		if waits(b) {
			a.rest(attackPause)
			continue
		}
		if b.make != nil { // not sooner: bodies that wait would cost the attacker's CPU and nobody else's
			b.body = b.make()
		}
		begun := time.Now()
		answer, after := a.send(b)
		if a.ctx.Err() != nil {
			return
		}
		a.mu.Lock()
		if a.heard.Answers[b.name] == nil {
			a.heard.Answers[b.name] = map[string]int{}
		}
		a.heard.Answers[b.name][answer]++
		a.heard.Bytes += len(b.body)
		if until := begun.Add(after); after > 0 && until.After(a.later[b.turn()]) {
			a.later[b.turn()] = until
		}
		a.mu.Unlock()
		a.rest(attackPause)
	}
}

func (a *attacker) rest(d time.Duration) {
	select {
	case <-time.After(d):
	case <-a.ctx.Done():
	}
}

func (a *attacker) waits(b blow) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Now().Before(a.later[b.turn()])
}

// tell says what the attacker heard, kind by kind.
func (r report) tell() string {
	sum, requests := map[string]int{}, 0
	var lines []string
	for name, answers := range r.Answers {
		var said []string
		for answer, n := range answers {
			said = append(said, fmt.Sprintf("%s: %d", answer, n))
			sum[answer] += n
			requests += n
		}
		slices.Sort(said)
		lines = append(lines, fmt.Sprintf("%-28s %s", name, strings.Join(said, ", ")))
	}
	slices.Sort(lines)
	return fmt.Sprintf("%d requests of %d kinds, %d MiB as sent; answers %v\n%s", requests, len(lines), r.Bytes/mib, sum, strings.Join(lines, "\n"))
}

// count is how many answers to requests of all kinds begin with a text.
func (r report) count(answer string) (n int) {
	for _, answers := range r.Answers {
		for said, of := range answers {
			if strings.HasPrefix(said, answer) {
				n += of
			}
		}
	}
	return n
}

// shaped makes a request of one of the shapes, by any protocol, coding and size.
func shaped(r *rand.Rand) blow {
	shapes := hostile.Shapes()
	s := shapes[r.IntN(len(shapes))]
	size := []int{4 << 10, 32 << 10, 256 << 10, mib, 8 * mib}[min(4, int(r.ExpFloat64()))] // nearly two thirds are small
	b := blow{name: s.Name, signal: s.Signal, kind: "application/x-protobuf"}
	if s.JSON {
		b.kind = "application/json"
	} else {
		b.grpc = r.IntN(3) == 0
	}
	b.coding = []string{"", "gzip", "zstd"}[r.IntN(3)]
	b.make = func() []byte { return packed(b.coding, s.Make(r, size, uint64(time.Now().UnixNano()))) }
	return b
}

// worst is a request that no gateway takes, one after the other.
func (a *attacker) worst(*rand.Rand) blow { return a.spoilt[int(a.sent.Add(1))%len(a.spoilt)] }

// dribble is a request that never comes whole.
func dribble(r *rand.Rand) blow {
	return blow{name: "slow", signal: signal.All[r.IntN(len(signal.All))], grpc: r.IntN(2) == 0, kind: "application/x-protobuf", slow: true, body: make([]byte, (1+r.IntN(8))*mib)}
}

// field is a length-delimited one of protobuf.
func field(n protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), v)
}

// spoiltBlows are what is over some limit, has no events, or is no OTLP at all.
func spoiltBlows() (out []blow) {
	r := rand.New(rand.NewPCG(1, 2))
	now := uint64(time.Now().UnixNano())
	noise := make([]byte, 256<<10)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	shape := map[string]hostile.Shape{}
	for _, s := range hostile.Shapes() {
		shape[s.Name] = s
	}
	made := func(name string, size int) []byte { return shape[name].Make(r, size, now) }
	logs := func(name, kind, coding string, body []byte) {
		body = packed(coding, body)
		out = append(out, blow{name: name, signal: signal.Logs, kind: kind, coding: coding, body: body})
		if kind == "application/x-protobuf" && (coding == "" || coding == "gzip" || coding == "zstd") {
			out = append(out, blow{name: name + ", gRPC", signal: signal.Logs, grpc: true, coding: coding, body: body})
		}
	}
	const pb, js = "application/x-protobuf", "application/json"
	whole := packed("gzip", made("histograms", 19*mib))
	damaged := whole[:len(whole)-8] // without its checksum: it shows when all is decompressed
	zeros := make([]byte, 65*mib)
	logs("bomb", pb, "gzip", zeros)
	logs("bomb", pb, "zstd", zeros)
	logs("bomb at the limit of size", pb, "zstd", zeros[:63*mib])
	logs("bomb below the limit of ratio", pb, "gzip", made("histograms", 19*mib))
	logs("bomb below the limit of ratio", pb, "zstd", made("exponential-histograms", 19*mib))
	logs("JSON bomb", js, "zstd", made("json-numbers", 32*mib))
	logs("JSON of brackets", js, "gzip", bytes.Repeat([]byte("["), mib))
	logs("JSON of objects", js, "zstd", made("json-empty-objects", 16*mib))
	logs("too many events", pb, "gzip", made("empty-events", 4*mib))
	logs("beyond the quota", pb, "zstd", made("tiny-events", 4*mib))
	logs("without events", pb, "gzip", made("empty-resources", 16*mib))
	logs("repetitive", pb, "zstd", repetitive(now))
	logs("one event of 8 MiB", pb, "", made("long-text", 8*mib))
	logs("at fault for the schema", pb, "zstd", faulty(now))
	logs("too deep", pb, "gzip", tooDeep())
	logs("noise", pb, "", noise)
	logs("cut short", pb, "", made("wide-resource", 256<<10)[:200<<10])
	logs("metrics for logs", pb, "", made("histograms", 256<<10))
	logs("HTML", "text/html", "", []byte("<html>"))
	logs("JSON for protobuf", pb, "", made("json-numbers", 64<<10))
	logs("protobuf for JSON", js, "", made("tiny-events", 64<<10))
	logs("empty", pb, "", nil)
	logs("empty", js, "gzip", nil)
	window := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 19 << 3, 1, 0, 0} // a frame of nothing, for which a window of 512 MiB is wanted
	legacy := []byte("[" + strings.Repeat("{},", 100_000) + "{}]")
	out = append(out,
		blow{name: "no gzip", signal: signal.Logs, kind: pb, coding: "gzip", body: noise},
		blow{name: "damaged at its end", signal: signal.Metrics, kind: pb, coding: "gzip", body: damaged},
		blow{name: "damaged at its end, gRPC", signal: signal.Metrics, grpc: true, coding: "gzip", body: damaged},
		blow{name: "no zstd", signal: signal.Traces, kind: pb, coding: "zstd", body: noise},
		blow{name: "a window of 512 MiB", signal: signal.Logs, kind: pb, coding: "zstd", body: window},
		blow{name: "a window of 512 MiB, gRPC", signal: signal.Logs, grpc: true, coding: "zstd", body: window},
		blow{name: "legacy events", signal: signal.Logs, kind: js, path: "/v1/events", coding: "gzip", body: packed("gzip", legacy)},
		blow{name: "no such path", signal: signal.Logs, kind: pb, path: "/v1/nothing", body: noise},
	)
	for i := range out {
		out[i].spoilt = true
	}
	return out
}

// repetitive is a request whose events share more than 512 times its bytes.
func repetitive(at uint64) []byte {
	resource := field(1, field(1, append(field(1, []byte("note")), field(2, field(1, bytes.Repeat([]byte("x"), 60<<10)))...)))
	record := field(2, protowire.AppendFixed64(protowire.AppendTag(nil, 1, protowire.Fixed64Type), at))
	return field(1, append(resource, field(2, bytes.Repeat(record, 40_000))...))
}

// faulty are log records each of which lacks what its schema requires.
func faulty(at uint64) []byte {
	record := append(protowire.AppendFixed64(protowire.AppendTag(nil, 1, protowire.Fixed64Type), at), field(12, []byte(agents.EventName))...)
	return field(1, field(2, bytes.Repeat(field(2, record), 20_000)))
}

func tooDeep() []byte {
	var v []byte
	for range 10_000 {
		v = field(5, field(1, v))
	}
	return field(1, field(2, field(2, field(5, v))))
}

func packed(coding string, b []byte) []byte {
	var out bytes.Buffer
	var w io.WriteCloser
	switch coding {
	case "gzip":
		w, _ = gzip.NewWriterLevel(&out, gzip.BestSpeed) // a level that there is
	case "zstd":
		w, _ = zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1)) // options that there are
	default:
		return b
	}
	_, _ = w.Write(b) // into memory
	_ = w.Close()
	return out.Bytes()
}

// send sends a blow and returns the answer, and how long it asks its sender to wait.
func (a *attacker) send(b blow) (answer string, after time.Duration) {
	ctx, cancel := context.WithTimeout(a.ctx, attackTimeout)
	defer cancel()
	url, client, body := "http://"+a.HTTP, a.client, b.body
	switch {
	case b.grpc:
		service := map[signal.Signal]string{signal.Logs: "logs.v1.Logs", signal.Metrics: "metrics.v1.Metrics", signal.Traces: "trace.v1.Trace"}[b.signal]
		url, client = "http://"+a.GRPC+"/opentelemetry.proto.collector."+service+"Service/Export", a.calls
		frame := make([]byte, 5, 5+len(body))
		if b.coding != "" {
			frame[0] = 1
		}
		binary.BigEndian.PutUint32(frame[1:], uint32(len(body)))
		body = append(frame, body...)
	case b.path != "":
		url += b.path
	default:
		url += "/v1/" + b.signal.String()
	}
	var reader io.Reader = bytes.NewReader(body)
	if b.slow {
		reader = &slowly{ctx: ctx, rest: body, fast: len(body) / 4 * 3}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, reader)
	if err != nil {
		return err.Error(), 0
	}
	req.ContentLength = int64(len(body))
	req.Header.Set("Authorization", "Bearer "+a.Key)
	if b.grpc {
		req.ContentLength = -1
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Te", "trailers")
		if b.coding != "" {
			req.Header.Set("Grpc-Encoding", b.coding)
		}
	} else {
		req.Header.Set("Content-Type", b.kind)
		if b.coding != "" {
			req.Header.Set("Content-Encoding", b.coding)
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		return "no answer", 0
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, mib))
	if err != nil {
		return "no answer", 0
	}
	if !b.grpc {
		after, _ := strconv.Atoi(resp.Header.Get("Retry-After")) // none: it is not asked to
		if resp.StatusCode == http.StatusOK && len(text) > 0 {
			return "200 in part", 0
		}
		return strconv.Itoa(resp.StatusCode), time.Duration(after) * time.Second
	}
	code := resp.Trailer.Get("Grpc-Status")
	if code == "" {
		resp.Trailer, code = resp.Header, resp.Header.Get("Grpc-Status")
	}
	return "gRPC " + code, retryInfo(resp.Trailer.Get("Grpc-Status-Details-Bin"))
}

// retryInfo is the time that a status of gRPC's trailers asks its sender to wait.
func retryInfo(details string) time.Duration {
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(details, "="))
	var said spb.Status
	if err != nil || proto.Unmarshal(b, &said) != nil {
		return 0
	}
	for _, d := range said.GetDetails() {
		if info := new(errdetails.RetryInfo); d.UnmarshalTo(info) == nil {
			return info.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

// slowly gives a body's first bytes at once, and of the rest a few bytes at a time.
type slowly struct {
	ctx  context.Context
	rest []byte
	fast int // bytes that come at once
}

func (s *slowly) Read(p []byte) (int, error) {
	most := s.fast
	if most == 0 {
		select {
		case <-time.After(dribblePause):
			most = 16
		case <-s.ctx.Done():
			return 0, s.ctx.Err()
		}
	} else if s.fast = max(0, s.fast-len(p)); len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.rest[:min(len(s.rest), most)])
	if s.rest = s.rest[n:]; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Scenario: a server that tells requests of each signal to come again in an hour, and refuses everything else.
// Guarantees: the attacker sends all that it has, by HTTP and by gRPC; of the shapes no more than was under way when it was asked to wait, of the rest more
// and more.
func TestAnAttackerWaitsWhereItIsToldToAndNowhereElse(t *testing.T) {
	var mu sync.Mutex
	sizes, calls := map[int64]int{}, 0
	serve := func(w http.ResponseWriter, q *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if q.ProtoMajor == 2 {
			calls++
		} else {
			sizes[q.ContentLength]++
		}
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusTooManyRequests)
	}
	srv := &http.Server{Handler: http.HandlerFunc(serve), Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	addr := l.Addr().String()
	a := newAttacker(target{HTTP: addr, GRPC: addr, Key: "key", Seed: 1})
	a.begin()
	kinds := map[string]bool{"slow": true}
	for _, b := range a.spoilt {
		kinds[b.name] = true
	}
	require.Eventually(t, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		seen := 0
		for kind := range kinds {
			for _, n := range a.heard.Answers[kind] {
				if n > 1 || kind == "slow" {
					seen++
				}
			}
		}
		return seen >= len(kinds) && len(a.later) > len(signal.All)
	}, 5*time.Minute, 10*time.Millisecond)
	heard := a.end()
	require.NoError(t, srv.Close())
	require.ErrorIs(t, <-ended, http.ErrServerClosed)
	for _, shape := range hostile.Shapes() {
		n := 0
		for _, of := range heard.Answers[shape.Name] {
			n += of
		}
		require.LessOrEqual(t, n, attackers, shape.Name)
	}
	mu.Lock() // a handler may outlive its server
	defer mu.Unlock()
	require.Positive(t, calls)
	require.Greater(t, len(sizes), len(kinds)/2)
}

func TestRetryInfoIsReadFromTrailers(t *testing.T) {
	info, err := anypb.New(&errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)})
	require.NoError(t, err)
	b, err := proto.Marshal(&spb.Status{Code: 8, Details: []*anypb.Any{info}})
	require.NoError(t, err)
	require.Equal(t, 1500*time.Millisecond, retryInfo(base64.StdEncoding.EncodeToString(b)))
	require.Equal(t, 1500*time.Millisecond, retryInfo(base64.RawStdEncoding.EncodeToString(b)))
	require.Zero(t, retryInfo(""))
	require.Zero(t, retryInfo("!"))
}

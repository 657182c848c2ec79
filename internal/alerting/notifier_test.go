package alerting

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/testkit/sigv4test"
)

// alertmanager takes alerts as Alertmanager's API v2 does, or refuses them.
type alertmanager struct {
	*httptest.Server
	mu       sync.Mutex
	status   int // of the next answers; 0: 200
	got      []Notice
	requests []*http.Request
	refused  func(Notice) bool
	signed   *sigv4test.Verifier // nil: signatures are not looked at
	unsigned []error             // why it refused requests that were not signed as it wants
}

func newAlertmanager(t *testing.T, secure bool) *alertmanager {
	a := &alertmanager{}
	handler := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil || req.Method != http.MethodPost || req.URL.Path != "/am/api/v2/alerts" || req.Header.Get("Content-Type") != "application/json" {
			http.Error(w, "no", http.StatusNotFound)
			return
		}
		var notices []Notice
		if json.Unmarshal(body, &notices) != nil {
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.requests = append(a.requests, req)
		if a.signed != nil {
			if err := a.signed.Verify(req, body); err != nil {
				a.unsigned = append(a.unsigned, err)
				http.Error(w, "forbidden", http.StatusForbidden)
				return
			}
		}
		if a.status != 0 {
			http.Error(w, "later", a.status)
			return
		}
		for _, n := range notices {
			if a.refused != nil && a.refused(n) {
				http.Error(w, "invalid label", http.StatusBadRequest)
				return
			}
		}
		a.got = append(a.got, notices...)
	})
	if secure {
		a.Server = httptest.NewTLSServer(handler)
	} else {
		a.Server = httptest.NewServer(handler)
	}
	t.Cleanup(a.Close)
	return a
}

func (a *alertmanager) set(status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status = status
}

func (a *alertmanager) taken() []Notice {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]Notice(nil), a.got...)
}

func (a *alertmanager) asked() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.requests)
}

// notifying delivers until the test ends.
func notifying(t *testing.T, auth Authentication, urls ...string) *Notifier {
	t.Helper()
	hc, err := auth.Client(t.Context())
	require.NoError(t, err)
	n, err := NewNotifier(urls, hc, zap.NewNop())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		hc.Transport.(*authenticated).next.(*http.Transport).CloseIdleConnections()
	})
	return n
}

func notice(service string, n int) Notice {
	return Notice{Labels: map[string]string{"alertname": "A", "service": service}, Annotations: map[string]string{"n": strconv.Itoa(n)}, StartsAt: at(0), EndsAt: at(n)}
}

const soon = time.Minute

// Scenario: of two Alertmanagers one is down for a while; meanwhile alerts change.
// Guarantees: the other gets everything at once; the first gets, when it is back, the newest of each alert, once.
func TestAnAlertmanagerThatIsDownGetsTheNewestLater(t *testing.T) {
	up, down := newAlertmanager(t, false), newAlertmanager(t, false)
	down.set(http.StatusServiceUnavailable)
	n := notifying(t, Authentication{}, up.URL+"/am", down.URL+"/am/")
	for i := range 3 {
		n.Notify([]Notice{notice("a", i)})
		require.Eventually(t, func() bool { return len(up.taken()) == i+1 }, soon, time.Millisecond)
	}
	n.Notify([]Notice{notice("b", 9)})
	require.Eventually(t, func() bool { return down.asked() > 1 }, soon, time.Millisecond, "it was asked to take the newest, too")
	require.Empty(t, down.taken())
	down.set(0)
	require.Eventually(t, func() bool { return len(down.taken()) == 2 }, soon, time.Millisecond)
	require.ElementsMatch(t, []Notice{notice("a", 2), notice("b", 9)}, down.taken())
	require.Eventually(t, func() bool { return served(t, n.Gather(t.Context()), "alerts_sent_total", outcomeTaken) == 6 }, soon, time.Millisecond)
	require.Greater(t, served(t, n.Gather(t.Context()), "alerts_send_failures_total", reasonStatus), 1.)
	require.Zero(t, served(t, n.Gather(t.Context()), "alerts_send_failures_total", reasonUnreachable))
	require.Zero(t, served(t, n.Gather(t.Context()), "alerts_waiting", ""))
}

// Scenario: an Alertmanager does not answer.
// Guarantees: whoever notifies does not wait, nor does another Alertmanager.
func TestASlowAlertmanagerHoldsUpNobody(t *testing.T) {
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(slow.Close)
	defer close(release)
	up := newAlertmanager(t, false)
	n := notifying(t, Authentication{}, slow.URL, up.URL+"/am")
	begun := time.Now()
	for i := range 1000 {
		n.Notify([]Notice{notice(strconv.Itoa(i), 1)})
	}
	require.Less(t, time.Since(begun), 5*time.Second)
	require.Eventually(t, func() bool { return len(up.taken()) == 1000 }, soon, time.Millisecond)
}

// Scenario: one alert of many is refused for what it is.
// Guarantees: the others are delivered, and it is not tried for ever.
func TestOneRefusedAlertDoesNotStopTheOthers(t *testing.T) {
	a := newAlertmanager(t, false)
	a.refused = func(n Notice) bool { return n.Labels["service"] == "bad" }
	n := notifying(t, Authentication{}, a.URL+"/am")
	n.Notify([]Notice{notice("a", 1), notice("bad", 1), notice("c", 1)})
	require.Eventually(t, func() bool { return len(a.taken()) == 2 }, soon, time.Millisecond)
	n.Notify([]Notice{notice("d", 1)})
	require.Eventually(t, func() bool { return len(a.taken()) == 3 }, soon, time.Millisecond)
	require.InDelta(t, 1, served(t, n.Gather(t.Context()), "alerts_sent_total", outcomeRefused), 0)
}

// Guarantees: what waits for an Alertmanager is bounded.
func TestWaitingAlertsAreBounded(t *testing.T) {
	n, err := NewNotifier([]string{"http://127.0.0.1:1"}, http.DefaultClient, zap.NewNop())
	require.NoError(t, err)
	for i := range pendingMost + 10 {
		n.Notify([]Notice{notice(strconv.Itoa(i), 1)})
	}
	require.Len(t, n.targets[0].pending, pendingMost)
	require.InDelta(t, pendingMost, served(t, n.Gather(t.Context()), "alerts_waiting", ""), 0)
	require.InDelta(t, 10, served(t, n.Gather(t.Context()), "alerts_sent_total", outcomeDropped), 0)
	for _, wrong := range []string{"", "127.0.0.1:9093", "ftp://a", "http://user:password@a"} {
		_, err := NewNotifier([]string{wrong}, http.DefaultClient, zap.NewNop())
		require.ErrorContains(t, err, "want http[s]://HOST:PORT")
	}
}

// Scenario: an Alertmanager of Amazon Managed Service for Prometheus, which verifies signatures by AWS' specification.
// Guarantees: it takes alerts, of several sizes, again and again; with another secret it takes none.
func TestAlertsAreSignedForAMP(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_SESSION_TOKEN", "session")
	a := newAlertmanager(t, false)
	a.mu.Lock()
	a.signed = &sigv4test.Verifier{Service: "aps", Region: "eu-central-1", Secrets: map[string]string{"AKIDEXAMPLE": "secret"}, Session: "session"}
	a.mu.Unlock()
	n := notifying(t, Authentication{SigV4Region: "eu-central-1"}, a.URL+"/am")
	sent := 0
	for _, size := range []int{1, 100, 3} {
		var notices []Notice
		for range size {
			notices = append(notices, notice(strconv.Itoa(sent), 1))
			sent++
		}
		n.Notify(notices)
		require.Eventually(t, func() bool { return len(a.taken()) == sent }, soon, time.Millisecond)
	}
	a.mu.Lock()
	require.Empty(t, a.unsigned)
	a.signed.Secrets = map[string]string{"AKIDEXAMPLE": "another"}
	a.mu.Unlock()
	require.Error(t, n.targets[0].deliver(t.Context(), []Notice{notice("x", 1)}))
	require.Len(t, a.taken(), sent)
}

// Guarantees: tokens and passwords are those that the files hold now; a certificate that no authority of the file signed is refused; requests for AMP are signed with SigV4 for `aps`.
func TestRequestsAreAuthenticated(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	last := func(a *alertmanager, n *Notifier) http.Header {
		t.Helper()
		before := a.asked()
		n.Notify([]Notice{notice("a", before)})
		require.Eventually(t, func() bool { return a.asked() > before }, soon, time.Millisecond)
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.requests[len(a.requests)-1].Header
	}
	secure := newAlertmanager(t, true)
	ca := file("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})))
	bearer := notifying(t, Authentication{BearerFile: file("token", "one\n"), CAFile: ca}, secure.URL+"/am")
	require.Equal(t, "Bearer one", last(secure, bearer).Get("Authorization"))
	file("token", "two\n")
	require.Equal(t, "Bearer two", last(secure, bearer).Get("Authorization"))

	before := secure.asked()
	stranger := notifying(t, Authentication{}, secure.URL+"/am")
	require.ErrorContains(t, stranger.targets[0].deliver(t.Context(), []Notice{notice("a", 1)}), "certificate")
	require.Equal(t, before, secure.asked())

	plain := newAlertmanager(t, false)
	basic := notifying(t, Authentication{BasicUser: "u", BasicPasswordFile: file("password", "p\n")}, plain.URL+"/am")
	require.Equal(t, "Basic dTpw", last(plain, basic).Get("Authorization"))

	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_SESSION_TOKEN", "session")
	header := last(plain, notifying(t, Authentication{SigV4Region: "eu-central-1"}, plain.URL+"/am"))
	require.Regexp(t, `^AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/\d{8}/eu-central-1/aps/aws4_request, SignedHeaders=.*host.*, Signature=[0-9a-f]{64}$`, header.Get("Authorization"))
	require.Equal(t, "session", header.Get("X-Amz-Security-Token"))
	require.NotEmpty(t, plain.taken(), "the body arrived whole")

	for _, wrong := range []Authentication{{BearerFile: "a", SigV4Region: "b"}, {BasicUser: "a"}, {CertFile: "a"}, {CAFile: file("empty", "")}, {CAFile: filepath.Join(dir, "none")}} {
		_, err := wrong.Client(t.Context())
		require.Error(t, err, wrong)
	}
	_, err := ReadSecret(file("blank", " \n"))
	require.ErrorContains(t, err, "want a secret")
	require.False(t, strings.Contains(err.Error(), "two"))
}

package route53

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pulsegrid/pulsegrid/internal/testkit/freeport"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(leaktest.Patient(m)) }

const patience = time.Minute

var (
	frankfurt = netip.MustParsePrefix("192.0.2.0/24")
	virginia  = netip.MustParsePrefix("198.51.100.0/24")
	latencies = map[netip.Prefix]map[string]time.Duration{
		frankfurt: {"eu-central-1": 5 * time.Millisecond, "eu-west-1": 25 * time.Millisecond, "us-east-1": 90 * time.Millisecond},
		virginia:  {"eu-central-1": 90 * time.Millisecond, "eu-west-1": 70 * time.Millisecond, "us-east-1": 5 * time.Millisecond},
	}
	regions = []string{"eu-central-1", "eu-west-1", "us-east-1"}
)

// cells are three endpoints whose health can be changed, and a server that leads to them.
type cells struct {
	*Server
	healthy map[string]*atomic.Bool // by region
}

func address(region int) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 1, byte(region + 1)}) }

func start(t *testing.T) cells {
	t.Helper()
	c := cells{healthy: map[string]*atomic.Bool{}}
	listen, err := freeport.Addr()
	require.NoError(t, err)
	o := Options{Listen: listen, Zone: "example.com", Interval: 20 * time.Millisecond, Threshold: 3, Latencies: latencies}
	for i, region := range regions {
		up := new(atomic.Bool)
		up.Store(true)
		c.healthy[region] = up
		endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if !up.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}))
		t.Cleanup(endpoint.Close)
		for _, name := range []string{"ingest.example.com", "eu.ingest.example.com"} {
			if strings.HasPrefix(name, "eu.") && !strings.HasPrefix(region, "eu-") {
				continue
			}
			o.Records = append(o.Records, Record{Name: name, Set: region, Region: region, Address: address(i), TTL: time.Second, Check: endpoint.URL})
		}
	}
	c.Server, err = Start(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// ask asks anew, as a sender of a network.
func (c cells) ask(t *testing.T, place netip.Prefix, host string) netip.Addr {
	t.Helper()
	a, err := NewResolver(c.Addr(), place).Lookup(t.Context(), host)
	require.NoError(t, err)
	return a
}

func (c cells) leadsTo(t *testing.T, place netip.Prefix, host string, region int) {
	t.Helper()
	require.Eventually(t, func() bool { return c.ask(t, place, host) == address(region) }, patience, 5*time.Millisecond, "%s for %v: %s", host, place, regions[region])
}

// Guarantees: senders are led to the nearest cell that is healthy, and back; a name of a jurisdiction never leads elsewhere, not even when no cell of it is healthy.
func TestSendersAreLedToTheNearestHealthyCellOfTheName(t *testing.T) {
	c := start(t)
	c.leadsTo(t, frankfurt, "ingest.example.com", 0)
	c.leadsTo(t, virginia, "ingest.example.com", 2)
	c.leadsTo(t, virginia, "eu.ingest.example.com", 1)
	c.healthy["eu-central-1"].Store(false)
	c.leadsTo(t, frankfurt, "ingest.example.com", 1)
	c.leadsTo(t, frankfurt, "eu.ingest.example.com", 1)
	c.healthy["eu-west-1"].Store(false)
	c.leadsTo(t, frankfurt, "ingest.example.com", 2)
	c.leadsTo(t, frankfurt, "eu.ingest.example.com", 0)
	c.healthy["us-east-1"].Store(false)
	c.leadsTo(t, frankfurt, "ingest.example.com", 0)
	for _, up := range c.healthy {
		up.Store(true)
	}
	c.leadsTo(t, frankfurt, "eu.ingest.example.com", 0)
	c.leadsTo(t, virginia, "ingest.example.com", 2)
}

// Guarantees: with every combination of healthy cells, a name of the EU leads to a cell of the EU.
func TestANameOfAJurisdictionLeadsNowhereElse(t *testing.T) {
	c := start(t)
	for up := range 1 << len(regions) {
		for i, region := range regions {
			c.healthy[region].Store(up&(1<<i) != 0)
		}
		require.Eventually(t, func() bool {
			for _, r := range c.opts.Records {
				if c.Healthy(r.Check) != c.healthy[r.Region].Load() {
					return false
				}
			}
			return true
		}, patience, 5*time.Millisecond)
		for _, place := range []netip.Prefix{frankfurt, virginia} {
			require.NotEqual(t, address(2), c.ask(t, place, "eu.ingest.example.com"))
		}
	}
}

// Guarantees: one bad answer is not enough.
func TestACheckChangesItsMindAfterTheThreshold(t *testing.T) {
	asked, bad := new(atomic.Int64), new(atomic.Int64)
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1)%3 != 0 { // two of three looks of a checker, never three in a row over all
			bad.Add(1)
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer endpoint.Close()
	c := &check{url: endpoint.URL, threshold: 3, client: http.DefaultClient}
	defer http.DefaultClient.CloseIdleConnections()
	c.good[0].Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	c.looking.Go(func() { c.look(ctx, 0, time.Millisecond) })
	require.Eventually(t, func() bool { return bad.Load() > 30 }, patience, time.Millisecond)
	require.True(t, c.good[0].Load())
	cancel()
	c.looking.Wait()
}

// Guarantees: what a resolver was told holds for the TTL, and no longer.
func TestAnswersAreKeptForTheirTTL(t *testing.T) {
	c := start(t)
	r := NewResolver(c.Addr(), frankfurt)
	asked := time.Now()
	a, err := r.Lookup(t.Context(), "ingest.example.com")
	require.NoError(t, err)
	require.Equal(t, address(0), a)
	c.healthy["eu-central-1"].Store(false)
	c.leadsTo(t, frankfurt, "ingest.example.com", 1) // another resolver
	again, err := r.Lookup(t.Context(), "ingest.example.com")
	require.NoError(t, err)
	if time.Since(asked) < time.Second {
		require.Equal(t, address(0), again)
	}
	require.Eventually(t, func() bool {
		a, err := r.Lookup(t.Context(), "ingest.example.com")
		return err == nil && a == address(1)
	}, patience, 10*time.Millisecond)
}

// Guarantees: a resolver that shares no code with the server understands it, over UDP and TCP.
func TestGosOwnResolverUnderstandsIt(t *testing.T) {
	c := start(t)
	for _, network := range []string{"udp", "tcp"} {
		r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, c.Addr())
		}}
		got, err := r.LookupHost(t.Context(), "ingest.example.com.")
		require.NoError(t, err, network)
		require.Equal(t, []string{address(0).String()}, got)
		_, err = r.LookupHost(t.Context(), "nobody.example.com.")
		var wrong *net.DNSError
		require.ErrorAs(t, err, &wrong)
		require.True(t, wrong.IsNotFound)
		_, err = r.LookupHost(t.Context(), "example.org.")
		require.Error(t, err)
	}
	_, err := NewResolver(c.Addr(), frankfurt).Lookup(t.Context(), "nobody.example.com")
	require.ErrorIs(t, err, ErrNoAddress)
}

func TestARecordThatCannotBeServedIsRefused(t *testing.T) {
	for _, r := range []Record{
		{Name: "ingest.example.org", Address: address(0), TTL: time.Second},
		{Name: "ingest.example.com", Address: netip.MustParseAddr("::1"), TTL: time.Second},
		{Name: "ingest.example.com", Address: address(0)},
	} {
		_, err := Start(Options{Listen: "127.0.0.1:0", Zone: "example.com", Records: []Record{r}})
		require.Error(t, err)
	}
}

package localhttp_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/localhttp"
)

func TestPagesOfOtherOriginsAreRefusedAndProgramsAreNot(t *testing.T) {
	for name, c := range map[string]struct {
		host    string
		headers http.Header
		refused string // empty: it is not
	}{
		"a program":                    {"127.0.0.1:8123", nil, ""},
		"a program, by name":           {"LocalHost:8123", nil, ""},
		"IPv6":                         {"[::1]:8123", nil, ""},
		"IPv6 without a port":          {"[::1]", nil, ""},
		"no port":                      {"127.0.0.1", nil, ""},
		"no host":                      {"", nil, ""},
		"another machine's address":    {"192.0.2.7:8123", nil, ""},
		"the server's own page":        {"127.0.0.1:8123", http.Header{"Origin": {"http://127.0.0.1:8123"}, "Sec-Fetch-Site": {"same-origin"}}, ""},
		"typed by the user":            {"127.0.0.1:8123", http.Header{"Sec-Fetch-Site": {"none"}}, ""},
		"rebound":                      {"rebound.example:8123", nil, "rebound.example"},
		"rebound, of its own origin":   {"rebound.example:8123", http.Header{"Origin": {"http://rebound.example:8123"}}, "rebound.example"},
		"a name that begins alike":     {"127.0.0.1.example", nil, "127.0.0.1.example"},
		"a name that ends alike":       {"notlocalhost", nil, "notlocalhost"},
		"a foreign page":               {"127.0.0.1:8123", http.Header{"Origin": {"https://evil.example"}}, "evil.example"},
		"a sandboxed page":             {"127.0.0.1:8123", http.Header{"Origin": {"null"}}, "null"},
		"a page of another local port": {"127.0.0.1:8123", http.Header{"Origin": {"http://127.0.0.1:3000"}}, "3000"},
		"two origins":                  {"127.0.0.1:8123", http.Header{"Origin": {"http://127.0.0.1:8123", "https://evil.example"}}, "evil.example"},
		"an empty origin":              {"127.0.0.1:8123", http.Header{"Origin": {""}}, "origin"},
		"no URL for an origin":         {"127.0.0.1:8123", http.Header{"Origin": {"http://[::1"}}, "origin"},
		"an image of a foreign page":   {"127.0.0.1:8123", http.Header{"Sec-Fetch-Site": {"cross-site"}}, "cross-site"},
		"a neighbouring domain's page": {"127.0.0.1:8123", http.Header{"Sec-Fetch-Site": {"same-site"}}, "same-site"},
	} {
		t.Run(name, func(t *testing.T) {
			req := httptest.NewRequest(http.MethodGet, "/?query=SELECT+1", http.NoBody)
			req.Host, req.Header = c.host, c.headers
			err := localhttp.Policy{}.Check(req)
			if c.refused == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.refused)
		})
	}
}

func TestWhatAPolicyNamesIsServed(t *testing.T) {
	p := localhttp.Policy{Names: []string{"laptop"}, Origin: func(req *http.Request) bool { return req.Header.Get("Origin") == "http://localhost:3000" }}
	check := func(host string, origins ...string) error {
		req := httptest.NewRequest(http.MethodPost, "/", http.NoBody)
		req.Host, req.Header = host, http.Header{"Origin": origins, "Sec-Fetch-Site": {"cross-site"}}
		return p.Check(req)
	}
	require.NoError(t, check("Laptop:4318", "http://localhost:3000"))
	require.NoError(t, check("127.0.0.1:4318", "http://localhost:3000"))
	require.ErrorContains(t, check("laptop.example:4318", "http://localhost:3000"), `host "laptop.example:4318" is no known name of this machine: want an IP address or one of ["localhost" "laptop"]`)
	require.ErrorContains(t, check("laptop:4318", "http://localhost:3001"), "3001")
	require.ErrorContains(t, check("laptop:4318", "http://localhost:3000", "https://evil.example"), "pages of other origins are not served")
}

package rig

import (
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Scenario: clients that leave as soon as they have the answer, which has a body or none.
// Guarantees: each answer that a client has is counted, however fast the client is gone.
func TestTheFrontCountsEachAnswerThatAClientHas(t *testing.T) {
	for name, body := range map[string]string{"no body": "", "a body": "{}"} {
		t.Run(name, func(t *testing.T) {
			gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, err := io.WriteString(w, body)
				require.NoError(t, err)
			}))
			defer gateway.Close()
			f := NewFront([]string{strings.TrimPrefix(gateway.URL, "http://")}, nil, regexp.MustCompile(`marker (\d+)`))
			defer f.Close()
			const n = 300
			for range n {
				client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
				resp, err := client.Post(f.URL()+"/v1/logs", "application/x-protobuf", strings.NewReader("marker 7"))
				require.NoError(t, err)
				_, err = io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
			}
			good, failed := f.Counts()
			kind := Request{Protocol: "http_protobuf", Signal: "logs"}
			require.Equal(t, []int{n, 0}, []int{good[kind], failed[kind]})
			require.True(t, f.Acknowledged()["7"])
		})
	}
}

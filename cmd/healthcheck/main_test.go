package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOnly200IsWell(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	defer server.Close()
	require.NoError(t, run([]string{server.URL}, ""))
	require.NoError(t, run(nil, server.Listener.Addr().String()))
	status = http.StatusServiceUnavailable
	require.ErrorContains(t, run([]string{server.URL}, ""), "503")
	status = http.StatusNoContent
	require.ErrorContains(t, run([]string{server.URL}, ""), "204")
	server.Close()
	require.ErrorContains(t, run([]string{server.URL}, ""), "refused")
}

func TestAProgramThatDoesNotAnswerIsNotWaitedFor(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close() // it accepts, and says nothing
	begun := time.Now()
	require.ErrorContains(t, run([]string{"-timeout", "50ms", "http://" + l.Addr().String()}, ""), "Timeout")
	require.Less(t, time.Since(begun), time.Minute)
}

func TestWhereAProgramListensIsWhereItIsAsked(t *testing.T) {
	for endpoint, url := range map[string]string{
		"": "http://127.0.0.1:13133/", "0.0.0.0:1": "http://127.0.0.1:1/", ":1": "http://127.0.0.1:1/", "[::]:1": "http://[::1]:1/",
		"10.1.2.3:1": "http://10.1.2.3:1/", "localhost:1": "http://localhost:1/",
	} {
		got, err := defaultURL(endpoint)
		require.NoError(t, err)
		require.Equal(t, url, got, endpoint)
	}
	_, err := defaultURL("13133")
	require.ErrorContains(t, err, endpointVariable)
	require.Error(t, run([]string{"a", "b"}, ""))
}

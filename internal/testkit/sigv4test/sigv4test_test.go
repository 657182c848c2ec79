package sigv4test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Guarantees: AWS' own published example is taken (the secret, the request and the signature of its documentation), and each change of it is refused.
func TestAWSExample(t *testing.T) {
	at := time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)
	v := Verifier{
		Service: "iam", Region: "us-east-1", Now: func() time.Time { return at.Add(time.Minute) },
		Secrets: map[string]string{"AKIDEXAMPLE": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"},
	}
	request := func() *http.Request {
		req := httptest.NewRequest(http.MethodGet, "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08", nil)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		req.Header.Set("X-Amz-Date", "20150830T123600Z")
		req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, SignedHeaders=content-type;host;x-amz-date, "+
			"Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7")
		return req
	}
	require.NoError(t, v.Verify(request(), nil))
	for name, change := range map[string]func(*http.Request){
		"another query":     func(r *http.Request) { r.URL.RawQuery = "Action=ListUsers&Version=2010-05-09" },
		"another path":      func(r *http.Request) { r.URL.Path = "/x" },
		"another method":    func(r *http.Request) { r.Method = http.MethodPut },
		"another host":      func(r *http.Request) { r.Host = "other.amazonaws.com" },
		"a header unsigned": func(r *http.Request) { r.Header.Set("X-Amz-Meta", "a") },
		"another type":      func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") },
		"a session":         func(r *http.Request) { r.Header.Set("X-Amz-Security-Token", "a") },
		"nothing":           func(r *http.Request) { r.Header.Del("Authorization") },
	} {
		req := request()
		change(req)
		require.Error(t, v.Verify(req, nil), name)
	}
	require.Error(t, v.Verify(request(), []byte("a body")))
	late := v
	late.Now = func() time.Time { return at.Add(time.Hour) }
	require.ErrorContains(t, late.Verify(request(), nil), "ago")
	elsewhere := v
	elsewhere.Region = "eu-central-1"
	require.Error(t, elsewhere.Verify(request(), nil))
	wrong := v
	wrong.Secrets = map[string]string{"AKIDEXAMPLE": "another"}
	require.ErrorContains(t, wrong.Verify(request(), nil), "signature")
}

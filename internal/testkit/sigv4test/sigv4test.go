// Package sigv4test verifies AWS' Signature Version 4 of a request, as an AWS service would: by AWS' specification, with no code of AWS' SDK.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
package sigv4test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Verifier is a service in a region.
type Verifier struct {
	Service, Region string
	Secrets         map[string]string // secret access keys by access key id
	Session         string            // the session token that requests must show and sign; empty: none
	Now             func() time.Time  // nil: time.Now
}

const (
	algorithm = "AWS4-HMAC-SHA256"
	skew      = 5 * time.Minute // as AWS allows
)

var authorization = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, ?SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})$`)

// Verify says why the service would refuse the request, whose body has been read; nil: it is signed.
func (v Verifier) Verify(req *http.Request, body []byte) error {
	m := authorization.FindStringSubmatch(req.Header.Get("Authorization"))
	if m == nil {
		return fmt.Errorf("authorization %q", req.Header.Get("Authorization"))
	}
	id, day, region, service, signed, signature := m[1], m[2], m[3], m[4], strings.Split(m[5], ";"), m[6]
	secret, known := v.Secrets[id]
	if !known || region != v.Region || service != v.Service {
		return fmt.Errorf("credential %s of %s in %s, want one that is known, of %s in %s", id, service, region, v.Service, v.Region)
	}
	date := req.Header.Get("X-Amz-Date")
	at, err := time.Parse("20060102T150405Z", date)
	if err != nil || !strings.HasPrefix(date, day) {
		return fmt.Errorf("X-Amz-Date %q, of a credential of %s", date, day)
	}
	now := time.Now
	if v.Now != nil {
		now = v.Now
	}
	if apart := now().Sub(at); apart > skew || apart < -skew {
		return fmt.Errorf("signed %v ago", apart)
	}
	if !slices.IsSorted(signed) || !slices.Contains(signed, "host") {
		return fmt.Errorf("signed headers %q", signed)
	}
	for name := range req.Header { // AWS wants all of its own headers signed
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-amz-") && !slices.Contains(signed, lower) {
			return fmt.Errorf("header %s is not signed", name)
		}
	}
	if req.Header.Get("X-Amz-Security-Token") != v.Session {
		return errors.New("another session token")
	}
	sum := sha256.Sum256(body)
	if sent := req.Header.Get("X-Amz-Content-Sha256"); sent != "" && sent != hex.EncodeToString(sum[:]) {
		return errors.New("X-Amz-Content-Sha256 is not that of the body")
	}
	canonical := sha256.Sum256([]byte(canonicalRequest(req, signed, hex.EncodeToString(sum[:]))))
	scope := strings.Join([]string{day, region, service, "aws4_request"}, "/")
	toSign := strings.Join([]string{algorithm, date, scope, hex.EncodeToString(canonical[:])}, "\n")
	key := []byte("AWS4" + secret)
	for _, part := range []string{day, region, service, "aws4_request"} {
		key = mac(key, part)
	}
	if want := hex.EncodeToString(mac(key, toSign)); !hmac.Equal([]byte(want), []byte(signature)) {
		return errors.New("the signature is another one")
	}
	return nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// canonicalRequest is that of any service but S3, which encodes the path once only.
func canonicalRequest(req *http.Request, signed []string, bodyHash string) string {
	path := req.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	var segments []string
	for s := range strings.SplitSeq(path, "/") {
		segments = append(segments, encode(s))
	}
	var query []string
	for name, values := range req.URL.Query() {
		for _, value := range values {
			query = append(query, encode(name)+"="+encode(value))
		}
	}
	slices.Sort(query)
	var headers strings.Builder
	for _, name := range signed {
		values := slices.Clone(req.Header.Values(name))
		switch name {
		case "host":
			values = []string{req.Host}
		case "content-length":
			values = []string{fmt.Sprint(req.ContentLength)}
		}
		for i, value := range values {
			values[i] = strings.Join(strings.Fields(value), " ")
		}
		headers.WriteString(name + ":" + strings.Join(values, ",") + "\n")
	}
	return strings.Join([]string{req.Method, strings.Join(segments, "/"), strings.Join(query, "&"), headers.String(), strings.Join(signed, ";"), bodyHash}, "\n")
}

// encode is RFC 3986's, with spaces as %20.
func encode(s string) string {
	return strings.NewReplacer("+", "%20", "%7E", "~").Replace(url.QueryEscape(s))
}

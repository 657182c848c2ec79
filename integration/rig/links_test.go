package rig

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/testkit/s3test"
)

// echo answers what it is sent.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	return l.Addr().String()
}

func connect(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// ask sends a byte and waits for it to come back.
func ask(c net.Conn, wait time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	if _, err := c.Write([]byte{1}); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

func TestLinksHurtAndHeal(t *testing.T) {
	const patience = 20 * time.Second
	links := newLinks()
	t.Cleanup(links.close)
	l, err := links.open("a0-b1", echo(t))
	require.NoError(t, err)
	require.Equal(t, []*Link{l}, links.Matching("a", "b"))
	require.Empty(t, links.Matching("b", ""))
	require.NoError(t, ask(connect(t, l.Addr), patience))

	open := connect(t, l.Addr)
	require.NoError(t, ask(open, patience))
	l.Refuse()
	require.Error(t, ask(open, patience))
	_, err = net.Dial("tcp", l.Addr)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.NoError(t, links.Heal())
	open = connect(t, l.Addr)
	require.NoError(t, ask(open, patience))

	for name, hurt := range map[string]func() error{"swallow": l.Swallow, "swallow answers": l.SwallowAnswers} {
		require.NoError(t, hurt(), name)
		require.ErrorIs(t, ask(open, 200*time.Millisecond), os.ErrDeadlineExceeded, name)
		require.ErrorIs(t, ask(connect(t, l.Addr), 200*time.Millisecond), os.ErrDeadlineExceeded, "%s: a new connection", name)
		require.NoError(t, links.Heal(), name)
		require.Error(t, ask(open, patience), "%s: bytes are missing in it", name)
		open = connect(t, l.Addr)
		require.NoError(t, ask(open, patience), name)
	}

	require.NoError(t, l.Delay(400*time.Millisecond))
	began := time.Now()
	require.NoError(t, ask(open, patience))
	require.Greater(t, time.Since(began), 300*time.Millisecond)
	require.NoError(t, links.Heal())

	require.NoError(t, l.ResetShare(1))
	require.NoError(t, l.ResetShare(1), "again and again")
	require.Error(t, ask(connect(t, l.Addr), patience))
	require.NoError(t, l.ResetShare(0))
	require.NoError(t, ask(connect(t, l.Addr), patience))
}

func TestObjectStoreFailsAsS3Does(t *testing.T) {
	o, err := startObjectStore(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { _ = o.close() })
	client := s3.New(s3.Options{
		BaseEndpoint: aws.String("http://" + o.front.Addr().String()), Region: s3test.Region, UsePathStyle: true, Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider(s3test.AccessKey, s3test.SecretKey, ""), HTTPClient: &http.Client{},
	})
	put := func(key string, wait time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		_, err := client.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String(key), Body: strings.NewReader("text")})
		return err
	}
	there := func(key string) bool {
		_, err := os.Stat(o.Dir + "/" + bucket + "/" + key)
		return err == nil
	}
	const patience = 30 * time.Second
	require.NoError(t, put("first", patience))
	require.True(t, there("first"))
	for _, c := range []struct {
		how  Misbehaviour
		wait time.Duration
		code string // empty: no answer
		done bool
	}{
		{InternalError, patience, "InternalError", false},
		{SlowDown, patience, "SlowDown", false},
		{DoesButErrs, patience, "InternalError", true},
		{NeverAnswers, 5 * time.Second, "", true}, // until the client gives up: by then the request must have come
		{AnswersNothing, 5 * time.Second, "", false},
	} {
		key := "object-" + string(rune('a'+c.how))
		o.Misbehave(c.how, 1, true)
		err := put(key, c.wait)
		require.Error(t, err)
		if api := smithy.APIError(nil); errors.As(err, &api) {
			require.Equal(t, c.code, api.ErrorCode())
		} else {
			require.Empty(t, c.code, "%v", err)
		}
		if c.done { // also when the client has given up
			require.Eventually(t, func() bool { return there(key) }, patience, 10*time.Millisecond, key)
		} else {
			require.False(t, there(key), key)
		}
		_, err = client.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String(bucket), Key: aws.String("first")})
		require.NoError(t, err, "reads are left alone")
		require.EqualValues(t, 1, o.Behave())
	}
	o.Misbehave(InternalError, 0.25, false)
	failed := 0
	for range 40 {
		if put("many", patience) != nil {
			failed++
		}
	}
	require.Equal(t, 10, failed, "a share is evenly spread")
}

func TestDisksFillToTheLastByte(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not root: no disk can be mounted, and no fault needs one here")
		return
	}
	d, err := newDisk(t.TempDir(), 1<<20)
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.close() })
	require.NoError(t, d.Fill())
	require.ErrorIs(t, os.WriteFile(d.Dir+"/more", []byte("x"), 0o600), syscall.ENOSPC)
	require.NoError(t, d.Free())
	require.NoError(t, os.WriteFile(d.Dir+"/more", []byte("x"), 0o600))
}

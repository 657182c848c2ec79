package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
)

// transport is how requests reach a gateway.
type transport string

const (
	httpZstd transport = "OTLP/HTTP zstd"
	grpcGzip transport = "OTLP/gRPC gzip"
)

// compressAll compresses every request as its transport wants it. Senders send ready bytes, so that their own work stays small.
func compressAll(t transport, requests [][]byte) ([][]byte, error) {
	out := make([][]byte, len(requests))
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return nil, err
	}
	for i, r := range requests {
		if t == httpZstd {
			out[i] = enc.EncodeAll(r, nil)
			continue
		}
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := w.Write(r); err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
		out[i] = b.Bytes()
	}
	return out, nil
}

// sender sends one ready request and returns when it is acknowledged.
type sender func(ctx context.Context, body []byte) error

// newSender makes one that shows API keys in turn, or none.
func newSender(t transport, httpAddr, grpcAddr string, keys []string) (sender, func(), error) {
	var sent atomic.Uint64
	key := func() string {
		if len(keys) == 0 {
			return ""
		}
		return keys[sent.Add(1)%uint64(len(keys))]
	}
	if t == httpZstd {
		tr := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
		cl := &http.Client{Transport: tr}
		return func(ctx context.Context, body []byte) error {
			return post(ctx, cl, "http://"+httpAddr+"/v1/logs", key(), body)
		}, tr.CloseIdleConnections, nil
	}
	conn, err := grpc.NewClient(grpcAddr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.UseCompressor("gzip")))
	if err != nil {
		return nil, nil, err
	}
	send := func(ctx context.Context, body []byte) error {
		if key := key(); key != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "x-api-key", key)
		}
		var reply []byte
		return conn.Invoke(ctx, "/opentelemetry.proto.collector.logs.v1.LogsService/Export", &body, &reply)
	}
	return send, func() { _ = conn.Close() }, nil
}

func post(ctx context.Context, cl *http.Client, url, key string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("Content-Encoding", "zstd")
	if key != "" {
		req.Header.Set("X-Api-Key", key)
	}
	resp, err := cl.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %s", resp.StatusCode, answer)
	}
	return nil
}

// rawCodec passes bytes through, and readyGzip says that they are gzip already.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func (rawCodec) Name() string { return "proto" }

type readyGzip struct{}

func (readyGzip) Name() string                                 { return "gzip" }
func (readyGzip) Compress(w io.Writer) (io.WriteCloser, error) { return nopCloser{w}, nil }
func (readyGzip) Decompress(r io.Reader) (io.Reader, error)    { return gzip.NewReader(r) }

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func init() { encoding.RegisterCompressor(readyGzip{}) }

// drive sends bodies in turn from several senders for a while and returns how many requests were acknowledged.
func drive(ctx context.Context, send sender, bodies [][]byte, senders int, d time.Duration) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, d+30*time.Second)
	defer cancel()
	end := time.Now().Add(d)
	var acked, next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, senders)
	for range senders {
		wg.Go(func() {
			for time.Now().Before(end) {
				i := next.Add(1)
				if err := send(ctx, bodies[int(i)%len(bodies)]); err != nil {
					errs <- err
					return
				}
				acked.Add(1)
			}
		})
	}
	wg.Wait()
	close(errs)
	return acked.Load(), <-errs
}

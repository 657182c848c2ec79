package icebergexporter

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/testkit/s3test"
)

// storeFault answers a request of an object store wrongly; pass does what was asked.
type storeFault func(w http.ResponseWriter, r *http.Request, pass http.Handler)

var storeFaults = map[string]storeFault{
	"500":           func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { s3Error(w, 500, "InternalError") },
	"503 slow down": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { s3Error(w, 503, "SlowDown") },
	"no answer though the work is done": func(_ http.ResponseWriter, r *http.Request, pass http.Handler) {
		pass.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler) // the connection is cut
	},
	"refused":   func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) },
	"forbidden": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { s3Error(w, 403, "AccessDenied") },
}

func s3Error(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	_, _ = w.Write([]byte("<Error><Code>" + code + "</Code></Error>"))
}

// proxied is an object store behind a proxy that answers a share of the requests wrongly while faulting is set.
func proxied(t *testing.T, server *s3test.Server, random *rand.Rand, fault storeFault, faulting *atomic.Bool) string {
	t.Helper()
	target, err := url.Parse(server.Endpoint)
	require.NoError(t, err)
	pass := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // it is signed
	}}
	var mu sync.Mutex
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		hit := faulting.Load() && random.IntN(6) == 0
		mu.Unlock()
		if hit {
			fault(w, r, pass)
			return
		}
		pass.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	return proxy.URL
}

// redeliver delivers a block as a receiver does: until it is acknowledged.
func (h *harness) redeliver(part int32, first, last int64) error {
	for deadline := time.Now().Add(5 * time.Minute); ; {
		err := h.deliver(part, first, last, first)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		if resume, ok := errors.AsType[*block.ResumeError](err); ok {
			return resume // nothing was restored here
		}
	}
}

func TestAnObjectStoreThatAnswersWronglyLosesAndDoublesNothing(t *testing.T) {
	for name, fault := range storeFaults {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of it is the S3 client's own waiting between tries
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			server := s3test.Start(t)
			var faulting atomic.Bool
			cfg := lake(t)
			cfg.Catalog.Warehouse = "s3://" + server.CreateBucket("lake") + "/tables"
			cfg.S3 = S3Config{
				Endpoint: proxied(t, server, rand.New(rand.NewPCG(seed, 0)), fault, &faulting), Region: s3test.Region,
				AccessKeyID: s3test.AccessKey, SecretAccessKey: s3test.SecretKey, PathStyle: true,
			}
			cfg.Commit.MaxAttempts, cfg.Commit.Timeout = 2, 20*time.Second // what is given up is delivered again
			writers := []*harness{start(t, cfg, columns.Logs), start(t, other(cfg), columns.Logs)}
			const blocks = 3
			var g errgroup.Group
			var want []string
			for i, h := range writers {
				require.NoError(t, h.redeliver(int32(i), 0, 9))
				want = slices.Concat(want, bodies(int32(i), 0, (blocks+1)*10-1))
			}
			faulting.Store(true)
			for i, h := range writers {
				g.Go(func() error {
					for n := int64(1); n <= blocks; n++ {
						if err := h.redeliver(int32(i), n*10, n*10+9); err != nil {
							return err
						}
					}
					return nil
				})
			}
			require.NoError(t, g.Wait())
			faulting.Store(false)
			require.Equal(t, sorted(want), stored(t, cfg, "logs", "body"))
			var ledgered []entry
			for part := range int32(len(writers)) {
				for n := range int64(blocks + 1) {
					ledgered = append(ledgered, wantEntry(part, n*10, n*10+9))
				}
			}
			require.Equal(t, ledgered, entries(t, cfg, topic))
			failed := int64(0)
			for _, h := range writers {
				failed += h.metric("iceberg_commit_attempts") - h.metric("iceberg_commits")
			}
			t.Logf("%d attempts failed", failed)
		})
	}
}

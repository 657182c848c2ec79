package clickhouseexporter

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// servers are the ClickHouse servers that have answered. One that was started since may have been restored from a backup, without a
// failed request: while it was away nothing may have been sent.
type servers struct {
	mu     sync.Mutex
	dialed uint64             // connections that had been made at the last question
	starts map[string][]int64 // of each server, Unix seconds
	news   atomic.Uint64      // counts servers after the first
}

// startJitter is how far two readings of a server's start may be apart: clock and uptime tick in seconds.
const startJitter = 1

// recognise counts as trouble when a server answers that was not there before. It asks only after a new connection was made.
func (e *chExporter) recognise(ctx context.Context) error {
	s := &e.servers
	s.mu.Lock()
	defer s.mu.Unlock()
	dialed := e.client.dialed.Load()
	if s.starts != nil && s.dialed == dialed {
		return nil
	}
	found, err := row[struct {
		Server string `json:"server"`
		Start  int64  `json:"start"`
	}](ctx, e.client, "SELECT toString(serverUUID()) AS server, toUnixTimestamp(now()) - uptime() AS start", nil)
	if err != nil {
		return notStored("ask which server it is", err)
	}
	server, start := found.Server, found.Start
	known := false
	for _, at := range s.starts[server] {
		known = known || at-startJitter <= start && start <= at+startJitter
	}
	if !known {
		if s.starts == nil {
			s.starts = map[string][]int64{}
		} else {
			s.news.Add(1)
		}
		s.starts[server] = append(s.starts[server], start)
		e.trouble.Add(1)
	}
	s.dialed = dialed
	return nil
}

// sameServer fails a call that was answered by a server which its look did not know: it may lack what came before.
func (e *chExporter) sameServer(ctx context.Context, news uint64) error {
	if err := e.recognise(ctx); err != nil {
		return err
	}
	if e.servers.news.Load() != news {
		return &storeError{class: unknown, code: codeOther, cause: errors.New("ClickHouse was started meanwhile, and may have been restored: the partition is looked up again")}
	}
	return nil
}

package cell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	readyWithin = 2 * time.Minute // a part that is not up by then has failed; most are within seconds
	readyEvery  = 100 * time.Millisecond
)

var httpClient = &http.Client{Timeout: 2 * time.Second}

// waitReady returns when the child's health check answers 200. It fails at once when the child has crashed, because a child that
// has never been up will not come up by itself.
func waitReady(ctx context.Context, c *child, url string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyWithin, fmt.Errorf("not ready after %v", readyWithin))
	defer cancel()
	for {
		if healthy(ctx, url) == nil {
			return nil
		}
		if p := c.state(); p.Restarts > 0 {
			return fmt.Errorf("%s %s; the end of %s:\n%s", c.name, p.LastError, p.Log, c.log.lastLines(8))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; the end of %s:\n%s", c.name, context.Cause(ctx), c.log.path, c.log.lastLines(8))
		case <-time.After(readyEvery):
		}
	}
}

// healthy asks a health check.
func healthy(ctx context.Context, url string) error {
	body, err := get(ctx, url)
	if err != nil {
		return err
	}
	return body.Close()
}

// get returns the body of an answer 200.
func get(ctx context.Context, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("%s answers %s", url, resp.Status), resp.Body.Close())
	}
	return resp.Body, nil
}

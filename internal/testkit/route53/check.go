package route53

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	checkers       = 3
	healthyShare   = 0.18
	connectTimeout = 4 * time.Second
	answerTimeout  = 2 * time.Second
)

// check is the health check of a URL. Its checkers look each by itself, as those in several regions do.
type check struct {
	url       string
	threshold int
	client    *http.Client
	good      [checkers]atomic.Bool // what each checker finds
	cancel    context.CancelFunc
	looking   sync.WaitGroup
}

func startCheck(url string, interval time.Duration, threshold int) *check {
	ctx, cancel := context.WithCancel(context.Background())
	c := &check{url: url, threshold: threshold, cancel: cancel, client: &http.Client{
		Transport:     &http.Transport{DialContext: (&net.Dialer{Timeout: connectTimeout}).DialContext, DisableKeepAlives: true, ResponseHeaderTimeout: answerTimeout},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       connectTimeout + answerTimeout,
	}}
	for i := range c.good {
		c.good[i].Store(true)
		c.looking.Go(func() { c.look(ctx, i, interval) })
	}
	return c
}

// look is one checker. The checkers of a URL share the interval out between them.
func (c *check) look(ctx context.Context, checker int, interval time.Duration) {
	wait := time.NewTimer(interval * time.Duration(checker) / checkers)
	defer wait.Stop()
	for last, inARow := true, 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
		}
		began := time.Now()
		good := c.ask(ctx)
		if good != last {
			last, inARow = good, 0
		}
		if inARow++; inARow >= c.threshold {
			c.good[checker].Store(good)
		}
		wait.Reset(interval - min(time.Since(began), interval))
	}
}

func (c *check) ask(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, http.NoBody)
	if err != nil {
		return false
	}
	req.Header.Set("User-Agent", "Amazon-Route53-Health-Check-Service")
	resp, err := c.client.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close() // its status says it
	return resp.StatusCode >= http.StatusOK && resp.StatusCode < http.StatusBadRequest
}

func (c *check) healthy() bool {
	n := 0
	for i := range c.good {
		if c.good[i].Load() {
			n++
		}
	}
	return float64(n) > healthyShare*checkers
}

func (c *check) stop() {
	c.cancel()
	c.looking.Wait()
}

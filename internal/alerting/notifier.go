package alerting

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/sleep"
)

// Bounds of delivery.
const (
	batchMost     = 64 // alerts of a request, as Prometheus' default
	pendingMost   = 50_000
	deliverWithin = 10 * time.Second // one request
	retryFirst    = time.Second
	retryMost     = 30 * time.Second
	answerMost    = 1 << 10 // bytes of a refusal that are told
)

// alertsPath is where Alertmanager's API v2 takes alerts, below its URL.
const alertsPath = "/api/v2/alerts"

// Notice is an alert as Alertmanager's API v2 takes it.
type Notice struct {
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"` // in the past: it is resolved
	GeneratorURL string            `json:"generatorURL,omitempty"`
}

// Notifier delivers alerts to each of several Alertmanagers. One that is down or slow holds up nobody else: what is to be told it is kept, the newest of each alert, until it takes it.
type Notifier struct {
	targets []*target
	metrics *notifierMetrics
	log     *zap.Logger
}

type target struct {
	url     string
	http    *http.Client
	metrics *notifierMetrics
	log     *zap.Logger
	wake    chan struct{} // capacity 1

	mu      sync.Mutex // guards pending
	pending map[string]Notice
	full    bool // told already
}

// NewNotifier delivers to the Alertmanagers at these URLs. hc authenticates.
func NewNotifier(urls []string, hc *http.Client, log *zap.Logger) (*Notifier, error) {
	n := &Notifier{log: log}
	n.metrics = newNotifierMetrics(n)
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
			return nil, fmt.Errorf("%q: want http[s]://HOST:PORT and a path, without %s, user or password", text, alertsPath)
		}
		n.targets = append(n.targets, &target{url: u.JoinPath(alertsPath).String(), http: hc, metrics: n.metrics, log: log, wake: make(chan struct{}, 1), pending: map[string]Notice{}})
	}
	return n, nil
}

// Notify takes alerts. It does not wait.
func (n *Notifier) Notify(notices []Notice) {
	for _, t := range n.targets {
		t.add(notices, true)
	}
}

// add keeps alerts. Those that could not be delivered (newer is false) give way to what has come since.
func (t *target) add(notices []Notice, newer bool) {
	t.mu.Lock()
	for _, a := range notices {
		key := fingerprint(a.Labels)
		_, there := t.pending[key]
		switch {
		case there && !newer:
		case !there && len(t.pending) >= pendingMost:
			if !t.full {
				t.log.Error("alerts that Alertmanager does not take are dropped: too many wait", zap.String("alertmanager", t.url), zap.Int("waiting", pendingMost))
			}
			t.full = true
			t.metrics.sent.WithLabelValues(outcomeDropped).Inc()
		default:
			t.pending[key] = a
		}
	}
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *target) take() []Notice {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Notice, 0, min(len(t.pending), batchMost))
	for key, n := range t.pending {
		if len(out) == batchMost {
			break
		}
		out = append(out, n)
		delete(t.pending, key)
	}
	if len(t.pending) == 0 {
		t.full = false
	}
	return out
}

// Run delivers until ctx is done, then tries once more to deliver what is left.
func (n *Notifier) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, t := range n.targets {
		wg.Go(func() { t.run(ctx) })
	}
	wg.Wait()
}

func (t *target) run(ctx context.Context) {
	wait := retryFirst
	for {
		batch := t.take()
		if len(batch) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-t.wake:
			}
			continue
		}
		err := t.deliver(context.WithoutCancel(ctx), batch)
		if err == nil {
			if wait != retryFirst {
				t.log.Info("Alertmanager takes alerts again", zap.String("alertmanager", t.url))
			}
			wait = retryFirst
			continue
		}
		t.add(batch, false)
		if wait == retryFirst {
			t.log.Error("Alertmanager does not take alerts: they wait", zap.String("alertmanager", t.url), zap.Error(err))
		}
		if sleep.For(ctx, wait) != nil {
			return
		}
		wait = min(2*wait, retryMost)
	}
}

// deliver returns an error where the alerts are to be delivered again. Those that Alertmanager refuses for what they are it drops, with a line in the log.
func (t *target) deliver(ctx context.Context, batch []Notice) error {
	status, text, err := t.post(ctx, batch)
	switch {
	case err != nil:
		t.metrics.failures.WithLabelValues(reasonUnreachable).Inc()
		return err
	case status/100 == 2:
		t.metrics.sent.WithLabelValues(outcomeTaken).Add(float64(len(batch)))
		return nil
	case status != http.StatusBadRequest && status != http.StatusUnprocessableEntity && status != http.StatusRequestEntityTooLarge:
		t.metrics.failures.WithLabelValues(reasonStatus).Inc()
		return fmt.Errorf("status %d: %s", status, text)
	case len(batch) > 1: // one of them is wrong
		for i := range batch {
			if err := t.deliver(ctx, batch[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	t.metrics.sent.WithLabelValues(outcomeRefused).Inc()
	t.log.Error("Alertmanager refuses an alert", zap.String("alertmanager", t.url), zap.Any("labels", batch[0].Labels), zap.Int("status", status), zap.String("answer", text))
	return nil
}

func (t *target) post(ctx context.Context, batch []Notice) (status int, text string, err error) {
	body, err := json.Marshal(batch)
	if err != nil {
		return 0, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, deliverWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := t.http.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, answerMost))
	if err != nil {
		return 0, "", err
	}
	return resp.StatusCode, strings.Join(strings.Fields(strings.ToValidUTF8(string(answer), "?")), " "), nil
}

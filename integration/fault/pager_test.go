package fault

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"
)

// pager is where Alertmanager's notifications arrive: pages as PagerDuty gets them (events API v2), tickets as the tickets' webhook does.
type pager struct {
	server *httptest.Server

	mu      sync.Mutex
	notices []notice // guarded by mu, in the order of their arrival
	err     error    // guarded by mu: of a notification that could not be read
}

// Receivers of alertmanager.yaml, and the paths that they get here.
const (
	pagePath   = "/pager"
	ticketPath = "/tickets"
)

// notice is one notification, of the alerts of one group.
type notice struct {
	at               time.Time
	page             bool
	firing, resolved []alerted
	runbooks         string // of a page: what it shows of where to go
	text             string // whole, for messages
}

type alerted struct {
	Status      string            `json:"status"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

func newPager() *pager {
	p := &pager{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pagePath, p.take(true, readPage))
	mux.HandleFunc("POST "+ticketPath, p.take(false, readTicket))
	p.server = httptest.NewServer(mux)
	return p
}

func (p *pager) take(page bool, read func(json.RawMessage, *notice) error) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		n := notice{at: time.Now(), page: page}
		var body json.RawMessage
		err := json.NewDecoder(http.MaxBytesReader(w, q.Body, 4<<20)).Decode(&body)
		if n.text = string(body); err == nil {
			err = read(body, &n)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if err != nil {
			p.err = fmt.Errorf("a notification cannot be read: %w\n%s", err, body)
		}
		p.notices = append(p.notices, n)
		w.WriteHeader(http.StatusAccepted)
	}
}

// readPage reads an event of PagerDuty's, with the details that Alertmanager adds to ours.
func readPage(body json.RawMessage, n *notice) error {
	var event struct {
		Action  string `json:"event_action"`
		Payload struct {
			Details map[string]json.RawMessage `json:"custom_details"`
		}
	}
	if err := json.Unmarshal(body, &event); err != nil {
		return err
	}
	for name, into := range map[string]any{"firing": &n.firing, "resolved": &n.resolved, "runbooks": &n.runbooks} {
		if err := json.Unmarshal(event.Payload.Details[name], into); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if (event.Action == "resolve") != (len(n.firing) == 0) {
		return fmt.Errorf("it says %s while %d alerts fire", event.Action, len(n.firing))
	}
	return nil
}

func readTicket(body json.RawMessage, n *notice) error {
	var hook struct {
		Alerts []alerted `json:"alerts"`
	}
	if err := json.Unmarshal(body, &hook); err != nil {
		return err
	}
	for _, a := range hook.Alerts {
		if a.Status == "firing" {
			n.firing = append(n.firing, a)
		} else {
			n.resolved = append(n.resolved, a)
		}
	}
	return nil
}

// heard returns the notices so far.
func (p *pager) heard() ([]notice, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.notices), p.err
}

// names of alerts, each once, in order.
func names(alerts []alerted) (out []string) {
	for _, a := range alerts {
		out = append(out, a.Labels["alertname"])
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// fired are the alerts that pages, or tickets, told of.
func (p *pager) fired(page bool) []string {
	notices, _ := p.heard() // wait, below, tells of an error
	var all []alerted
	for _, n := range notices {
		if n.page == page {
			all = append(all, n.firing...)
		}
	}
	return names(all)
}

// windows of a burn rate that pages, or tickets, told of.
func (p *pager) windows(alert string, page bool) (out []string) {
	notices, _ := p.heard() // wait, below, tells of an error
	for _, n := range notices {
		if n.page != page {
			continue
		}
		for _, a := range n.firing {
			if window := a.Labels["window"]; a.Labels["alertname"] == alert && window != "" {
				out = append(out, window)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// wait returns the first notice since that tells of the alert as wanted: that it fires, or that it is over.
func (p *pager) wait(alert string, page, firing bool, since time.Time, timeout time.Duration) (n notice, err error) {
	for deadline := time.Now().Add(timeout); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		notices, err := p.heard()
		if err != nil {
			return n, err
		}
		for _, n := range notices {
			fires := slices.Contains(names(n.firing), alert)
			over := slices.Contains(names(n.resolved), alert) && !fires
			if n.page == page && n.at.After(since) && (firing && fires || !firing && over) {
				return n, nil
			}
		}
	}
	what := "that it fires"
	if !firing {
		what = "that it is over"
	}
	return n, fmt.Errorf("nobody was told of %s %s within %v; pages: %v, tickets: %v", alert, what, timeout, p.fired(true), p.fired(false))
}

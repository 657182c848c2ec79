package alerting

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/wholefile"
)

const (
	stateVersion   = 1
	stateFileMost  = 256 << 20 // bytes
	stateFileRight = 0o600     // labels and annotations are tenants' data
)

// stateFile is what a restart keeps. Rules are known by group and name: one whose query has changed goes on with its alerts, as in Prometheus.
type stateFile struct {
	Version int                   `json:"version"`
	Groups  map[string]groupState `json:"groups"` // by tenant/name
}

type groupState struct {
	Evaluated time.Time            `json:"evaluated,omitzero"`
	Stale     []*Alert             `json:"stale,omitempty"`
	Rules     map[string]ruleState `json:"rules"`
}

type ruleState struct {
	Alerts  []*Alert  `json:"alerts,omitempty"`
	Failed  []*Alert  `json:"failed,omitempty"`
	Since   time.Time `json:"failing_since,omitzero"`
	Failure string    `json:"failure,omitempty"`
}

// load takes the states of the groups and rules that are still there.
func (e *Evaluator) load() error {
	if e.config.StateFile == "" {
		return nil
	}
	info, err := os.Stat(e.config.StateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return e.save() // a file that cannot be written is told now
	}
	if err == nil && info.Size() > int64(e.most) {
		err = fmt.Errorf("%d bytes: want at most %d", info.Size(), e.most)
	}
	var content []byte
	if err == nil {
		content, err = os.ReadFile(e.config.StateFile)
	}
	var s stateFile
	if err == nil {
		err = json.Unmarshal(content, &s)
	}
	if err == nil && s.Version != stateVersion {
		err = fmt.Errorf("it has version %d, want %d", s.Version, stateVersion)
	}
	if err != nil {
		return fmt.Errorf("states of alerts: %s: %w: move it away to begin anew", e.config.StateFile, err)
	}
	e.saved = bytes.TrimSpace(content)
	for _, g := range e.groups {
		kept, ok := s.Groups[g.key()]
		if !ok {
			continue
		}
		g.evaluated = kept.Evaluated
		g.stale.restore(kept.Stale)
		for _, r := range g.rules {
			k := kept.Rules[r.Alert]
			r.since, r.failure = k.Since, k.Failure
			r.restore(k.Alerts)
			r.failed.restore(k.Failed)
		}
	}
	return nil
}

func (t *tracker) restore(alerts []*Alert) {
	for _, a := range alerts {
		if a != nil {
			t.alerts[fingerprint(a.Labels)] = a
		}
	}
}

// list is sorted, so that the same states are the same bytes.
func (t *tracker) list() []*Alert {
	out := make([]*Alert, 0, len(t.alerts))
	for _, key := range slices.Sorted(maps.Keys(t.alerts)) {
		out = append(out, t.alerts[key])
	}
	return out
}

// save writes the states where they have changed.
func (e *Evaluator) save() error {
	if e.config.StateFile == "" {
		return nil
	}
	s := stateFile{Version: stateVersion, Groups: map[string]groupState{}}
	var content []byte
	var err error
	func() {
		for _, g := range e.groups {
			g.mu.Lock()
			defer g.mu.Unlock() // until it is encoded
			state := groupState{Evaluated: g.evaluated, Stale: g.stale.list(), Rules: map[string]ruleState{}}
			for _, r := range g.rules {
				k := ruleState{Alerts: r.list(), Failed: r.failed.list(), Since: r.since, Failure: r.failure}
				if len(k.Alerts)+len(k.Failed) > 0 || !k.Since.IsZero() {
					state.Rules[r.Alert] = k
				}
			}
			s.Groups[g.key()] = state
		}
		content, err = json.MarshalIndent(s, "", " ")
	}()
	if len(content) >= e.most {
		return fmt.Errorf("states of alerts are %d bytes, more than a restart reads (%d): the file is left as it was", len(content), e.most)
	}
	if err == nil && !bytes.Equal(content, e.saved) {
		if err = wholefile.Write(e.config.StateFile, append(content, '\n'), stateFileRight); err == nil {
			e.saved = content
		}
	}
	return err
}

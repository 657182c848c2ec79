package alerting

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// resolvedFor is how long a resolved alert is told again, as Prometheus does: the first telling may be lost with an Alertmanager.
const resolvedFor = 15 * time.Minute

// trackedMost is how many alerts of a rule there may be before resolved ones are forgotten as soon as they are told.
const trackedMost = 2 * limitMost

// State of an alert. One that is inactive is not kept.
type State string

// The states, as Prometheus has them.
const (
	Pending  State = "pending" // active for less than the rule's `for`
	Firing   State = "firing"
	Resolved State = "resolved" // was firing
)

// Sample is one row of a rule's query.
type Sample struct {
	Labels map[string]string
	Value  float64
}

// Alert is one alert of a rule. Times but SentAt are ends of buckets: in UTC, to the second. The state file has not what was told: it may still have waited for Alertmanager, so all is told
// again after a restart.
type Alert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Value       number            `json:"value"`
	State       State             `json:"state"`
	ActiveAt    time.Time         `json:"active_at"`           // the first bucket of those that were active without a gap; later by the buckets that nobody evaluated
	FiredAt     time.Time         `json:"fired_at,omitzero"`   // ActiveAt and `for`
	KeptSince   time.Time         `json:"kept_since,omitzero"` // firing though no longer active, since
	ResolvedAt  time.Time         `json:"resolved_at,omitzero"`
	SentAt      time.Time         `json:"-"` // by the clock
	SentState   State             `json:"-"` // what was told then
}

// number is a float that JSON can hold: NaN and infinities are texts.
type number float64

func (n number) MarshalJSON() ([]byte, error) {
	f := float64(n)
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return []byte(strconv.Quote(strconv.FormatFloat(f, 'g', -1, 64))), nil
	}
	return []byte(strconv.FormatFloat(f, 'g', -1, 64)), nil
}

func (n *number) UnmarshalJSON(text []byte) error {
	f, err := strconv.ParseFloat(strings.Replace(strings.Trim(string(text), `"`), "-nan", "nan", 1), 64) // ClickHouse's NaN may have a sign
	*n = number(f)
	return err
}

// tracker is the state machine of one rule's alerts, which follows rules/alerting.go of Prometheus. It is not safe for concurrent use.
type tracker struct {
	holds, keeps time.Duration
	annotations  map[string]string // templates
	alerts       map[string]*Alert // by fingerprint
}

// fingerprint tells label sets apart.
func fingerprint(labels map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		b.WriteString(name)
		b.WriteByte(0xff) // in no UTF-8 text
		b.WriteString(labels[name])
		b.WriteByte(0xff)
	}
	return b.String()
}

// eval takes the rows of the bucket that ends at ts. Calls are in the order of ts; no two samples have the same labels.
func (t *tracker) eval(ts time.Time, samples []Sample) {
	seen := map[string]bool{}
	for _, s := range samples {
		key := fingerprint(s.Labels)
		seen[key] = true
		a := t.alerts[key]
		if a == nil || a.State == Resolved {
			a = &Alert{Labels: s.Labels, State: Pending, ActiveAt: ts}
			t.alerts[key] = a
		}
		a.Value, a.KeptSince = number(s.Value), time.Time{}
		a.Annotations = expand(t.annotations, s)
		if a.State == Pending && ts.Sub(a.ActiveAt) >= t.holds {
			a.State, a.FiredAt = Firing, a.ActiveAt.Add(t.holds)
		}
	}
	for key, a := range t.alerts {
		switch {
		case seen[key]:
		case a.State == Pending:
			delete(t.alerts, key)
		case a.State == Resolved:
			// Labels that change each time would otherwise fill the memory.
			if ts.Sub(a.ResolvedAt) > resolvedFor || len(t.alerts) > trackedMost && a.SentState == Resolved {
				delete(t.alerts, key)
			}
		default:
			if a.KeptSince.IsZero() {
				a.KeptSince = ts
			}
			if ts.Sub(a.KeptSince) >= t.keeps {
				a.State, a.ResolvedAt = Resolved, ts
			}
		}
	}
}

// postpone has pending alerts begin later, by a gap that ends at until; not after it.
func (t *tracker) postpone(gap time.Duration, until time.Time) {
	for _, a := range t.alerts {
		if a.State != Pending {
			continue
		}
		if a.ActiveAt = a.ActiveAt.Add(gap); a.ActiveAt.After(until) {
			a.ActiveAt = until
		}
	}
}

// due returns what is to be told at now: what has changed, and what was told resend ago. It is taken for told.
func (t *tracker) due(now time.Time, resend, valid time.Duration) []Notice {
	var out []Notice
	for _, key := range slices.Sorted(maps.Keys(t.alerts)) {
		a := t.alerts[key]
		if a.State == Pending || a.SentState == a.State && now.Sub(a.SentAt) < resend {
			continue
		}
		n := Notice{Labels: a.Labels, Annotations: a.Annotations, StartsAt: a.FiredAt, EndsAt: now.Add(valid)}
		if a.State == Resolved {
			n.EndsAt = a.ResolvedAt
		}
		a.SentAt, a.SentState = now, a.State
		out = append(out, n)
	}
	return out
}

// expand fills annotations. Labels that a sample has not are empty, as in Prometheus.
func expand(templates map[string]string, s Sample) map[string]string {
	if len(templates) == 0 {
		return nil
	}
	out := make(map[string]string, len(templates))
	for name, text := range templates {
		text = templateForm.ReplaceAllStringFunc(text, func(m string) string {
			if label := templateForm.FindStringSubmatch(m)[1]; label != "" {
				return s.Labels[label]
			}
			return readable(s.Value)
		})
		if len(text) > textMost {
			text = strings.ToValidUTF8(text[:textMost], "") + "..."
		}
		out[name] = text
	}
	return out
}

// readable is a value for people.
func readable(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

package cells

import "time"

// Times of gateways and of DNS.
type Times struct {
	Look, LookTimeout time.Duration // of cell_health
	Hold              time.Duration // of cell_health: a cell that can accept nothing says so for that long at least
	Connection        time.Duration // after which gateways ask an HTTP connection to go
	Check             time.Duration // between two health checks of DNS by one checker
	Threshold         int           // of the health checks
	TTL               time.Duration // of answers
}

// Production are the gateways' defaults, and what docs/regions.md recommends of DNS.
var Production = Times{
	Look: 5 * time.Second, LookTimeout: 3 * time.Second, Hold: time.Minute, Connection: 10 * time.Minute, Check: 10 * time.Second, Threshold: 3, TTL: time.Minute,
}

// Scaled are shorter times: a share of these, but no less than what a busy machine keeps.
func (t Times) Scaled(scale float64) Times {
	of := func(full, least time.Duration) time.Duration {
		return min(full, max(least, time.Duration(float64(full)*scale).Truncate(time.Millisecond)))
	}
	t.Look, t.LookTimeout, t.Hold = of(t.Look, time.Second), of(t.LookTimeout, time.Second), of(t.Hold, 2*time.Second)
	t.Connection, t.Check = of(t.Connection, 5*time.Second), of(t.Check, 500*time.Millisecond)
	t.TTL = of(t.TTL, 2*time.Second).Round(time.Second)
	return t
}

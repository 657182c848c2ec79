package fault

import (
	"github.com/pulsegrid/pulsegrid/integration/fault/outcome"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/integration/rig/recount"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// check compares the stores with what the fleet knows.
func (r *run) check(requests []*agents.Request, out *outcome.Run) {
	r.t.Helper()
	for _, q := range requests {
		out.Events += agents.PerRequest
		out.Duplicates += q.Duplicates * agents.PerRequest
		if q.Acked {
			out.Acked += agents.PerRequest
		}
		if q.Attempts > 1 {
			out.Resent++
		}
	}
	hot, err := recount.Hot(r.Rig, r.service)
	r.must(err)
	lake, late := recount.Lake(r.t, r.Rig, r.service)
	out.LakeLongest = late
	out.Hot = r.compare("ClickHouse", fastLane.hot, requests, hot)
	out.Lake = r.compare("the lake", fastLane.lake, requests, lake)
	out.Rollups = r.checkRollups()
	r.audit(out)
}

// compare fails the test if anything is wrong in a store, and counts it.
func (r *run) compare(store, group string, requests []*agents.Request, found map[signal.Signal]recount.Contents) outcome.Counts {
	r.t.Helper()
	c, wrong := recount.Compare(requests, found, r.excused[group])
	for _, w := range wrong {
		r.t.Errorf("%s %s", store, w)
	}
	return c
}

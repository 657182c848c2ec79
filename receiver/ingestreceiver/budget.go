package ingestreceiver

import "sync/atomic"

// budget is the memory that all requests in flight may hold together.
type budget struct {
	limit int64
	used  atomic.Int64
}

// reservation is one request's part of the budget. It belongs to the goroutine that serves the request.
type reservation struct {
	of   *budget
	held int64
}

// grow takes n more bytes, or none of them.
func (r *reservation) grow(n int) bool {
	if r.of.used.Add(int64(n)) > r.of.limit {
		r.of.used.Add(-int64(n))
		return false
	}
	r.held += int64(n)
	return true
}

func (r *reservation) release() {
	r.of.used.Add(-r.held)
	r.held = 0
}

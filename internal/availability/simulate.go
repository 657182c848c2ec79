package availability

import (
	"math"
	"math/rand/v2"
	"slices"
)

const (
	day  = 86400.0
	year = 365 * day
	// phases is how many senders of a cell are simulated: they differ in when they ask DNS, which is spread evenly over its TTL.
	phases = 4
)

// Loss is what senders miss of a year, in seconds of a whole year's requests.
type Loss struct {
	First   float64 // requests whose first try fails
	Retried float64 // requests that are given up, since no try within the sender's time works
}

func (l *Loss) add(first, retried float64) { l.First, l.Retried = l.First+first, l.Retried+retried }

// Result is that of a host.
type Result struct {
	Host   Host
	Causes []Loss // the mean year, by cause of the model, and last by too little capacity while a cell is away
	Years  []Loss // each year's
}

// Mean is the mean year.
func (r *Result) Mean() (l Loss) {
	for _, c := range r.Causes {
		l.add(c.First, c.Retried)
	}
	return l
}

// Error is how far the mean of all years may be off: two standard errors.
func (r *Result) Error() (l Loss) {
	mean := r.Mean()
	for _, y := range r.Years {
		l.add((y.First-mean.First)*(y.First-mean.First), (y.Retried-mean.Retried)*(y.Retried-mean.Retried))
	}
	n := float64(len(r.Years))
	return Loss{2 * math.Sqrt(l.First) / n, 2 * math.Sqrt(l.Retried) / n}
}

// interval of a year, in seconds.
type interval struct {
	from, to float64
	cause    int
}

// Simulate simulates a host's years. The same model gives the same result.
func (m *Model) Simulate(h Host) *Result {
	r := &Result{Host: h, Causes: make([]Loss, len(m.Causes)+1)}
	for y := range m.Years {
		s := m.newYear(h, y)
		for c, l := range s.losses {
			r.Causes[c].add(l.First/float64(m.Years), l.Retried/float64(m.Years))
		}
		r.Years = append(r.Years, s.total())
	}
	return r
}

// aYear is one year of a host.
type aYear struct {
	m        *Model
	cells    int
	down     [][]interval // by cell: it takes nothing
	away     [][]interval // by cell: DNS leads elsewhere
	changes  []float64    // when a cell goes down, or DNS changes its mind; ascending
	losses   []Loss       // by cause
	ttl      float64
	patience float64 // a sender's first try and its last one are so far apart at least
	shed     float64 // share that the other cells cannot take at the peak
	peak     float64 // seconds of a day
}

func (s *aYear) total() (l Loss) {
	for _, c := range s.losses {
		l.add(c.First, c.Retried)
	}
	return l
}

func (m *Model) newYear(h Host, number int) *aYear {
	s := &aYear{
		m: m, cells: h.Cells, down: make([][]interval, h.Cells), away: make([][]interval, h.Cells), losses: make([]Loss, len(m.Causes)+1),
		ttl: m.value("ttl"), patience: max(0, m.value("retry")*60-m.value("retry_gap")), shed: 1 - m.value("peak_capacity"), peak: m.value("peak_hours") * 3600,
	}
	for c := range m.Causes {
		if m.Causes[c].Everywhere {
			s.happen(c, number, -1)
			continue
		}
		for cell := range h.Cells {
			s.happen(c, number, cell)
		}
	}
	for cell := range h.Cells {
		s.down[cell], s.away[cell] = merged(s.down[cell]), merged(s.away[cell])
		for _, d := range s.down[cell] {
			s.changes = append(s.changes, d.from)
		}
		for _, a := range s.away[cell] {
			s.changes = append(s.changes, a.from, a.to)
		}
	}
	slices.Sort(s.changes)
	windows := s.windows()
	stale := m.value("stale")
	for home := range h.Cells {
		weight := 1 / float64(h.Cells)
		for p := range phases {
			s.sender(home, (float64(p)+0.5)/phases*s.ttl, weight*(1-stale)/phases, windows)
		}
		for _, d := range s.down[home] {
			s.fails(d, weight*stale)
		}
	}
	return s
}

// happen has a cause hit a cell, or all of them (-1), at times of its own: another value of an input moves no other cause's.
func (s *aYear) happen(c, number, cell int) {
	cause := &s.m.Causes[c]
	rate, mean := s.m.value(cause.Rate), s.m.value(cause.Minutes)*60
	if rate <= 0 || mean <= 0 {
		return
	}
	random := rand.New(rand.NewPCG(s.m.Seed+uint64(number)<<32, uint64(c)<<8|uint64(cell+1)))
	for at := random.ExpFloat64() / rate * year; at < year; at += random.ExpFloat64() / rate * year {
		lasts, phase := random.ExpFloat64()*mean, random.Float64()
		if cause.Spread > 0 {
			lasts = mean * math.Exp(cause.Spread*random.NormFloat64()-cause.Spread*cause.Spread/2)
		}
		end := min(at+lasts, year)
		switch {
		case cause.Share > 0:
			length := (end - at) * cause.Share / float64(s.cells)
			s.losses[c].add(length, length*max(0, end-at-s.patience)/(end-at))
		case cell < 0:
			for i := range s.cells {
				s.down[i] = append(s.down[i], interval{at, end, c})
			}
		case cause.Planned:
			s.away[cell] = append(s.away[cell], interval{at, end, c})
		default:
			s.down[cell] = append(s.down[cell], interval{at, end, c})
			s.noticed(cell, interval{at, end, c}, cause.Refuses, phase)
		}
		at = end
	}
}

// noticed has DNS find that a cell is down, if it is for long enough, and later that it is back.
func (s *aYear) noticed(cell int, d interval, refuses bool, phase float64) {
	checks := s.m.value("check_interval") * (s.m.value("check_threshold") - 1 + phase)
	from := d.from + checks
	back := d.to + checks
	if refuses {
		from += s.m.value("health_delay")
		back += s.m.value("hold")
	}
	if from < d.to {
		s.away[cell] = append(s.away[cell], interval{from, back, d.cause})
	}
}

// merged is the union of intervals, in order. What began first is the cause.
func merged(all []interval) (out []interval) {
	slices.SortFunc(all, func(a, b interval) int {
		switch {
		case a.from < b.from:
			return -1
		case a.from > b.from:
			return 1
		}
		return a.cause - b.cause
	})
	for _, x := range all {
		if n := len(out); n > 0 && x.from <= out[n-1].to {
			out[n-1].to = max(out[n-1].to, x.to)
			continue
		}
		out = append(out, x)
	}
	return out
}

// windows are when senders may fail; a drain alone fails nothing where the others take all.
func (s *aYear) windows() []interval {
	var all []interval
	around := func(lists [][]interval) {
		for _, list := range lists {
			for _, x := range list {
				all = append(all, interval{x.from - s.ttl, x.to + s.ttl, 0})
			}
		}
	}
	around(s.down)
	if s.shed > 0 {
		around(s.away)
	}
	return merged(all)
}

// sender follows one from one answer of DNS to the next. Each holds for the TTL.
func (s *aYear) sender(home int, phase, weight float64, windows []interval) {
	for _, w := range windows {
		var failing, shed interval // what goes on
		end := func(x *interval, weight float64) {
			if x.to > x.from {
				s.fails(*x, weight)
			}
			*x = interval{}
		}
		for at := math.Floor((w.from-phase)/s.ttl)*s.ttl + phase; at < w.to; at += s.ttl {
			cell := s.answer(home, at)
			ok := true
			for i := first(s.down[cell], at); i < len(s.down[cell]) && s.down[cell][i].from < at+s.ttl; i++ {
				d := s.down[cell][i]
				ok = false
				from, to := max(at, d.from), min(at+s.ttl, d.to)
				if failing.to > failing.from && from <= failing.to+1e-6 {
					failing.to = to
					continue
				}
				end(&failing, weight)
				failing = interval{from, to, d.cause}
			}
			if ok && s.shed > 0 && s.short(at) && math.Mod(at+day, day) < s.peak {
				if shed.to <= shed.from {
					shed = interval{at, at, len(s.m.Causes)}
				}
				shed.to = at + s.ttl
				continue
			}
			end(&shed, weight*s.shed)
			if ok && s.shed == 0 { // until something changes it stays so
				at += s.ttl * max(0, math.Floor((s.next(at+s.ttl)-at)/s.ttl)-1)
			}
		}
		end(&failing, weight)
		end(&shed, weight*s.shed)
	}
}

// next is the time of the first change at or after a time; behind the year, where there is none.
func (s *aYear) next(at float64) float64 {
	i, _ := slices.BinarySearch(s.changes, at)
	if i == len(s.changes) {
		return 2 * year
	}
	return s.changes[i]
}

// fails counts an interval in which nothing works for some senders.
func (s *aYear) fails(x interval, weight float64) {
	length := x.to - x.from
	s.losses[x.cause].add(weight*length, weight*max(0, length-s.patience))
}

// answer is the cell that DNS leads a sender to: the nearest of those that it takes for well; the nearest of all, where there is none.
func (s *aYear) answer(home int, at float64) int {
	for i := range s.cells {
		if cell := (home + i) % s.cells; !in(s.away[cell], at) {
			return cell
		}
	}
	return home
}

// short tells whether a cell of the host is away.
func (s *aYear) short(at float64) bool {
	for cell := range s.cells {
		if in(s.away[cell], at) || in(s.down[cell], at) {
			return true
		}
	}
	return false
}

// first is the index of the first interval that ends after a time. It is what the simulation spends its time with.
func first(list []interval, at float64) int {
	from, to := 0, len(list)
	for from < to {
		if mid := (from + to) / 2; list[mid].to <= at {
			from = mid + 1
		} else {
			to = mid
		}
	}
	return from
}

func in(list []interval, at float64) bool {
	i := first(list, at)
	return i < len(list) && list[i].from <= at
}

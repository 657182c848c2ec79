package cellhealthextension

import "time"

// judge makes a verdict of looks, one that does not flap: it changes when several looks in a row say the same, and stays bad for a while.
//
//	         bad_looks in a row find that nothing can be accepted
//	good  ---------------------------------------------------------->  bad
//	      <----------------------------------------------------------
//	         good_looks in a row find that something can, and hold is over
//
// It begins with bad, and the first good look ends that: nothing is known of a fault then.
type judge struct {
	badLooks, goodLooks int
	hold                time.Duration

	good    bool
	inARow  int       // looks that found what the last one found
	last    bool      // what that was
	changed time.Time // when good was lost; zero: never
}

// looked tells whether there has been a look.
func (j *judge) looked() bool { return j.inARow > 0 }

// look takes what a look has found.
func (j *judge) look(now time.Time, good bool) {
	if good != j.last {
		j.last, j.inARow = good, 0
	}
	j.inARow++
	switch {
	case j.good && !good && j.inARow >= j.badLooks:
		j.good, j.changed = false, now
	case !j.good && good && (j.changed.IsZero() || j.inARow >= j.goodLooks && now.Sub(j.changed) >= j.hold):
		j.good = true
	}
}

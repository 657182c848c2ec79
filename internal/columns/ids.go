package columns

import (
	"github.com/pulsegrid/pulsegrid/internal/eventid"
)

// unstamped makes the ids of events that came without a stamp, as the mskreceiver makes them (internal/eventid): all that is appended at once is one
// request. Its digest is made when the first of them needs it.
type unstamped struct {
	marshal func() ([]byte, error)
	digest  [16]byte
	known   bool
	next    int // index of the next event, with a stamp or without
	err     error
}

func (u *unstamped) id(index int) [16]byte {
	if !u.known {
		var request []byte
		if request, u.err = u.marshal(); u.err == nil {
			u.digest = eventid.Digest(request)
		}
		u.known = true
	}
	return eventid.ID(u.digest, index)
}

package columns

import (
	"strings"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Promotion makes an attribute a column of its own. An event's attribute is stored there when it has the column's type and is
// not the type's zero value; in every other case (another type, ” or 0, a second attribute of the same key) it is stored in
// the attribute maps. So the zero value in the column means "look in the map", no column needs to be nullable, and nothing is lost.
type Promotion struct {
	Key  string // attribute key, as the semantic conventions name it
	Kind Kind   // Text, Dict, Int64 or Double
}

// Column is the name of the promoted attribute's column: "attr_" and the key, with every other character than a-z, 0-9 as "_".
func (p Promotion) Column() string {
	return "attr_" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + ('a' - 'A')
		}
		return '_'
	}, p.Key)
}

// DefaultPromotions are the attributes that are columns unless a registry says otherwise: those of the OpenTelemetry semantic
// conventions (1.37) that dashboards filter and group by.
func DefaultPromotions(s signal.Signal) []Promotion {
	http := []Promotion{
		{"http.request.method", Dict}, {"http.response.status_code", Int64}, {"http.route", Dict},
	}
	switch s {
	case signal.Logs:
		return append(http, []Promotion{
			{"url.path", Text}, {"error.type", Dict}, {"exception.type", Dict}, {"exception.message", Text},
			{"code.function.name", Dict}, {"thread.name", Dict}, {"session.id", Text}, {"user.id", Text}, {"client.address", Text},
		}...)
	case signal.Traces:
		return append(http, []Promotion{
			{"url.path", Text}, {"error.type", Dict}, {"db.system.name", Dict}, {"db.namespace", Dict}, {"db.operation.name", Dict},
			{"rpc.system", Dict}, {"rpc.service", Dict}, {"rpc.method", Dict}, {"messaging.system", Dict},
			{"messaging.destination.name", Dict}, {"server.address", Dict}, {"server.port", Int64},
		}...)
	case signal.Metrics:
		return append(http, []Promotion{
			{"error.type", Dict}, {"db.system.name", Dict}, {"db.operation.name", Dict}, {"rpc.service", Dict}, {"rpc.method", Dict},
			{"messaging.system", Dict}, {"server.address", Dict}, {"state", Dict}, {"system.device", Dict}, {"network.io.direction", Dict},
		}...)
	}
	return nil
}

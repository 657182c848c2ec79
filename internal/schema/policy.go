package schema

import (
	"fmt"
)

// Mode is what becomes of events that violate something.
type Mode string

// The modes.
const (
	Enforce Mode = "enforce" // they are quarantined
	Warn    Mode = "warn"    // they are counted, their sender is told, and they go on
	Off     Mode = "off"     // nothing is checked
)

// Unknown is what becomes of an event's attributes that its schema does not have.
type Unknown string

// What unknown attributes are.
const (
	Open   Unknown = "open"   // allowed
	Strict Unknown = "strict" // a violation
)

// Policy is how strict a tenant's events are taken.
type Policy struct {
	Mode    Mode    `mapstructure:"mode" yaml:"mode"`
	Unknown Unknown `mapstructure:"unknown_attributes" yaml:"unknown_attributes"`
}

// Validate names the key and the value of what is wrong.
func (p Policy) Validate() error {
	switch p.Mode {
	case Enforce, Warn, Off:
	default:
		return fmt.Errorf("mode: is %q, want %s, %s or %s", p.Mode, Enforce, Warn, Off)
	}
	if p.Unknown != Open && p.Unknown != Strict {
		return fmt.Errorf("unknown_attributes: is %q, want %s or %s", p.Unknown, Open, Strict)
	}
	return nil
}

// Policies says how strict each tenant's events are taken. An extension that knows tenants implements it.
type Policies interface {
	// SchemaPolicy returns a tenant's policy; empty fields, and false, mean the default.
	SchemaPolicy(tenant string) (Policy, bool)
}

// Source hands out what holds now. The schema registry extension implements it.
type Source interface {
	// InForce is the newest that was good. It is never nil, and another one only where something has changed.
	InForce() *InForce
}

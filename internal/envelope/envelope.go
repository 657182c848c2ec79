// Package envelope carries OTLP export requests, still as bytes, through a Collector logs pipeline.
//
// An envelope is one plog.LogRecord of a scope named ScopeName: its body is the request's protobuf bytes, its attributes
// are the request's metadata. One plog.Logs may hold several. Bodies are passed by reference: whoever reads a body must not
// write to it, and must not keep it after the Consume call that handed it over has returned. Copying the plog.Logs does not
// help: pdata's CopyTo copies a byte slice's header, not its bytes.
package envelope

import (
	"errors"
	"fmt"
	"reflect"
	"time"
	"unsafe"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// ScopeName marks a scope whose log records are envelopes.
const ScopeName = "github.com/pulsegrid/pulsegrid/envelope"

// Attributes of an envelope's log record. The received time is the record's observed timestamp.
const (
	attrSignal        = "pulsegrid.signal"
	attrTenant        = "pulsegrid.tenant"
	attrSource        = "pulsegrid.source"
	attrEvents        = "pulsegrid.events"
	attrLane          = "pulsegrid.lane"
	attrSchemaVersion = "pulsegrid.schema_version"
	attrFindings      = "pulsegrid.findings"
	attrJurisdiction  = "pulsegrid.jurisdiction"
	attrTopicClass    = "pulsegrid.topic_class"
	attrRequest       = "pulsegrid.request"
	attrIDAttribute   = "pulsegrid.id_attribute"
)

// Envelope is one OTLP export request of one tenant and signal.
type Envelope struct {
	Signal        signal.Signal
	Tenant        string
	Source        string    // the agent or resource that sent it; Kafka's record key. Empty: none known.
	Events        int       // log records, spans or metric data points in Body
	Received      time.Time // when the gateway had read the request
	Lane          string    // LaneFast, LaneOverflow or LaneQuarantine
	SchemaVersion string    // registry version that validated it; empty: not validated
	Jurisdiction  string    // where its tenant's data may be; empty: anywhere
	TopicClass    string    // of topics (signal.ClassTopic); empty: the common ones
	IDAttribute   string    // log attribute that the tenant declares to be unique (HeaderIDAttribute); empty: none
	Body          []byte    // an Export*ServiceRequest in protobuf; in LaneQuarantine it may be anything that was sent
	// Request says which request Body's events are of (HeaderRequest, internal/eventid.Request). nil: Body is the request, as the gateway received it or
	// made it of another format. Whoever changes Body, or takes events out of it, sets it first.
	Request []byte
	// Findings are the verdicts on events that are to be quarantined, as JSON (docs/formats/verdicts.md); nil: all events are valid. In
	// LaneQuarantine: why these are here.
	Findings []byte
	// Quarantine says more of an envelope of LaneQuarantine, and is nil for all others.
	Quarantine *Quarantine
}

// Append adds e to ld. The body is not copied: ld aliases it.
func (e Envelope) Append(ld plog.Logs) {
	lr := scopeOf(ld).LogRecords().AppendEmpty()
	if !e.Received.IsZero() { // which is before 1970, and no timestamp
		lr.SetObservedTimestamp(pcommon.NewTimestampFromTime(e.Received))
	}
	a := lr.Attributes()
	a.EnsureCapacity(8)
	a.PutStr(attrSignal, e.Signal.String())
	a.PutStr(attrTenant, e.Tenant)
	a.PutStr(attrSource, e.Source)
	a.PutInt(attrEvents, int64(e.Events))
	a.PutStr(attrLane, e.Lane)
	if e.SchemaVersion != "" {
		a.PutStr(attrSchemaVersion, e.SchemaVersion)
	}
	if len(e.Findings) > 0 {
		setBytes(a.PutEmptyBytes(attrFindings), e.Findings)
	}
	if e.Quarantine != nil {
		e.Quarantine.put(a)
	}
	if e.Jurisdiction != "" {
		a.PutStr(attrJurisdiction, e.Jurisdiction)
	}
	if e.TopicClass != "" {
		a.PutStr(attrTopicClass, e.TopicClass)
	}
	if e.IDAttribute != "" {
		a.PutStr(attrIDAttribute, e.IDAttribute)
	}
	if len(e.Request) > 0 {
		setBytes(a.PutEmptyBytes(attrRequest), e.Request)
	}
	setBytes(lr.Body().SetEmptyBytes(), e.Body)
}

func scopeOf(ld plog.Logs) plog.ScopeLogs {
	if rls := ld.ResourceLogs(); rls.Len() > 0 {
		if sls := rls.At(rls.Len() - 1).ScopeLogs(); sls.Len() > 0 {
			if sl := sls.At(sls.Len() - 1); sl.Scope().Name() == ScopeName {
				return sl
			}
		}
	}
	sl := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty()
	sl.Scope().SetName(ScopeName)
	return sl
}

// Is tells whether ld holds envelopes rather than ordinary log records.
func Is(ld plog.Logs) bool {
	rls := ld.ResourceLogs()
	return rls.Len() > 0 && rls.At(0).ScopeLogs().Len() > 0 && rls.At(0).ScopeLogs().At(0).Scope().Name() == ScopeName
}

// ErrNotEnvelope is returned for a log record that lacks what every envelope has.
var ErrNotEnvelope = errors.New("not an envelope")

// All returns the envelopes of ld; their bodies alias ld. It fails with ErrNotEnvelope when any record of ld is none.
func All(ld plog.Logs) ([]Envelope, error) {
	out := make([]Envelope, 0, ld.LogRecordCount())
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			if sl.Scope().Name() != ScopeName {
				return nil, fmt.Errorf("%w: scope %q", ErrNotEnvelope, sl.Scope().Name())
			}
			for _, lr := range sl.LogRecords().All() {
				e, err := read(lr)
				if err != nil {
					return nil, err
				}
				out = append(out, e)
			}
		}
	}
	return out, nil
}

func read(lr plog.LogRecord) (Envelope, error) {
	if lr.Body().Type() != pcommon.ValueTypeBytes {
		return Envelope{}, fmt.Errorf("%w: body is %s", ErrNotEnvelope, lr.Body().Type())
	}
	e := Envelope{Body: getBytes(lr.Body().Bytes())}
	if at := lr.ObservedTimestamp(); at != 0 {
		e.Received = at.AsTime()
	}
	tenant := false
	for k, v := range lr.Attributes().All() {
		var err error
		switch k {
		case attrSignal:
			e.Signal, err = signal.Parse(v.Str())
		case attrTenant:
			tenant = true
			e.Tenant, err = text(v)
		case attrSource:
			e.Source, err = text(v)
		case attrEvents:
			if v.Type() != pcommon.ValueTypeInt || v.Int() < 0 {
				err = fmt.Errorf("want a count, got %s %s", v.Type(), v.AsString())
			}
			e.Events = int(v.Int())
		case attrLane:
			e.Lane, err = text(v)
		case attrSchemaVersion:
			e.SchemaVersion, err = text(v)
		case attrFindings:
			e.Findings, err = raw(v)
		case attrRequest:
			e.Request, err = raw(v)
		case attrIDAttribute:
			e.IDAttribute, err = text(v)
		case attrJurisdiction:
			e.Jurisdiction, err = text(v)
		case attrTopicClass:
			e.TopicClass, err = text(v)
		default:
			err = e.readQuarantine(k, v)
		}
		if err != nil {
			return Envelope{}, fmt.Errorf("%w: attribute %s: %w", ErrNotEnvelope, k, err)
		}
	}
	switch {
	case e.Signal == 0:
		return Envelope{}, fmt.Errorf("%w: attribute %s is missing", ErrNotEnvelope, attrSignal)
	case (e.Lane == LaneQuarantine) != (e.Quarantine != nil):
		return Envelope{}, fmt.Errorf("%w: lane is %q, and what it is quarantined for is there: %t", ErrNotEnvelope, e.Lane, e.Quarantine != nil)
	case !tenant:
		return Envelope{}, fmt.Errorf("%w: attribute %s is missing", ErrNotEnvelope, attrTenant)
	}
	return e, nil
}

func text(v pcommon.Value) (string, error) {
	if v.Type() != pcommon.ValueTypeStr {
		return "", fmt.Errorf("want a string, got %s", v.Type())
	}
	return v.Str(), nil
}

func raw(v pcommon.Value) ([]byte, error) {
	if v.Type() != pcommon.ValueTypeBytes {
		return nil, fmt.Errorf("want bytes, got %s", v.Type())
	}
	return getBytes(v.Bytes()), nil
}

// byReference: pdata offers only copies of a byte slice. Its ByteSlice is {orig *[]byte, state *State}; where that still holds
// (checked once, below) the slice header behind orig is set and read in place. A pdata that changes falls back to copying.
var byReference = func() bool {
	t := reflect.TypeFor[pcommon.ByteSlice]()
	return t.Kind() == reflect.Struct && t.NumField() > 0 && t.Field(0).Type == reflect.TypeFor[*[]byte]()
}()

func setBytes(bs pcommon.ByteSlice, b []byte) {
	if !byReference {
		bs.FromRaw(b)
		return
	}
	**(**[]byte)(unsafe.Pointer(&bs)) = b
}

func getBytes(bs pcommon.ByteSlice) []byte {
	if !byReference {
		return bs.AsRaw()
	}
	return **(**[]byte)(unsafe.Pointer(&bs))
}

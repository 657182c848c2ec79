package repair

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
)

// event is one event, with what steps may change of it. What its signal does not have is nil. Resource, scope and metric are shared with other events:
// a step that changes one gives the event another.
type event struct {
	resource *resource
	scope    *scope
	metric   *metric // of a data point

	attributes  pcommon.Map
	body        *pcommon.Value
	text        func() string // the name of what is no data point
	setText     func(string)
	setSeverity func(string)
	setTime     map[field]func(pcommon.Timestamp)

	clone func() event   // that steps change without changing this one
	put   func(*request) // appends it behind its resource, scope and metric
}

func (e *event) name() string {
	if e.metric != nil {
		return e.metric.shell.Name()
	}
	return e.text()
}

func (e *event) setName(s *Step, name string) {
	if e.metric == nil {
		e.setText(name)
		return
	}
	e.metric = e.metric.after(s, func(m *metric) { m.shell.SetName(name) })
}

// apply carries out a step. What an event does not have, no step changes.
func (e *event) apply(s *Step, receivedAt time.Time) {
	switch {
	case s.Set != nil:
		e.set(s, receivedAt)
	case s.Remove != nil:
		e.attrs(s, s.Remove.at, func(attrs pcommon.Map) { attrs.Remove(s.Remove.at.key) })
	case s.Rename != nil:
		e.attrs(s, s.Rename.from, func(attrs pcommon.Map) { s.Rename.in(attrs) })
	case s.Cast != nil:
		if s.Cast.at.field == fieldBody {
			if e.body != nil {
				cast(*e.body, s.Cast.To)
			}
			return
		}
		e.attrs(s, s.Cast.at, func(attrs pcommon.Map) {
			if v, ok := attrs.Get(s.Cast.at.key); ok {
				cast(v, s.Cast.To)
			}
		})
	case s.Retag != nil:
		if s.Retag.Name != "" {
			e.setName(s, s.Retag.Name)
		}
		if url := s.Retag.SchemaURL; url != nil {
			e.scope = e.scope.after(s, func(c *scope) { c.schemaURL = *url })
		}
	}
}

// attrs lets a step change the attributes that a path is about.
func (e *event) attrs(s *Step, p path, change func(pcommon.Map)) {
	if p.field == fieldResource {
		e.resource = e.resource.after(s, func(r *resource) { change(r.resource.Attributes()) })
		return
	}
	change(e.attributes)
}

func (r *Rename) in(attrs pcommon.Map) {
	v, ok := attrs.Get(r.from.key)
	if !ok || r.from.key == r.to.key {
		return
	}
	moved := pcommon.NewValueEmpty()
	v.CopyTo(moved)
	attrs.Remove(r.from.key)
	moved.CopyTo(attrs.PutEmpty(r.to.key))
}

func (e *event) set(s *Step, receivedAt time.Time) {
	p, value := s.Set.at, s.Set.Value
	text := fmt.Sprint(value)
	switch {
	case p.isTime():
		if set := e.setTime[p.field]; set != nil {
			set(pcommon.NewTimestampFromTime(timeOf(value, receivedAt)))
		}
	case p.field == fieldBody:
		if e.body != nil {
			put(*e.body, value)
		}
	case p.isValue():
		e.attrs(s, p, func(attrs pcommon.Map) { put(attrs.PutEmpty(p.key), value) })
	case p.field == fieldName:
		e.setName(s, text)
	case p.field == fieldUnit && e.metric != nil:
		e.metric = e.metric.after(s, func(m *metric) { m.shell.SetUnit(text) })
	case p.field == fieldSeverityText && e.setSeverity != nil:
		e.setSeverity(text)
	}
}

func timeOf(value any, receivedAt time.Time) time.Time {
	switch v := value.(type) {
	case time.Time:
		return v
	case string:
		if t, err := time.Parse(time.RFC3339Nano, v); err == nil {
			return t
		}
	}
	return receivedAt
}

func put(v pcommon.Value, value any) {
	if items, ok := value.([]any); ok {
		list := v.SetEmptySlice()
		for _, item := range items {
			put(list.AppendEmpty(), item)
		}
		return
	}
	switch x := value.(type) {
	case string:
		v.SetStr(x)
	case int:
		v.SetInt(int64(x))
	case int64:
		v.SetInt(x)
	case float64:
		v.SetDouble(x)
	case bool:
		v.SetBool(x)
	}
}

// cast makes v of another type if it says the same then.
func cast(v pcommon.Value, to string) {
	text := strings.TrimSpace(v.AsString())
	switch to {
	case "string":
		v.SetStr(strings.ToValidUTF8(v.AsString(), "\uFFFD"))
	case "int":
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			v.SetInt(n)
		} else if d, err := strconv.ParseFloat(text, 64); err == nil && d == math.Trunc(d) && math.Abs(d) < 1<<53 {
			v.SetInt(int64(d))
		}
	case "double":
		if d, err := strconv.ParseFloat(text, 64); err == nil {
			v.SetDouble(d)
		}
	case "bool":
		if b, err := strconv.ParseBool(text); err == nil {
			v.SetBool(b)
		}
	}
}

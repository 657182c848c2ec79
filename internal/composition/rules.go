package composition

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Types of components that the rules are about.
const (
	Ingest     = "ingest"
	Validation = "schema_validation"
	Quarantine = "quarantine"
	Dedupe     = "dedupe"
	MSK        = "msk"
	batch      = "batch"
	limiter    = "memory_limiter"
)

// RecordHeaders is what a record of the quarantine topic takes beside its body and verdicts.
const RecordHeaders = 2 << 10

// Step is a component of a pipeline.
type Step struct {
	// ID as the configuration has it: type, or type/name.
	ID string
	// Enforces: a schema_validation that may have events quarantined, of some tenant.
	Enforces bool
	// MaxRecordBytes of a quarantine or an msk exporter; 0: its default.
	MaxRecordBytes int
	// Queues: an exporter with a sending_queue.
	Queues bool
}

// is tells the type of a component's id.
func (s Step) is(kind string) bool {
	t, _, _ := strings.Cut(s.ID, "/")
	return t == kind
}

// pipeline is what data of one receiver passes, up to one exporter.
type pipeline struct {
	receiver   Step
	processors []Step
	exporter   Step
	envelopes  bool // it may carry requests as bytes, as logs pipelines do; others mark or drop what is invalid
}

func first(of []Step, kind string) int {
	return slices.IndexFunc(of, func(s Step) bool { return s.is(kind) })
}

// problems are those of a pipeline that ends in Kafka, or begins there.
func (p pipeline) problems() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	synchronous := p.receiver.is(Ingest) || p.receiver.is(MSK) || p.exporter.is(MSK)
	if !synchronous {
		return nil
	}
	for _, s := range p.processors {
		if s.is(batch) {
			wrong("processor %s acknowledges what is only in memory, and takes apart what belongs together: remove it; %s and %s make batches themselves", s.ID, p.receiver.ID, p.exporter.ID)
		}
	}
	if p.exporter.Queues {
		wrong("exporter %s has a sending_queue, which acknowledges what is only in memory: set sending_queue::enabled to false", p.exporter.ID)
	}
	if p.exporter.is(MSK) && p.envelopes {
		errs = append(errs, p.quarantines())
	}
	if p.receiver.is(MSK) {
		errs = append(errs, p.dedupes())
	}
	return errors.Join(errs...)
}

// quarantines: what validation finds is taken out before the exporter.
func (p pipeline) quarantines() error {
	var errs []error
	quarantine := first(p.processors, Quarantine)
	for i, s := range p.processors {
		switch {
		case !s.is(Validation) || !s.Enforces:
		case quarantine < 0:
			errs = append(errs, fmt.Errorf("processor %s finds invalid events and nothing takes them out: add processor %s behind it", s.ID, Quarantine))
		case quarantine < i:
			errs = append(errs, fmt.Errorf("processor %s comes before %s, so it takes out nothing of what that finds: put it behind", p.processors[quarantine].ID, s.ID))
		}
	}
	if quarantine >= 0 {
		if q, e := p.processors[quarantine], p.exporter; q.MaxRecordBytes > 0 && e.MaxRecordBytes > 0 && q.MaxRecordBytes+RecordHeaders > e.MaxRecordBytes {
			errs = append(errs, fmt.Errorf("max_record_bytes of processor %s is %d, and of exporter %s %d: the exporter would refuse for good what is quarantined; it needs %d more than the processor for headers", q.ID, q.MaxRecordBytes, e.ID, e.MaxRecordBytes, RecordHeaders))
		}
	}
	return errors.Join(errs...)
}

// dedupes: copies are found among the records as Kafka has them, so nothing may come before but what passes them unchanged.
func (p pipeline) dedupes() error {
	at := first(p.processors, Dedupe)
	if at < 0 {
		return nil
	}
	for _, s := range p.processors[:at] {
		if !s.is(limiter) {
			return fmt.Errorf("processor %s comes before %s, which must be the first behind receiver %s: it decides by the records as they are in Kafka", s.ID, p.processors[at].ID, p.receiver.ID)
		}
	}
	return nil
}

package audit

import (
	"context"
	"slices"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Run audits. Its certificate is complete whatever the verdict; an error means that there is none: the configuration is wrong, Kafka cannot
// be read, or ctx ended.
func Run(ctx context.Context, config Config) (*certificate.Certificate, error) {
	return run(ctx, config, (*audit).open)
}

func run(ctx context.Context, config Config, open func(*audit, context.Context)) (*certificate.Certificate, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	a := &audit{Config: &config, cert: &certificate.Certificate{Format: certificate.Version, Tool: config.Tool, Cell: config.Cell, Started: time.Now().UTC().Truncate(time.Millisecond)}}
	a.report = newReport(a.cert, config.MaxDifferences)
	a.erased = newErasures(a.cert, config.Erased)
	defer a.close()
	if err := a.run(ctx, open); err != nil {
		return nil, err
	}
	a.cert.Finished = time.Now().UTC().Truncate(time.Millisecond)
	a.cert.Conclude()
	if config.Certificates != "" {
		if _, err := a.cert.Append(ctx, config.Certificates, config.Signer); err != nil {
			return nil, err
		}
		return a.cert, nil
	}
	return a.cert, a.cert.Seal()
}

// audit is a run. It is used by one goroutine.
type audit struct {
	*Config
	cert         *certificate.Certificate
	report       *report
	log          *kafkaLog
	stores       []stored.Store // nil: could not be opened
	groups       []string
	quarantine   quarantineIndex
	erased       *erasures
	events, rows int64 // for Progress
}

func (a *audit) close() {
	for _, s := range a.stores {
		if s != nil {
			s.Close()
		}
	}
	if a.log != nil {
		a.log.close()
	}
}

func (a *audit) run(ctx context.Context, open func(*audit, context.Context)) error {
	var err error
	if a.log, err = openKafka(ctx, a.Config); err != nil {
		return err
	}
	open(a, ctx)
	p := &planner{Config: a.Config, log: a.log, groups: a.groups, cert: a.cert}
	topics, err := p.topics(ctx)
	if err != nil {
		return err
	}
	a.asked(topics)
	var plans []*topicPlan
	for _, t := range topics {
		tp, err := p.topic(ctx, t)
		if err != nil {
			return err
		}
		plans = append(plans, tp)
	}
	if a.quarantine, err = readQuarantine(ctx, a.log, a.QuarantineTopic, plans); err != nil {
		return err
	}
	for _, tp := range plans {
		if err := a.topic(ctx, tp); err != nil {
			return err
		}
	}
	return a.rollups(ctx, plans)
}

// open opens the stores. One that cannot be is a problem, not an error: the other one is audited all the same.
func (a *audit) open(ctx context.Context) {
	if c := a.ClickHouse; c != nil {
		s, err := stored.NewClickHouse(*c)
		a.opened(s, err, certificate.StoreInfo{Store: certificate.Hot, Where: c.URL, Group: c.Group})
	}
	if c := a.Lake; c != nil {
		s, err := stored.OpenLake(ctx, *c)
		a.opened(s, err, certificate.StoreInfo{Store: certificate.Lake, Where: c.CatalogURI, Group: c.Group})
	}
}

func (a *audit) opened(s stored.Store, err error, info certificate.StoreInfo) {
	if err != nil {
		a.cert.Problem("%s: %v", info.Store, err)
		s = nil
	} else {
		info = s.Info()
	}
	a.stores, a.groups = append(a.stores, s), append(a.groups, info.Group)
	a.cert.Stores = append(a.cert.Stores, info)
}

func (a *audit) asked(topics []Topic) {
	q := certificate.Asked{Ranges: a.Ranges, Tenant: a.Tenant, Window: a.Window.String(), Quick: a.Quick, Ledger: !a.SkipLedger, Copies: a.CopiesPercent}
	if !a.From.IsZero() {
		t := a.From.UTC()
		q.From = &t
	}
	if !a.To.IsZero() {
		t := a.To.UTC()
		q.To = &t
	}
	for _, t := range topics {
		q.Topics = append(q.Topics, t.Name)
	}
	a.cert.Asked = q
}

// copiesOf is the count of a signal's copies.
func (a *audit) copiesOf(s signal.Signal) *certificate.SignalCopies {
	i := slices.IndexFunc(a.cert.Copies, func(c certificate.SignalCopies) bool { return c.Signal == s.String() })
	if i < 0 {
		i = len(a.cert.Copies)
		a.cert.Copies = append(a.cert.Copies, certificate.SignalCopies{Signal: s.String(), Rules: []certificate.RuleCopies{}})
	}
	return &a.cert.Copies[i]
}

func (a *audit) tell(p Progress) {
	if a.Progress != nil {
		p.Events, p.Rows = a.events+p.Events, a.rows
		a.Progress(p)
	}
}

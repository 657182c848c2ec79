package cells

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/testkit/freeport"
	"github.com/pulsegrid/pulsegrid/internal/testkit/route53"
)

// Zone is that of the cells' names: ingest.ZONE leads to any cell, eu.ingest.ZONE to those of the EU, eu-west.ingest.ZONE to that one.
const Zone = "pulsegrid.test"

var jurisdictions = []string{"eu", "us"}

// Networks of senders, by which DNS knows where they are.
var (
	InFrankfurt = netip.MustParsePrefix("192.0.2.0/24")
	InVirginia  = netip.MustParsePrefix("198.51.100.0/24")
)

// places are the cells that there are, with the round trip from senders in Frankfurt and in Virginia.
var places = []struct {
	name, jurisdiction, region string
	frankfurt, virginia        time.Duration
}{
	{"eu-central", "eu", "eu-central-1", 4 * time.Millisecond, 92 * time.Millisecond},
	{"eu-west", "eu", "eu-west-1", 26 * time.Millisecond, 68 * time.Millisecond},
	{"us-east", "us", "us-east-1", 92 * time.Millisecond, 4 * time.Millisecond},
}

// Options of the cells.
type Options struct {
	Dir   string   // where everything lies; it stays
	Names []string // which cells there are; nil: all
	Times Times
}

// Cell is one of them. Its Rig has the addresses of its parts.
type Cell struct {
	*rig.Rig
	Name, Jurisdiction, Region string
	Address                    netip.Addr // to which DNS leads
	Dir                        string     // all that it writes
	Replica                    string     // directory of its lake's replica, in the object store of another cell of its jurisdiction; empty: there is none
	Registry                   string     // its copy of the registry of tenants, a directory
	State                      string     // where drain.yaml is, a directory
}

// Cells are cells that share nothing, and the DNS server before them.
type Cells struct {
	All  []*Cell
	DNS  *route53.Server
	Keys map[string]string // API keys, by tenant
	Dir  string            // with cells.yaml, the list that `pulsegrid cell` reads

	times                  Times
	ingestPort, healthPort int
}

// New starts the cells' Kafkas and stores, and describes everything else, which Start starts. The calling program's main or TestMain begins with chengine.RunChildIfAsked.
func New(o Options) (c *Cells, err error) {
	c = &Cells{Keys: map[string]string{}, Dir: o.Dir, times: o.Times}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if c.ingestPort, err = freeport.Port(); err != nil {
		return c, err
	}
	if c.healthPort, err = freeport.Port(); err != nil {
		return c, err
	}
	for i, p := range places {
		if o.Names != nil && !slices.Contains(o.Names, p.name) {
			continue
		}
		cell := &Cell{Name: p.name, Jurisdiction: p.jurisdiction, Region: p.region, Address: netip.AddrFrom4([4]byte{127, 0, 1, byte(i + 1)}), Dir: filepath.Join(o.Dir, p.name)}
		cell.Registry, cell.State = filepath.Join(cell.Dir, "tenants"), filepath.Join(cell.Dir, "state")
		for _, dir := range []string{cell.Registry, cell.State} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return c, err
			}
		}
		c.All = append(c.All, cell)
	}
	if err := c.writeRegistry(); err != nil {
		return c, err
	}
	if err := each(c.All, c.build); err != nil {
		return c, err
	}
	return c, c.writeList()
}

// each does something to cells at once.
func each(cells []*Cell, do func(*Cell) error) error {
	errs := make([]error, len(cells))
	var all sync.WaitGroup
	for i, cell := range cells {
		all.Go(func() {
			if err := do(cell); err != nil {
				errs[i] = fmt.Errorf("cell %s: %w", cell.Name, err)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func (c *Cells) build(cell *Cell) error {
	at := func(port int) string { return net.JoinHostPort(cell.Address.String(), strconv.Itoa(port)) }
	testdata := func(elem ...string) string {
		return filepath.Join(append([]string{rig.Root(), "integration"}, elem...)...)
	}
	r, err := rig.New(rig.Options{
		Dir: filepath.Join(cell.Dir, "rig"), Faulty: true, Secured: true, Ingest: at(c.ingestPort), CellHealth: at(c.healthPort),
		GatewayConfigs:    []string{testdata("rig", "testdata", "plaintext.yaml"), testdata("fault", "testdata", "gateway.yaml"), testdata("cells", "testdata", "gateway.yaml")},
		AggregatorConfigs: []string{testdata("fault", "testdata", "aggregator.yaml")},
		Env: map[string]string{
			"PULSEGRID_CELL": cell.Name, "PULSEGRID_JURISDICTION": cell.Jurisdiction, "PULSEGRID_TENANTS": cell.Registry, "PULSEGRID_CELL_STATE": cell.State,
			"PULSEGRID_SCHEMAS":             testdata("fault", "testdata", "schemas"),
			"PULSEGRID_DEDUPE_MEMORY_BYTES": strconv.Itoa(64 << 20), // there are three aggregators on this machine
			"CELLS_LOOK":                    c.times.Look.String(), "CELLS_LOOK_TIMEOUT": c.times.LookTimeout.String(), "CELLS_HOLD": c.times.Hold.String(),
			"CELLS_CONNECTION_AGE": c.times.Connection.String(),
		},
	})
	if err == nil {
		cell.Rig = r
	}
	return err
}

// Start starts gateways, aggregators and DNS.
func (c *Cells) Start() error {
	if err := each(c.All, func(cell *Cell) error { return errors.Join(cell.Start(), cell.Heal()) }); err != nil {
		return err
	}
	listen, err := freeport.Addr()
	if err != nil {
		return err
	}
	o := route53.Options{
		Listen: listen, Zone: Zone, Interval: c.times.Check, Threshold: c.times.Threshold,
		Latencies: map[netip.Prefix]map[string]time.Duration{InFrankfurt: {}, InVirginia: {}},
	}
	for _, p := range places {
		o.Latencies[InFrankfurt][p.region], o.Latencies[InVirginia][p.region] = p.frankfurt, p.virginia
	}
	for _, cell := range c.All {
		for _, label := range []string{"", cell.Jurisdiction, cell.Name} {
			o.Records = append(o.Records, route53.Record{Name: Host(label), Set: cell.Name, Region: cell.Region, Address: cell.Address, TTL: c.times.TTL, Check: cell.CheckURL()})
		}
	}
	c.DNS, err = route53.Start(o)
	return err
}

// Close stops everything that runs.
func (c *Cells) Close() error {
	var errs []error
	if c.DNS != nil {
		errs = append(errs, c.DNS.Close())
	}
	errs = append(errs, each(c.All, func(cell *Cell) error {
		if cell.Rig == nil {
			return nil
		}
		return cell.Close()
	}))
	return errors.Join(errs...)
}

// Cell is the one of a name.
func (c *Cells) Cell(name string) *Cell {
	for _, cell := range c.All {
		if cell.Name == name {
			return cell
		}
	}
	return nil
}

// Of are the cells of a jurisdiction; empty: all.
func (c *Cells) Of(jurisdiction string) (out []*Cell) {
	for _, cell := range c.All {
		if jurisdiction == "" || cell.Jurisdiction == jurisdiction {
			out = append(out, cell)
		}
	}
	return out
}

// Host is the name that leads to the cells of a jurisdiction, to one cell by its name, or, empty, to any.
func Host(label string) string {
	if label == "" {
		return "ingest." + Zone
	}
	return label + ".ingest." + Zone
}

// Address is where senders of these cells send: HOST:PORT of OTLP/HTTP, by a name that DNS resolves.
func (c *Cells) Address(label string) string {
	return net.JoinHostPort(Host(label), strconv.Itoa(c.ingestPort))
}

// Endpoint is Address as a URL.
func (c *Cells) Endpoint(label string) string { return "http://" + c.Address(label) }

// Resolver asks the cells' DNS for senders of a network.
func (c *Cells) Resolver(place netip.Prefix) *route53.Resolver {
	return route53.NewResolver(c.DNS.Addr(), place)
}

// Shell is an operator's, in the directory of cells.yaml.
func (c *Cells) Shell() rig.Shell { return rig.Shell{Dir: c.Dir} }

// standby is the cell that has the replica of another one's lake: the first other one of its jurisdiction; nil: there is none.
func (c *Cells) standby(cell *Cell) *Cell {
	for _, other := range c.Of(cell.Jurisdiction) {
		if other != cell {
			return other
		}
	}
	return nil
}

// writeList writes cells.yaml, as docs/regions.md has it.
func (c *Cells) writeList() error {
	var b strings.Builder
	b.WriteString("cells:\n")
	for _, cell := range c.All {
		fmt.Fprintf(&b, "  - name: %s\n    jurisdiction: %s\n    state: %s\n    gateways: [%s]\n    kafka: {brokers: [%s]}\n",
			cell.Name, cell.Jurisdiction, cell.State, cell.Gateways[0].MetricsURL(), strings.Join(cell.Kafka.Brokers(), ", "))
		config := filepath.Join(c.Dir, cell.Name+"-aggregator.yaml")
		if err := cell.AggregatorFile(config); err != nil {
			return err
		}
		fmt.Fprintf(&b, "    aggregator: [%s]\n    identities_may_leave: %t\n", config, cell.Jurisdiction != "eu")
		if other := c.standby(cell); other != nil {
			name := "replica-" + cell.Name
			cell.Replica = filepath.Join(other.Objects.Dir, name)
			fmt.Fprintf(&b, "    copies: [{url: %q, of: lake}]\n", other.Objects.ReplicaURL(name))
		}
	}
	return os.WriteFile(filepath.Join(c.Dir, "cells.yaml"), []byte(b.String()), 0o600)
}

// CheckURL is what DNS asks for the cell's health.
func (c *Cell) CheckURL() string { return "http://" + c.Gateways[0].CellHealth + "/" }

// outside are the links by which the world reaches the cell.
func (c *Cell) outside() []*rig.Link {
	return append(c.Links.Matching("agents", ""), c.Links.Matching("dns", "")...)
}

// Cut takes the cell off the network: what is sent to it goes nowhere, and so does what it sends. Within, everything runs. Heal undoes it.
func (c *Cell) Cut() error {
	var errs []error
	for _, l := range c.outside() {
		errs = append(errs, l.Swallow())
	}
	return errors.Join(errs...)
}

// Heal undoes Cut and Delay; it leaves the round trip that senders in Frankfurt have.
func (c *Cell) Heal() error {
	for _, p := range places {
		if p.name == c.Name {
			return c.Delay(p.frankfurt)
		}
	}
	return fmt.Errorf("%s is nowhere", c.Name)
}

// Delay makes everything that passes between the cell and the world take so long there and back.
func (c *Cell) Delay(roundTrip time.Duration) error {
	var errs []error
	for _, l := range c.outside() {
		errs = append(errs, l.Heal(), l.Delay(roundTrip))
	}
	return errors.Join(errs...)
}

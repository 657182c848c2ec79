// Command serve runs three cells behind a DNS server on this machine until it is interrupted, for whoever wants to try a failover by hand: `make run-cells`.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/pulsegrid/pulsegrid/integration/cells"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
)

func main() {
	chengine.RunChildIfAsked()
	dir := flag.String("dir", "", "directory of everything that the cells write; empty: a temporary one, removed at the end")
	scale := flag.Float64("scale", 1, "how long gateways and DNS take to notice and to forget: 1 is as in production")
	flag.Parse()
	if err := run(*dir, *scale, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "cells:", err)
		os.Exit(1)
	}
}

func run(dir string, scale float64, out io.Writer) (err error) {
	if dir == "" {
		if dir, err = os.MkdirTemp("", "pulsegrid-cells-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	c, err := cells.New(cells.Options{Dir: dir, Times: cells.Production.Scaled(scale)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.Start(); err != nil {
		return err
	}
	if _, err := io.WriteString(out, describe(c)); err != nil {
		return err
	}
	<-stop
	return nil
}

// describe says where everything is, and what to do with it.
func describe(c *cells.Cells) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "cell\tjurisdiction\taddress\tKafka\tClickHouse\tlake\tPIDs of gateway, aggregator, Kafka, ClickHouse") // a Builder takes everything
	for _, cell := range c.All {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d %d %d %d\n", cell.Name, cell.Jurisdiction, cell.Address, strings.Join(cell.Kafka.Brokers(), ","), cell.ClickHouseHTTP(), cell.Catalog(),
			cell.Gateway.PID(), cell.Aggregator.PID(), cell.Kafka.PID(0), cell.ClickHouse.PID())
	}
	_ = w.Flush()
	host, port, _ := net.SplitHostPort(c.DNS.Addr()) // our own address
	fmt.Fprintf(&b, "\nDNS: dig @%s -p %s +short %s    (+subnet=%s: as senders in Frankfurt, %s: in Virginia)\n", host, port, cells.Host("eu"), cells.InFrankfurt, cells.InVirginia)
	fmt.Fprintf(&b, "OTLP/HTTP: %s (any cell), %s (the EU's), %s (the US's)\n", c.Endpoint(""), c.Endpoint("eu"), c.Endpoint("us"))
	for _, tenant := range []string{cells.Europe, cells.America, cells.Anywhere} {
		fmt.Fprintf(&b, "tenant %s: Authorization: Bearer %s\n", tenant, c.Keys[tenant])
	}
	fmt.Fprintf(&b, "\npulsegrid cell drain eu-central --cells %s/cells.yaml\n\nCtrl-C stops everything.\n", c.Dir)
	return b.String()
}

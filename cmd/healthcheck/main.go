// Command healthcheck asks a program of this host whether it is well: the images have no shell and no curl.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

const (
	// endpointVariable is where the distributions' health_check listens.
	endpointVariable = "PULSEGRID_HEALTH_ENDPOINT"
	defaultEndpoint  = "127.0.0.1:13133"
)

func main() {
	err := run(os.Args[1:], os.Getenv(endpointVariable))
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "healthcheck:", err)
		os.Exit(1)
	}
}

func run(args []string, endpoint string) error {
	flags := flag.NewFlagSet("healthcheck", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintf(flags.Output(), `healthcheck asks URL and exits with 0 where the answer is 200, else with 1: the health check of a container.

    healthcheck [-timeout 3s] [URL]

URL is by default http://%s/, or that of the variable %s; a gateway or an aggregator answers there.
The commands of pulsegrid that serve metrics are asked for these: healthcheck http://127.0.0.1:PORT/metrics
`, defaultEndpoint, endpointVariable)
		flags.PrintDefaults()
	}
	timeout := flags.Duration("timeout", 3*time.Second, "how long to wait for the answer")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var url string
	switch flags.NArg() {
	case 0:
		var err error
		if url, err = defaultURL(endpoint); err != nil {
			return err
		}
	case 1:
		url = flags.Arg(0)
	default:
		return fmt.Errorf("want one URL, got %q; see -help", flags.Args())
	}
	client := http.Client{Timeout: *timeout, Transport: &http.Transport{}} // no proxy: it is this host that is asked
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}

// defaultURL is where a program that listens on endpoint is reached from its own host.
func defaultURL(endpoint string) (string, error) {
	if endpoint == "" {
		endpoint = defaultEndpoint
	}
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return "", fmt.Errorf("%s=%q: %w", endpointVariable, endpoint, err)
	}
	if ip := net.ParseIP(host); host == "" || ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip != nil && ip.To4() == nil {
			host = "::1"
		}
	}
	return "http://" + net.JoinHostPort(host, port) + "/", nil
}

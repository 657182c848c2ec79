package cell

import (
	"encoding/json"
	"net"
	"net/url"
	"os"
	"strings"
)

// environment is what the local configs (distributions/local) take from their surroundings.
func (c *Cell) environment(health, metrics string) []string {
	e := c.state.Endpoints
	var env []string
	set := func(name, value string) { env = append(env, "PULSEGRID_"+name+"="+value) }
	set("GRPC_ENDPOINT", e.GRPC)
	set("HTTP_ENDPOINT", e.HTTP)
	setList := func(name string, values []string) {
		list, _ := json.Marshal(append([]string{}, values...)) // of text
		set(name, string(list))
	}
	setList("CORS", c.options.CORS)
	setList("LOCAL_HOSTS", c.localHosts())
	for name, value := range e.stores() {
		env = append(env, name+"="+value)
	}
	set("OWN_OTLP", "http://"+reachable(e.HTTP))
	set("HEALTH_ENDPOINT", hostOf(health))
	host, port, _ := net.SplitHostPort(hostOf(metrics)) // our own URL
	set("METRICS_HOST", host)
	set("METRICS_PORT", port)
	if name, err := os.Hostname(); err == nil {
		set("HOST_NAME", name)
	}
	return env
}

// stores are the variables that say where Kafka and the stores are.
func (e Endpoints) stores() map[string]string {
	return map[string]string{
		"PULSEGRID_KAFKA_BROKERS":       e.Kafka,
		"PULSEGRID_CLICKHOUSE_HTTP":     e.ClickHouseHTTP,
		"PULSEGRID_CLICKHOUSE_USERNAME": e.ClickHouseUser,
		"PULSEGRID_CLICKHOUSE_PASSWORD": e.ClickHousePassword,
		"PULSEGRID_LAKE_WAREHOUSE":      e.Warehouse,
		"PULSEGRID_LAKE_CATALOG":        strings.TrimPrefix(e.Catalog, catalogScheme),
	}
}

// Aggregator is the configuration of the cell's aggregator, and the variables of its surroundings that it takes the stores from.
func (s State) Aggregator() (config string, variables map[string]string) {
	return layout(s.DataDir).config("aggregator"), s.Endpoints.stores()
}

// Gateway is the configuration of the cell's gateway.
func (s State) Gateway() (config string) { return layout(s.DataDir).config("gateway") }

// localHosts are the names by which programs may ask for OTLP/HTTP, beside IP addresses.
func (c *Cell) localHosts() []string {
	names := append([]string{"localhost"}, c.options.Hosts...)
	if host, _, err := net.SplitHostPort(c.options.HTTP); err == nil && host != "" && net.ParseIP(host) == nil {
		names = append(names, host)
	}
	if name, err := os.Hostname(); err == nil && checkHost(name) == nil {
		names = append(names, name)
	}
	return names
}

// reachable is the address at which a server is reached that listens on addr, which may be all interfaces.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func hostOf(u string) string {
	parsed, err := url.Parse(u)
	if err != nil {
		return ""
	}
	return parsed.Host
}

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
	origins, _ := json.Marshal(append([]string{}, c.options.CORS...)) // of text
	set("CORS", string(origins))
	set("KAFKA_BROKERS", e.Kafka)
	set("CLICKHOUSE_HTTP", e.ClickHouseHTTP)
	set("CLICKHOUSE_USERNAME", e.ClickHouseUser)
	set("CLICKHOUSE_PASSWORD", e.ClickHousePassword)
	set("LAKE_WAREHOUSE", e.Warehouse)
	set("LAKE_CATALOG", strings.TrimPrefix(e.Catalog, catalogScheme))
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

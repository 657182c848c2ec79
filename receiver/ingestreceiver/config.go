package ingestreceiver

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configgrpc"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// What Output may be.
const (
	outputEnvelope = "envelope"
	outputPdata    = "pdata"
)

const (
	defaultGRPCEndpoint = "localhost:4317"
	defaultHTTPEndpoint = "localhost:4318"

	defaultTenantHeader = "x-pulsegrid-tenant"
	defaultTenant       = "default"
	defaultSourceHeader = "x-pulsegrid-agent"

	defaultRetryAfter = 5 * time.Second
	// Clients time out after more than a second, and wait 0.8 s or longer before they send again.
	defaultRepeatWindow = 500 * time.Millisecond
	maxRepeatWindow     = 10 * time.Second
	defaultReadBuffer   = 512 << 10 // as the otlp receiver has it
	defaultMaxStreams   = 128
	// A connection is asked to go after its age; one of gRPC is gone after the grace time.
	defaultConnectionAge   = 10 * time.Minute
	minHTTPConnectionAge   = time.Second
	defaultConnectionGrace = time.Minute
	// defaultIdleTimeout of an HTTP connection. It must be well above the interval at which SDKs export, 60 s: a connection that is closed just when the next
	// request comes fails it.
	defaultIdleTimeout = 3 * time.Minute
	// maxHeaderBytes of a gRPC call's headers, decompressed: a token of an identity provider and much else. The library's bound is 16 MiB a call. Over HTTP
	// it is net/http's 1 MiB a connection.
	maxHeaderBytes = 64 << 10

	mib                         = 1 << 20
	defaultMaxCompressedBytes   = 16 * mib
	defaultMaxDecompressedBytes = 64 * mib
	defaultMaxInFlightBytes     = 256 * mib
	defaultMaxRatio             = 200
	defaultMaxTenantShare       = 0.5
	defaultReadTimeout          = 30 * time.Second
	defaultMaxRefused           = 2 * mib

	// Bounds of what may be configured: beyond them a limit no longer protects anything.
	maxMaxDecompressedBytes = 1024 * mib
	maxMaxDepth             = 512
)

// Config of receiver `ingest`.
type Config struct {
	// Protocols to listen on; at least one.
	Protocols Protocols `mapstructure:"protocols"`
	// LocalHosts makes of the HTTP server one for programs of this machine, and keeps web pages away that users of this machine visit: a request must ask
	// for an IP address or one of these names (its header Host), and name no origin but those of protocols::http::cors::allowed_origins.
	// Default none: any name, and any page that sends OTLP's content types.
	LocalHosts []string `mapstructure:"local_hosts"`
	// Output is `envelope` (default: one logs pipeline gets the requests of all signals, as bytes) or `pdata` (each signal goes to
	// the pipeline of its signal, decoded).
	Output string `mapstructure:"output"`
	// Tenant says whose a request is.
	Tenant TenantConfig `mapstructure:"tenant"`
	// SourceHeader names the header in which an agent says who it is; default x-pulsegrid-agent. Without it, or if empty, the
	// source is a hash of the first resource's identity.
	SourceHeader string `mapstructure:"source_header"`
	// QuarantineUndecodable hands bodies that are not OTLP, or cannot be decompressed, to the pipeline's quarantine before they are refused.
	// Default false; only with output: envelope.
	QuarantineUndecodable bool `mapstructure:"quarantine_undecodable"`
	// LegacyEvents serves POST /v1/events, which takes what the old REST collectors took.
	LegacyEvents LegacyConfig `mapstructure:"legacy_events"`
	// Repeats tells equal requests from requests that are sent again; only with output: envelope.
	Repeats RepeatsConfig `mapstructure:"repeats"`
	// Limits of a request, and of all of them.
	Limits LimitsConfig `mapstructure:"limits"`
	// HTTPConnectionAge is after how long an answer over HTTP closes its connection, give or take a tenth, so that senders who are never idle ask DNS again, and come back after a
	// failover; default 10m, at least 1s; 0: never. Over gRPC protocols::grpc::keepalive does that.
	HTTPConnectionAge time.Duration `mapstructure:"http_connection_age"`
	// RetryAfter is what a sender is asked to wait where the pipeline says nothing; default 5s, at least 1s.
	RetryAfter time.Duration `mapstructure:"retry_after"`
}

// Protocols that the receiver listens on. Each is the Collector's own server config: TLS, auth, CORS, keepalive, middlewares.
type Protocols struct {
	GRPC configoptional.Optional[configgrpc.ServerConfig] `mapstructure:"grpc"`
	HTTP configoptional.Optional[confighttp.ServerConfig] `mapstructure:"http"`
}

// LegacyConfig is of POST /v1/events (docs/formats/legacy.md).
type LegacyConfig struct {
	// Enabled serves it; default false. Only with output: envelope.
	Enabled bool `mapstructure:"enabled"`
	// MappingFile says how events become OTLP. Default and empty: the built-in mapping.
	MappingFile string `mapstructure:"mapping_file"`
}

// TenantConfig says whose a request is.
type TenantConfig struct {
	// Header, or gRPC metadata key, with the tenant's id; default x-pulsegrid-tenant. Empty: all are the default tenant's.
	Header string `mapstructure:"header"`
	// Default is the tenant of a request without that header; default "default". Empty: such a request is refused.
	Default string `mapstructure:"default"`
}

// RepeatsConfig is about clients whose requests are equal because their events are.
type RepeatsConfig struct {
	// Window after the first of several equal requests in which another one is a new event while the earlier ones have not failed; default 500ms, at most
	// 10s. It must be shorter than the timeouts of clients. 0: equal requests are always taken for one request that was sent again.
	Window time.Duration `mapstructure:"window"`
}

// LimitsConfig bounds a request. Zero is refused for all but MaxDepth and MaxEvents.
type LimitsConfig struct {
	// MaxCompressedBytes of a compressed body; default 16 MiB.
	MaxCompressedBytes int `mapstructure:"max_compressed_bytes"`
	// MaxDecompressedBytes of a body after decompression, or of one that is not compressed; default 64 MiB.
	MaxDecompressedBytes int `mapstructure:"max_decompressed_bytes"`
	// MaxCompressionRatio of decompressed to compressed bytes, judged beyond 20 MiB of decompressed bytes; default 200.
	MaxCompressionRatio int `mapstructure:"max_compression_ratio"`
	// MaxDepth in levels of nested attribute values; default 64, which zero means too.
	MaxDepth int `mapstructure:"max_depth"`
	// MaxEvents of a request; default 262144, which zero means too.
	MaxEvents int `mapstructure:"max_events"`
	// MaxInFlightBytes is held by all requests together; beyond it senders are asked to come again. Default 256 MiB.
	MaxInFlightBytes int `mapstructure:"max_in_flight_bytes"`
	// MaxTenantShare of MaxInFlightBytes is held by one tenant's requests, where credentials say whose they are; default 0.5. It is never less than one
	// request of the largest size needs.
	MaxTenantShare float64 `mapstructure:"max_tenant_share"`
	// MaxRefusedBytesPerSecond are the bytes that may be read and decompressed in vain for one tenant, whose requests are then not taken, where credentials
	// say whose they are; 16 s of that at once. Beyond it the tenant's requests are asked to come again by their headers. Default 2 MiB, at least 64 KiB.
	MaxRefusedBytesPerSecond int `mapstructure:"max_refused_bytes_per_second"`
	// ReadTimeout is the time in which an HTTP body or a gRPC message must have come; default 30s.
	ReadTimeout time.Duration `mapstructure:"read_timeout"`
}

func createDefaultConfig() component.Config {
	grpcCfg := configgrpc.NewDefaultServerConfig()
	grpcCfg.NetAddr.Endpoint = defaultGRPCEndpoint
	grpcCfg.ReadBufferSize = defaultReadBuffer
	grpcCfg.MaxConcurrentStreams = defaultMaxStreams // the library's default is no bound
	// Nothing else ends a call whose message never comes; senders notice no more of it than a new connection, which a load balancer may give to another
	// gateway.
	grpcCfg.Keepalive = configoptional.Some(configgrpc.NewDefaultKeepaliveServerConfig())
	grpcCfg.Keepalive.Get().ServerParameters.Get().MaxConnectionAge = defaultConnectionAge
	grpcCfg.Keepalive.Get().ServerParameters.Get().MaxConnectionAgeGrace = defaultConnectionGrace

	httpCfg := confighttp.NewDefaultServerConfig()
	httpCfg.NetAddr.Endpoint = defaultHTTPEndpoint
	// It would run while the next hop works, and take the answer from a sender whose request is durable.
	httpCfg.WriteTimeout = 0
	httpCfg.IdleTimeout = defaultIdleTimeout //nolint:staticcheck // it is where the library's default still is

	return &Config{
		Protocols:    Protocols{GRPC: configoptional.Default(grpcCfg), HTTP: configoptional.Default(httpCfg)},
		Output:       outputEnvelope,
		Tenant:       TenantConfig{Header: defaultTenantHeader, Default: defaultTenant},
		SourceHeader: defaultSourceHeader,
		Repeats:      RepeatsConfig{Window: defaultRepeatWindow},
		Limits: LimitsConfig{
			MaxCompressedBytes: defaultMaxCompressedBytes, MaxDecompressedBytes: defaultMaxDecompressedBytes,
			MaxCompressionRatio: defaultMaxRatio, MaxDepth: otlpwire.DefaultMaxDepth, MaxEvents: otlpwire.DefaultMaxEvents,
			MaxInFlightBytes: defaultMaxInFlightBytes, MaxTenantShare: defaultMaxTenantShare, ReadTimeout: defaultReadTimeout,
			MaxRefusedBytesPerSecond: defaultMaxRefused,
		},
		HTTPConnectionAge: defaultConnectionAge,
		RetryAfter:        defaultRetryAfter,
	}
}

// Validate names the key and the value of what is wrong.
func (c *Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !c.Protocols.GRPC.HasValue() && !c.Protocols.HTTP.HasValue() {
		bad("protocols: needs grpc, http or both")
	}
	if h := c.Protocols.HTTP.Get(); h != nil {
		if h.MaxRequestBodySize != 0 {
			bad("protocols::http::max_request_body_size: is %d; set limits::max_compressed_bytes and limits::max_decompressed_bytes instead", h.MaxRequestBodySize)
		}
		if h.CompressionAlgorithms != nil {
			bad("protocols::http::compression_algorithms: is %q; the receiver always takes all that the Collector knows", h.CompressionAlgorithms)
		}
		if h.ReadTimeout != 0 {
			bad("protocols::http::read_timeout: is %v; it would cut off requests that wait for the next hop: set limits::read_timeout instead", h.ReadTimeout)
		}
	}
	if c.Output != outputEnvelope && c.Output != outputPdata {
		bad("output: is %q, want %s or %s", c.Output, outputEnvelope, outputPdata)
	}
	if c.QuarantineUndecodable && c.Output != outputEnvelope {
		bad("quarantine_undecodable: is true, and output is %q; only envelopes can carry what is not OTLP", c.Output)
	}
	if c.LegacyEvents.Enabled && c.Output != outputEnvelope {
		bad("legacy_events::enabled: is true, which needs output: %s", outputEnvelope)
	}
	if c.Tenant.Default != "" && !tenant.ValidID(c.Tenant.Default) {
		bad("tenant::default: is %q, want at most %d of letters, digits and %s", c.Tenant.Default, tenant.MaxIDBytes, tenant.IDPunctuation)
	}
	if c.Tenant.Default == "" && c.Tenant.Header == "" {
		bad("tenant: header and default are both empty, so that every request would be refused")
	}
	for key, name := range map[string]string{"tenant::header": c.Tenant.Header, "source_header": c.SourceHeader} {
		if name != "" && strings.Trim(http.CanonicalHeaderKey(name), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
			bad("%s: %q is no header name", key, name)
		}
	}
	if c.Repeats.Window < 0 || c.Repeats.Window > maxRepeatWindow {
		bad("repeats::window: is %v, want 0 to %v", c.Repeats.Window, maxRepeatWindow)
	}
	if c.HTTPConnectionAge < 0 || c.HTTPConnectionAge > 0 && c.HTTPConnectionAge < minHTTPConnectionAge {
		bad("http_connection_age: is %v, want 0 or at least %v", c.HTTPConnectionAge, minHTTPConnectionAge)
	}
	if c.RetryAfter < time.Second || c.RetryAfter > time.Hour {
		bad("retry_after: is %v, want 1s to 1h", c.RetryAfter)
	}
	for _, name := range c.LocalHosts {
		if name == "" || strings.ContainsAny(name, ":/[] ") {
			bad("local_hosts: %q is no host name; want one without a port, as localhost", name)
		}
	}
	errs = append(errs, c.Limits.validate())
	return errors.Join(errs...)
}

// tenantBytes is what the requests of one tenant may hold.
func (l *LimitsConfig) tenantBytes() int64 {
	return max(int64(l.MaxTenantShare*float64(l.MaxInFlightBytes)), int64(l.MaxCompressedBytes+l.MaxDecompressedBytes))
}

func (l *LimitsConfig) validate() error {
	var errs []error
	within := func(key string, v, low, high int) {
		if v < low || v > high {
			errs = append(errs, fmt.Errorf("limits::%s: is %d, want %d to %d", key, v, low, high))
		}
	}
	within("max_decompressed_bytes", l.MaxDecompressedBytes, 1024, maxMaxDecompressedBytes)
	within("max_compressed_bytes", l.MaxCompressedBytes, 1024, maxMaxDecompressedBytes)
	within("max_compression_ratio", l.MaxCompressionRatio, 2, 1<<20)
	within("max_depth", l.MaxDepth, 0, maxMaxDepth)
	within("max_events", l.MaxEvents, 0, 1<<24)
	// One request of the largest size must find room, or it would be asked to come again for ever.
	within("max_in_flight_bytes", l.MaxInFlightBytes, l.MaxCompressedBytes+l.MaxDecompressedBytes, 1<<40)
	within("max_refused_bytes_per_second", l.MaxRefusedBytesPerSecond, 64<<10, 1<<30)
	if !(l.MaxTenantShare > 0 && l.MaxTenantShare <= 1) {
		errs = append(errs, fmt.Errorf("limits::max_tenant_share: is %v, want more than 0 and at most 1", l.MaxTenantShare))
	}
	if l.ReadTimeout <= 0 || l.ReadTimeout > time.Hour {
		errs = append(errs, fmt.Errorf("limits::read_timeout: is %v, want more than 0 and at most 1h", l.ReadTimeout))
	}
	return errors.Join(errs...)
}

func (l *LimitsConfig) wire() otlpwire.Limits {
	return otlpwire.Limits{MaxDepth: l.depth(), MaxEvents: l.events()}
}

func (l *LimitsConfig) events() int {
	if l.MaxEvents == 0 {
		return otlpwire.DefaultMaxEvents
	}
	return l.MaxEvents
}

func (l *LimitsConfig) depth() int {
	if l.MaxDepth == 0 {
		return otlpwire.DefaultMaxDepth
	}
	return l.MaxDepth
}

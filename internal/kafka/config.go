package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/aws/aws-msk-iam-sasl-signer-go/signer"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/config/configtls"
	"go.uber.org/zap"
)

// Mechanism is how a client proves who it is.
type Mechanism string

// The mechanisms.
const (
	MechanismNone        Mechanism = "none"
	MechanismPlain       Mechanism = "plain"
	MechanismScramSHA256 Mechanism = "scram-sha-256"
	MechanismScramSHA512 Mechanism = "scram-sha-512"
	MechanismAWSMSKIAM   Mechanism = "aws_msk_iam"
)

// Defaults of ClientConfig.
const (
	DefaultBroker         = "localhost:9092"
	DefaultClientID       = "pulsegrid"
	DefaultDialTimeout    = 10 * time.Second
	DefaultRequestTimeout = 10 * time.Second
	// DefaultMetadataMinAge is far below franz-go's 5 s: a producer waits that long for a leader's new place, and while leaders
	// move it would fall behind by seconds a move (docs/decisions/0001).
	DefaultMetadataMinAge = 250 * time.Millisecond
	DefaultMetadataMaxAge = 5 * time.Minute
)

// ClientConfig says how to connect to a Kafka cluster. Embed it with `mapstructure:",squash"`.
type ClientConfig struct {
	// Brokers are the first brokers to ask, as host:port. At least one; the cluster tells the others.
	Brokers []string `mapstructure:"brokers"`
	// ClientID names this client in the brokers' logs, quotas and metrics. Default pulsegrid.
	ClientID string `mapstructure:"client_id"`
	// Rack is where this client runs (on AWS the availability zone id), so that a consumer may read from the nearest replica.
	// Empty: always read from the leader.
	Rack string `mapstructure:"rack"`

	// TLS of the connections. Absent: plaintext. `tls: {}`: TLS by the system's certificate authorities.
	TLS configoptional.Optional[configtls.ClientConfig] `mapstructure:"tls"`
	// Auth is SASL authentication. Absent: none.
	Auth AuthConfig `mapstructure:"auth"`

	// DialTimeout bounds making a connection, TLS included. Default 10s; must be above zero.
	DialTimeout time.Duration `mapstructure:"dial_timeout"`
	// RequestTimeout bounds writing a request, and reading its answer after the time that the request itself grants the broker.
	// Default 10s; at least 100ms. A broker that stays silent for longer loses the connection.
	RequestTimeout time.Duration `mapstructure:"request_timeout"`
	// MetadataMinAge is the least time between two looks at where leaders are. Default 250ms; at least 10ms.
	MetadataMinAge time.Duration `mapstructure:"metadata_min_age"`
	// MetadataMaxAge is the most time between two looks at where leaders are. Default 5m; at least metadata_min_age.
	MetadataMaxAge time.Duration `mapstructure:"metadata_max_age"`
}

// AuthConfig is SASL authentication.
type AuthConfig struct {
	// Mechanism: none, plain, scram-sha-256, scram-sha-512 or aws_msk_iam. Default none. Any but none needs `tls`.
	Mechanism Mechanism `mapstructure:"mechanism"`
	// Username and Password of plain and scram.
	Username string              `mapstructure:"username"`
	Password configopaque.String `mapstructure:"password"`
	// AWS is where the credentials of aws_msk_iam come from.
	AWS AWSConfig `mapstructure:"aws"`
}

// AWSConfig is where the credentials of aws_msk_iam come from; all but the region may be empty: AWS's default chain.
type AWSConfig struct {
	// Region of the MSK cluster. Required with aws_msk_iam.
	Region string `mapstructure:"region"`
	// RoleARN is a role to assume. Empty: the default chain's own identity.
	RoleARN string `mapstructure:"role_arn"`
	// SessionName of the assumed role. Empty: MSKSASLDefaultSession.
	SessionName string `mapstructure:"session_name"`
}

// NewDefaultClientConfig returns a config of one plaintext broker on this host.
func NewDefaultClientConfig() ClientConfig {
	return ClientConfig{
		Brokers:        []string{DefaultBroker},
		ClientID:       DefaultClientID,
		TLS:            configoptional.Default(configtls.NewDefaultClientConfig()),
		Auth:           AuthConfig{Mechanism: MechanismNone},
		DialTimeout:    DefaultDialTimeout,
		RequestTimeout: DefaultRequestTimeout,
		MetadataMinAge: DefaultMetadataMinAge,
		MetadataMaxAge: DefaultMetadataMaxAge,
	}
}

// Validate names the YAML key and the value of everything that is wrong.
func (c *ClientConfig) Validate() error {
	var errs []error
	if len(c.Brokers) == 0 {
		errs = append(errs, errors.New("brokers: is empty, want at least one host:port"))
	}
	for i, b := range c.Brokers {
		if host, port, err := net.SplitHostPort(b); err != nil || host == "" || port == "" {
			errs = append(errs, fmt.Errorf("brokers[%d]: %q is not host:port", i, b))
		}
	}
	if c.DialTimeout <= 0 {
		errs = append(errs, fmt.Errorf("dial_timeout: %v is not above zero", c.DialTimeout))
	}
	if c.RequestTimeout < 100*time.Millisecond {
		errs = append(errs, fmt.Errorf("request_timeout: %v is below 100ms", c.RequestTimeout))
	}
	if c.MetadataMinAge < 10*time.Millisecond {
		errs = append(errs, fmt.Errorf("metadata_min_age: %v is below 10ms", c.MetadataMinAge))
	}
	if c.MetadataMaxAge < c.MetadataMinAge {
		errs = append(errs, fmt.Errorf("metadata_max_age: %v is below metadata_min_age %v", c.MetadataMaxAge, c.MetadataMinAge))
	}
	return errors.Join(append(errs, c.validateAuth())...)
}

func (c *ClientConfig) validateAuth() error {
	a := c.Auth
	var errs []error
	switch a.Mechanism {
	case MechanismNone, "":
		return nil
	case MechanismPlain, MechanismScramSHA256, MechanismScramSHA512:
		if a.Username == "" {
			errs = append(errs, fmt.Errorf("auth::username: is empty, auth::mechanism %s needs one", a.Mechanism))
		}
		if a.Password == "" {
			errs = append(errs, fmt.Errorf("auth::password: is empty, auth::mechanism %s needs one", a.Mechanism))
		}
	case MechanismAWSMSKIAM:
		if a.AWS.Region == "" {
			errs = append(errs, errors.New("auth::aws::region: is empty, auth::mechanism aws_msk_iam needs the cluster's region"))
		}
		if c.TLS.HasValue() && c.TLS.Get().Insecure {
			errs = append(errs, errors.New("tls::insecure: true, but MSK offers IAM by TLS only"))
		}
	default:
		return fmt.Errorf("auth::mechanism: %q is unknown, want none, plain, scram-sha-256, scram-sha-512 or aws_msk_iam", a.Mechanism)
	}
	if !c.TLS.HasValue() {
		errs = append(errs, fmt.Errorf("tls: is absent, auth::mechanism %s needs it (`tls: {}`; `tls: {insecure: true}` to send credentials in the clear)", a.Mechanism))
	}
	return errors.Join(errs...)
}

// Options are the options of a client that connects as c says. The client logs to logger.
func (c *ClientConfig) Options(ctx context.Context, logger *zap.Logger) ([]kgo.Opt, error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(c.ClientID),
		kgo.SoftwareNameAndVersion("pulsegrid", "v1"),
		kgo.WithLogger(kgoLogger{logger}),
		kgo.DialTimeout(c.DialTimeout),
		kgo.RequestTimeoutOverhead(c.RequestTimeout),
		kgo.MetadataMinAge(c.MetadataMinAge),
		kgo.MetadataMaxAge(c.MetadataMaxAge),
		kgo.DisableClientMetrics(), // the Collector has its own; pushing them (KIP-714) would also delay closing
	}
	if c.Rack != "" {
		opts = append(opts, kgo.Rack(c.Rack))
	}
	if c.TLS.HasValue() {
		tlsConfig, err := c.TLS.Get().LoadTLSConfig(ctx)
		if err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
		if tlsConfig != nil { // nil: insecure
			opts = append(opts, kgo.DialTLSConfig(tlsConfig))
		}
	}
	if m := c.Auth.mechanism(); m != nil {
		opts = append(opts, kgo.SASL(m))
	}
	return opts, nil
}

func (a AuthConfig) mechanism() sasl.Mechanism {
	switch a.Mechanism {
	case MechanismPlain:
		return plain.Auth{User: a.Username, Pass: string(a.Password)}.AsMechanism()
	case MechanismScramSHA256:
		return scram.Auth{User: a.Username, Pass: string(a.Password)}.AsSha256Mechanism()
	case MechanismScramSHA512:
		return scram.Auth{User: a.Username, Pass: string(a.Password)}.AsSha512Mechanism()
	case MechanismAWSMSKIAM:
		return oauth.Oauth(a.AWS.token)
	}
	return nil
}

// token signs a fresh token; it is asked for one for each connection and each re-authentication (tokens live 15 minutes).
func (a AWSConfig) token(ctx context.Context) (oauth.Auth, error) {
	var token string
	var err error
	if a.RoleARN == "" {
		token, _, err = signer.GenerateAuthToken(ctx, a.Region)
	} else {
		token, _, err = signer.GenerateAuthTokenFromRole(ctx, a.Region, a.RoleARN, a.SessionName)
	}
	if err != nil {
		return oauth.Auth{}, fmt.Errorf("auth::aws: no MSK IAM token for region %s: %w", a.Region, err)
	}
	return oauth.Auth{Token: token}, nil
}

// kgoLogger passes the client's log on at its own levels, but no louder than the Collector's operator needs: what the client
// calls information (every connection, every metadata update) is debugging here.
type kgoLogger struct{ log *zap.Logger }

func (l kgoLogger) Level() kgo.LogLevel {
	switch {
	case l.log.Core().Enabled(zap.DebugLevel):
		return kgo.LogLevelInfo
	case l.log.Core().Enabled(zap.WarnLevel):
		return kgo.LogLevelWarn
	}
	return kgo.LogLevelError
}

func (l kgoLogger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	fields := make([]zap.Field, 0, len(keyvals)/2)
	for i := 0; i+1 < len(keyvals); i += 2 {
		fields = append(fields, zap.Any(fmt.Sprint(keyvals[i]), keyvals[i+1]))
	}
	switch level {
	case kgo.LogLevelError:
		l.log.Error(msg, fields...)
	case kgo.LogLevelWarn:
		l.log.Warn(msg, fields...)
	default:
		l.log.Debug(msg, fields...)
	}
}

package distributions_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/distributions"
)

// configs and the README that documents each one's variables; local's are set by the command.
var configs = map[string]string{
	"gateway/config.yaml":    "gateway/README.md",
	"aggregator/config.yaml": "aggregator/README.md",
	"local/gateway.yaml":     "",
	"local/aggregator.yaml":  "",
}

const collector = "../_build/collector/pulsegrid-collector"

func TestTheBuiltCollectorTakesEveryConfigAsItIs(t *testing.T) {
	for path := range configs {
		validate(t, path, nil)
	}
}

func TestTheBuiltCollectorTakesEveryConfigWithItsVariablesSet(t *testing.T) {
	env := []string{
		"PULSEGRID_GRPC_ENDPOINT=127.0.0.1:1", "PULSEGRID_HTTP_ENDPOINT=[::1]:2", "PULSEGRID_KAFKA_BROKERS=kafka-1:9092,kafka-2:9092",
		"PULSEGRID_PARTITIONS=64", "PULSEGRID_REPLICATION_FACTOR=1", "PULSEGRID_MIN_INSYNC=1", "PULSEGRID_TOPIC_LOGS=other",
		"PULSEGRID_SCHEMAS=s3://bucket/schemas?region=eu-central-1", "PULSEGRID_SCHEMA_MODE=enforce", "PULSEGRID_EVENT_AGE_MAX=0",
		"PULSEGRID_SPILL=file:///tmp/spill", "PULSEGRID_GATEWAY_NAME=gateway-1", "PULSEGRID_LEGACY_EVENTS=false",
		"PULSEGRID_QUARANTINE_STORE=s3://bucket?region=eu-central-1&prefix=quarantine/",
		"PULSEGRID_HEALTH_ENDPOINT=127.0.0.1:3", "PULSEGRID_CELL_HEALTH_ENDPOINT=127.0.0.1:5", "PULSEGRID_CELL_STATE=s3://bucket/cell?region=eu-central-1", "PULSEGRID_METRICS_HOST=127.0.0.1", "PULSEGRID_METRICS_PORT=4",
		"PULSEGRID_TLS_CERT=/tmp/a.crt", "PULSEGRID_TLS_KEY=/tmp/a.key", "PULSEGRID_TLS_CLIENT_CA=/tmp/ca.crt", "PULSEGRID_TENANTS=s3://bucket/tenants?region=eu-central-1",
		"PULSEGRID_CLICKHOUSE_HTTP=clickhouse:8123", "PULSEGRID_HOT_COPY=-b", "PULSEGRID_CLICKHOUSE_USERNAME=writer", "PULSEGRID_CLICKHOUSE_PASSWORD=1234",
		"PULSEGRID_LAKE_CATALOG=/tmp/c.db", "PULSEGRID_LAKE_WAREHOUSE=s3://bucket/lake",
		"PULSEGRID_DEDUPE_MEMORY_BYTES=1048576", "PULSEGRID_CELL=1234", "PULSEGRID_JURISDICTION=eu",
		`PULSEGRID_CORS=["http://localhost:3000","*"]`, `PULSEGRID_LOCAL_HOSTS=["localhost","laptop"]`, "PULSEGRID_OWN_OTLP=http://127.0.0.1:2", "PULSEGRID_HOST_NAME=1234", "PULSEGRID_TRACE_RATIO=1",
	}
	for path, readme := range configs {
		validate(t, path, env)
		set := regexp.MustCompile(`PULSEGRID_\w+`).FindAllString(string(bytes.Join(toBytes(env), []byte(" "))), -1)
		for _, name := range variables(t, path) {
			require.Contains(t, set, name, "%s: this test must set it", path)
		}
		if readme != "" {
			require.ElementsMatch(t, variables(t, path, filepath.Join(filepath.Dir(path), "aws.yaml")), variables(t, readme), "%s documents the variables of %s", readme, path)
		}
	}
}

func TestTheBuiltCollectorTakesTheGatewayInsecureAndWithTheOverflowLane(t *testing.T) {
	validate(t, "gateway/config.yaml", nil, "gateway/insecure.yaml")
	validate(t, "gateway/config.yaml", nil, "gateway/overflow.yaml")
}

func TestTheBuiltCollectorTakesTheAggregatorWithTheOverflowLane(t *testing.T) {
	validate(t, "aggregator/config.yaml", nil, "aggregator/overflow.yaml")
}

func TestTheBuiltCollectorTakesTheAggregatorWithTenants(t *testing.T) {
	validate(t, "aggregator/config.yaml", nil, "aggregator/tenants.yaml")
	validate(t, "aggregator/config.yaml", []string{"PULSEGRID_TENANTS=s3://bucket/tenants?region=eu-central-1", "PULSEGRID_JURISDICTION=us"}, "aggregator/overflow.yaml", "aggregator/tenants.yaml")
}

func TestTheBuiltCollectorTakesBothTiersOnAWS(t *testing.T) {
	cert, key := certificate(t)
	validate(t, "gateway/config.yaml", []string{"AWS_REGION=eu-central-1", "PULSEGRID_TLS_CERT_PEM=" + cert, "PULSEGRID_TLS_KEY_PEM=" + key}, "gateway/aws.yaml")
	hot := []string{"AWS_REGION=eu-central-1", "PULSEGRID_CLICKHOUSE_HTTP=clickhouse-a.eu-1.pulsegrid.internal:8443", "PULSEGRID_LAKE_WAREHOUSE=s3://bucket/warehouse"}
	validate(t, "aggregator/config.yaml", hot, "aggregator/aws.yaml")
	validate(t, "aggregator/config.yaml", append(hot, "PULSEGRID_CLICKHOUSE_CA_PEM="+cert, "PULSEGRID_HOT_COPY=-b"), "aggregator/aws.yaml")
}

// certificate makes one that signs itself, as PEM.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"*.eu-1.pulsegrid.internal"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	bytes, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: bytes}))
}

// Guarantee: what is insecure lacks nothing else of the gateway. Lists are replaced where a file is merged over another.
func TestInsecureTakesAwayNothingButCredentials(t *testing.T) {
	for list, credentials := range map[string]string{`extensions: \[(.*)\]`: "tenant_auth", `processors: \[(.*)\]`: "tenant_routing"} {
		items := func(path string) []string {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			found := regexp.MustCompile(list).FindSubmatch(text)
			require.NotNil(t, found, "%s: %s", path, list)
			return regexp.MustCompile(`\w+`).FindAllString(string(found[1]), -1)
		}
		require.ElementsMatch(t, items("gateway/config.yaml"), append(items("gateway/insecure.yaml"), credentials))
	}
}

func toBytes(s []string) [][]byte {
	out := make([][]byte, 0, len(s))
	for _, e := range s {
		out = append(out, []byte(e))
	}
	return out
}

func variables(t *testing.T, paths ...string) (names []string) {
	t.Helper()
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		names = append(names, regexp.MustCompile(`PULSEGRID_[A-Z_]+`).FindAllString(string(text), -1)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// validate has the Collector read a config, with others merged over it.
func validate(t *testing.T, config string, env []string, over ...string) {
	t.Helper()
	if _, err := os.Stat(collector); err != nil {
		t.Fatalf("the Collector is not built: run `make build`: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), collector, "validate", "--config=file:"+config)
	for _, o := range over {
		cmd.Args = append(cmd.Args, "--config=file:"+o)
	}
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, env...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s: %s", config, out)
}

func TestNoConfigQueuesWhatItHasAcknowledged(t *testing.T) {
	for path := range configs {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for line := range bytes.Lines(text) {
			code, _, _ := bytes.Cut(line, []byte("#"))
			require.NotRegexp(t, `^\s*sending_queue:|^  batch:|processors:.*\bbatch\b`, string(code), path)
		}
	}
}

func TestLocalConfigsAreEmbedded(t *testing.T) {
	for path, embedded := range map[string][]byte{"gateway.yaml": distributions.LocalGateway, "aggregator.yaml": distributions.LocalAggregator} {
		text, err := os.ReadFile(filepath.Join("local", path))
		require.NoError(t, err)
		require.Equal(t, string(text), string(embedded))
	}
}

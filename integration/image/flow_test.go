package image

import (
	_ "embed"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

//go:embed testdata/count.py
var countScript string

const patience = 5 * time.Minute

func unpack(t *testing.T, name string) *rig.Container {
	t.Helper()
	image, err := rig.OpenImage(filepath.Join(build(t), "image", name), runtime.GOARCH)
	require.NoError(t, err)
	c, err := image.Unpack(filepath.Join(t.TempDir(), "root"))
	require.NoError(t, err)
	return c
}

// Scenario: a cell whose gateway and aggregator are the image of the Collector, with the configs in it, and whose operator has the image of pulsegrid: as user 65532, without
// capabilities, on a read-only root, with no folder to write to but the lake's. Requests of OTLP/HTTP come in.
// Guarantees: every event is in both stores once, as ClickHouse and pyiceberg count them and as the operator's audit finds; the health check says well of a gateway that runs, and ill
// of one that does not.
func TestImagesCarryEventsIntoBothStores(t *testing.T) {
	r, err := rig.New(rig.Options{Dir: t.TempDir(), Container: unpack(t, "pulsegrid-collector")})
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	defer func() {
		if t.Failed() {
			t.Logf("gateway:\n%s\naggregator:\n%s", r.Gateway.Log(), r.Aggregator.Log())
		}
	}()
	require.NoError(t, r.Start())

	const service, requests, events = "image", 3, 100
	for i := range requests {
		var records []string
		for j := range events {
			records = append(records, fmt.Sprintf(`{"timeUnixNano":"%d","body":{"stringValue":"event %d of %d"}}`, time.Now().UnixNano(), j, i))
		}
		body := fmt.Sprintf(`{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":%q}}]},"scopeLogs":[{"logRecords":[%s]}]}]}`,
			service, strings.Join(records, ","))
		resp, err := http.Post("http://"+r.HTTP+"/v1/logs", "application/json", strings.NewReader(body))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode)
	}
	const want = requests * events
	eventually(t, "ClickHouse has every event", func() bool {
		n, err := r.Query("SELECT count() FROM logs WHERE service_name = '" + service + "'") // the table comes with the first insert
		return err == nil && n == strconv.Itoa(want)
	})
	eventually(t, "the lake has every event", func() bool {
		return strings.TrimSpace(string(pytest.Run(t, countScript, r.Catalog(), r.Warehouse(), service))) == strconv.Itoa(want)
	})

	operator, scratch := unpack(t, "pulsegrid"), t.TempDir()
	require.NoError(t, operator.Mount(scratch, filepath.Dir(r.CatalogFile())))
	defer func() { require.NoError(t, operator.Unmount()) }()
	audit := []string{
		"audit", "--quiet", "--temp-dir", scratch, "--brokers", strings.Join(r.Kafka.Brokers(), ","), "--clickhouse", "http://" + r.ClickHouseHTTP(),
		"--catalog-uri", "file:" + r.CatalogFile(), "--warehouse", r.Warehouse(),
	}
	var said string
	eventually(t, "the audit finds all equal", func() bool { // not before both groups have committed what was sent
		said, err = operator.Run(t.Context(), nil, "/pulsegrid", audit...)
		t.Logf("%v\n%s", err, said)
		return err == nil && strings.Contains(said, strconv.Itoa(want))
	})

	health := map[string]string{"PULSEGRID_HEALTH_ENDPOINT": r.Gateways[0].Health()}
	said, err = operator.Run(t.Context(), health, "/healthcheck")
	require.NoError(t, err, said)
	require.True(t, r.Gateway.Stop(patience), "SIGTERM ends it")
	said, err = operator.Run(t.Context(), health, "/healthcheck")
	require.Error(t, err)
	require.Contains(t, said, "refused")
}

// eventually polls until ok, on the test's own goroutine, as ok may end the test.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(500 * time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "not within %v: %s", patience, what)
	}
}

// Guarantees: every program of every image starts on its architecture, with its version, and nothing can be written where it runs.
func TestEveryProgramOfAnImageRuns(t *testing.T) {
	each(t, func(t *testing.T, name, arch string, image *rig.Image) {
		root := filepath.Join(t.TempDir(), "root")
		c, err := image.Unpack(root)
		require.NoError(t, err)
		require.NoError(t, c.Mount())
		defer func() { require.NoError(t, c.Unmount()) }()
		run := func(program string, args ...string) string {
			t.Helper()
			var out string
			var err error
			if arch == runtime.GOARCH {
				out, err = c.Run(t.Context(), nil, "/"+program, args...)
			} else {
				out, err = emulated(t, arch, filepath.Join(root, program), args...)
			}
			require.NoError(t, err, out)
			return out
		}
		require.Contains(t, run("healthcheck", "-help"), "healthcheck asks URL")
		if name == "pulsegrid" {
			require.Contains(t, run(name, "version"), "pulsegrid ")
			require.Contains(t, run(name, "audit", "--help"), "Count again what Kafka holds")
			return
		}
		require.Contains(t, run(name, "--version"), name+" version ")
		at := "/etc/pulsegrid"
		if arch != runtime.GOARCH {
			at = filepath.Join(root, at)
		}
		for _, config := range []string{"gateway/config.yaml", "aggregator/config.yaml"} {
			run(name, "validate", "--config", filepath.Join(at, config))
		}
	})
}

// emulated runs a program of another architecture.
func emulated(t *testing.T, arch, program string, args ...string) (string, error) {
	t.Helper()
	emulator, err := exec.LookPath(map[string]string{"arm64": "qemu-aarch64-static", "amd64": "qemu-x86_64-static"}[arch])
	require.NoError(t, err, "install qemu-user-static")
	out, err := exec.Command(emulator, append([]string{program}, args...)...).CombinedOutput()
	return string(out), err
}

// Scenario: pulsegrid of a release is told to run a local cell, for which it lacks the engine's host.
// Guarantees: it says so, and what to take instead.
func TestAReleasedProgramSaysThatItHasNoEngine(t *testing.T) {
	operator, data := unpack(t, "pulsegrid"), t.TempDir()
	require.NoError(t, operator.Mount(data))
	defer func() { require.NoError(t, operator.Unmount()) }()
	out, err := operator.Run(t.Context(), nil, "/pulsegrid", "local", "--data", data, "--collector", "/healthcheck", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
	require.Error(t, err)
	require.Contains(t, out, "make build", out)
}

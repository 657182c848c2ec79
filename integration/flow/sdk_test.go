package flow

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

const sdkEvents = 500

// sdk runs the OpenTelemetry Python SDK and returns what it printed, errors included.
func sdk(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(pytest.Python(t), append([]string{"-"}, args...)...)
	cmd.Stdin = strings.NewReader(sdkScript)
	// A bundle named by the machine's environment goes before the one that the SDK's exporter is given: that is how requests has it.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "REQUESTS_CA_BUNDLE=") || strings.HasPrefix(v, "CURL_CA_BUNDLE=")
	})
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return out.String()
}

// Scenario: the Python SDK's exporters, with gzip, unchanged.
// Guarantees: all that it sent is in both stores.
func TestPythonSDKWorksUnchanged(t *testing.T) {
	r := sharedRig(t)
	for protocol, endpoint := range map[string]string{"grpc": r.GRPC, "http": "http://" + r.HTTP} {
		if out := sdk(t, protocol, endpoint, "500"); !strings.Contains(out, "flushed") || strings.Contains(out, "ERROR") {
			t.Errorf("%s: the SDK says:\n%s", protocol, out)
		}
		for _, table := range []string{"logs", "metrics", "spans"} {
			inBothStores(t, r, table, "python-sdk-"+protocol, sdkEvents)
		}
	}
}

// Scenario: the gateway serves TLS; the SDK trusts its CA, or another one.
// Guarantees: with the right CA everything arrives; with another the SDK names the certificate, and nothing arrives.
func TestPythonSDKOverTLSAndWithABadCertificate(t *testing.T) {
	certs := newCertificates(t)
	r := ownRig(t, rig.Options{
		GatewayConfigs: []string{filepath.Join("testdata", "tls.yaml")},
		Env:            map[string]string{"TEST_CERT": certs.cert, "TEST_KEY": certs.key},
	})
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	grpc, http := "localhost:"+port(t, r.GRPC), "https://localhost:"+port(t, r.HTTP)
	for protocol, endpoint := range map[string]string{"grpc": "https://" + grpc, "http": http} {
		out := sdk(t, protocol, endpoint, "500", certs.otherCA)
		if low := strings.ToLower(out); !strings.Contains(low, "certificate") && !strings.Contains(low, "unavailable") {
			t.Errorf("%s, wrong CA: the SDK does not say what is wrong:\n%s", protocol, out)
		}
		if out := sdk(t, protocol, endpoint, "500", certs.ca); strings.Contains(out, "ERROR") {
			t.Errorf("%s over TLS: the SDK says:\n%s", protocol, out)
		}
		for _, table := range []string{"logs", "metrics", "spans"} {
			inBothStores(t, r, table, "python-sdk-"+protocol, sdkEvents)
		}
	}
}

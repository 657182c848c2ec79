package flow

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
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

// Scenario: the gateway of distributions/ as it is, with a certificate and a tenant; the SDK trusts its CA, or another one, and has an API key, or none.
// Guarantees: with the right CA and a key everything arrives; with another CA the SDK names the certificate, without a key it is refused, and nothing arrives.
func TestPythonSDKOverTLSAndWithABadCertificate(t *testing.T) {
	certs := newCertificates(t)
	tenants := t.TempDir()
	key, id, hash := tenant.NewKey()
	if err := os.WriteFile(filepath.Join(tenants, "acme.yaml"), fmt.Appendf(nil, "tenants: [{id: acme, keys: [{id: %s, hash: %q}]}]\n", id, hash), 0o600); err != nil {
		t.Fatal(err)
	}
	r := ownRig(t, rig.Options{
		Secured: true, Env: map[string]string{"PULSEGRID_TLS_CERT": certs.cert, "PULSEGRID_TLS_KEY": certs.key, "PULSEGRID_TENANTS": tenants},
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
		if out := sdk(t, protocol, endpoint, "500", certs.ca); !strings.Contains(strings.ToLower(out), "unauth") {
			t.Errorf("%s, no key: the SDK does not say what is wrong:\n%s", protocol, out)
		}
		t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key="+key)
		if out := sdk(t, protocol, endpoint, "500", certs.ca); strings.Contains(out, "ERROR") {
			t.Errorf("%s over TLS: the SDK says:\n%s", protocol, out)
		}
		t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "")
		for _, table := range []string{"logs", "metrics", "spans"} {
			inBothStores(t, r, table, "python-sdk-"+protocol, sdkEvents)
		}
	}
}

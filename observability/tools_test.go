package observability_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/internal/chengine"
)

// tool is the path of promtool or amtool, in the version of tools/versions.env.
func tool(t *testing.T, name, version string) string {
	t.Helper()
	text, err := os.ReadFile("../tools/versions.env")
	require.NoError(t, err)
	m := regexp.MustCompile(`(?m)^` + version + `=(.+)$`).FindSubmatch(text)
	require.NotNil(t, m)
	path, err := chengine.Installed(name+"-"+string(m[1]), name)
	require.NoError(t, err, "run `make tools` (tools/install.sh %s)", name)
	return path
}

func promtool(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command(tool(t, "promtool", "PROMETHEUS_VERSION"), args...).CombinedOutput()
	require.NoError(t, err, "promtool %v\n%s", args, out)
}

func checkAlertmanager(t *testing.T, file string) {
	t.Helper()
	out, err := exec.Command(tool(t, "amtool", "ALERTMANAGER_VERSION"), "check-config", file).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// Guarantees: Prometheus takes the rules and the example of its configuration.
func TestPrometheusTakesTheRules(t *testing.T) {
	promtool(t, "check", "config", "prometheus.yaml")
}

// Guarantees: what tests/*.yaml say of each alert.
func TestAlertsFireWhenTheyMustAndNotOtherwise(t *testing.T) {
	files, err := filepath.Glob("tests/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	promtool(t, append([]string{"test", "rules"}, files...)...)
}

// Guarantees: pages reach the pager, tickets and what has no severity the tickets.
func TestAlertsReachWhoTheyAreFor(t *testing.T) {
	amtool := tool(t, "amtool", "ALERTMANAGER_VERSION")
	checkAlertmanager(t, "alertmanager.yaml")
	rules := allRules(t)
	receiver := map[string]string{"page": "pager", "ticket": "tickets", "": "tickets"}
	sets := map[string][]string{"an alert of somebody else's": {"alertname=Other"}}
	severity := map[string]string{}
	for _, r := range rules {
		if r.Alert != "" {
			name := r.Alert + " " + r.Labels["window"]
			severity[name] = r.Labels["severity"]
			sets[name] = []string{"alertname=" + r.Alert, "severity=" + r.Labels["severity"], "kind=" + r.Labels["kind"], "cell=eu-1"}
		}
	}
	for name, labels := range sets {
		args := append([]string{"config", "routes", "test", "--config.file", "alertmanager.yaml", "--verify.receivers", receiver[severity[name]]}, labels...)
		out, err := exec.Command(amtool, args...).CombinedOutput()
		require.NoError(t, err, "%s: %s", name, out)
	}
}

// inhibitRule is Alertmanager's, as far as alertmanager.yaml uses it.
type inhibitRule struct {
	Source []string `yaml:"source_matchers"`
	Target []string `yaml:"target_matchers"`
	Equal  []string `yaml:"equal"`
}

var equals = regexp.MustCompile(`^(\w+)="([^"]*)"$`)

func matches(t *testing.T, matchers []string, labels map[string]string) bool {
	t.Helper()
	for _, m := range matchers {
		parts := equals.FindStringSubmatch(m)
		require.NotNil(t, parts, "%s: this test knows label=\"value\" only", m)
		if labels[parts[1]] != parts[2] {
			return false
		}
	}
	return true
}

// inhibits is Alertmanager's rule: a firing source silences a target that has the same values of the labels `equal`; absent and empty are the same.
func (r inhibitRule) inhibits(t *testing.T, source, target map[string]string) bool {
	t.Helper()
	if !matches(t, r.Source, source) || !matches(t, r.Target, target) {
		return false
	}
	for _, label := range r.Equal {
		if source[label] != target[label] {
			return false
		}
	}
	return true
}

// Scenario: pairs of alerts that fire at once.
// Guarantees: a page for a symptom silences pages for causes of its cell and no other symptom; tickets for causes come, as the end of one that is silenced when it ends is never told;
// nothing silences a symptom's page; nothing reaches into another cell. (amtool cannot ask about inhibition; that it reads the file as this test does is checked by check-config.)
func TestASymptomThatPagesKeepsItsCausesSilent(t *testing.T) {
	text, err := os.ReadFile("alertmanager.yaml")
	require.NoError(t, err)
	var config struct {
		Rules []inhibitRule `yaml:"inhibit_rules"`
	}
	require.NoError(t, yaml.Unmarshal(text, &config))
	labels := map[string]map[string]string{}
	for _, r := range allRules(t) {
		if r.Alert != "" {
			name := r.Alert
			if r.Labels["window"] != "" {
				name += " " + r.Labels["window"]
			}
			labels[name] = map[string]string{"alertname": r.Alert, "severity": r.Labels["severity"], "kind": r.Labels["kind"]}
		}
	}
	silenced := func(source, sourceCell, target, targetCell string) bool {
		s, g := map[string]string{"cell": sourceCell}, map[string]string{"cell": targetCell}
		for k, v := range labels[source] {
			s[k] = v
		}
		for k, v := range labels[target] {
			g[k] = v
		}
		for _, r := range config.Rules {
			if r.inhibits(t, s, g) {
				return true
			}
		}
		return false
	}
	for source, s := range labels {
		for target, g := range labels {
			require.False(t, silenced(source, "eu-1", target, "us-1"), "%s of another cell silences %s", source, target)
			if g["severity"] == "page" && g["kind"] == "symptom" {
				require.False(t, silenced(source, "eu-1", target, "eu-1"), "%s silences %s, for which users call", source, target)
			}
			if s["severity"] == "page" && s["kind"] == "symptom" && g["kind"] == "cause" {
				require.Equal(t, g["severity"] == "page", silenced(source, "eu-1", target, "eu-1"), "%s and %s", source, target)
			}
			if s["severity"] == "ticket" {
				require.False(t, silenced(source, "eu-1", target, "eu-1"), "the ticket %s silences %s", source, target)
			}
		}
	}
	for _, pair := range [][2]string{
		{"IngestionAvailabilityBurn 1h", "IngestionAvailabilityBurn 3d"}, {"QuarantineSurge", "QuarantineRising"}, {"ClickHouseDiskFull", "ClickHouseDiskFilling"},
		{"DiskFull", "DiskFilling"}, {"CertificateEnding", "CertificateExpiring"},
	} {
		require.True(t, silenced(pair[0], "eu-1", pair[1], "eu-1"), "%v", pair)
	}
	require.False(t, silenced("IngestionAvailabilityBurn 1h", "eu-1", "TenantSilent", "eu-1"), "one symptom does not explain another")
}

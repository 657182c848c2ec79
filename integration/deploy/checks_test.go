//go:build deploy

package deploy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

// statement is one of an IAM policy.
type statement struct {
	Sid       string
	Effect    string
	Principal any
	Action    any
	Resource  any
}

// words are the one or many strings of a field.
func words(field any) (out []string) {
	switch v := field.(type) {
	case string:
		return []string{v}
	case []any:
		for _, e := range v {
			out = append(out, e.(string))
		}
	}
	return out
}

// nowhere are actions for which AWS knows no resource.
var nowhere = []string{
	"ecr:GetAuthorizationToken", "ecs:DescribeTaskDefinition", "ecs:ListServices",
}

// parliament reads the policies of its arguments. Its own command cannot read files where its standard input is no terminal.
const parliament = `
import sys
from parliament import analyze_policy_string, enhance_finding
for path in sys.argv[1:]:
    with open(path) as policy:
        for finding in analyze_policy_string(policy.read(), path).findings:
            finding = enhance_finding(finding)
            if finding.severity not in ("MUTE", "INFO"):
                print(path, finding.severity, finding.title, finding.detail, finding.location)
`

// rightsHaveNoWildcards reads every policy of the applied fleet that gives something: no action has a wildcard, and a resource is everything only where AWS knows no other. Parliament then
// reads the same: unknown actions, actions that do not go with their resources, malformed ARNs.
func (s *site) rightsHaveNoWildcards() {
	s.t.Helper()
	folder := filepath.Join(s.root, "policies")
	require.NoError(s.t, os.MkdirAll(folder, 0o755))
	policies := 0
	for address, r := range s.planned() {
		text, ok := r.Change.After["policy"].(string)
		if !ok || r.Type != "aws_iam_role_policy" && r.Type != "aws_iam_policy" {
			continue
		}
		policies++
		var policy struct{ Statement []statement }
		require.NoError(s.t, json.Unmarshal([]byte(text), &policy), address)
		for _, st := range policy.Statement {
			require.Equal(s.t, "Allow", st.Effect, "%s %s", address, st.Sid)
			for _, action := range words(st.Action) {
				require.NotContains(s.t, action, "*", "%s %s: an action with a wildcard", address, st.Sid)
				if slices.Contains(words(st.Resource), "*") {
					require.Contains(s.t, nowhere, action, "%s %s: on everything", address, st.Sid)
				}
			}
		}
		name := strings.NewReplacer("/", "_", `"`, "", "[", "_", "]", "").Replace(address) + ".json"
		require.NoError(s.t, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600))
	}
	require.GreaterOrEqual(s.t, policies, 3*12, "policies of roles")
	require.NoError(s.t, os.WriteFile(filepath.Join(s.root, "policies.py"), []byte(parliament), 0o600))
	out, err := s.try("python policies.py policies/*.json")
	require.NoError(s.t, err, "parliament:\n%s", tail(out))
	assert.Empty(s.t, strings.TrimSpace(out), "parliament") // what is found does not end the test: the rest has more to say
	s.t.Logf("parliament: %d policies", policies)
}

// checked has checkov read the plan of the applied fleet. Exceptions stand in deploy/checkov.yaml with their reasons; one that is no longer needed is named.
func (s *site) checked() {
	s.t.Helper()
	checkov := filepath.Join(filepath.Dir(python(s.t, "checkov")), "checkov")
	out, _ := s.try(checkov + " --file plan.json --framework terraform_plan --output json --compact --quiet --skip-download > checkov.json") // 1: it found something
	text, err := os.ReadFile(filepath.Join(s.root, "checkov.json"))
	require.NoError(s.t, err)
	var report struct {
		Summary struct {
			Passed int `json:"passed"`
			Errors int `json:"parsing_errors"`
		} `json:"summary"`
		Results struct {
			Failed []struct {
				Check    string `json:"check_id"`
				Name     string `json:"check_name"`
				Resource string `json:"resource"`
			} `json:"failed_checks"`
		} `json:"results"`
	}
	require.NoError(s.t, json.Unmarshal(text, &report), "%s\n%s", out, tail(string(text)))
	require.Zero(s.t, report.Summary.Errors)
	require.Greater(s.t, report.Summary.Passed, 1000, "checkov has read the plan")
	var unexplained []string
	used := map[int]bool{}
	exceptions := s.exceptions()
	for _, f := range report.Results.Failed {
		i := slices.IndexFunc(exceptions, func(e exception) bool { return e.Check == f.Check && strings.Contains(f.Resource, e.Of) })
		if used[i] = true; i < 0 {
			unexplained = append(unexplained, f.Check+" "+f.Resource+": "+f.Name)
		}
	}
	slices.Sort(unexplained)
	assert.Empty(s.t, unexplained, "fix them, or say in deploy/checkov.yaml why not")
	for i, e := range exceptions {
		require.True(s.t, used[i], "deploy/checkov.yaml: nothing fails %s of %s any more", e.Check, e.Of)
		require.NotEmpty(s.t, e.Reason, e.Check)
	}
	s.t.Logf("checkov: %d passed, %d failed by %d exceptions that are explained", report.Summary.Passed, len(report.Results.Failed), len(exceptions))
}

// exception is a check that part of the fleet does not pass.
type exception struct {
	Check  string `yaml:"check"`
	Of     string `yaml:"of"` // part of the resources' addresses
	Reason string `yaml:"reason"`
}

func (s *site) exceptions() (out []exception) {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.root, "deploy", "checkov.yaml"))
	require.NoError(s.t, err)
	require.NoError(s.t, yaml.Unmarshal(text, &out))
	return out
}

//go:build deploy

package deploy

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/integration/rig"
)

// regions of the cells of deploy/live/prod.
var regions = map[string]string{"eu-1": "eu-central-1", "eu-2": "eu-west-1", "us-1": "us-east-1"}

const (
	prod = "terraform -chdir=deploy/live/prod "
	// anyRegion is for the test's own questions to services without regions, for which the CLI wants one all the same. Commands of the page name theirs.
	anyRegion = "export AWS_DEFAULT_REGION=us-east-1\n"
)

// Scenario: deploy/ as it stands; settings that AWS would refuse late, or never; one cell, planned.
// Guarantees: it is formatted and valid; each such setting is refused by its name; the plan of a cell of two copies has what it must have.
func TestACellIsPlannedAndWrongSettingsAreRefused(t *testing.T) {
	s := newSite(t)
	s.run("terraform fmt -check -recursive -diff deploy")
	s.run("cd deploy/modules/cell && terraform init -backend=false && terraform test")

	s.startFake()
	// The state of a plan that is never applied.
	require.NoError(t, os.WriteFile(filepath.Join(s.root, "deploy", "live", "prod", "backend_override.tf"), []byte("terraform {\n  backend \"local\" {}\n}\n"), 0o600))
	s.env = append(s.env, "TF_CLI_ARGS_init=-input=false")
	s.run(settings(t))
	s.run(prod + "init")
	s.run(prod + "validate")
	s.run(prod + "plan -target=module.eu_1 -out=plan > plan.log && " + prod + "show -json plan > plan.json")
	planned := s.planned()
	types := map[string]int{}
	for address := range planned {
		if strings.HasPrefix(address, "module.eu_1.") {
			types[strings.Split(address, ".")[2]]++
		}
	}
	require.GreaterOrEqual(t, len(planned), 150)
	require.Equal(t, 8, types["aws_ecs_service"], "gateway, scraper, and aggregator, probe and alerts of both copies: %v", types)
	require.Equal(t, 2, types["aws_instance"])
	require.Equal(t, 1, types["aws_msk_cluster"])
	gaps, err := s.gaps()
	require.NoError(t, err)
	require.JSONEq(t, "{}", gaps)
}

// settings is the block of docs/deploy.md that writes the settings.
func settings(t *testing.T) string {
	t.Helper()
	script := page(t)[0].script
	from, to := strings.Index(script, "account=$(aws sts get-caller-identity --region us-east-1 --query Account --output text)\ncat > deploy/live/prod/terraform.tfvars"), strings.Index(script, "targets=()")
	require.True(t, from >= 0 && to > from)
	return script[from:to]
}

// resource is what a plan says of one.
type resource struct {
	Address string `json:"address"`
	Type    string `json:"type"`
	Change  struct {
		Actions []string       `json:"actions"`
		After   map[string]any `json:"after"`
	} `json:"change"`
}

// planned are the resources of the plan in plan.json, by their address; data sources are left out.
func (s *site) planned() map[string]resource {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.root, "plan.json"))
	require.NoError(s.t, err)
	var plan struct {
		Changes []resource `json:"resource_changes"`
	}
	require.NoError(s.t, json.Unmarshal(text, &plan))
	out := map[string]resource{}
	for _, r := range plan.Changes {
		if !strings.Contains(r.Address, ".data.") && !strings.HasPrefix(r.Address, "data.") {
			out[r.Address] = r
		}
	}
	require.NotEmpty(s.t, out)
	return out
}

// clean has a plan find nothing to do, and keeps it.
func (s *site) clean() {
	s.t.Helper()
	code, out := s.exit(prod + "plan -detailed-exitcode -out=plan > plan.log 2>&1 || { code=$?; cat plan.log; exit $code; }; " + prod + "show -json plan > plan.json")
	require.Zero(s.t, code, "the plan is not empty:\n%s", tail(out))
}

// Scenario: docs/deploy.md from top to bottom: an empty account, a fleet of three regions, a command in a cell, another size, an upgrade, its end. In between somebody changes
// things by hand.
// Guarantees: a second plan has no change; the configurations of tasks are the files of distributions/, byte by byte, and no secret is in a definition; what was changed by
// hand is named, and put back; an upgrade of one cell touches no other; nothing is left. The static checks find nothing that is not explained.
func TestTheFleet(t *testing.T) {
	s := newSite(t)
	s.startFake()
	begun := time.Now()
	ran := map[string]bool{}
	for _, part := range page(t) {
		if part.script == "" {
			continue
		}
		ran[part.title] = true
		s.run(part.script)
		switch part.title {
		case "From an empty account to the first event":
			created := strings.Count(s.run(prod+"state list"), "\n")
			t.Logf("%d resources and data sources in the state after %.0f s", created, time.Since(begun).Seconds())
			s.clean()
			s.configurationsAreTheShippedOnes()
			s.rightsHaveNoWildcards()
			s.checked()
			s.changedByHand()
		case "Run a command in a cell":
			said := s.run("AWS_REGION=eu-west-1 deploy/task eu-2 tenant check s3://x")
			require.Contains(t, said, "this one had been: tenant check s3://x")
		case "Change the size":
			s.clean()
			require.Equal(t, "6 48\n", s.run(`aws application-autoscaling describe-scalable-targets --region us-east-1 --service-namespace ecs --resource-ids service/pulsegrid-us-1/gateway \
				--query 'ScalableTargets[].[MinCapacity,MaxCapacity]' --output text | tr '\t' ' '`))
			require.Equal(t, "-b", s.container("us-1", "aggregator-b", "aggregator").environment()["PULSEGRID_HOT_COPY"])
			require.Equal(t, 2, strings.Count(s.run(prod+"state list 'module.us_1.aws_instance.clickhouse'"), "\n"))
		case "Upgrade":
			for cell, digest := range map[string]string{"us-1": "4444", "eu-1": "1111", "eu-2": "1111"} {
				require.Contains(t, s.container(cell, "gateway", "gateway").Image, "@sha256:"+digest)
			}
		case "Take it away":
			require.Empty(t, strings.TrimSpace(s.run(prod+"state list")))
			require.Empty(t, strings.TrimSpace(s.left()))
		}
	}
	for _, title := range []string{"From an empty account to the first event", "Run a command in a cell", "Change the size", "Upgrade", "Take it away"} {
		require.True(t, ran[title], "docs/deploy.md has no section %q with commands", title)
	}
	gaps, err := s.gaps()
	require.NoError(t, err)
	require.JSONEq(t, "{}", gaps, "the fake could not answer these")
	t.Logf("the whole of docs/deploy.md: %.0f s", time.Since(begun).Seconds())
}

// container is one of a task definition, as ECS has it.
type container struct {
	Name        string `json:"name"`
	Image       string `json:"image"`
	ReadOnly    bool   `json:"readonlyRootFilesystem"`
	Environment []struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	} `json:"environment"`
	Secrets []struct {
		Name string `json:"name"`
		From string `json:"valueFrom"`
	} `json:"secrets"`
}

func (c container) environment() map[string]string {
	out := map[string]string{}
	for _, e := range c.Environment {
		out[e.Name] = e.Value
	}
	return out
}

// containers are those of a cell's part, as ECS has them.
func (s *site) containers(cell, part string) (out []container) {
	s.t.Helper()
	said := s.run(fmt.Sprintf("aws ecs describe-task-definition --region %s --task-definition pulsegrid-%s-%s --query taskDefinition.containerDefinitions --output json", regions[cell], cell, part))
	require.NoError(s.t, json.Unmarshal([]byte(said), &out))
	require.NotEmpty(s.t, out)
	return out
}

func (s *site) container(cell, part, name string) container {
	s.t.Helper()
	for _, c := range s.containers(cell, part) {
		if c.Name == name {
			return c
		}
	}
	s.t.Fatalf("%s of %s has no container %s", part, cell, name)
	return container{}
}

// configurationsAreTheShippedOnes asks ECS, not Terraform.
func (s *site) configurationsAreTheShippedOnes() {
	s.t.Helper()
	shipped := func(tier, file string) string {
		text, err := os.ReadFile(filepath.Join(rig.Root(), "distributions", tier, file))
		require.NoError(s.t, err)
		return string(text)
	}
	for _, cell := range slices.Sorted(maps.Keys(regions)) {
		parts := map[string]string{"gateway": "gateway", "aggregator": "aggregator", "probe": "aggregator", "alerts": "aggregator", "operator": "aggregator"}
		if cell != "us-1" { // which begins with one copy
			parts["aggregator-b"] = "aggregator"
		}
		for part, tier := range parts {
			name := strings.TrimSuffix(part, "-b")
			c := s.container(cell, part, name)
			env := c.environment()
			require.Equal(s.t, shipped(tier, "config.yaml"), env["PULSEGRID_CONFIG"], "%s of %s", part, cell)
			require.Equal(s.t, shipped(tier, "aws.yaml"), env["PULSEGRID_CONFIG_AWS"], "%s of %s", part, cell)
			require.Equal(s.t, cell, env["PULSEGRID_CELL"])
			require.True(s.t, c.ReadOnly, "%s of %s has a root that can be written", part, cell)
			definition, err := json.Marshal(c)
			require.NoError(s.t, err)
			require.Less(s.t, len(definition), 60_000, "ECS takes definitions of 64 KiB")
			require.NotEmpty(s.t, c.Secrets)
			for _, secret := range c.Secrets {
				require.Regexp(s.t, `^arn:aws:secretsmanager:`+regions[cell]+`:`, secret.From)
			}
			for name := range env {
				require.NotRegexp(s.t, `PASSWORD|API_KEY|KEY_PEM|SECRET`, name, "a secret's value is in the definition of %s", part)
			}
		}
	}
	a, b := s.container("eu-1", "aggregator", "aggregator").environment(), s.container("eu-1", "aggregator-b", "aggregator").environment()
	for name := range a {
		if differs := a[name] != b[name]; differs != slices.Contains([]string{"PULSEGRID_HOT_COPY", "PULSEGRID_CLICKHOUSE_HTTP"}, name) {
			s.t.Errorf("%s of the two copies: %q and %q", name, a[name], b[name])
		}
	}
}

// changedByHand changes what a person might, and has a plan name it and apply put it back.
func (s *site) changedByHand() {
	s.t.Helper()
	changes := map[string]string{ // of resources that no policy names: a plan names policies too, whose text it knows after the apply only
		`module.us_1.aws_security_group.kafka`: `group=$(aws ec2 describe-security-groups --region us-east-1 --filters Name=group-name,Values=pulsegrid-us-1-kafka --query 'SecurityGroups[0].GroupId' --output text)
			aws ec2 authorize-security-group-ingress --region us-east-1 --group-id $group --protocol tcp --port 9098 --cidr 0.0.0.0/0`,
		`module.eu_1.aws_s3_bucket_public_access_block.store["lake"]`: `aws s3api delete-public-access-block --region eu-central-1 --bucket pulsegrid-eu-1-lake-$account`,
		`module.eu_2.aws_iam_role_policy.task["gateway"]`: `aws iam put-role-policy --role-name pulsegrid-eu-2-gateway --policy-name gateway \
			--policy-document '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'`,
		`module.eu_1.aws_s3_bucket_versioning.store["registry"]`: `aws s3api put-bucket-versioning --region eu-central-1 --bucket pulsegrid-eu-1-registry-$account --versioning-configuration Status=Suspended`,
		`module.us_1.aws_appautoscaling_target.part["gateway"]`: `aws application-autoscaling register-scalable-target --region us-east-1 --service-namespace ecs --scalable-dimension ecs:service:DesiredCount \
			--resource-id service/pulsegrid-us-1/gateway --min-capacity 1 --max-capacity 2`,
	}
	for _, address := range slices.Sorted(maps.Keys(changes)) {
		s.run(anyRegion + "account=$(aws sts get-caller-identity --query Account --output text)\n" + changes[address])
	}
	code, out := s.exit(prod + "plan -detailed-exitcode 2>&1")
	require.Equal(s.t, 2, code, "what was changed by hand is not seen:\n%s", tail(out))
	named := regexp.MustCompile(`(?m)^  # (\S+) (?:will|must) be`).FindAllStringSubmatch(out, -1)
	var got []string
	for _, n := range named {
		if !strings.Contains(n[1], ".data.") { // read again
			got = append(got, n[1])
		}
	}
	require.ElementsMatch(s.t, slices.Collect(maps.Keys(changes)), got, "the plan names what was changed, and nothing else:\n%s", tail(out))
	s.run(prod + "apply")
	s.clean()
}

// left is what the fake still has of ours, but for the bucket of the state.
func (s *site) left() string {
	s.t.Helper()
	script := anyRegion + `
buckets=$(aws s3api list-buckets --query 'Buckets[].Name' --output text | tr '\t' '\n'); grep -v '^pulsegrid-state-' <<< "$buckets" || true
roles=$(aws iam list-roles --query 'Roles[].RoleName' --output text | tr '\t' '\n'); grep pulsegrid <<< "$roles" || true
list() { local out; out=$(aws "$@" --output text); grep -v '^None$' <<< "$out" || true; }
list route53 list-hosted-zones --query 'HostedZones[].Name'
list route53 list-health-checks --query 'HealthChecks[].Id'
list budgets describe-budgets --region us-east-1 --account-id $(aws sts get-caller-identity --query Account --output text) --query 'Budgets[].BudgetName'
for region in eu-central-1 eu-west-1 us-east-1; do
  list ec2 describe-vpcs --region $region --query 'Vpcs[?IsDefault==` + "`false`" + `].VpcId'
  list ec2 describe-instances --region $region --query 'Reservations[].Instances[?State.Name!=` + "`terminated`" + `][].InstanceId'
  list ec2 describe-volumes --region $region --query 'Volumes[].VolumeId'
  list elbv2 describe-load-balancers --region $region --query 'LoadBalancers[].LoadBalancerArn'
  for cluster in $(aws ecs list-clusters --region $region --query clusterArns --output text); do # ECS remembers deleted clusters for a while, as inactive
    list ecs describe-clusters --region $region --clusters $cluster --query 'clusters[?status!=` + "`INACTIVE`" + `].clusterArn'
  done
  list ecr describe-repositories --region $region --query 'repositories[].repositoryName'
  list kafka list-clusters --region $region --query 'ClusterInfoList[].ClusterName'
  list kafka list-configurations --region $region --query 'Configurations[].Name'
  list logs describe-log-groups --region $region --query 'logGroups[].logGroupName'
  list secretsmanager list-secrets --region $region --query 'SecretList[].Name'
  list sns list-topics --region $region --query 'Topics[].TopicArn'
  list amp list-workspaces --region $region --query 'workspaces[].alias'
  list glue get-databases --region $region --query 'DatabaseList[].Name'
  list acm list-certificates --region $region --query 'CertificateSummaryList[].DomainName'
  list cloudwatch describe-alarms --region $region --query 'MetricAlarms[].AlarmName'
  for key in $(aws kms list-keys --region $region --query 'Keys[].KeyId' --output text); do
    list kms describe-key --region $region --key-id $key --query '[KeyMetadata][?KeyState==` + "`Enabled`" + ` && starts_with(Description, ` + "`pulsegrid`" + `)].Description'
  done
done`
	return s.run(script)
}

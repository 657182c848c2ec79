package privilege

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
	"github.com/pulsegrid/pulsegrid/internal/testkit/catalogtest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/kafkatest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/s3test"
	"github.com/pulsegrid/pulsegrid/internal/testkit/sigv4test"
)

var update = flag.Bool("update", false, "write deploy/privileges/recorded.json")

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	os.Exit(m.Run())
}

const (
	soon       = 2 * time.Minute // of what takes seconds where the machine does nothing else
	recorded   = "deploy/privileges/recorded.json"
	unrecorded = "deploy/privileges/unrecorded.yaml"
	module     = "deploy/modules/cell"
)

// components are the roles whose calls are recorded here. Not scraper, which is not ours.
var components = []string{"gateway", "aggregator", "probe", "alerts", "worker", "operator"}

// cell is one whose every request to AWS' services goes by a proxy of its component.
type cell struct {
	*Recorder
	t          *testing.T
	kafka      *kafkatest.Cluster
	proxies    map[string][]*KafkaProxy
	objects    *s3test.Server
	clickhouse *clickhousetest.Server
	endpoints  map[string]map[string]string // of a component: "s3", "glue" and "aps"
	alerts     chan struct{}                // something came to Alertmanager
	key        string
	http, grpc string
	metrics    map[string]string // addresses, of a component
}

func newCell(t *testing.T) *cell {
	c := &cell{Recorder: NewRecorder(), t: t, proxies: map[string][]*KafkaProxy{}, endpoints: map[string]map[string]string{}, metrics: map[string]string{}, alerts: make(chan struct{}, 1)}
	listeners := map[string]func(int, string) (string, error){}
	for _, component := range components {
		listeners[strings.ToUpper(component)] = func(_ int, broker string) (string, error) {
			p, err := c.Kafka(component, broker)
			if err != nil {
				return "", err
			}
			c.proxies[component] = append(c.proxies[component], p)
			return p.Addr, nil
		}
	}
	c.kafka = kafkatest.StartWith(t, kafkatest.Options{Nodes: 1, Listeners: listeners})
	t.Cleanup(func() {
		for _, of := range c.proxies {
			for _, p := range of {
				require.NoError(t, p.Close())
			}
		}
	})
	c.objects = s3test.Start(t)
	for _, b := range []string{"lake", "spill", "quarantine", "registry", "history"} {
		c.objects.CreateBucket(b)
	}
	c.clickhouse = clickhousetest.Start(t)
	catalog := catalogtest.NewGlue(database, nil)
	made := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{}`)) // Terraform makes the database
	made.Header.Set("X-Amz-Target", "AWSGlue.CreateDatabase")
	catalog.ServeHTTP(httptest.NewRecorder(), made)
	to, err := url.Parse(c.objects.Endpoint)
	require.NoError(t, err)
	store := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host }} // its name is signed
	verifier := sigv4test.Verifier{Service: "aps", Region: region, Secrets: map[string]string{s3test.AccessKey: s3test.SecretKey}}
	for _, component := range components {
		serve := func(h http.Handler) string {
			s := httptest.NewServer(h)
			t.Cleanup(s.Close)
			return s.URL
		}
		c.endpoints[component] = map[string]string{
			"s3": serve(c.S3(component, store)), "glue": serve(c.Glue(component, catalog)),
			"aps": serve(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				body, err := io.ReadAll(req.Body)
				if err == nil {
					err = verifier.Verify(req, body)
				}
				if err != nil || req.URL.Path != "/workspaces/ws-1/alertmanager/api/v2/alerts" {
					c.problem(component, "Alertmanager: %s: %v", req.URL, err)
				}
				c.record(component, "aps:CreateAlertManagerAlerts", "workspace")
				select {
				case c.alerts <- struct{}{}:
				default:
				}
			})),
		}
	}
	c.fillRegistry()
	return c
}

func (c *cell) fillRegistry() {
	key, id, hash := tenant.NewKey()
	c.key = key
	for name, content := range map[string]string{
		"tenants/acme.yaml": fmt.Sprintf("tenants:\n  - {id: acme, keys: [{id: %s, hash: %q}]}\n", id, hash),
		"schemas/log.yaml":  otlptest.HandledSchema,
	} {
		_, err := c.objects.Client().PutObject(c.t.Context(), &s3.PutObjectInput{Bucket: aws.String("registry"), Key: aws.String(name), Body: strings.NewReader(content)})
		require.NoError(c.t, err)
	}
}

// location is a bucket as a component reaches it.
func (c *cell) location(component, bucket, query string) string {
	return "s3://" + bucket + "?" + query + "region=" + s3test.Region + "&use_path_style=true&endpoint=" + c.endpoints[component]["s3"]
}

// registry is a folder of the registry's bucket, likewise.
func (c *cell) registry(component, folder string) string {
	return strings.Replace(c.location(component, "registry", ""), "?", "/"+folder+"?", 1)
}

// env is what deploy/modules/cell gives a component, with this machine's addresses.
func (c *cell) env(component string) map[string]string {
	e := c.endpoints[component]
	return map[string]string{
		"AWS_ACCESS_KEY_ID": s3test.AccessKey, "AWS_SECRET_ACCESS_KEY": s3test.SecretKey, "AWS_REGION": region, "PULSEGRID_CELL": "eu-1",
		"PULSEGRID_KAFKA_BROKERS":    strings.Join(c.kafka.BrokersOn(strings.ToUpper(component)), ","),
		"PULSEGRID_CLICKHOUSE_HTTP":  strings.TrimPrefix(c.clickhouse.URL, "http://"),
		"PULSEGRID_LAKE_WAREHOUSE":   "s3://lake/warehouse",
		"PULSEGRID_S3":               e["s3"],
		"PULSEGRID_GLUE":             e["glue"],
		"PULSEGRID_TENANTS":          c.registry(component, "tenants"),
		"PULSEGRID_SCHEMAS":          c.registry(component, "schemas"),
		"PULSEGRID_CELL_STATE":       c.registry(component, "cell"),
		"PULSEGRID_QUARANTINE_STORE": c.location(component, "quarantine", "prefix=quarantine/&"),
		"PULSEGRID_SPILL":            c.location(component, "spill", "prefix=spill/&"),
		"PULSEGRID_SCHEMA_MODE":      "enforce",
		"PULSEGRID_EVENT_AGE_MAX":    "0", // the events are of one day
		"PULSEGRID_PARTITIONS":       "2", "PULSEGRID_REPLICATION_FACTOR": "1", "PULSEGRID_MIN_INSYNC": "1",
		"PULSEGRID_HTTP_ENDPOINT": c.http, "PULSEGRID_GRPC_ENDPOINT": c.grpc,
	}
}

func configs(names ...string) (args []string) {
	for _, n := range names {
		args = append(args, "--config", filepath.Join(rig.Root(), n))
	}
	return args
}

var (
	aggregatorConfigs = configs("distributions/aggregator/config.yaml", "integration/privilege/testdata/aggregator.yaml")
	gatewayConfigs    = configs("distributions/gateway/config.yaml", "integration/rig/testdata/plaintext.yaml", "integration/privilege/testdata/gateway.yaml")
)

// start runs a part of the cell until the test ends. It is up when it listens on these addresses, and answers for its health.
func (c *cell) start(component string, listens []string, args ...string) {
	health, metrics := rig.FreeAddr(), rig.FreeAddr()
	c.metrics[component] = metrics
	env := c.env(component)
	env["PULSEGRID_HEALTH_ENDPOINT"], env["PULSEGRID_CELL_HEALTH_ENDPOINT"] = health, rig.FreeAddr()
	env["PULSEGRID_METRICS_HOST"], env["PULSEGRID_METRICS_PORT"], _ = strings.Cut(metrics, ":")
	p := rig.NewProcess(env, append(listens, health), append([]string{filepath.Join(rig.Root(), "_build", "collector", "pulsegrid-collector")}, args...)...)
	require.NoError(c.t, p.Start(soon), "run `make build`\n%s", p.Log())
	c.t.Cleanup(func() {
		p.Stop(soon)
		if c.t.Failed() {
			c.t.Logf("%s:\n%s", component, p.Log())
		}
	})
}

// post sends a request of any content, and returns its status.
func (c *cell) post(path string, body []byte) int {
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, "http://"+c.http+path, bytes.NewReader(body))
	require.NoError(c.t, err)
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("X-Api-Key", c.key)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	require.NoError(c.t, err)
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(c.t, err)
	return resp.StatusCode
}

// command runs the operator's command to its end.
func (c *cell) command(component string, args ...string) {
	c.t.Helper()
	cmd := c.operator(component, args...)
	out, err := cmd.CombinedOutput()
	require.NoError(c.t, err, "pulsegrid %s\n%s", strings.Join(args, " "), out)
}

func (c *cell) operator(component string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(c.t.Context(), filepath.Join(rig.Root(), "_build", "pulsegrid"), args...)
	cmd.Env = os.Environ()
	for k, v := range c.env(component) {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	return cmd
}

// ofRequests is the end of a spilled object's key, as integration/rig has it: the spill's leases have other names.
var ofRequests = regexp.MustCompile(`/v2-[0-9]{13}-[0-9]+(-many|(-[0-9a-f]{8})+)$`)

// spilled counts what waits for Kafka.
func (c *cell) spilled() (n int) {
	found, err := c.objects.Client().ListObjectsV2(c.t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String("spill")})
	require.NoError(c.t, err)
	for _, o := range found.Contents {
		if ofRequests.MatchString(*o.Key) {
			n++
		}
	}
	return n
}

// behind is how many records the aggregator's groups have not stored. While Kafka does not answer, something is.
func (c *cell) behind(adm *kadm.Client) (n int64) {
	ends, err := adm.ListEndOffsets(c.t.Context())
	if err != nil {
		return 1
	}
	for _, group := range []string{"pulsegrid-hot", "pulsegrid-lake", "pulsegrid-quarantine-hot", "pulsegrid-quarantine-pii-hot", "pulsegrid-quarantine-lake", "pulsegrid-quarantine-pii-lake"} {
		done, err := adm.FetchOffsets(c.t.Context(), group)
		if err != nil { // a coordinator that is made at the first question
			return 1
		}
		ends.Each(func(o kadm.ListedOffset) {
			quarantine := o.Topic == signal.QuarantineTopic
			if strings.Contains(group, "quarantine") == quarantine && (quarantine || signal.OfTopic(o.Topic) != 0) {
				at, _ := done.Lookup(o.Topic, o.Partition) // absent: zero
				n += max(0, o.Offset-max(0, at.At))
			}
		})
	}
	return n
}

// record runs the cell through what it does, and returns what each of the components did.
func record(t *testing.T) map[string][]string {
	c := newCell(t)
	c.http, c.grpc = rig.FreeAddr(), rig.FreeAddr()
	c.start("gateway", []string{c.http, c.grpc}, gatewayConfigs...)
	c.start("aggregator", nil, aggregatorConfigs...)
	client, err := kgo.NewClient(kgo.SeedBrokers(c.kafka.Brokers()...))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	adm := kadm.NewClient(client)

	for _, s := range signal.All {
		require.Equal(t, http.StatusOK, c.post("/v1/"+s.String(), otlptest.Realistic(s, 1, 20)), s)
	}
	// What cannot be decoded is kept in quarantine; what is larger than a record, in the object store.
	require.Equal(t, http.StatusBadRequest, c.post("/v1/logs", []byte("no protobuf")))
	require.Equal(t, http.StatusBadRequest, c.post("/v1/logs", bytes.Repeat([]byte("no protobuf"), 200_000)))
	// A record that the aggregator cannot decode.
	require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: signal.Logs.Topic(), Value: []byte("no protobuf")}).FirstErr())
	// Kafka is away: requests wait in the spill.
	for _, p := range c.proxies["gateway"] {
		p.Cut(true)
	}
	require.Eventually(t, func() bool {
		return c.post("/v1/logs", otlptest.Realistic(signal.Logs, uint64(time.Now().UnixNano()), 20)) == http.StatusOK && c.spilled() > 0
	}, soon, 200*time.Millisecond, "requests go to the spill")
	for _, p := range c.proxies["gateway"] {
		p.Cut(false)
	}
	require.Eventually(t, func() bool { return c.spilled() == 0 }, soon, 200*time.Millisecond, "they come back")
	require.Eventually(t, func() bool { return c.behind(adm) == 0 }, soon, 200*time.Millisecond, "both stores have everything")

	c.command("probe", append([]string{"probe", "--once", "--http", "http://" + c.http, "--grpc", "http://" + c.grpc, "--tenant", "acme", "--api-key-file", c.file("key", c.key)}, aggregatorConfigs...)...)
	alerts := c.operator("alerts", append([]string{"alerts", "run", filepath.Join("testdata", "rules.yaml"), "--state", filepath.Join(t.TempDir(), "state.json"), "--sigv4-region", region,
		"--alertmanager", c.endpoints["alerts"]["aps"] + "/workspaces/ws-1/alertmanager"}, aggregatorConfigs...)...)
	var log bytes.Buffer
	alerts.Stdout, alerts.Stderr = &log, &log
	require.NoError(t, alerts.Start())
	select {
	case <-c.alerts:
	case <-time.After(soon):
		t.Error("no alert came to Alertmanager")
	}
	require.NoError(t, alerts.Process.Signal(os.Interrupt))
	require.NoError(t, alerts.Wait(), "%s", &log)

	out := map[string][]string{}
	c.calls(adm, out, "gateway", "aggregator", "probe", "alerts") // before jobs commit to the lake beside the aggregator: which of them must give way is chance
	c.jobs(adm)
	c.drainAndBack()
	c.calls(adm, out, "worker", "operator")
	require.Empty(t, c.Problems())
	return out
}

// calls adds what components have done.
func (c *cell) calls(adm *kadm.Client, out map[string][]string, components ...string) {
	details, err := adm.ListTopics(c.t.Context())
	require.NoError(c.t, err)
	topics := map[[16]byte]string{}
	for _, d := range details {
		topics[[16]byte(d.ID)] = d.Topic
	}
	for _, component := range components {
		calls, err := c.Calls(component, topics)
		require.NoError(c.t, err)
		for _, call := range calls {
			out[component] = append(out[component], call.String())
		}
	}
}

func (c *cell) file(name, content string) string {
	path := filepath.Join(c.t.TempDir(), name)
	require.NoError(c.t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// Guarantees: deploy/privileges/recorded.json is what the components do.
func TestWhatIsRecordedIsWhatComponentsDo(t *testing.T) {
	got := record(t)
	path := filepath.Join(rig.Root(), recorded)
	if *update {
		text, err := json.MarshalIndent(got, "", "  ")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, append(text, '\n'), 0o600))
		return
	}
	require.Equal(t, readRecorded(t), got, "run `make record-privileges`, then look whether policies must follow")
}

func readRecorded(t *testing.T) (out map[string][]string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(rig.Root(), recorded))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &out))
	return out
}

// Guarantees: each role may do what its component does; each action and each resource that its policy names is needed.
func TestEachRoleMayDoWhatItDoesAndNothingElse(t *testing.T) {
	policies, err := ReadPolicies(filepath.Join(rig.Root(), module))
	require.NoError(t, err)
	calls := readRecorded(t)
	var byHand map[string][]struct{ Call, Why string }
	text, err := os.ReadFile(filepath.Join(rig.Root(), unrecorded))
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, &byHand))
	for _, component := range components {
		require.NotEmpty(t, policies[component], component)
		require.NotEmpty(t, calls[component], component)
	}
	for role := range policies { // of every task
		var all []Call
		for _, c := range calls[role] {
			call, err := ParseCall(c)
			require.NoError(t, err)
			all = append(all, call)
		}
		if role == "operator" { // it may do what a worker does, and more
			for _, c := range calls["worker"] {
				call, err := ParseCall(c)
				require.NoError(t, err)
				all = append(all, call)
			}
			byHand[role] = append(byHand[role], byHand["worker"]...)
		}
		for _, u := range byHand[role] {
			require.False(t, slices.Contains(calls[role], u.Call), "%s: %s is recorded: take it out of %s", role, u.Call, unrecorded)
			require.NotEmpty(t, u.Why, "%s: %s", role, u.Call)
			call, err := ParseCall(u.Call)
			require.NoError(t, err)
			all = append(all, call)
		}
		missing, unused, err := Check(policies[role], all)
		require.NoError(t, err)
		for _, m := range missing {
			t.Errorf("%s: its policy does not allow %s", role, m)
		}
		for _, u := range unused {
			t.Errorf("%s: nothing needs %s", role, u)
		}
	}
}

// Guarantees: a right that is taken away is missed, one that is added is seen, one that is wider than IAM's patterns are read is not taken for another.
func TestCheckSeesWhatIsMissingAndWhatIsUnused(t *testing.T) {
	statement := Statement{Document: "d", Sid: "S", Actions: []string{"s3:GetObject", "s3:PutObject"}, Resources: []string{"arn:aws:s3:::lake/warehouse/*"}}
	read, write := Call{"s3:GetObject", "lake/warehouse/*"}, Call{"s3:PutObject", "lake/warehouse/*"}
	for _, one := range []struct {
		calls           []Call
		statements      []Statement
		missing, unused int
	}{
		{[]Call{read, write}, []Statement{statement}, 0, 0},
		{[]Call{read}, []Statement{statement}, 0, 1},
		{[]Call{read, write, {"s3:DeleteObject", "lake/warehouse/*"}}, []Statement{statement}, 1, 0},
		{[]Call{read, write, {"s3:GetObject", "lake/other/*"}}, []Statement{statement}, 1, 0},
		{nil, []Statement{statement}, 0, 3},
		{[]Call{read}, nil, 1, 0},
		{[]Call{{"kafka-cluster:ReadData", "topic/otlp.logs.v1"}}, []Statement{{Actions: []string{"Kafka-Cluster:Read*"}, Resources: []string{arnKafka + "topic/cell/*/otlp.*"}}}, 0, 0},
		{[]Call{{"kafka-cluster:ReadData", "topic/quarantine.v1"}}, []Statement{{Actions: []string{"kafka-cluster:ReadData"}, Resources: []string{arnKafka + "topic/cell/*/otlp.*"}}}, 1, 2},
	} {
		missing, unused, err := Check(one.statements, one.calls)
		require.NoError(t, err)
		require.Len(t, missing, one.missing, "%v", one.calls)
		require.Len(t, unused, one.unused, "%v", one.calls)
	}
	_, _, err := Check(nil, []Call{{"sqs:SendMessage", "queue"}})
	require.Error(t, err)
}

// Guarantees: policies are read as Terraform reads them: locals, for expressions, sources; what is not understood is an error.
func TestPoliciesAreReadFromTheModule(t *testing.T) {
	module := func(text string) string {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "iam.tf"), []byte(text), 0o600))
		return dir
	}
	const roles = `
		resource "aws_iam_role_policy" "task" {
		  for_each = { gateway = data.aws_iam_policy_document.gateway.json }
		}
		data "aws_iam_policy_document" "shared" {
		  statement {
		    sid       = "Shared"
		    actions   = ["aps:RemoteWrite"]
		    resources = [aws_prometheus_workspace.cell.arn]
		  }
		}`
	got, err := ReadPolicies(module(roles + `
		locals {
		  topics = ["${local.kafka_topic}/otlp.*"]
		  kafka_topic = replace(aws_msk_cluster.cell.arn, ":cluster/", ":topic/")
		  other = file("nothing that HCL knows")
		}
		data "aws_iam_policy_document" "gateway" {
		  source_policy_documents = [data.aws_iam_policy_document.shared.json]
		  statement {
		    sid       = "Write"
		    actions   = ["kafka-cluster:WriteData"]
		    resources = concat(local.topics, [for p in ["tenants"] : "${aws_s3_bucket.store["registry"].arn}/${p}/*"])
		  }
		}`))
	require.NoError(t, err)
	require.Equal(t, map[string][]Statement{"gateway": {
		{Document: "shared", Sid: "Shared", Actions: []string{"aps:RemoteWrite"}, Resources: []string{arnAPS}},
		{Document: "gateway", Sid: "Write", Actions: []string{"kafka-cluster:WriteData"}, Resources: []string{arnKafka + "topic/" + clusterID + "/otlp.*", "arn:aws:s3:::registry/tenants/*"}},
	}}, got)
	for want, body := range map[string]string{
		"conditions are not understood": `statement {
			actions   = ["a:b"]
			resources = ["*"]
			condition {
			  test = "x"
			}
		}`,
		"effect of a statement": `statement {
			effect    = "Deny"
			actions   = ["a:b"]
			resources = ["*"]
		}`,
		"its own source": `source_policy_documents = [data.aws_iam_policy_document.gateway.json]`,
		"Unsupported attribute": `statement {
			actions   = ["a:b"]
			resources = [local.unheard]
		}`,
	} {
		_, err := ReadPolicies(module(roles + "\ndata \"aws_iam_policy_document\" \"gateway\" {\n" + body + "\n}"))
		require.ErrorContains(t, err, want)
	}
	_, err = ReadPolicies(t.TempDir())
	require.Error(t, err)
}

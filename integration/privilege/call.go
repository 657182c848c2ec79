package privilege

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Call is something that a component does: an action of IAM on a resource, in the short forms of Resource.
type Call struct {
	Action   string // "s3:GetObject"
	Resource string // "registry/tenants/*"; of Kafka "cluster", "topic/otlp.logs.v1", "group/pulsegrid-hot"; of Glue "catalog", "database/pulsegrid", "table/pulsegrid/logs"; "key"; "workspace"
}

func (c Call) String() string { return c.Action + " " + c.Resource }

// ParseCall is String's inverse.
func ParseCall(text string) (Call, error) {
	action, resource, ok := strings.Cut(text, " ")
	if !ok || !strings.Contains(action, ":") || resource == "" {
		return Call{}, fmt.Errorf("%q: want SERVICE:ACTION RESOURCE", text)
	}
	return Call{action, resource}, nil
}

// required are actions that IAM wants beside another one, on which resource: https://docs.aws.amazon.com/msk/latest/developerguide/kafka-actions.html, and for objects that KMS encrypts
// https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html. An empty resource is that of the action itself.
var required = map[string][]Call{
	"kafka-cluster:DescribeCluster":                   {{"kafka-cluster:Connect", "cluster"}},
	"kafka-cluster:WriteDataIdempotently":             {{"kafka-cluster:Connect", "cluster"}},
	"kafka-cluster:CreateTopic":                       {{"kafka-cluster:Connect", "cluster"}},
	"kafka-cluster:DescribeTopic":                     {{"kafka-cluster:Connect", "cluster"}},
	"kafka-cluster:DescribeTopicDynamicConfiguration": {{"kafka-cluster:Connect", "cluster"}},
	"kafka-cluster:ReadData":                          {{"kafka-cluster:DescribeTopic", ""}},
	"kafka-cluster:WriteData":                         {{"kafka-cluster:DescribeTopic", ""}},
	"kafka-cluster:DescribeGroup":                     {{"kafka-cluster:Connect", "cluster"}},
	"kafka-cluster:AlterGroup":                        {{"kafka-cluster:DescribeGroup", ""}},
	"kafka-cluster:DescribeTransactionalId":           {{"kafka-cluster:Connect", "cluster"}},
	"kafka-cluster:AlterTransactionalId":              {{"kafka-cluster:DescribeTransactionalId", ""}},
	"s3:GetObject":                                    {{"kms:Decrypt", "key"}},
	"s3:PutObject":                                    {{"kms:GenerateDataKey", "key"}, {"kms:Decrypt", "key"}}, // Decrypt: an upload in parts
}

// withRequired adds what the calls need besides.
func withRequired(calls []Call) []Call {
	all := map[Call]bool{}
	var add func(Call)
	add = func(c Call) {
		if all[c] {
			return
		}
		all[c] = true
		for _, more := range required[c.Action] {
			add(Call{more.Action, cmp.Or(more.Resource, c.Resource)})
		}
	}
	for _, c := range calls {
		add(c)
	}
	return sorted(all)
}

func sorted(calls map[Call]bool) []Call {
	return slices.SortedFunc(maps.Keys(calls), func(a, b Call) int { return strings.Compare(a.String(), b.String()) })
}

// Recorder keeps what components do. It is safe for concurrent use.
type Recorder struct {
	mu       sync.Mutex
	calls    map[string]map[Call]bool // guarded by mu, by component
	problems map[string]bool          // guarded by mu: requests that no rule translates
}

// NewRecorder makes one that has seen nothing.
func NewRecorder() *Recorder {
	return &Recorder{calls: map[string]map[Call]bool{}, problems: map[string]bool{}}
}

func (r *Recorder) record(component, action, resource string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.calls[component] == nil {
		r.calls[component] = map[Call]bool{}
	}
	r.calls[component][Call{action, resource}] = true
}

func (r *Recorder) problem(component, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problems[component+": "+fmt.Sprintf(format, args...)] = true
}

// Problems are requests that no rule translates: the list is then not whole.
func (r *Recorder) Problems() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.problems))
}

// Calls are those of a component so far, and what they need besides. topics tells the names of topics that requests named by their ids only.
func (r *Recorder) Calls(component string, topics map[[16]byte]string) ([]Call, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	named := map[Call]bool{}
	for c := range r.calls[component] {
		if id, ok := strings.CutPrefix(c.Resource, topicByID); ok {
			name, known := topics[[16]byte([]byte(id))]
			if !known {
				return nil, fmt.Errorf("%s: %s of a topic that is not there", component, c.Action)
			}
			c.Resource = "topic/" + name
		}
		named[c] = true
	}
	return withRequired(slices.Collect(maps.Keys(named))), nil
}

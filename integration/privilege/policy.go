package privilege

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// Statement of a role's policy, as far as the module uses IAM's language: it allows, without conditions.
type Statement struct {
	Document, Sid string
	Actions       []string
	Resources     []string // ARNs, with * and ?
}

// The resources of a cell, as AWS would name them.
const (
	region    = "eu-central-1"
	account   = "111122223333"
	arnKafka  = "arn:aws:kafka:" + region + ":" + account + ":"
	arnGlue   = "arn:aws:glue:" + region + ":" + account + ":"
	clusterID = "cell/9f1c2d3e-0000-4000-8000-000000000000-1"
	arnKey    = "arn:aws:kms:" + region + ":" + account + ":key/cell"
	arnAPS    = "arn:aws:aps:" + region + ":" + account + ":workspace/ws-1"
	database  = "pulsegrid"
)

// ARN is that of the call's resource.
func (c Call) ARN() (string, error) {
	service, _, _ := strings.Cut(c.Action, ":")
	switch service {
	case "kafka-cluster":
		if c.Resource == "cluster" {
			return arnKafka + "cluster/" + clusterID, nil
		}
		kind, name, ok := strings.Cut(c.Resource, "/")
		if ok {
			return arnKafka + kind + "/" + clusterID + "/" + name, nil
		}
	case "s3":
		return "arn:aws:s3:::" + c.Resource, nil
	case "glue":
		return arnGlue + c.Resource, nil
	case "kms":
		return arnKey, nil
	case "aps":
		return arnAPS, nil
	}
	return "", fmt.Errorf("%s: no rule makes an ARN of it", c)
}

// ReadPolicies reads the module's files, as HCL reads them, and returns the statements of each role of aws_iam_role_policy.task.
func ReadPolicies(module string) (map[string][]Statement, error) {
	files, err := filepath.Glob(filepath.Join(module, "*.tf"))
	if err != nil || len(files) == 0 {
		return nil, errors.Join(err, fmt.Errorf("%s: no *.tf", module))
	}
	m := &terraform{locals: map[string]hclsyntax.Expression{}, values: map[string]cty.Value{}, documents: map[string]*hclsyntax.Block{}}
	parser := hclparse.NewParser()
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		file, diagnostics := parser.ParseHCL(text, path)
		if diagnostics.HasErrors() {
			return nil, diagnostics
		}
		m.collect(file.Body.(*hclsyntax.Body)) // ParseHCL makes no other
	}
	m.resolveLocals()
	if m.roles == nil {
		return nil, fmt.Errorf("%s: no resource aws_iam_role_policy.task with for_each: role = document", module)
	}
	roles, diagnostics := m.roles.Value(m.context())
	if diagnostics.HasErrors() {
		return nil, diagnostics
	}
	out := map[string][]Statement{}
	for role, document := range roles.AsValueMap() {
		if out[role], err = m.statements(document.AsString(), nil); err != nil {
			return nil, fmt.Errorf("role %s: %w", role, err)
		}
	}
	return out, nil
}

// terraform is what of the module's files says who may do what.
type terraform struct {
	locals    map[string]hclsyntax.Expression
	values    map[string]cty.Value // of locals
	documents map[string]*hclsyntax.Block
	roles     hclsyntax.Expression
}

func (m *terraform) collect(body *hclsyntax.Body) {
	for _, b := range body.Blocks {
		switch {
		case b.Type == "locals":
			for name, a := range b.Body.Attributes {
				m.locals[name] = a.Expr
			}
		case b.Type == "data" && b.Labels[0] == "aws_iam_policy_document":
			m.documents[b.Labels[1]] = b
		case b.Type == "resource" && b.Labels[0] == "aws_iam_role_policy" && b.Labels[1] == "task":
			if a, ok := b.Body.Attributes["for_each"]; ok {
				m.roles = a.Expr
			}
		}
	}
}

// resolveLocals evaluates the locals that can be without Terraform: those of names and ARNs. The others are left out; a policy that needs one is an error later.
func (m *terraform) resolveLocals() {
	for name, v := range map[string]string{"region": region, "account": account, "partition": "aws", "prefix": "pulsegrid-cell"} {
		m.values[name] = cty.StringVal(v)
	}
	for more := true; more; {
		more = false
		for name, expr := range m.locals {
			if _, done := m.values[name]; done {
				continue
			}
			v, diagnostics := expr.Value(m.context())
			if !diagnostics.HasErrors() && v.IsWhollyKnown() {
				m.values[name], more = v, true
			}
		}
	}
}

// context has the module's resources that policies name. The json of a policy document is the document's name.
func (m *terraform) context() *hcl.EvalContext {
	text := func(v string) cty.Value { return cty.StringVal(v) }
	object := func(attributes ...string) cty.Value {
		out := map[string]cty.Value{}
		for i := 0; i < len(attributes); i += 2 {
			out[attributes[i]] = text(attributes[i+1])
		}
		return cty.ObjectVal(out)
	}
	buckets := map[string]cty.Value{}
	for _, name := range []string{"lake", "hot", "spill", "quarantine", "registry", "replica", "logs"} {
		buckets[name] = object("arn", "arn:aws:s3:::"+name, "bucket", name, "id", name)
	}
	documents := map[string]cty.Value{}
	for name := range m.documents {
		documents[name] = object("json", name)
	}
	one := func(name string, v cty.Value) cty.Value { return cty.ObjectVal(map[string]cty.Value{name: v}) }
	return &hcl.EvalContext{
		Variables: map[string]cty.Value{
			"local":                     cty.ObjectVal(m.values),
			"aws_msk_cluster":           one("cell", object("arn", arnKafka+"cluster/"+clusterID)),
			"aws_s3_bucket":             one("store", cty.ObjectVal(buckets)),
			"aws_glue_catalog_database": one("lake", object("name", database, "arn", arnGlue+"database/"+database)),
			"aws_kms_key":               one("cell", object("arn", arnKey)),
			"aws_prometheus_workspace":  one("cell", object("arn", arnAPS)),
			"data":                      one("aws_iam_policy_document", cty.ObjectVal(documents)),
			"var":                       one("history_buckets", cty.ListVal([]cty.Value{text("arn:aws:s3:::history")})),
		},
		Functions: map[string]function.Function{
			"replace": stdlib.ReplaceFunc, "concat": stdlib.ConcatFunc, "flatten": stdlib.FlattenFunc, "merge": stdlib.MergeFunc, "length": stdlib.LengthFunc, "toset": stdlib.MakeToFunc(cty.Set(cty.DynamicPseudoType)),
		},
	}
}

// statements are those of a document and of its sources.
func (m *terraform) statements(document string, above []string) ([]Statement, error) {
	block, ok := m.documents[document]
	if !ok || slices.Contains(above, document) {
		return nil, fmt.Errorf("document %q: there is none, or it is its own source", document)
	}
	var out []Statement
	if a, ok := block.Body.Attributes["source_policy_documents"]; ok {
		names, err := m.texts(a.Expr)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			more, err := m.statements(name, append(above, document))
			if err != nil {
				return nil, err
			}
			out = append(out, more...)
		}
	}
	for _, b := range block.Body.Blocks {
		if b.Type != "statement" {
			return nil, fmt.Errorf("document %s: a block %s is not understood", document, b.Type)
		}
		s := Statement{Document: document}
		for name, a := range b.Body.Attributes {
			values, err := m.texts(a.Expr)
			if err != nil {
				return nil, fmt.Errorf("document %s: %s: %w", document, name, err)
			}
			switch name {
			case "sid":
				s.Sid = values[0]
			case "actions":
				s.Actions = values
			case "resources":
				s.Resources = values
			default:
				return nil, fmt.Errorf("document %s: %s of a statement is not understood", document, name)
			}
		}
		if len(b.Body.Blocks) > 0 || len(s.Actions) == 0 || len(s.Resources) == 0 {
			return nil, fmt.Errorf("document %s: statement %q: conditions are not understood, actions and resources are wanted", document, s.Sid)
		}
		out = append(out, s)
	}
	return out, nil
}

// texts are the value of an expression: a text, or a list of them.
func (m *terraform) texts(expr hclsyntax.Expression) ([]string, error) {
	v, diagnostics := expr.Value(m.context())
	if diagnostics.HasErrors() {
		return nil, diagnostics
	}
	if v.Type() == cty.String {
		return []string{v.AsString()}, nil
	}
	if !v.CanIterateElements() {
		return nil, fmt.Errorf("it is a %s", v.Type().FriendlyName())
	}
	var out []string
	for _, e := range v.Elements() {
		if e.Type() != cty.String {
			return nil, fmt.Errorf("it holds a %s", e.Type().FriendlyName())
		}
		out = append(out, e.AsString())
	}
	return out, nil
}

// matches tells whether a pattern of IAM covers a text: * is any text, ? one character.
func matches(pattern, text string, foldCase bool) bool {
	re := regexp.QuoteMeta(pattern)
	re = "^" + strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(re) + "$"
	if foldCase { // actions have no case
		re = "(?i)" + re
	}
	return regexp.MustCompile("(?s)" + re).MatchString(text)
}

// Check holds statements against calls: the calls that none allows, and the actions and the resources of statements that no call needs.
func Check(statements []Statement, calls []Call) (missing, unused []string, err error) {
	type part struct {
		statement int
		kind      string
		text      string
	}
	used := map[part]bool{}
	for _, c := range calls {
		arn, err := c.ARN()
		if err != nil {
			return nil, nil, err
		}
		allowed := false
		for i, s := range statements {
			for _, action := range s.Actions {
				if !matches(action, c.Action, true) {
					continue
				}
				for _, resource := range s.Resources {
					if matches(resource, arn, false) {
						allowed = true
						used[part{i, "action", action}], used[part{i, "resource", resource}] = true, true
					}
				}
			}
		}
		if !allowed {
			missing = append(missing, c.String())
		}
	}
	for i, s := range statements {
		for kind, texts := range map[string][]string{"action": s.Actions, "resource": s.Resources} {
			for _, text := range texts {
				if !used[part{i, kind, text}] {
					unused = append(unused, fmt.Sprintf("%s of %s, statement %s: %s", kind, s.Document, s.Sid, text))
				}
			}
		}
	}
	slices.Sort(missing)
	slices.Sort(unused)
	return missing, unused, nil
}

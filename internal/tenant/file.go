package tenant

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/yamlfield"
)

// Bounds of a file and of a tenant.
const (
	maxTenants       = 100_000 // a file
	maxJurisdictions = 100
	maxCells         = 100
	maxGateways      = 10_000
	maxKeys          = 16
	maxSubjects      = 64
	maxClaims        = 64
	maxRate          = 1e12
	maxBurst         = time.Hour
	maxRetentionDays = 3650
	maxTextBytes     = 512

	defaultBurst = 60 * time.Second
)

// Kinds of what a client certificate is known by.
const (
	subjectPrefix = "subject:" // the distinguished name, as RFC 2253 writes it
	uriPrefix     = "uri:"     // a URI among the alternative names, SPIFFE's for instance
	dnsPrefix     = "dns:"     // a DNS name among them
)

// file is a registry file, read.
type file struct {
	name          string
	jurisdictions []jurisdiction
	cells         []located[Cell]
	share         located[float64] // of fleet quotas; line 0: not said here
	tenants       []definition
}

// located is a value and the line of its file that says it.
type located[T any] struct {
	value T
	line  int
}

type jurisdiction struct {
	name, endpoint string
	line           int
}

// definition is a tenant as its file has it.
type definition struct {
	Tenant
	line     int
	cells    []located[string] // of Home, and of Cells
	keys     []definedKey
	claims   []located[claim]
	subjects []located[string]
	fleet    [signals]fleetQuota
}

type definedKey struct {
	id      string
	hash    KeyHash
	expires time.Time // zero: never
	line    int
}

// claim is a tenant's name at an OIDC issuer.
type claim struct{ issuer, value string }

// fleetQuota is of all gateways together; each takes its share of it.
type fleetQuota struct {
	set                             bool
	eventsPerSecond, bytesPerSecond float64
	share                           float64 // zero: the registry's
}

// parse reads a file. Its errors are FieldErrors; a file with errors is no file.
func parse(name string, content []byte) (*file, error) {
	r := newNodes(name)
	f := &file{name: name}
	doc, err := r.Document(content, "tenants, cells, jurisdictions or fleet")
	if err != nil {
		return nil, err
	}
	r.Object(doc, "", map[string]func(*yaml.Node, string){
		"jurisdictions": func(n *yaml.Node, field string) { r.jurisdictions(f, n, field) },
		"cells":         func(n *yaml.Node, field string) { r.cells(f, n, field) },
		"fleet": func(n *yaml.Node, field string) {
			f.share.line = n.Line
			r.Object(n, field, map[string]func(*yaml.Node, string){"share": r.share(&f.share.value)})
			if f.share.value == 0 {
				r.Bad(n, field, "want a share above 0 and at most 1")
			}
		},
		"tenants": func(n *yaml.Node, field string) {
			r.List(n, field, maxTenants, func(n *yaml.Node, field string) { f.tenants = append(f.tenants, r.tenant(n, field)) })
		},
	})
	if err := r.Err(); err != nil {
		return nil, err
	}
	return f, nil
}

// nodes reads the YAML of a registry file.
type nodes struct{ yamlfield.Reader }

func newNodes(file string) *nodes {
	return &nodes{yamlfield.Reader{
		File: file,
		Secret: func(field string) bool { // what stands in the place of a key's fields may be the key
			return strings.HasSuffix(field, "keys") || strings.HasSuffix(field, "]") && strings.Contains(field, ".keys[")
		},
		Redact: func(text string) string { return pastedKey.ReplaceAllString(text, KeyPrefix+"...") },
	}}
}

// FieldError is one thing that is wrong with a registry file.
type FieldError = yamlfield.Error

// pastedKey is an API key, or the beginning of one, at whatever place somebody pasted it: errors go to logs and terminals.
var pastedKey = regexp.MustCompile(regexp.QuoteMeta(KeyPrefix) + `[0-9A-Za-z_]*`)

// named calls read for each entry of a mapping of at most most names.
func (r *nodes) named(n *yaml.Node, field string, most int, read func(key, value *yaml.Node, field string)) {
	entries := 0
	r.Mapping(n, field, 0, func(key, value *yaml.Node, _ bool) {
		switch {
		case !ValidName(key.Value):
			r.Bad(key, field, "want a name of at most %d of a-z, 0-9 and -", maxNameBytes)
		case entries == most:
			r.Bad(key, field, "more than %d", most)
		default:
			entries++
			read(key, yamlfield.Resolved(value), yamlfield.Join(field, key.Value))
		}
	})
}

func (r *nodes) jurisdictions(f *file, n *yaml.Node, field string) {
	r.named(n, field, maxJurisdictions, func(key, value *yaml.Node, at string) {
		j := jurisdiction{name: key.Value, line: key.Line}
		r.Object(value, at, map[string]func(*yaml.Node, string){"endpoint": r.endpoint(&j.endpoint)})
		f.jurisdictions = append(f.jurisdictions, j)
	})
}

func (r *nodes) cells(f *file, n *yaml.Node, field string) {
	r.named(n, field, maxCells, func(key, value *yaml.Node, at string) {
		c := located[Cell]{Cell{Name: key.Value}, key.Line}
		r.Object(value, at, map[string]func(*yaml.Node, string){
			"jurisdiction": r.Text(&c.value.Jurisdiction, fmt.Sprintf("a name of at most %d of a-z, 0-9 and -", maxNameBytes), ValidName),
			"endpoint":     r.endpoint(&c.value.Endpoint),
			"gateways":     r.Whole(&c.value.Gateways, 1, maxGateways),
			"away":         r.Bool(&c.value.Away),
			"shed": func(n *yaml.Node, field string) {
				c.value.Shed = map[string]Shed{}
				r.named(n, field, MaxClasses, func(key, value *yaml.Node, at string) {
					var how Shed
					yamlfield.OneOf(&r.Reader, &how, ShedOverflow, ShedRefuse)(value, at)
					c.value.Shed[key.Value] = how
				})
			},
		})
		if value.Kind == yaml.MappingNode && (c.value.Jurisdiction == "" || c.value.Endpoint == "") {
			r.Bad(value, at, "needs jurisdiction and endpoint")
		}
		f.cells = append(f.cells, c)
	})
}

func (r *nodes) endpoint(into *string) func(*yaml.Node, string) {
	return r.Text(into, "an address like https://ingest.eu.example.com", validEndpoint)
}

func validEndpoint(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && u.User == nil && len(s) <= maxTextBytes
}

func validAttribute(s string) bool {
	return validText(s) && utf8.ValidString(s) && !lineage.Reserved(s)
}

func validText(s string) bool { return s != "" && len(s) <= maxTextBytes }

func (r *nodes) share(into *float64) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		r.Number(into, 0, 1)(n, field)
	}
}

func (r *nodes) tenant(n *yaml.Node, field string) definition {
	d := definition{line: n.Line, Tenant: Tenant{
		Status: Active, Class: DefaultClass, Lane: envelope.LaneFast,
		signals: [signals]bool{signal.Traces: true, signal.Metrics: true, signal.Logs: true},
	}}
	name := fmt.Sprintf("a name of at most %d of a-z, 0-9 and -", maxNameBytes)
	named := false
	var home *yaml.Node // nil: it says none
	r.Object(n, field, map[string]func(*yaml.Node, string){
		"id": func(n *yaml.Node, field string) {
			named = true
			r.Text(&d.ID, fmt.Sprintf("at most %d of letters, digits and %s", MaxIDBytes, IDPunctuation), ValidID)(n, field)
		},
		"status":       yamlfield.OneOf(&r.Reader, &d.Status, Active, Suspended),
		"class":        r.Text(&d.Class, name, ValidName),
		"plan":         r.Text(&d.Plan, name, ValidName),
		"jurisdiction": r.Text(&d.Jurisdiction, name, ValidName),
		"home": func(n *yaml.Node, field string) {
			r.Text(&d.Home, name, ValidName)(n, field)
			home = n
			d.cells = append(d.cells, located[string]{d.Home, n.Line})
		},
		"cells":        func(n *yaml.Node, field string) { r.allowed(&d, n, field) },
		"lane":         yamlfield.OneOf(&r.Reader, &d.Lane, envelope.LaneFast, envelope.LaneOverflow),
		"topic_class":  r.Text(&d.TopicClass, name+" that is not overflow", func(s string) bool { return ValidName(s) && s != envelope.LaneOverflow }),
		"id_attribute": r.Text(&d.IDAttribute, fmt.Sprintf("the name of a log attribute, at most %d bytes, not under %s", maxTextBytes, lineage.Prefix), validAttribute),
		"signals":      func(n *yaml.Node, field string) { r.signals(&d, n, field) },
		"keys": func(n *yaml.Node, field string) {
			r.List(n, field, maxKeys, func(n *yaml.Node, field string) { r.key(&d, n, field) })
		},
		"oidc": func(n *yaml.Node, field string) {
			r.List(n, field, maxClaims, func(n *yaml.Node, field string) { r.claim(&d, n, field) })
		},
		"mtls": func(n *yaml.Node, field string) {
			r.List(n, field, maxSubjects, func(n *yaml.Node, field string) {
				s := located[string]{line: n.Line}
				r.Text(&s.value, "subject:DN, uri:URI or dns:NAME", validSubject)(n, field)
				d.subjects = append(d.subjects, s)
			})
		},
		"quotas":         func(n *yaml.Node, field string) { r.quotas(&d, n, field) },
		"schema":         func(n *yaml.Node, field string) { r.schema(&d, n, field) },
		"retention_days": r.Whole(&d.RetentionDays, 1, maxRetentionDays),
	})
	if !named && n.Kind == yaml.MappingNode {
		r.Bad(n, field, "has no id")
	}
	switch {
	case d.Cells != nil && home == nil:
		r.Bad(n, field, "has cells and no home: say in which of them it lives")
	case d.Cells != nil && !d.MayBeIn(d.Home):
		r.Bad(home, field+".home", "is not among cells: %s", strings.Join(d.Cells, ", "))
	}
	return d
}

// allowed reads the cells that may have a tenant's data.
func (r *nodes) allowed(d *definition, n *yaml.Node, field string) {
	d.Cells = []string{} // none is not all
	r.List(n, field, maxCells, func(n *yaml.Node, field string) {
		c := located[string]{line: n.Line}
		r.Text(&c.value, "the name of a cell", ValidName)(n, field)
		if slices.Contains(d.Cells, c.value) {
			r.Bad(n, field, "is there twice")
		}
		d.Cells = append(d.Cells, c.value)
		d.cells = append(d.cells, c)
	})
}

func (r *nodes) signals(d *definition, n *yaml.Node, field string) {
	d.signals = [signals]bool{}
	r.List(n, field, len(signal.All), func(n *yaml.Node, field string) {
		s, err := signal.Parse(n.Value)
		switch {
		case err != nil:
			r.Bad(n, field, "want logs, metrics or traces")
		case d.signals[s]:
			r.Bad(n, field, "is there twice")
		default:
			d.signals[s] = true
		}
	})
}

func (r *nodes) key(d *definition, n *yaml.Node, field string) {
	k := definedKey{line: n.Line}
	named, hashed := false, false
	r.Object(n, field, map[string]func(*yaml.Node, string){
		"id": func(n *yaml.Node, field string) {
			named = true
			r.Text(&k.id, "the id of a key, 16 characters, as `pulsegrid tenant key new` prints it", validKeyID)(n, field)
		},
		"hash": func(n *yaml.Node, field string) {
			var err error
			if k.hash, err = ParseHash(n.Value); err != nil {
				r.BadSecret(n, field, err.Error())
			}
			hashed = true
		},
		"expires": r.Time(&k.expires),
	})
	if n.Kind == yaml.MappingNode && !hashed {
		r.Bad(n, field, "has no hash")
	}
	if n.Kind == yaml.MappingNode && !named {
		r.Bad(n, field, "has no id")
	}
	d.keys = append(d.keys, k)
}

func (r *nodes) claim(d *definition, n *yaml.Node, field string) {
	c := located[claim]{line: n.Line}
	r.Object(n, field, map[string]func(*yaml.Node, string){
		"issuer": r.Text(&c.value.issuer, "the issuer's URL, as the extension's oidc has it", validText),
		"claim":  r.Text(&c.value.value, "the value of the tenant claim", validText),
	})
	if n.Kind == yaml.MappingNode && (c.value.issuer == "" || c.value.value == "") {
		r.Bad(n, field, "needs issuer and claim: one issuer's word must not count at another")
	}
	d.claims = append(d.claims, c)
}

func validSubject(s string) bool {
	for _, prefix := range []string{subjectPrefix, uriPrefix, dnsPrefix} {
		if rest, ok := strings.CutPrefix(s, prefix); ok {
			return validText(rest)
		}
	}
	return false
}

func (r *nodes) quotas(d *definition, n *yaml.Node, field string) {
	quota := func(s signal.Signal) func(*yaml.Node, string) {
		return func(n *yaml.Node, field string) {
			q, fleet := &d.quotas[s], &d.fleet[s]
			q.Burst = defaultBurst
			r.Object(n, field, map[string]func(*yaml.Node, string){
				"events_per_second": r.Number(&q.EventsPerSecond, 0, maxRate),
				"bytes_per_second":  r.Number(&q.BytesPerSecond, 0, maxRate),
				"burst":             r.Duration(&q.Burst, maxBurst),
				"fleet": func(n *yaml.Node, field string) {
					fleet.set = true
					r.Object(n, field, map[string]func(*yaml.Node, string){
						"events_per_second": r.Number(&fleet.eventsPerSecond, 0, maxRate),
						"bytes_per_second":  r.Number(&fleet.bytesPerSecond, 0, maxRate),
						"share":             r.share(&fleet.share),
					})
				},
			})
			if fleet.set && q.Limited() {
				r.Bad(n, field, "says both what a gateway takes and what the fleet takes (fleet); want one of them")
			}
		}
	}
	r.Object(n, field, map[string]func(*yaml.Node, string){
		"logs": quota(signal.Logs), "metrics": quota(signal.Metrics), "traces": quota(signal.Traces),
	})
}

func (r *nodes) schema(d *definition, n *yaml.Node, field string) {
	r.Object(n, field, map[string]func(*yaml.Node, string){
		"policy":             yamlfield.OneOf(&r.Reader, &d.Schema.Mode, schema.Enforce, schema.Warn, schema.Off),
		"unknown_attributes": yamlfield.OneOf(&r.Reader, &d.Schema.Unknown, schema.Strict, schema.Open),
	})
}

package tenant

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// folder is a registry that a test writes.
type folder struct {
	t      testing.TB
	dir    string
	loader *Loader
	writes int
}

func newFolder(t testing.TB, files map[string]string) *folder {
	t.Helper()
	f := &folder{t: t, dir: t.TempDir()}
	source, err := fileset.Open(context.Background(), f.dir)
	require.NoError(t, err)
	f.loader = NewLoader(source)
	for name, text := range files {
		f.write(name, text)
	}
	return f
}

func (f *folder) write(name, text string) {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	require.NoError(f.t, os.WriteFile(path, []byte(text), 0o600))
	f.writes++ // file systems' clocks are coarse
	at := time.Unix(1_700_000_000+int64(f.writes), 0)
	require.NoError(f.t, os.Chtimes(path, at, at))
}

func (f *folder) remove(name string) {
	f.t.Helper()
	require.NoError(f.t, os.Remove(filepath.Join(f.dir, name)))
}

// reload returns what was refused.
func (f *folder) reload() string {
	f.t.Helper()
	report, err := f.loader.Reload(context.Background())
	require.NoError(f.t, err)
	return fmt.Sprint(errors.Join(report.Refused...))
}

func (f *folder) ids(want ...string) {
	f.t.Helper()
	s := f.loader.Snapshot()
	require.Equal(f.t, len(want), s.Len(), want)
	for _, id := range want {
		require.NotNil(f.t, s.Tenant(id), id)
	}
}

const none = "<nil>"

func tenants(ids ...string) string {
	var b strings.Builder
	b.WriteString("tenants:\n")
	for _, id := range ids {
		fmt.Fprintf(&b, "  - id: %s\n", id)
	}
	return b.String()
}

func TestTheDocumentsExampleIsWhatItSays(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "formats", "tenants.md"))
	require.NoError(t, err)
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	require.Len(t, examples, 1)
	f := newFolder(t, map[string]string{"tenants.yaml": examples[0][1]})
	require.Equal(t, none, f.reload())
	f.ids("acme", "small-co", "other-co")
	s := f.loader.Snapshot()
	acme := s.Tenant("acme")
	require.Equal(t, Active, acme.Status)
	require.Equal(t, "premium", acme.Class)
	require.Equal(t, "gold", acme.Plan)
	require.Equal(t, "premium", acme.TopicClass)
	require.Equal(t, "event.id", acme.IDAttribute)
	require.Equal(t, "eu", acme.Jurisdiction)
	require.Equal(t, envelope.LaneFast, acme.Lane)
	require.Equal(t, schema.Policy{Mode: schema.Enforce, Unknown: schema.Open}, acme.Schema)
	require.Equal(t, 30, acme.RetentionDays)
	require.Equal(t, Quota{50000, 60000000, 2 * time.Minute}, acme.Quota(signal.Logs))
	require.Equal(t, Quota{EventsPerSecond: 20000, Burst: time.Minute}, acme.Quota(signal.Metrics), "one of the 20 gateways that are there")
	require.False(t, acme.Quota(signal.Traces).Limited())
	require.Same(t, acme, s.ByClaim("https://login.example.com", "acme-production"))
	require.Nil(t, s.ByClaim("https://elsewhere.example.com", "acme-production"), "another issuer's word does not count")
	require.Equal(t, "https://ingest.eu.example.com", s.Endpoint("eu"))
	require.Equal(t, "eu-1", acme.Home)
	require.Equal(t, []string{"eu-1", "eu-2"}, acme.Cells)
	require.Equal(t, 3, s.Cells())
	us, known := s.Cell("us-1")
	require.True(t, known)
	require.Equal(t, Cell{Name: "us-1", Jurisdiction: "us", Endpoint: "https://us-1.ingest.example.com"}, us)
	away, _ := s.Cell("eu-2")
	require.True(t, away.Away)
	require.Equal(t, ShedRefuse, s.Shed("eu-1", "trial"))
	require.Equal(t, ShedOverflow, s.Shed("eu-1", "standard"))
	require.Empty(t, s.Shed("eu-1", "premium"))
	require.Equal(t, Suspended, s.Tenant("other-co").Status)
	require.Equal(t, s.Tenant("small-co").Quota(signal.Traces), s.Tenant("other-co").Quota(signal.Traces), "merged")
	require.Equal(t, 200.0, s.Tenant("other-co").Quota(signal.Traces).EventsPerSecond)
}

// Guarantees: what is wrong is named by file, line, field and value, and nothing of the file is taken.
func TestWhatIsWrongWithAFileIsNamed(t *testing.T) {
	key, id, hash := NewKey()
	for want, text := range map[string]string{
		`bad.yaml:2: tenants[0].id: "a b": want at most 128`:                   "tenants:\n  - id: a b\n",
		`bad.yaml:3: tenants[0].stat: unknown field, want one of cells, class`: "tenants:\n  - id: a\n    stat: active\n",
		`bad.yaml:3: tenants[0].status: "gone": want active or suspended`:      "tenants:\n  - id: a\n    status: gone\n",
		`bad.yaml:2: tenants[0]: has no id`:                                    "tenants:\n  - status: active\n",
		`bad.yaml:3: tenants[0].id: is there twice`:                            "tenants:\n  - id: a\n    id: b\n",
		`bad.yaml:3: id: "a": is in bad.yaml:2 too`:                            tenants("a", "a"),
		`bad.yaml:3: tenants[0].class: "Gold!": want a name`:                   "tenants:\n  - id: a\n    class: Gold!\n",
		`bad.yaml:3: tenants[0].signals[0]: "profiles": want logs, metrics`:    "tenants:\n  - id: a\n    signals: [profiles]\n",
		`tenants[0].quotas.logs.events_per_second: "-1": want a number from 0`: "tenants:\n  - {id: a, quotas: {logs: {events_per_second: -1}}}\n",
		`tenants[0].quotas.logs.events_per_second: ".nan": want a number`:      "tenants:\n  - {id: a, quotas: {logs: {events_per_second: .nan}}}\n",
		`tenants[0].quotas.logs.burst: "soon": want a duration`:                "tenants:\n  - {id: a, quotas: {logs: {burst: soon}}}\n",
		`tenants[0].quotas.logs: says both`:                                    "tenants:\n  - {id: a, quotas: {logs: {events_per_second: 1, fleet: {events_per_second: 2}}}}\n",
		`tenants[0].retention_days: "1.5": want a whole number from 1 to 3650`: "tenants:\n  - {id: a, retention_days: 1.5}\n",
		`tenants[0].mtls[0]: "CN=x": want subject:DN`:                          "tenants:\n  - {id: a, mtls: [CN=x]}\n",
		`tenants[0].oidc[0]: needs issuer and claim`:                           "tenants:\n  - {id: a, oidc: [{claim: x}]}\n",
		`tenants[0].keys[0].hash: want sha256:SALT:HASH`:                       "tenants:\n  - {id: a, keys: [{id: " + id + ", hash: " + key + "}]}\n",
		`tenants[0].keys[0]: has no hash`:                                      "tenants:\n  - {id: a, keys: [{id: " + id + "}]}\n",
		`tenants[0].keys[0].id: "short": want the id of a key`:                 "tenants:\n  - {id: a, keys: [{id: short, hash: \"" + hash.String() + "\"}]}\n",
		`tenants[0].keys[0].expires: "tomorrow": want a time like`:             "tenants:\n  - {id: a, keys: [{id: " + id + ", hash: \"" + hash.String() + "\", expires: tomorrow}]}\n",
		`jurisdictions.eu.endpoint: "nowhere": want an address`:                "jurisdictions: {eu: {endpoint: nowhere}}\n",
		`cells: "EU-1": want a name`:                                           "cells: {EU-1: {jurisdiction: eu, endpoint: 'https://x'}}\n",
		`cells.eu-1: needs jurisdiction and endpoint`:                          "cells: {eu-1: {jurisdiction: eu}}\n",
		`cells: "c100": more than 100`:                                         manyCells(101),
		`cells.eu-1.gateways: "0": want a whole number from 1 to 10000`:        "cells: {eu-1: {jurisdiction: eu, endpoint: 'https://x', gateways: 0}}\n",
		`cells.eu-1.away: "yes": want true or false`:                           "cells: {eu-1: {jurisdiction: eu, endpoint: 'https://x', away: yes}}\n",
		`cells.eu-1.shed.trial: "drop": want overflow or refuse`:               "cells: {eu-1: {jurisdiction: eu, endpoint: 'https://x', shed: {trial: drop}}}\n",
		`cells.eu-1.shed: "Trial": want a name`:                                "cells: {eu-1: {jurisdiction: eu, endpoint: 'https://x', shed: {Trial: refuse}}}\n",
		`bad.yaml:3: tenants[0].home: "us-1": is not among cells: eu-1, eu-2`:  "tenants:\n  - id: a\n    home: us-1\n    cells: [eu-1, eu-2]\n",
		`bad.yaml:2: tenants[0]: has cells and no home`:                        "tenants:\n  - {id: a, cells: [eu-1]}\n",
		`tenants[0].cells[1]: "eu-1": is there twice`:                          "tenants:\n  - {id: a, home: eu-1, cells: [eu-1, eu-1]}\n",
		`tenants[0].home: "eu-1": is not among cells`:                          "tenants:\n  - {id: a, home: eu-1, cells: []}\n",
		`bad.yaml:2: cells: "eu-9": is no cell of the registry`:                "tenants:\n  - {id: a, home: eu-9}\n",
		`tenants: want a list`:                                                 "tenants: {a: b}\n",
		`bad.yaml:1: want a mapping`:                                           "- a\n",
		`bad.yaml: is empty`:                                                   "",
		`bad.yaml: is no YAML: line 1`:                                         "tenants: [\n",
		`bad.yaml: holds several YAML documents`:                               "tenants: []\n---\ntenants: []\n",
		`fleet: want a share above 0`:                                          "fleet: {}\n",
		`tenants[0].topic_class: "overflow"`:                                   "tenants:\n  - {id: a, topic_class: overflow}\n",
		`tenants[0].id_attribute: "pulsegrid.event"`:                           "tenants:\n  - {id: a, id_attribute: pulsegrid.event}\n",
		`tenants[0].id_attribute: want the name of a log attribute`:            "tenants:\n  - {id: a, id_attribute: ''}\n",
		`class: "c32": would be more than 32 classes`:                          manyClasses(33),
		`and 10 more errors`:                                                   tenants(strings.Split(strings.Repeat("a b,", 30), ",")[:30]...),
	} {
		t.Run(want, func(t *testing.T) {
			f := newFolder(t, map[string]string{"bad.yaml": text, "good.yaml": tenants("good")})
			refused := f.reload()
			require.Contains(t, refused, want)
			require.NotContains(t, refused, key, "a key that was pasted by mistake is not repeated")
			f.ids("good")
			require.True(t, f.loader.Snapshot().Incomplete())
		})
	}
}

func manyClasses(n int) string {
	var b strings.Builder
	b.WriteString("tenants:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - {id: t%d, class: c%d}\n", i, i)
	}
	return b.String()
}

func manyCells(n int) string {
	var b strings.Builder
	b.WriteString("cells:\n")
	for i := range n {
		fmt.Fprintf(&b, "  c%d: {jurisdiction: eu, endpoint: \"https://c%d\"}\n", i, i)
	}
	return b.String()
}

// Guarantees: a file that has become bad stays as it was, and does not hold up the others' changes.
func TestABadFileKeepsItsLastGoodContentAndHoldsUpNoOther(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": tenants("a1"), "b.yaml": tenants("b1")})
	require.Equal(t, none, f.reload())
	f.ids("a1", "b1")
	require.False(t, f.loader.Snapshot().Incomplete())
	f.write("a.yaml", "tenants:\n  - id: a1\n    status: aktive\n  - id: a2\n")
	f.write("b.yaml", tenants("b1", "b2"))
	require.Contains(t, f.reload(), `a.yaml:3: tenants[0].status: "aktive"`)
	f.ids("a1", "b1", "b2")
	require.False(t, f.loader.Snapshot().Incomplete(), "all that was ever in force is")
	require.Contains(t, f.reload(), "a.yaml:3", "it is said as long as it is so")
	f.write("a.yaml", tenants("a1", "a2"))
	require.Equal(t, none, f.reload())
	f.ids("a1", "a2", "b1", "b2")
	f.remove("b.yaml")
	require.Equal(t, none, f.reload())
	f.ids("a1", "a2")
}

func TestAnUnreadableFileStaysAsItWas(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": tenants("a1"), "b.yaml": tenants("b1")})
	require.Equal(t, none, f.reload())
	f.write("a.yaml", strings.Repeat("#", fileset.MaxFileBytes+1))
	require.Contains(t, f.reload(), "a.yaml")
	f.ids("a1", "b1")
	f.write("a.yaml", tenants("a2"))
	require.Equal(t, none, f.reload())
	f.ids("a2", "b1")
}

// Guarantees: of two files that say the same the one in force keeps it; the other is refused as a whole, and named with both places.
func TestDuplicatesAcrossFilesAreRefusedWithoutHarmToWhatIsInForce(t *testing.T) {
	_, id, hash := NewKey()
	key := func(tenant string) string {
		return fmt.Sprintf("tenants:\n  - {id: %s, keys: [{id: %s, hash: \"%s\"}]}\n", tenant, id, hash)
	}
	for name, c := range map[string]struct{ inForce, newcomer, want string }{
		"tenant":       {tenants("x"), tenants("new", "x"), `a.yaml:3: id: "x": is in z.yaml:2 too`},
		"key":          {key("x"), key("y"), `a.yaml:2: keys.id: "` + id + `": is in z.yaml:2 too`},
		"claim":        {"tenants:\n  - {id: x, oidc: [{issuer: i, claim: c}]}", "tenants:\n  - {id: y, oidc: [{issuer: i, claim: c}]}", `oidc.claim: "c": is in z.yaml:2 too`},
		"certificate":  {"tenants:\n  - {id: x, mtls: [dns:a]}", "tenants:\n  - {id: y, mtls: [dns:a]}", `mtls: "dns:a": is in z.yaml:2 too`},
		"jurisdiction": {"jurisdictions: {eu: {}}\ntenants: [{id: x}]", "jurisdictions: {eu: {}}", `jurisdictions: "eu": is in z.yaml:1 too`},
		"cell":         {cellsOf("eu-1") + "tenants: [{id: x}]", cellsOf("eu-1"), `cells: "eu-1": is in z.yaml:2 too`},
		"fleet":        {"fleet: {share: 1}\ntenants: [{id: x}]", "fleet: {share: 0.5}", `fleet: is in z.yaml:1 too`},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFolder(t, map[string]string{"z.yaml": c.inForce})
			require.Equal(t, none, f.reload())
			f.write("a.yaml", c.newcomer) // its name comes first, which does not help it
			f.write("b.yaml", tenants("b"))
			require.Contains(t, f.reload(), c.want)
			f.ids("x", "b")
			f.remove("z.yaml") // then there is no conflict any more
			require.Equal(t, none, f.reload())
			require.Nil(t, f.loader.Snapshot().Tenant("x"+"?"))
			require.False(t, f.loader.Snapshot().Incomplete())
		})
	}
}

func TestAtStartTheFileWhoseNameComesFirstWins(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": tenants("x", "a"), "b.yaml": tenants("x", "b"), "c.yaml": tenants("c")})
	require.Contains(t, f.reload(), `b.yaml:2: id: "x": is in a.yaml:2 too`)
	f.ids("x", "a", "c")
	require.True(t, f.loader.Snapshot().Incomplete(), "b may be anybody")
}

// Guarantees: a file that clashes only with one that is refused itself is in force.
func TestARefusedFileTakesNoOtherWithIt(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": tenants("x", "a"), "b.yaml": tenants("x", "y"), "c.yaml": tenants("y", "c")})
	require.Contains(t, f.reload(), `b.yaml:2: id: "x": is in a.yaml:2 too`)
	f.ids("x", "a", "y", "c")
}

func TestATenantMovesToAnotherFileWhenBothHaveChanged(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": tenants("x", "a"), "b.yaml": tenants("b")})
	require.Equal(t, none, f.reload())
	f.write("b.yaml", tenants("b", "x"))
	require.Contains(t, f.reload(), `b.yaml:3: id: "x"`)
	f.ids("x", "a", "b")
	f.write("a.yaml", tenants("a"))
	require.Equal(t, none, f.reload())
	f.ids("x", "a", "b")
	require.Equal(t, "b.yaml", f.loader.Snapshot().tenants["x"].by.name)
}

func TestASetThatIsEmptyOrGoneChangesNothing(t *testing.T) {
	f := newFolder(t, nil)
	_, err := f.loader.Reload(t.Context())
	require.ErrorIs(t, err, fileset.ErrEmpty)
	require.Nil(t, f.loader.Snapshot(), "an empty registry is not one that knows nobody")
	f.write("a.yaml", tenants("a"))
	require.Equal(t, none, f.reload())
	f.remove("a.yaml")
	_, err = f.loader.Reload(t.Context())
	require.ErrorIs(t, err, fileset.ErrEmpty)
	f.ids("a")
	require.NoError(t, os.RemoveAll(f.dir))
	_, err = f.loader.Reload(t.Context())
	require.ErrorContains(t, err, f.dir)
	f.ids("a")
}

func TestAKeyOpensItsTenantOnly(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	key, id, hash := NewKey()
	old, oldID, oldHash := NewKey()
	unknown, _, _ := NewKey()
	f := newFolder(t, map[string]string{"a.yaml": fmt.Sprintf(`tenants:
  - id: a
    keys:
      - {id: %s, hash: "%s"}
      - {id: %s, hash: "%s", expires: 2026-06-01T00:00:00Z}
  - id: b
`, id, hash, oldID, oldHash)})
	require.Equal(t, none, f.reload())
	s := f.loader.Snapshot()
	got, gotID, err := s.ByKey(key, now)
	require.NoError(t, err)
	require.Equal(t, "a", got.ID)
	require.Equal(t, id, gotID)
	_, _, err = s.ByKey(old, now.Add(-time.Nanosecond))
	require.NoError(t, err)
	for name, c := range map[string]struct {
		key  string
		want error
	}{
		"expired":      {old, ErrKeyExpired},
		"unknown":      {unknown, ErrKeyUnknown},
		"other secret": {key[:len(key)-1] + string("ab"[b2i(key[len(key)-1] == 'a')]), ErrKeyWrong},
		"cut":          {key[:len(key)-1], ErrKeyForm},
		"id only":      {id, ErrKeyForm},
		"empty":        {"", ErrKeyForm},
		"longer":       {key + "a", ErrKeyForm},
	} {
		got, _, err := s.ByKey(c.key, now)
		require.ErrorIs(t, err, c.want, name)
		require.Nil(t, got, name)
		if c.key != "" {
			require.NotContains(t, err.Error(), c.key)
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestKeysAreDistinctAndTheirHashesToo(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		key, id, hash := NewKey()
		require.True(t, hash.Matches(key))
		parsed, err := ParseHash(hash.String())
		require.NoError(t, err)
		require.Equal(t, hash, parsed)
		require.NotContains(t, hash.String(), key)
		for _, s := range []string{key, id, hash.String()} {
			require.False(t, seen[s])
			seen[s] = true
		}
	}
	key, _, hash := NewKey()
	other := hash
	other.salt[0]++
	require.False(t, other.Matches(key), "the salt counts")
}

func TestCertificatesAreKnownByAnyOfTheirNames(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": `tenants:
  - {id: s, mtls: ["subject:CN=agents,O=Acme"]}
  - {id: u, mtls: ["uri:spiffe://acme/agent"]}
  - {id: d, mtls: ["dns:agent.acme.example"]}
`})
	require.Equal(t, none, f.reload())
	s := f.loader.Snapshot()
	require.Equal(t, "s", s.ByCertificate(named(t, "O=Acme", "CN=agents")).ID)
	require.Equal(t, "u", s.ByCertificate(&x509.Certificate{URIs: []*url.URL{{Scheme: "spiffe", Host: "acme", Path: "/agent"}}}).ID)
	require.Equal(t, "d", s.ByCertificate(&x509.Certificate{DNSNames: []string{"x", "agent.acme.example"}}).ID)
	for _, other := range [][]string{
		{"CN=agents"}, {"CN=agents", "O=Acme"}, {"O=Acme", "CN=mallory", "CN=agents"}, {"O=Acme", "CN=agents", "CN=mallory"}, {"O=Acme", "CN=agents", "OU=x"},
		{"O=Bravo", "O=Acme", "CN=agents"}, {"CN=agents,O=Acme"}, {"O=Acme,CN=agents"}, {"O=Acme+CN=agents"}, {},
	} {
		require.Nil(t, s.ByCertificate(named(t, other...)), other)
	}
	require.Nil(t, s.ByCertificate(&x509.Certificate{RawSubject: []byte("no name")}))
}

// named is a certificate whose subject is these, in this order, as it comes from a connection.
func named(t *testing.T, parts ...string) *x509.Certificate {
	t.Helper()
	oids := map[string]asn1.ObjectIdentifier{"CN": {2, 5, 4, 3}, "O": {2, 5, 4, 10}, "OU": {2, 5, 4, 11}}
	var name pkix.RDNSequence
	for _, p := range parts {
		key, value, _ := strings.Cut(p, "=")
		name = append(name, pkix.RelativeDistinguishedNameSET{{Type: oids[key], Value: value}})
	}
	raw, err := asn1.Marshal(name)
	require.NoError(t, err)
	c := &x509.Certificate{RawSubject: raw}
	c.Subject.FillFromRDNSequence(&name)
	return c
}

// Guarantee: an API key that somebody pasted into a file is in no error.
func TestAPastedKeyIsNotShown(t *testing.T) {
	key, id, hash := NewKey()
	secret := key[len(key)-20:]
	for _, text := range []string{
		"tenants: [{id: a, keys: " + key + "}]", "tenants: [{id: a, keys: [" + key + "]}]", "tenants: [{id: a, keys: [" + secret + "]}]", "tenants: [{id: a, keys: [{" + key + ": x}]}]",
		"tenants: [{id: a, keys: [{id: " + key + ", hash: '" + hash.String() + "'}]}]", "tenants: [{id: a, keys: [{id: " + id + ", hash: " + key + "}]}]",
		"tenants: [{id: a, class: " + key + "}]", "tenants: [{id: '" + key + " '}]", key + ": 1", key, "tenants: [{id: a, mtls: [" + key + "]}]", "tenants: [{id: a, keys: [{expires: " + key + "}]}]",
		"tenants: [{id: a, keys: [\n" + key, "tenants: [{id: a, oidc: [{issuer: [], " + key + ": x}]}]", "tenants:\n\t" + key,
	} {
		_, err := parse("a.yaml", []byte(text))
		require.Error(t, err, text)
		require.NotContains(t, err.Error(), secret, text)
	}
}

type fixed struct {
	component.StartFunc
	component.ShutdownFunc
	snapshot     *Snapshot
	jurisdiction string
	cell         string
}

func (f fixed) Snapshot() *Snapshot  { return f.snapshot }
func (f fixed) Jurisdiction() string { return f.jurisdiction }
func (f fixed) Cell() string         { return f.cell }

func TestAdmissionNamesTheReasonAndTheRightEndpoint(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": `
jurisdictions: {eu: {endpoint: "https://eu.example.com"}}
tenants:
  - {id: free}
  - {id: eu, jurisdiction: eu}
  - {id: ca, jurisdiction: ca}
  - {id: gone, status: suspended, jurisdiction: eu}
  - {id: logs, signals: [logs]}
`})
	require.Equal(t, none, f.reload())
	r := fixed{snapshot: f.loader.Snapshot(), jurisdiction: "us"}
	for id, want := range map[string]string{"free": "", "eu": ReasonJurisdiction, "ca": ReasonJurisdiction, "gone": ReasonSuspended, "logs": ReasonSignal} {
		tn, refusal := Lookup(r, id)
		require.Nil(t, refusal)
		refusal = Admit(r, tn, signal.Metrics)
		if want == "" {
			require.Nil(t, refusal)
			continue
		}
		st := refusal.GRPCStatus()
		require.Equal(t, codes.PermissionDenied, st.Code())
		info := st.Details()[0].(*errdetails.ErrorInfo)
		require.Equal(t, want, info.Reason)
		require.Equal(t, id, info.Metadata["tenant"])
		if id == "eu" {
			require.Equal(t, "https://eu.example.com", info.Metadata["endpoint"])
			require.Contains(t, st.Message(), "send to https://eu.example.com")
			require.Nil(t, Admit(fixed{snapshot: r.snapshot, jurisdiction: "eu"}, tn, signal.Metrics))
			require.NotNil(t, Admit(fixed{snapshot: r.snapshot}, tn, signal.Metrics), "a cell without a jurisdiction is in none")
		}
	}
	_, refusal := Lookup(r, "nobody")
	require.Equal(t, codes.PermissionDenied, refusal.Code)
	_, refusal = Lookup(fixed{}, "free")
	require.Equal(t, codes.Unavailable, refusal.Code)
	require.Positive(t, refusal.After)
}

// cellsOf are cells whose names begin with their jurisdictions.
func cellsOf(names ...string) string {
	var b strings.Builder
	b.WriteString("cells:\n")
	for _, name := range names {
		jurisdiction, _, _ := strings.Cut(name, "-")
		fmt.Fprintf(&b, "  %s: {jurisdiction: %s, endpoint: \"https://%s.example.com\"}\n", name, jurisdiction, name)
	}
	return b.String()
}

// Guarantees: a cell that may not have a tenant's data says so, and names an endpoint that may: for good where the data must not be in its jurisdiction, else as what is to be sent again.
func TestAdmissionToCells(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": cellsOf("eu-1", "eu-2", "us-1") + `
jurisdictions: {eu: {endpoint: "https://eu.example.com"}}
tenants:
  - {id: anywhere}
  - {id: eu, jurisdiction: eu, home: eu-2}
  - {id: one, jurisdiction: eu, home: eu-2, cells: [eu-2]}
  - {id: two, home: us-1, cells: [us-1, eu-1]}
`})
	require.Equal(t, none, f.reload())
	s := f.loader.Snapshot()
	for _, c := range []struct {
		tenant, cell, reason, endpoint string
	}{
		{"anywhere", "eu-1", "", ""}, {"anywhere", "us-1", "", ""}, {"anywhere", "", "", ""},
		{"eu", "eu-1", "", ""}, {"eu", "eu-2", "", ""}, {"eu", "eu-", "", ""}, // any cell of its jurisdiction
		{"eu", "us-1", ReasonJurisdiction, "https://eu.example.com"},
		{"one", "eu-2", "", ""},
		{"one", "eu-1", ReasonCell, "https://eu-2.example.com"}, // not the jurisdiction's, which leads to eu-1 too
		{"one", "us-1", ReasonJurisdiction, "https://eu-2.example.com"},
		{"two", "us-1", "", ""}, {"two", "eu-1", "", ""},
		{"two", "eu-2", ReasonCell, "https://us-1.example.com"},
		{"two", "", ReasonCell, "https://us-1.example.com"}, // a cell without a name is none of them
	} {
		jurisdiction, _, _ := strings.Cut(c.cell, "-")
		refusal := Admit(fixed{snapshot: s, jurisdiction: jurisdiction, cell: c.cell}, s.Tenant(c.tenant), signal.Logs)
		if c.reason == "" {
			require.Nil(t, refusal, "%s in %s", c.tenant, c.cell)
			continue
		}
		require.NotNil(t, refusal, "%s in %s", c.tenant, c.cell)
		require.Equal(t, c.reason, refusal.Reason, "%s in %s", c.tenant, c.cell)
		require.Equal(t, c.endpoint, refusal.Info["endpoint"], "%s in %s", c.tenant, c.cell)
		require.Equal(t, c.cell, refusal.Info["cell"])
		require.Contains(t, refusal.Text, "send to "+c.endpoint)
		require.Equal(t, c.reason == ReasonCell, refusal.After > 0, "%s in %s: whether it is to be sent again", c.tenant, c.cell)
		require.Equal(t, map[string]codes.Code{ReasonCell: codes.Unavailable, ReasonJurisdiction: codes.PermissionDenied}[c.reason], refusal.Code)
	}
}

// Guarantees: a gateway's share of a fleet quota is one of the gateways in the cells that may have the tenant and are there; what a quota says itself goes before it, what the registry
// says after it. Where not each of these cells says how many it has, nothing follows from their numbers.
func TestFleetQuotasAreSharedAnewWhenACellIsAway(t *testing.T) {
	const tenants = `
fleet: {share: 0.5}
tenants:
  - {id: eu, jurisdiction: eu, quotas: {logs: {fleet: {events_per_second: 1200}}}}
  - {id: one, jurisdiction: eu, home: eu-2, cells: [eu-2], quotas: {logs: {fleet: {events_per_second: 1200}}}}
  - {id: anywhere, quotas: {logs: {fleet: {events_per_second: 1200}}}}
  - {id: itself, quotas: {logs: {fleet: {events_per_second: 1200, share: 0.25}}}}
`
	f := newFolder(t, map[string]string{"tenants.yaml": tenants})
	shares := func(eu, one, anywhere float64) {
		t.Helper()
		require.Equal(t, none, f.reload())
		for id, want := range map[string]float64{"eu": eu, "one": one, "anywhere": anywhere, "itself": 300} {
			require.Equal(t, want, f.loader.Snapshot().Tenant(id).Quota(signal.Logs).EventsPerSecond, id)
		}
	}
	cell := func(name, rest string) string {
		return strings.TrimSuffix(strings.TrimPrefix(cellsOf(name), "cells:\n"), "}\n") + rest + "}\n"
	}
	write := func(eu1, eu2, us1 string) {
		f.write("cells.yaml", "cells:\n"+cell("eu-1", eu1)+cell("eu-2", eu2)+cell("us-1", us1))
	}
	write(", gateways: 2", ", gateways: 4", ", gateways: 6")
	shares(200, 300, 100)
	write(", gateways: 2, away: true", ", gateways: 4", ", gateways: 6")
	shares(300, 300, 120)
	write(", gateways: 2, away: true", ", gateways: 4, away: true", ", gateways: 6")
	shares(200, 300, 200) // none of the eu's is there: what comes all the same is shared as ever
	write(", gateways: 2", ", gateways: 4", "")
	shares(200, 300, 600) // us-1 does not say
	write("", ", gateways: 4", ", gateways: 6, away: true")
	shares(600, 300, 600)
}

// Guarantees: a class that a cell sheds is sent back there to come again, at moments of their own, or goes by the overflow lane; other classes and other cells know nothing of it.
// `pulsegrid tenant check` can say what is shed.
func TestACellShedsByClass(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": `
cells:
  eu-1: {jurisdiction: eu, endpoint: "https://eu-1.example.com", shed: {trial: refuse, standard: overflow, trail: refuse}}
  eu-2: {jurisdiction: eu, endpoint: "https://eu-2.example.com"}
tenants:
  - {id: small, jurisdiction: eu, class: trial}
  - {id: usual, jurisdiction: eu}
  - {id: large, jurisdiction: eu, class: premium}
`})
	require.Equal(t, none, f.reload())
	s := f.loader.Snapshot()
	require.Equal(t, []string{"cell eu-1 sheds class standard: overflow", "cell eu-1 sheds class trail: refuse; no tenant has this class", "cell eu-1 sheds class trial: refuse"}, s.Shedding())
	here, there := fixed{snapshot: s, jurisdiction: "eu", cell: "eu-1"}, fixed{snapshot: s, jurisdiction: "eu", cell: "eu-2"}
	for id, want := range map[string]Shed{"small": ShedRefuse, "usual": ShedOverflow, "large": ""} {
		require.Equal(t, want, ShedOf(here, s.Tenant(id)), id)
		require.Empty(t, ShedOf(there, s.Tenant(id)), id)
		require.Equal(t, want == ShedRefuse, Admit(here, s.Tenant(id), signal.Logs) != nil, id)
		require.Nil(t, Admit(there, s.Tenant(id), signal.Logs), id)
	}
	require.Empty(t, ShedOf(fixed{jurisdiction: "eu", cell: "eu-1"}, s.Tenant("small")), "nothing is known yet")
	moments := map[time.Duration]bool{}
	for range 100 {
		refusal := Admit(here, s.Tenant("small"), 0)
		require.Equal(t, codes.ResourceExhausted, refusal.Code)
		require.Equal(t, ReasonShed, refusal.Reason)
		require.Equal(t, map[string]string{"tenant": "small", "cell": "eu-1", "class": "trial"}, refusal.Info)
		require.GreaterOrEqual(t, refusal.After, 30*time.Second)
		require.LessOrEqual(t, refusal.After, 90*time.Second)
		moments[refusal.After] = true
	}
	require.Greater(t, len(moments), 90, "they do not come again all at once")
}

// Scenario: tenants and cells are in files of their own, and one of them changes.
// Guarantees: the file that makes the registry inconsistent is refused and named, also where it is gone; what is in force stays so; what follows is taken.
func TestAnInconsistentChangeIsRefusedWhicheverFileItIsIn(t *testing.T) {
	const acme = "tenants:\n  - {id: acme, jurisdiction: eu, home: eu-1, cells: [eu-1, eu-2]}\n"
	inForce := func(f *folder) {
		t.Helper()
		require.Equal(t, []string{"eu-1", "eu-2"}, f.loader.Snapshot().Tenant("acme").Cells)
		for _, name := range []string{"eu-1", "eu-2"} {
			c, known := f.loader.Snapshot().Cell(name)
			require.True(t, known, name)
			require.Equal(t, "eu", c.Jurisdiction)
		}
	}
	for _, names := range [][2]string{{"a-cells.yaml", "b-tenants.yaml"}, {"b-cells.yaml", "a-tenants.yaml"}} { // order must not matter
		cells, tenantsFile := names[0], names[1]
		begin := func() *folder {
			f := newFolder(t, map[string]string{cells: cellsOf("eu-1", "eu-2", "us-1"), tenantsFile: acme})
			require.Equal(t, none, f.reload())
			return f
		}
		t.Run("a cell is taken out "+cells, func(t *testing.T) {
			f := begin()
			f.write(cells, cellsOf("eu-1", "us-1"))
			require.Contains(t, f.reload(), cells+`: cells: "eu-2": is taken out, and tenant "acme" may be in it (`+tenantsFile+`:2)`)
			inForce(f)
			f.write(tenantsFile, "tenants:\n  - {id: acme, jurisdiction: eu, home: eu-1, cells: [eu-1]}\n")
			require.Equal(t, none, f.reload(), "nobody needs it any more")
			require.Equal(t, 2, f.loader.Snapshot().Cells())
		})
		t.Run("a cell moves to another jurisdiction "+cells, func(t *testing.T) {
			f := begin()
			f.write(cells, cellsOf("eu-1")+"  eu-2: {jurisdiction: us, endpoint: \"https://x\"}\n")
			require.Contains(t, f.reload(), cells+`:3: cells: "eu-2": is in jurisdiction "us", and tenant "acme", which may be in it (`+tenantsFile+`:2), must stay in "eu"`)
			inForce(f)
		})
		t.Run("the cells' file is gone "+cells, func(t *testing.T) {
			f := begin()
			f.remove(cells)
			require.Contains(t, f.reload(), cells+`: cells: "eu-1": is taken out`)
			inForce(f)
			require.Contains(t, f.reload(), "is taken out", "it is said as long as it is so")
			f.write("c.yaml", cellsOf("eu-1", "eu-2"))
			require.Equal(t, none, f.reload(), "another file has them")
			inForce(f)
			f.remove("c.yaml")
			f.write(cells, cellsOf("eu-1", "eu-2"))
			require.Equal(t, none, f.reload(), "and back")
			inForce(f)
		})
		t.Run("a tenant is allowed elsewhere "+cells, func(t *testing.T) {
			f := begin()
			f.write(tenantsFile, "tenants:\n  - {id: acme, jurisdiction: eu, home: eu-1, cells: [eu-1, us-1]}\n")
			require.Contains(t, f.reload(), tenantsFile+`:2: cells: "us-1": is in jurisdiction "us" (`+cells+`:4), and tenant "acme" must stay in "eu"`)
			inForce(f)
			f.write(tenantsFile, "tenants:\n  - {id: acme, jurisdiction: eu, home: eu-3, cells: [eu-3]}\n")
			require.Contains(t, f.reload(), tenantsFile+`:2: cells: "eu-3": is no cell of the registry`)
			inForce(f)
			f.write(cells, cellsOf("eu-1", "eu-2", "eu-3"))
			require.Equal(t, none, f.reload(), "both together")
			require.Equal(t, "eu-3", f.loader.Snapshot().Tenant("acme").Home)
		})
		t.Run("all is gone but another tenant "+cells, func(t *testing.T) {
			f := begin()
			f.write("c.yaml", tenants("other"))
			f.remove(cells)
			f.remove(tenantsFile)
			require.Equal(t, none, f.reload())
			f.ids("other")
			require.Zero(t, f.loader.Snapshot().Cells())
		})
	}
}

type hosting map[component.ID]component.Component

func (h hosting) GetExtensions() map[component.ID]component.Component { return h }

func TestTheRegistryIsFoundAmongTheExtensions(t *testing.T) {
	one, two, other := component.MustNewID("tenant_auth"), component.MustNewID("tenant_auth2"), component.MustNewID("other")
	noRegistry := struct {
		component.StartFunc
		component.ShutdownFunc
	}{}
	_, err := Find(hosting{other: noRegistry}, nil)
	require.ErrorContains(t, err, "service::extensions")
	r, err := Find(hosting{other: noRegistry, one: fixed{jurisdiction: "eu"}}, nil)
	require.NoError(t, err)
	require.Equal(t, "eu", r.Jurisdiction())
	_, err = Find(hosting{one: fixed{}, two: fixed{}}, nil)
	require.ErrorContains(t, err, "tenant_auth, tenant_auth2")
	_, err = Find(hosting{one: fixed{}, two: fixed{}}, &two)
	require.NoError(t, err)
	_, err = Find(hosting{other: noRegistry}, &other)
	require.ErrorContains(t, err, "no registry")
	_, err = Find(hosting{}, &one)
	require.ErrorContains(t, err, `"tenant_auth"`)
}

func TestClassesOfMetricsAreBounded(t *testing.T) {
	b := ByClass[string]{Make: func(class string) string { return class }}
	for i := range 10_000 {
		b.Of(fmt.Sprint(i))
	}
	n := 0
	b.kept.Range(func(any, any) bool { n++; return true })
	require.LessOrEqual(t, n, keptClassesMax+1)
	require.Equal(t, OtherClass, b.Of("one more"))
	require.Equal(t, "7", b.Of("7"))
}

// Guarantees: readers see either the old registry or the new one, each whole, while it is reloaded.
func TestReadersSeeOneSnapshotWhole(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": tenants("a0", "b0")})
	require.Equal(t, none, f.reload())
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				s := f.loader.Snapshot()
				found := 0
				for i := range 20 {
					if (s.Tenant(fmt.Sprint("a", i)) == nil) != (s.Tenant(fmt.Sprint("b", i)) == nil) {
						t.Error("half of a registry")
						return
					}
					if s.Tenant(fmt.Sprint("a", i)) != nil {
						found++
					}
				}
				if found != 1 {
					t.Errorf("%d pairs", found)
					return
				}
			}
		})
	}
	for i := range 20 {
		f.write("a.yaml", tenants(fmt.Sprint("a", i), fmt.Sprint("b", i)))
		require.Equal(t, none, f.reload())
	}
	close(stop)
	readers.Wait()
}

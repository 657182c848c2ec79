package certificate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func someCertificate(problems ...string) *Certificate {
	c := &Certificate{
		Format: Version, Tool: "test", Started: time.Unix(1, 0).UTC(), Finished: time.Unix(2, 0).UTC(), Problems: problems,
		Stores:     []StoreInfo{{Store: Hot, Where: "<&>", Group: "g"}},
		Partitions: []PartitionResult{{Topic: "otlp.logs.v1", Stores: []StoreResult{{Store: Hot, Expected: Sums{Rows: 3, IDs: 1 << 63}}}}},
	}
	c.Conclude()
	return c
}

func chain(t *testing.T, n int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "certificates")
	for range n {
		_, err := someCertificate().Append(t.Context(), dir, nil)
		require.NoError(t, err)
	}
	return dir
}

func TestAChainOfCertificatesCannotBeChangedUnseen(t *testing.T) {
	for name, test := range map[string]struct {
		change func(dir string) error
		want   string
		good   int
	}{
		"nothing": {func(string) error { return nil }, "", 4},
		"a number changed": {func(dir string) error {
			b, err := os.ReadFile(chainFile(dir, 2))
			if err != nil {
				return err
			}
			return os.WriteFile(chainFile(dir, 2), []byte(strings.Replace(string(b), `"rows": 3`, `"rows": 4`, 1)), 0o644)
		}, "certificate-000002.json: was changed", 1},
		"a field added": {func(dir string) error {
			b, err := os.ReadFile(chainFile(dir, 2))
			if err != nil {
				return err
			}
			return os.WriteFile(chainFile(dir, 2), []byte(strings.Replace(string(b), "{\n", "{\n  \"unknown\": 1,\n", 1)), 0o644)
		}, "certificate-000002.json: was changed", 1},
		"one changed and sealed again": {func(dir string) error {
			c, err := readSealed(chainFile(dir, 2))
			if err != nil {
				return err
			}
			c.Tool = "forged"
			if err := c.Seal(); err != nil {
				return err
			}
			b, err := c.encode()
			if err != nil {
				return err
			}
			return os.WriteFile(chainFile(dir, 2), b, 0o644)
		}, "certificate-000003.json does not follow", 2},
		"one taken out": {func(dir string) error { return os.Remove(chainFile(dir, 2)) }, "certificate-000002.json is missing", 1},
		"two swapped": {func(dir string) error {
			return os.Rename(chainFile(dir, 4), chainFile(dir, 3))
		}, "certificate-000003.json does not follow", 2},
		"the first taken out": {func(dir string) error { return os.Remove(chainFile(dir, 1)) }, "certificate-000001.json is missing", 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir := chain(t, 4)
			require.NoError(t, test.change(dir))
			good, err := VerifyChain(dir, nil)
			require.Len(t, good, test.good)
			if test.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, test.want)
		})
	}
	_, err := VerifyChain(t.TempDir(), nil)
	require.ErrorContains(t, err, "no certificates")
}

func TestAnAuditDoesNotContinueABrokenChain(t *testing.T) {
	dir := chain(t, 1)
	require.NoError(t, os.WriteFile(chainFile(dir, 1), []byte("{}"), 0o644))
	_, err := someCertificate().Append(t.Context(), dir, nil)
	require.ErrorContains(t, err, "begin a new directory")
}

func TestTwoAuditsAtOnceMakeOneChain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certificates")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := someCertificate().Append(t.Context(), dir, nil)
			require.NoError(t, err)
		})
	}
	wg.Wait()
	all, err := VerifyChain(dir, nil)
	require.NoError(t, err)
	require.Len(t, all, 8)
}

// The document tells people how to check a certificate without this program: that is what is done here.
func TestTheDocumentedCommandChecksACertificate(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "formats", "certificate.md"))
	require.NoError(t, err)
	command := regexp.MustCompile(`(?m)^    (sed .*\| sha256sum)$`).FindSubmatch(doc)
	require.NotNil(t, command, "docs/formats/certificate.md shows a command")
	signer, _ := newSigner(t)
	dir := t.TempDir()
	appendSigned(t, dir, 2, signer)
	cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(string(command[1]), "FILE", chainFile(dir, 2), 1))
	out, err := cmd.Output()
	require.NoError(t, err)
	c, err := readSealed(chainFile(dir, 2))
	require.NoError(t, err)
	require.Equal(t, c.SHA256, strings.Fields(string(out))[0])
}

// Every field of the JSON is in the document.
func TestEveryFieldOfACertificateIsDocumented(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "formats", "certificate.md"))
	require.NoError(t, err)
	c := someCertificate("problem")
	c.Partitions[0].Stores[0].Ledger, c.Partitions[0].Stores[0].Beyond = &LedgerResult{}, &BeyondResult{}
	c.Rollups = []RollupResult{{}}
	c.Copies = []SignalCopies{{Rules: []RuleCopies{{Examples: []CopyExample{{}}}}}}
	c.Erasures = []ErasureResult{{}}
	c.Differences, c.Stretches, c.LedgerFaults = []Difference{{EventID: "x", Columns: []string{"x"}, Detail: "x"}}, []Stretch{{}}, []LedgerFault{{}}
	c.Asked.From, c.Asked.To, c.Asked.Ranges, c.Asked.Tenant, c.Cell = &c.Started, &c.Started, []Range{{}}, "x", "x"
	c.Signature = "x"
	c.Partitions[0].Stores[0].Got.Digest = "x"
	b, err := json.Marshal(c)
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`"([a-z_0-9]+)":`).FindAllSubmatch(b, -1) {
		require.Contains(t, string(doc), "`"+string(m[1])+"`")
	}
}

func TestVerdicts(t *testing.T) {
	require.Equal(t, Equal, someCertificate().Verdict)
	require.Equal(t, Incomplete, someCertificate("a store is down").Verdict)
	for _, f := range []Faults{{Lost: 1}, {Doubled: 1}, {Altered: 1}, {Foreign: 1}} {
		c := someCertificate("a store is down")
		c.Partitions[0].Stores[0].Faults = f
		c.Conclude()
		require.Equal(t, Different, c.Verdict, "what differs is worse than what could not be audited")
	}
	c := someCertificate()
	c.Partitions[0].Stores[0].Undecidable = 1
	c.Conclude()
	require.Equal(t, Incomplete, c.Verdict)
	c = someCertificate()
	c.Partitions[0].Stores[0].Ledger = &LedgerResult{Faults: 1}
	c.Conclude()
	require.Equal(t, Different, c.Verdict)
	c = someCertificate()
	c.Rollups = []RollupResult{{Wrong: 1}}
	c.Conclude()
	require.Equal(t, Different, c.Verdict)
}

func TestSealIsTheHashOfTheJSONWithoutIt(t *testing.T) {
	c := someCertificate()
	require.NoError(t, c.Seal())
	b, err := c.encode()
	require.NoError(t, err)
	sum := sha256.Sum256([]byte(strings.Replace(string(b), c.SHA256, "", 1)))
	require.Equal(t, hex.EncodeToString(sum[:]), c.SHA256)
}

func TestRangesAreWrittenAsBlocksAreNamed(t *testing.T) {
	r, err := ParseRange("otlp.logs.v1/3/120-129")
	require.NoError(t, err)
	require.Equal(t, Range{"otlp.logs.v1", 3, 120, 129}, r)
	require.Equal(t, "otlp.logs.v1/3/120-129", r.String())
	for _, bad := range []string{"", "a/0/1", "a/0/2-1", "a/x/1-2", "/0/1-2", "a/-1/1-2", "a/0/-1-2", "a/0/1-2/3", "a/0/0-9223372036854775807"} {
		_, err := ParseRange(bad)
		require.ErrorContains(t, err, "TOPIC/PARTITION/FIRST-LAST", bad)
	}
}

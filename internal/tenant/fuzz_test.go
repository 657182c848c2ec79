package tenant

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Guarantees: whatever a file holds, it is either refused with errors that name it, or what is taken is within bounds and can be compiled alone.
func FuzzParse(f *testing.F) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "formats", "tenants.md"))
	if err != nil {
		f.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		f.Add(m[1])
	}
	f.Add("tenants: &a [*a]")
	f.Add("tenants: [&a {<<: *a, id: x}]")
	f.Add("a: &a [x,x]\nb: &b [*a,*a]\ntenants: [*b,*b]")
	f.Add(manyClasses(40))
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := parse("fuzz.yaml", []byte(text))
		if err != nil {
			var field *FieldError
			if !errors.As(err, &field) || !strings.HasPrefix(err.Error(), "fuzz.yaml") || field.Reason == "" {
				t.Fatalf("%v names no file", err)
			}
			if parsed != nil {
				t.Fatal("a refused file is taken")
			}
			return
		}
		for _, d := range parsed.tenants {
			if !ValidID(d.ID) || !ValidName(d.Class) || len(d.keys) > maxKeys || len(d.claims) > maxClaims || len(d.subjects) > maxSubjects {
				t.Fatalf("tenant %+v is out of bounds", d)
			}
		}
		snapshot, conflicts := compile(change{files: []*file{parsed}})
		if len(conflicts) == 0 && snapshot.Len() != len(parsed.tenants) {
			t.Fatalf("%d tenants of %d", snapshot.Len(), len(parsed.tenants))
		}
	})
}

// Guarantees: a small file that aliases make huge is refused in a moment.
func TestAFileThatAliasesMakeHugeIsRefused(t *testing.T) {
	var b strings.Builder
	b.WriteString("a: &a0 {x: y}\n")
	for i := 1; i < 6; i++ {
		b.WriteString("a: &a" + string(rune('0'+i)) + " {" + strings.Repeat("<<: *a"+string(rune('0'+i-1))+", ", 100) + "}\n")
	}
	b.WriteString("tenants: [" + strings.Repeat("*a5, ", 1000) + "]\n")
	if _, err := parse("huge.yaml", []byte(b.String())); err == nil {
		t.Fatal("taken")
	}
}

package otlpjson

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Guarantees: of every field of OTLP a value can be read, whatever kinds opentelemetry-proto comes to use.
func TestEveryKindIsKnown(t *testing.T) {
	values := map[protoreflect.Kind]string{protoreflect.StringKind: `"a"`, protoreflect.BytesKind: `""`, protoreflect.BoolKind: "true", protoreflect.MessageKind: "{}"}
	seen := map[*message]bool{}
	var check func(m *message)
	check = func(m *message) {
		if seen[m] {
			return
		}
		seen[m] = true
		for name, f := range m.fields {
			value, ok := values[f.kind]
			if !ok {
				value = "1"
			}
			if f.repeated {
				value = "[" + value + "]"
			}
			p := &parser{b: []byte(value), limits: Limits{MaxDepth: 10, MaxEvents: 10, Reserve: func(int) bool { return true }}}
			require.NoError(t, p.field(f), name)
			if f.of != nil {
				check(f.of)
			}
			if len(p.written) > 0 {
				num, _, _ := protowire.ConsumeTag(p.written)
				require.Equal(t, f.num, num, name)
				require.Equal(t, len(p.written), protowire.ConsumeFieldValue(num, wireOf(p.written), p.written[protowire.SizeTag(num):])+protowire.SizeTag(num), name)
			}
		}
	}
	for _, m := range requests {
		check(m)
	}
	require.Greater(t, len(seen), 30)
}

func wireOf(b []byte) protowire.Type {
	_, wire, _ := protowire.ConsumeTag(b)
	return wire
}

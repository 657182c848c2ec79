package refusals

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func of(reason, tenant, sender string) Refusal {
	return Refusal{Kind: Kind{Protocol: "http", Status: "413", Reason: reason, Tenant: tenant, Sender: sender}, UserAgent: "agent/1", Text: "body has 9 bytes, at most 8 are allowed"}
}

func observed() (*Log, *observer.ObservedLogs) {
	core, logs := observer.New(zapcore.WarnLevel)
	return New(zap.New(core)), logs
}

func TestTheFirstRefusalOfAKindIsToldAtOnceAndTheOthersOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, logs := observed()
		defer l.Shutdown()
		l.Add(of("too_large", "acme", "192.0.2.1"))
		require.Equal(t, 1, logs.Len())
		require.Equal(t, Message, logs.All()[0].Message)
		for range 1200 { // ten a second
			time.Sleep(100 * time.Millisecond)
			l.Add(of("too_large", "acme", "192.0.2.1"))
		}
		synctest.Wait()
		require.InDelta(t, 2, logs.Len()-1, 1, "two minutes")
		last := logs.All()[logs.Len()-1].ContextMap()
		require.InDelta(t, 1100, last["requests"], 110)
		require.Equal(t, "acme", last["tenant"])
		require.Equal(t, "192.0.2.1", last["sender"])
		require.Equal(t, "agent/1", last["user_agent"])
		require.Equal(t, "body has 9 bytes, at most 8 are allowed", last["example"])

		told := logs.Len()
		l.Add(of("malformed", "acme", "192.0.2.1"))
		require.Equal(t, told+1, logs.Len(), "another kind")
		time.Sleep(time.Hour)
		synctest.Wait()
		require.LessOrEqual(t, logs.Len(), told+2, "nothing comes, nothing is told")
		require.Nil(t, l.timer)
		require.Empty(t, l.kinds)
	})
}

// Scenario: a sender makes up a tenant a request, while another one is refused for one reason.
// Guarantees: memory and lines are bounded, every refusal is counted, and the other one is told of.
func TestWhoeverMakesUpKindsFillsNeitherTheMemoryNorTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, logs := observed()
		defer l.Shutdown()
		for i := range 54_000 { // 9 minutes: no kind is forgotten
			l.Add(of("header", fmt.Sprintf("made-up-%d", i), fmt.Sprintf("2001:db8::%x", i)))
			l.Add(Refusal{Kind: Kind{Protocol: "grpc", Status: fmt.Sprint(i), Reason: "transport", Sender: "192.0.2.9"}})
			if i%1000 == 0 {
				l.Add(of("memory", "acme", "192.0.2.1"))
			}
			time.Sleep(10 * time.Millisecond)
		}
		synctest.Wait()
		require.LessOrEqual(t, len(l.kinds), maxKinds+maxCommon+1)
		require.LessOrEqual(t, logs.Len(), 55*maxLines)
		var total int64
		for _, e := range l.kinds {
			total += e.Requests
		}
		require.EqualValues(t, 54_000+54_000+54, total)
		require.NotEmpty(t, logs.FilterField(zap.String("reason", "memory")).All())
		require.NotEmpty(t, logs.FilterField(zap.String("sender", Others)).All())
		for at, within := 0, 0; at < logs.Len(); at++ {
			for logs.All()[at].Time.Sub(logs.All()[within].Time) >= interval {
				within++
			}
			require.Less(t, at-within, 10, "the Collector's logger would drop the next")
		}
	})
}

func TestShutdownTellsWhatIsUntoldAndNothingAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, logs := observed()
		for range 7 {
			l.Add(of("memory", "acme", "192.0.2.1"))
		}
		require.Equal(t, 1, logs.Len())
		l.Shutdown()
		require.Equal(t, 2, logs.Len())
		require.EqualValues(t, 7, logs.All()[1].ContextMap()["requests"])
		l.Add(of("slow", "acme", "192.0.2.1"))
		l.Shutdown()
		time.Sleep(time.Hour)
		require.Equal(t, 2, logs.Len())
	})
}

func TestTextsOfSendersAreClippedAndHoldNoControlCharacters(t *testing.T) {
	l, logs := observed()
	defer l.Shutdown()
	l.Add(Refusal{Kind: Kind{Tenant: "a\x1b[31mb", Sender: strings.Repeat("s", 1000)}, UserAgent: "x\r\nfake: line\u202e\xff" + strings.Repeat("é", 100), Text: strings.Repeat("t", 10_000) + "\x00"})
	line := logs.All()[0].ContextMap()
	require.Equal(t, "a [31mb", line["tenant"])
	require.Len(t, line["sender"], maxNameBytes+3)
	require.Regexp(t, `^x  fake: line  é+\.\.\.$`, line["user_agent"])
	require.Len(t, line["example"], maxTextBytes+3)
}

func TestTheLogHoldsNoValuesOfEvents(t *testing.T) {
	for text, want := range map[string]string{
		`3 events: event 0: attribute_type at attributes["order.total"]: expected double, got string "12,50" (shop 1)`: `3 events: event 0: attribute_type at attributes["order.total"]: expected double, got string "..." (shop 1)`,
		`want a number, got "\"secret\\"; "x" is not`:                                                                  `want a number, got "..."; "..." is not`,
		`"secret`:           `"..."`,
		`got "secret\`:      `got "..."`,
		`nothing is quoted`: `nothing is quoted`,
	} {
		require.Equal(t, want, withoutValues(text))
	}
	l, logs := observed()
	defer l.Shutdown()
	r := of("malformed", "", "192.0.2.1")
	r.Quotes, r.Text = true, `got "`+strings.Repeat("secret", 200)+`"`
	l.Add(r)
	require.Equal(t, `got "..."`, logs.All()[0].ContextMap()["example"])
}

// Guarantees: what is logged is what is read, the newest line of each kind, over the turn of the file; other lines and half ones are passed over.
func TestTheNewestLineOfEachKindIsReadFromTheLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.log")
	lines, err := Newest(path)
	require.NoError(t, err)
	require.Empty(t, lines)

	var out bytes.Buffer
	config := zap.NewProductionEncoderConfig() // as the Collector's: msg, level, ts
	synctest.Test(t, func(t *testing.T) {
		l := New(zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(config), zapcore.AddSync(&out), zapcore.WarnLevel)))
		first, second := of("too_large", "acme", "192.0.2.1"), of("events_lost", "", "192.0.2.2")
		second.Events, second.Detail = 3, "DETAIL"
		l.Add(first)
		time.Sleep(time.Second)
		l.Add(first)
		l.Add(second)
		l.Shutdown()
		require.Equal(t, 3, strings.Count(out.String(), "\n"))
		older, newer, _ := strings.Cut(out.String(), "\n")
		require.NoError(t, os.WriteFile(path+".1", []byte(`half of a line "`+Message+"\"}\n"+older+"\n"), 0o600))
		require.NoError(t, os.WriteFile(path, []byte(`{"msg":"other","example":"`+Message+"\"}\n"+newer+`{"msg":"`+Message), 0o600))
		lines, err := Newest(path)
		require.NoError(t, err)
		require.Len(t, lines, 2)
		byReason := map[string]Line{}
		for _, line := range lines {
			byReason[line.Reason] = line
		}
		got := byReason["too_large"]
		require.Equal(t, first.Kind, got.Kind)
		require.EqualValues(t, 2, got.Requests)
		require.Equal(t, time.Second, got.Last.Sub(got.First))
		require.Equal(t, first.Text, got.Example)
		require.Equal(t, "agent/1", got.UserAgent)
		require.EqualValues(t, 3, byReason["events_lost"].Events)
		require.Equal(t, "DETAIL", byReason["events_lost"].Detail)
	})
}

func TestRefusalsAreCountedByManyGoroutines(t *testing.T) {
	l, _ := observed()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				l.Add(of("memory", "acme", "192.0.2.1"))
			}
		})
	}
	wg.Wait()
	l.Shutdown()
	require.EqualValues(t, 4000, l.kinds[of("memory", "acme", "192.0.2.1").Kind].Requests)
}

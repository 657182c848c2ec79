package icebergexporter

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/apache/iceberg-go"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
)

// Topics of one name after another.
var formerTopic, presentTopic, thirdTopic = block.TopicID{1}, block.TopicID{2}, block.TopicID{3}

// sendBlock delivers a block of logs that a test has changed.
func (h *harness) sendBlock(part int32, first, last int64, edit func(*block.Block)) error {
	ctx, ld := logs(part, first, last, 1)
	b, _ := block.FromContext(ctx)
	edit(&b)
	return h.consumeLogs(block.NewContext(ctx, b), ld)
}

// deliverBlock is sendBlock as a receiver delivers: it resumes from within the block where it is told to.
func (h *harness) deliverBlock(part int32, first, last int64, edit func(*block.Block)) error {
	for {
		err := h.sendBlock(part, first, last, edit)
		resume, ok := errors.AsType[*block.ResumeError](err)
		if !ok || resume.Next <= first {
			return err
		}
		first = resume.Next
	}
}

func of(id block.TopicID) func(*block.Block) { return func(b *block.Block) { b.TopicID = id } }

// watched keeps what the sink logs.
func watched(level zapcore.Level) (func(*sink), *observer.ObservedLogs) {
	core, seen := observer.New(level)
	return func(s *sink) { s.log = zap.New(core) }, seen
}

func properties(t *testing.T, cfg *Config, name string) (out []string) {
	t.Helper()
	for k, v := range loaded(t, cfg, name).Properties() {
		if rest, ok := strings.CutPrefix(k, "pulsegrid.offset"); ok {
			out = append(out, rest+"="+v)
		}
	}
	return sorted(out)
}

func setProperties(t *testing.T, cfg *Config, name string, set iceberg.Properties, remove ...string) {
	t.Helper()
	tx := reload(t, cfg, name).NewTransaction()
	require.NoError(t, errors.Join(tx.SetProperties(set), tx.RemoveProperties(remove)))
	_, err := tx.Commit(t.Context())
	require.NoError(t, err)
}

func TestRecordsOfATopicMadeAnewAreWrittenAndItIsToldOf(t *testing.T) {
	cfg := lake(t)
	watch, seen := watched(zapcore.ErrorLevel)
	h := start(t, cfg, columns.Logs, watch)
	require.NoError(t, h.sendBlock(0, 0, 9, of(formerTopic)))
	require.NoError(t, h.sendBlock(0, 10, 19, of(formerTopic)))
	require.Zero(t, seen.Len())

	for range 2 {
		require.NoError(t, h.sendBlock(0, 0, 4, of(presentTopic)), "it is no replay, the second time it is")
	}
	require.NoError(t, h.sendBlock(0, 5, 9, of(presentTopic)))
	require.Equal(t, sorted(slices.Concat(bodies(0, 0, 19), bodies(0, 0, 9))), stored(t, cfg, "logs", "body"))
	require.Equal(t, int64(5), h.metric("iceberg_replayed_rows"))
	require.Equal(t, int64(1), h.metric("iceberg_topics_made_anew"))
	require.Equal(t, 1, seen.Len(), "once a partition")
	told := seen.All()[0]
	require.Contains(t, told.Message, "a topic was made anew")
	require.Equal(t, map[string]any{
		"table": "pulsegrid.logs", "topic": topic, "partition": int32(0), "topic_id": presentTopic.String(),
		"former_topic_id": formerTopic.String(), "former_stored_before_offset": int64(20),
	}, told.ContextMap())
	for _, table := range []string{"logs", ledger.Name} {
		require.Equal(t, []string{
			"-former.otlp.logs.v1@" + formerTopic.String() + ".0=20", ".count=1", ".otlp.logs.v1@" + presentTopic.String() + ".0=10",
		}, properties(t, cfg, table), table)
	}
	require.Equal(t, []string{formerTopic.String(), formerTopic.String(), presentTopic.String(), presentTopic.String()}, stored(t, cfg, ledger.Name, "topic_id"))
}

func TestATopicMadeAnewBeginsWhereItsGroupBegan(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.sendBlock(0, 0, 9, of(formerTopic)))
	requireResume(t, h.sendBlock(0, 700, 709, func(b *block.Block) { b.TopicID, b.Oldest = presentTopic, 700 }), block.FromStart)
	require.NoError(t, h.sendBlock(0, 700, 709, func(b *block.Block) { b.TopicID, b.Oldest, b.Fresh = presentTopic, 700, true }))
	require.Equal(t, sorted(slices.Concat(bodies(0, 0, 9), bodies(0, 700, 709))), stored(t, cfg, "logs", "body"))
}

// An owner that was frozen while the topic was made anew still holds a block of the former one.
func TestALateBlockOfTheFormerTopicIsStoredOnceToo(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.sendBlock(0, 0, 9, of(formerTopic)))
	require.NoError(t, h.sendBlock(0, 0, 4, of(presentTopic)))
	require.NoError(t, h.sendBlock(0, 0, 9, of(formerTopic)), "it is in")
	require.NoError(t, h.sendBlock(0, 10, 19, of(formerTopic)), "it is not")
	require.NoError(t, h.sendBlock(0, 5, 9, of(presentTopic)))
	require.Equal(t, sorted(slices.Concat(bodies(0, 0, 19), bodies(0, 0, 9))), stored(t, cfg, "logs", "body"))
}

func TestOffsetsOfFormerTopicsAreBounded(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	for i := range byte(5) {
		require.NoError(t, h.sendBlock(0, 0, int64(i), of(block.TopicID{10 + i})))
		require.NoError(t, h.sendBlock(1, 0, int64(i), of(block.TopicID{10 + i})))
	}
	require.Len(t, properties(t, cfg, "logs"), 5, "each partition has its offset and one former; and their count")
}

func TestAnOffsetWithoutATopicIDGetsItOnce(t *testing.T) {
	cfg := lake(t)
	watch, seen := watched(zapcore.ErrorLevel)
	h := start(t, cfg, columns.Logs, watch)
	require.NoError(t, h.send(0, 0, 9))
	require.NoError(t, h.send(1, 0, 9))
	require.NoError(t, h.deliverBlock(0, 0, 14, of(presentTopic)), "cut at the offset that was stored without an id")
	require.Equal(t, []string{".count=2", ".otlp.logs.v1.1=10", ".otlp.logs.v1@" + presentTopic.String() + ".0=15"}, properties(t, cfg, "logs"))
	require.Zero(t, seen.Len())
	require.NoError(t, h.sendFrom(0, 15, 19, 15), "a broker that gives no id again")
	require.Equal(t, []string{".count=2", ".otlp.logs.v1.1=10", ".otlp.logs.v1@" + presentTopic.String() + ".0=20"}, properties(t, cfg, "logs"))
	require.NoError(t, h.sendBlock(0, 0, 4, of(thirdTopic)), "another id now is another topic")
	require.Equal(t, 1, seen.Len())
	require.Equal(t, sorted(slices.Concat(bodies(0, 0, 19), bodies(1, 0, 9), bodies(0, 0, 4))), stored(t, cfg, "logs", "body"))
}

// A version that knew no ids and did not count wrote this table.
func TestATableOfAVersionWithoutTopicIDsIsTakenOver(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	h.shutdown()
	asOlderVersion(t, cfg)
	h = start(t, cfg, columns.Logs)
	require.NoError(t, h.deliverBlock(0, 0, 14, of(presentTopic)))
	require.NoError(t, h.sendBlock(2, 700, 709, func(b *block.Block) { b.TopicID, b.Oldest, b.Fresh = presentTopic, 700, true }), "a new partition")
	require.Equal(t, sorted(slices.Concat(bodies(0, 0, 14), bodies(2, 700, 709))), stored(t, cfg, "logs", "body"))
	require.Equal(t, []string{".count=2", ".otlp.logs.v1@" + presentTopic.String() + ".0=15", ".otlp.logs.v1@" + presentTopic.String() + ".2=710"}, properties(t, cfg, "logs"))
}

func TestAVersionThatKnowsNoTopicIDsStopsAtThem(t *testing.T) {
	require.True(t, strings.HasPrefix(countKey, offsetPrefix))
	rest := strings.TrimPrefix(countKey, offsetPrefix)
	require.Negative(t, strings.LastIndexByte(rest, '.'), "it reads the name behind the last dot as a partition, and is told %q names none", countKey)
}

func TestALogThatEndsBeforeTheTableIsRefusedWithAdvice(t *testing.T) {
	cfg := lake(t)
	watch, seen := watched(zapcore.ErrorLevel)
	h := start(t, cfg, columns.Logs, watch)
	require.NoError(t, h.sendBlock(0, 0, 199, of(presentTopic)))
	truncated := func(b *block.Block) { b.TopicID, b.LogEnd = presentTopic, 60 }
	for range 2 {
		err := h.sendBlock(0, 0, 59, truncated)
		require.ErrorIs(t, err, errAhead)
		require.ErrorContains(t, err, "it ends at offset 60, the table holds what is before 200")
		require.False(t, consumererror.IsPermanent(err), "the data is not at fault")
	}
	require.NoError(t, h.sendBlock(1, 0, 9, of(presentTopic)), "other partitions go on")
	require.Equal(t, 1, seen.Len(), "it is told once")
	require.Equal(t, int64(2), h.metric("iceberg_refused_blocks"))
	require.NoError(t, h.sendBlock(0, 0, 59, func(b *block.Block) { b.TopicID, b.LogEnd = presentTopic, 200 }), "an owner that had heard of an older end: a replay")

	// The advice, with which the records are taken for new.
	for _, name := range []string{"logs", ledger.Name} {
		setProperties(t, cfg, name, iceberg.Properties{
			"pulsegrid.offset.otlp.logs.v1@" + presentTopic.String() + ".0": "0", trustKey: fmt.Sprint(currentSnapshot(loaded(t, cfg, name))),
		})
	}
	require.NoError(t, h.sendBlock(0, 0, 59, truncated))
	require.NoError(t, h.sendBlock(0, 60, 69, of(presentTopic)))
	require.Equal(t, sorted(slices.Concat(bodies(0, 0, 199), bodies(0, 0, 69), bodies(1, 0, 9))), stored(t, cfg, "logs", "body"))
}

// asOlderVersion makes the tables what a version left that knew neither ids nor counts.
func asOlderVersion(t *testing.T, cfg *Config) {
	t.Helper()
	for _, name := range []string{"logs", ledger.Name} {
		editMetadata(t, cfg, name, func(text string) string {
			return strings.NewReplacer(`"`+countKey+`":"1",`, "", `,"`+countKey+`":"1"`, "").Replace(text)
		})
		require.Empty(t, loaded(t, cfg, name).Properties()[countKey])
		require.Empty(t, summaryOf(loaded(t, cfg, name).CurrentSnapshot())[countKey])
	}
	dropColumn(t, cfg, ledger.Name, "topic_id")
}

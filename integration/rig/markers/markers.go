// Package markers looks for a planted text in all that a cell has written: files, topics, tables and the lake's Parquet files, each also where it is compressed. A search proves something
// only beside a control, another marker that it finds.
package markers

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

//go:embed testdata/parquet.py
var parquetScript string

const plainMax = 16 << 20 // bytes of a frame that are looked at

// Files names the files below a directory that hold a marker, plainly or within what is compressed with zstd or gzip, or have it in their names. ClickHouse
// and the lake compress in other ways, and are asked besides.
func Files(dir, marker string) (files []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var content []byte
		if err == nil && d.Type().IsRegular() {
			content, err = os.ReadFile(path)
		}
		if errors.Is(err, fs.ErrNotExist) { // it went while we looked
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if strings.Contains(path, marker) || holds(content, []byte(marker)) {
			files = append(files, path)
		}
		return nil
	})
	return files, err
}

func holds(content, marker []byte) bool {
	if bytes.Contains(content, marker) {
		return true
	}
	for magic, open := range map[string]func(io.Reader) (io.Reader, error){
		"\x28\xb5\x2f\xfd": func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r, zstd.WithDecoderConcurrency(1)) },
		"\x1f\x8b\x08":     func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
	} {
		for at := 0; ; at++ {
			next := bytes.Index(content[at:], []byte(magic))
			if next < 0 {
				break
			}
			at += next
			r, err := open(bytes.NewReader(content[at:]))
			if err != nil {
				continue
			}
			plain, _ := io.ReadAll(io.LimitReader(r, plainMax)) // what is no frame, or has an end, ends with an error
			if bytes.Contains(plain, marker) {
				return true
			}
		}
	}
	return false
}

// Rows counts rows that hold a marker, of each of ClickHouse's tables, its own logs too, that has any.
func Rows(r *rig.Rig, marker string) (map[string]int, error) {
	tables, err := r.Query("SELECT database || '.`' || name || '`' FROM system.tables WHERE engine LIKE '%MergeTree' AND database NOT IN ('information_schema')")
	if err != nil {
		return nil, err
	}
	found := map[string]int{}
	for table := range strings.FieldsSeq(tables) {
		// The query itself is in the query log: it must not hold the marker as it is.
		text, err := r.Query(fmt.Sprintf("SELECT count() FROM %s AS t WHERE position(formatRowNoNewline('JSONEachRow', *), concat('%s', '%s')) > 0", table, marker[:8], marker[8:]))
		if err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			found[table] = n
		}
	}
	return found, nil
}

// Parquet counts rows with each marker in the Parquet files of a directory that a pattern such as **/*.parquet matches, referred to by a table or not.
func Parquet(t testing.TB, dir, pattern string, markers ...string) (found map[string]int) {
	t.Helper()
	pytest.RunJSON(t, &found, parquetScript, append([]string{dir, pattern}, markers...)...)
	return found
}

// Records counts records of all topics of a Kafka, its own too, that hold a marker in key, value or headers; by topic.
func Records(ctx context.Context, brokers []string, marker string) (map[string]int, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	topics, err := admin.ListTopicsWithInternal(ctx)
	if err != nil {
		return nil, err
	}
	ends, err := admin.ListEndOffsets(ctx, topics.Names()...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, err
	}
	found, want := map[string]int{}, map[string]map[int32]kgo.Offset{}
	left := map[string]map[int32]int64{} // partitions that are not read to their ends
	for _, e := range ends.Offsets().Sorted() {
		if e.At == 0 {
			continue
		}
		if want[e.Topic] == nil {
			want[e.Topic], left[e.Topic] = map[int32]kgo.Offset{}, map[int32]int64{}
		}
		want[e.Topic][e.Partition], left[e.Topic][e.Partition] = kgo.NewOffset().AtStart(), e.At
	}
	if len(want) == 0 {
		return found, nil
	}
	// Control records are kept, since a partition may end with one.
	reader, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumePartitions(want), kgo.KeepControlRecords())
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	for len(left) > 0 {
		fetches := reader.PollFetches(ctx)
		if err := errors.Join(ctx.Err(), fetches.Err()); err != nil {
			return nil, err
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			for _, record := range p.Records {
				text := [][]byte{record.Key, record.Value}
				for _, h := range record.Headers {
					text = append(text, []byte(h.Key), h.Value)
				}
				for _, part := range text {
					if holds(part, []byte(marker)) {
						found[p.Topic]++
						break
					}
				}
				if record.Offset+1 >= left[p.Topic][p.Partition] {
					delete(left[p.Topic], p.Partition)
				}
			}
			if len(left[p.Topic]) == 0 {
				delete(left, p.Topic)
			}
		})
	}
	return found, nil
}

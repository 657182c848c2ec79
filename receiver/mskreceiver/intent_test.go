package mskreceiver

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/block"
)

func TestAPositionSurvivesItsText(t *testing.T) {
	for text, p := range map[string]position{
		"v1":       {},
		"v1 fresh": {fresh: true},
		"v1 t=1790000000000 i=1790000000950 e=120,240": {
			appended: time.UnixMilli(1790000000000), intended: time.UnixMilli(1790000000950), ends: []int64{120, 240},
		},
		"v1 id=AQIDBAUGBwgJCgsMDQ4PEA t=0": {topicID: block.TopicID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, appended: time.UnixMilli(0)},
		"v1 t=0 fresh i=-1 e=101":          {appended: time.UnixMilli(0), fresh: true, intended: time.UnixMilli(-1), ends: []int64{101}},
	} {
		p.next, p.epoch = 100, -1
		require.Equal(t, text, p.text())
		got, err := parsePosition(100, text)
		require.NoError(t, err)
		require.Equal(t, p, got)
	}
}

func TestTheLongestTextFitsWhatKafkaStores(t *testing.T) {
	p := position{appended: time.UnixMilli(math.MinInt64), intended: time.UnixMilli(math.MinInt64), topicID: block.TopicID{1}, fresh: true, epoch: -1}
	for i := range int64(maxSteps) {
		p.epochs = append(p.epochs, step{math.MaxInt64 - maxSteps + i, math.MaxInt32, true})
	}
	for i := range int64(maxOmitted) {
		p.omissions = append(p.omissions, omission{math.MaxInt64 - maxOmitted + i, []int32{math.MaxInt32}})
	}
	for i := range int64(maxEnds) {
		p.ends = append(p.ends, math.MaxInt64-maxEnds+i)
	}
	require.LessOrEqual(t, len(p.text()), maxMetadataBytes)
	got, err := parsePosition(0, p.text())
	require.NoError(t, err)
	require.Equal(t, p.ends, got.ends)
	require.Equal(t, p.epochs, got.epochs)
	require.Equal(t, p.omissions, got.omissions)
	// A block of max_bytes is halved no more often than it has records, of one byte at least: 23 times.
	require.LessOrEqual(t, MaxMaxInFlightBlocks+int(math.Ceil(math.Log2(float64(DefaultBlockMaxBytes)))), maxEnds)
}

// Guarantee: whatever a commit's metadata holds, it is read as written or not at all.
func FuzzPosition(f *testing.F) {
	f.Add(int64(0), "v1 t=1 fresh i=2 e=3,4")
	f.Add(int64(9), "v1 e=9")
	f.Add(int64(9), "v1 l=5@0,6@8q i=2 e=12")
	f.Add(int64(0), "v1 i=2 e=9 x=3:0+2,4:1")
	f.Add(int64(9), "v1 id=AQIDBAUGBwgJCgsMDQ4PEA e=10")
	f.Add(int64(9), "v1 i=+1 e=010")
	f.Add(int64(0), "")
	f.Fuzz(func(t *testing.T, next int64, text string) {
		p, err := parsePosition(next, text)
		if err != nil {
			return
		}
		if p.text() != text || len(text) > maxMetadataBytes {
			t.Fatalf("%q was read as %q", text, p.text())
		}
		last := next
		for _, end := range p.ends {
			if end <= last {
				t.Fatal(fmt.Sprint("blocks do not follow each other: ", p.ends))
			}
			last = end
		}
	})
}

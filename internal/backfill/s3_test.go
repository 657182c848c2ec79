package backfill

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gocloud.dev/blob"

	"github.com/pulsegrid/pulsegrid/internal/bucket"
	"github.com/pulsegrid/pulsegrid/internal/testkit/s3test"
)

// Scenario: objects, plan and progress on S3. Guarantees: an object's version is its ETag, so another content of the same size is another object; objects with a
// Content-Encoding are read as they are stored; of two commands at a time one makes the plan; the progress is found again.
func TestAJobOnS3(t *testing.T) {
	server := s3test.Start(t)
	t.Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
	open := func(name, prefix string) *blob.Bucket {
		b, err := bucket.Open(t.Context(), "s3://"+name+"?region="+s3test.Region+"&use_path_style=true&endpoint="+server.Endpoint+prefix)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Close()) })
		return b
	}
	objects, states := open(server.CreateBucket("old"), ""), open(server.CreateBucket("lake"), "&prefix=warehouse/jobs/")
	b := &bench{t: t, objects: objects, state: NewState(states)}
	require.NoError(t, objects.WriteAll(t.Context(), "eu/encoded.gz", packed(t, logLines(0, 5)...), &blob.WriterOptions{ContentEncoding: "gzip", ContentType: "application/json"}))
	b.put("eu/plain", []byte(logLine(10)))
	b.put("eu/changed", []byte(logLine(20)))
	b.put("eu/gone", []byte(logLine(30)))
	b.put("us/other", []byte(logLine(40)))
	request := Request{Spec: Spec{Prefixes: []string{"eu/"}}}
	f, err := b.find(request)
	require.NoError(t, err)
	require.Len(t, f.Plan.Objects, 4)
	rival := *f.Plan
	rival.ID = "another"
	won, err := b.state.create(t.Context(), &rival)
	require.NoError(t, err)
	require.Equal(t, f.Plan, won, "the first one counts")
	b.put("eu/changed", []byte(logLine(21)))
	require.NoError(t, objects.Delete(t.Context(), "eu/gone"))

	s, j := newStore(), b.open(f.Plan)
	require.NoError(t, j.Run(t.Context(), options(t, s)))
	states4 := map[string]string{}
	progress := b.open(f.Plan).Progress() // as another process finds it
	for i, o := range f.Plan.Objects {
		states4[o.Key] = progress.Outcome(i).State
	}
	require.Equal(t, map[string]string{"eu/encoded.gz": StateLoaded, "eu/plain": StateLoaded, "eu/changed": StateChanged, "eu/gone": StateMissing}, states4)
	require.Len(t, s.all(), 6)
	again, err := b.find(request)
	require.NoError(t, err)
	require.Equal(t, Found{Plan: f.Plan, Old: true, Left: 1}, again)
}

// Guarantee: a store of objects that fails is no state of an object: the run ends, and the next one loads the object.
func TestAnObjectStoreThatFailsIsNoStateOfAnObject(t *testing.T) {
	server := s3test.Start(t)
	t.Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	objects, err := bucket.Open(t.Context(), "s3://"+server.CreateBucket("old")+"?region="+s3test.Region+"&use_path_style=true&endpoint="+server.Endpoint)
	require.NoError(t, err)
	b := newBench(t)
	require.NoError(t, b.objects.Close())
	b.objects = objects
	b.put("o", packed(t, logLine(1)))
	p := b.plan()
	server.Kill()
	j, s := b.open(p), newStore()
	j.reader.tries, j.reader.backoff = 2, time.Millisecond
	err = j.Run(t.Context(), options(t, s))
	require.ErrorContains(t, err, "mem://o")
	require.False(t, errors.Is(err, errStopped))
	require.Empty(t, j.Progress().Outcomes)
	server.Restart()
	require.NoError(t, b.open(p).Run(t.Context(), options(t, s)))
	require.Len(t, s.all(), 1)
}

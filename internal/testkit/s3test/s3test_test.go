package s3test

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"
)

func TestAnObjectSurvivesKillAndRestart(t *testing.T) {
	s := Start(t)
	bucket := s.CreateBucket("a-bucket")
	ctx := t.Context()
	_, err := s.Client().PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String("dir/key"), Body: strings.NewReader("content")})
	require.NoError(t, err)

	s.Kill()
	_, err = s.Client().ListBuckets(context.Background(), &s3.ListBucketsInput{})
	require.Error(t, err, "a killed server does not answer")
	s.Restart()

	got, err := s.Client().GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String("dir/key")})
	require.NoError(t, err)
	defer got.Body.Close()
	content, err := io.ReadAll(got.Body)
	require.NoError(t, err)
	require.Equal(t, "content", string(content))
}

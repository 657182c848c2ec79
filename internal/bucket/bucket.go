// Package bucket opens the object stores that PulseGrid writes to.
package bucket

import (
	"context"
	"fmt"
	"net/url"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/fileblob" // file://
	_ "gocloud.dev/blob/s3blob"   // s3://
)

// Open opens s3://BUCKET?prefix=PREFIX/&region=REGION or file:///DIRECTORY (gocloud.dev/blob). It does not ask the store anything. A directory is made
// where there is none; its files appear whole, since they are written beside where they will be and not on another device, and nothing lies beside them.
func Open(ctx context.Context, address string) (*blob.Bucket, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("bucket %q: %w", address, err)
	}
	if u.Scheme == "file" {
		q := u.Query()
		q.Set("create_dir", "true")
		q.Set("no_tmp_dir", "true")
		q.Set("metadata", "skip")
		u.RawQuery = q.Encode()
	}
	b, err := blob.OpenBucket(ctx, u.String())
	if err != nil {
		return nil, fmt.Errorf("bucket %q: %w", address, err)
	}
	return b, nil
}

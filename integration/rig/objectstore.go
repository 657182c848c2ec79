package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/pulsegrid/pulsegrid/internal/testkit/s3test"
)

// Buckets: of the lake, and of what gateways put aside while Kafka is away.
const (
	bucket      = "lake"
	tables      = "tables" // prefix of the warehouse
	spillBucket = "spill"
	// oversizedBucket is for what is larger than a record.
	oversizedBucket = "oversized"
)

// bucketURL is that of a bucket, in the configuration of gateways.
func bucketURL(bucket, endpoint string) string {
	return "s3://" + bucket + "?use_path_style=true&region=" + s3test.Region + "&endpoint=" + endpoint
}

// LakeDir is where the objects lie that are replicated when the lake's bucket is.
func (o *ObjectStore) LakeDir() string { return filepath.Join(o.Dir, bucket) }

// ReplicaURL is the URL of a copy of a rig's lake, for lists of cells, that lies in the bucket of this name: a directory of Dir.
func (o *ObjectStore) ReplicaURL(name string) string {
	return bucketURL(name, "http://"+o.front.Addr().String()) + "&prefix=" + tables + "/"
}

// ObjectStore is versitygw, an S3 server over a directory, behind a proxy that speaks HTTP and so can fail as S3 does.
type ObjectStore struct {
	*Faulty
	Dir     string // objects lie in Dir/bucket/key
	process *Process
	addr    string // of versitygw
}

func startObjectStore(dir string) (*ObjectStore, error) {
	binary, err := s3test.Binary()
	if err != nil {
		return nil, err
	}
	for _, b := range []string{bucket, spillBucket, oversizedBucket} { // a directory is a bucket
		if err := os.MkdirAll(filepath.Join(dir, b), 0o755); err != nil {
			return nil, err
		}
	}
	o := &ObjectStore{Dir: dir, addr: FreeAddr()}
	o.process = NewProcess(nil, []string{o.addr}, binary, "--access", s3test.AccessKey, "--secret", s3test.SecretKey, "--region", s3test.Region,
		"--port", o.addr, "--quiet", "posix", dir)
	if err := o.process.Start(startTimeout); err != nil {
		return nil, err
	}
	if err := o.answers(); err != nil {
		return nil, errors.Join(err, o.close())
	}
	to, err := url.Parse("http://" + o.addr)
	if err != nil {
		return nil, errors.Join(err, o.close())
	}
	// The Host that the client named is part of what it signed.
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			s3Error(w, http.StatusBadGateway, "BadGateway", err.Error())
		},
	}
	if o.Faulty, err = startFaulty(forward, isS3Write, answerAsS3); err != nil {
		return nil, errors.Join(err, o.close())
	}
	return o, nil
}

func isS3Write(r *http.Request) bool {
	return r.Method != http.MethodGet && r.Method != http.MethodHead
}

func answerAsS3(w http.ResponseWriter, how Misbehaviour) {
	if how == SlowDown {
		s3Error(w, http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate.")
		return
	}
	s3Error(w, http.StatusInternalServerError, "InternalError", "We encountered an internal error. Please try again.")
}

// client reaches versitygw past the proxy.
func (o *ObjectStore) client() *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: aws.String("http://" + o.addr), Region: s3test.Region, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(s3test.AccessKey, s3test.SecretKey, ""),
	})
}

// Put writes the object that lies, or shall lie, in a file, as whoever has the right to does: a file that is written beside the server has other checksums than the server's.
func (o *ObjectStore) Put(path string, content []byte) error {
	name, err := filepath.Rel(o.Dir, path)
	if err != nil {
		return err
	}
	in, key, _ := strings.Cut(filepath.ToSlash(name), "/")
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	_, err = o.client().PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(in), Key: aws.String(key), Body: bytes.NewReader(content)})
	return err
}

// answers waits until versitygw serves the bucket.
func (o *ObjectStore) answers() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if _, err := o.client().HeadBucket(ctx, &s3.HeadBucketInput{Bucket: aws.String(bucket)}); err != nil {
		return fmt.Errorf("versitygw does not serve: %w:\n%s", err, o.process.Log())
	}
	return nil
}

// spilled is the name of an object of requests, when it was closed, its number and its lanes: the spill's leases have other names.
var spilled = regexp.MustCompile(`^v2-[0-9]{13}-[0-9]+(-many|(-[0-9a-f]{8})+)$`)

// Spilled is how many objects wait for Kafka.
func (o *ObjectStore) Spilled() (int, error) {
	paths, err := o.SpilledPaths()
	return len(paths), err
}

// SpilledPaths are the files of the objects that wait for Kafka.
func (o *ObjectStore) SpilledPaths() (paths []string, err error) {
	err = filepath.WalkDir(filepath.Join(o.Dir, spillBucket), func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // it went while we looked
			return nil
		case err != nil:
			return err
		case d.Type().IsRegular() && spilled.MatchString(d.Name()):
			paths = append(paths, path)
		}
		return nil
	})
	return paths, err
}

func s3Error(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>"+code+"</Code><Message>"+message+"</Message></Error>") // the client may be gone
}

func (o *ObjectStore) close() error {
	var err error
	if o.Faulty != nil {
		err = o.Faulty.close()
	}
	o.process.Kill()
	return err
}

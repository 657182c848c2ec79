package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/pulsegrid/pulsegrid/internal/testkit/s3test"
)

// Buckets: of the lake, and of what gateways put aside while Kafka is away.
const (
	bucket      = "lake"
	spillBucket = "spill"
)

// Misbehaviour is what an object store does wrong.
type Misbehaviour int

// The misbehaviours.
const (
	Behaves        Misbehaviour = iota
	InternalError               // 500, having done nothing
	SlowDown                    // 503 SlowDown, having done nothing
	DoesButErrs                 // does the work, then answers 500
	NeverAnswers                // does the work, then keeps the client waiting until it gives up
	AnswersNothing              // does nothing, and keeps the client waiting until it gives up
)

// ObjectStore is versitygw, an S3 server over a directory, behind a proxy that speaks HTTP and so can fail as S3 does.
type ObjectStore struct {
	Dir     string // objects lie in Dir/bucket/key
	process *Process
	addr    string // of versitygw
	proxy   *http.Server
	front   net.Listener

	mode    atomic.Int64 // a Misbehaviour
	writes  atomic.Bool  // misbehave only to PUT, POST and DELETE
	share   atomic.Int64 // of a thousand requests that are treated so
	counter atomic.Int64 // requests so far
	hurt    atomic.Int64 // requests that were not treated as they should be
	closing chan struct{}
	once    sync.Once
}

func startObjectStore(dir string) (*ObjectStore, error) {
	binary, err := s3test.Binary()
	if err != nil {
		return nil, err
	}
	for _, b := range []string{bucket, spillBucket} { // a directory is a bucket
		if err := os.MkdirAll(filepath.Join(dir, b), 0o755); err != nil {
			return nil, err
		}
	}
	o := &ObjectStore{Dir: dir, addr: FreeAddr(), closing: make(chan struct{})}
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
	if o.front, err = net.Listen("tcp", FreeAddr()); err != nil {
		return nil, errors.Join(err, o.close())
	}
	// The Host that the client named is part of what it signed.
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			s3Error(w, http.StatusBadGateway, "BadGateway", err.Error())
		},
	}
	o.proxy = &http.Server{Handler: o.handler(forward), ReadHeaderTimeout: startTimeout}
	go func() { _ = o.proxy.Serve(o.front) }() // ends with close
	return o, nil
}

// answers waits until versitygw serves the bucket.
func (o *ObjectStore) answers() error {
	client := s3.New(s3.Options{
		BaseEndpoint: aws.String("http://" + o.addr), Region: s3test.Region, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(s3test.AccessKey, s3test.SecretKey, ""),
	})
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if _, err := client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: aws.String(bucket)}); err != nil {
		return fmt.Errorf("versitygw does not serve: %w:\n%s", err, o.process.Log())
	}
	return nil
}

// Misbehave makes the store treat a share (0 to 1) of its requests, or of its writes, that way, evenly spread.
func (o *ObjectStore) Misbehave(how Misbehaviour, share float64, writesOnly bool) {
	o.writes.Store(writesOnly)
	o.share.Store(int64(share * 1000))
	o.mode.Store(int64(how))
}

// Behave ends it, and tells how many requests it hit.
func (o *ObjectStore) Behave() int64 {
	o.mode.Store(int64(Behaves))
	return o.hurt.Swap(0)
}

// spilled is the name of an object of requests, when it was closed, its number and its lanes: the spill's leases have other names.
var spilled = regexp.MustCompile(`^v2-[0-9]{13}-[0-9]+(-many|(-[0-9a-f]{8})+)$`)

// Spilled is how many objects wait for Kafka.
func (o *ObjectStore) Spilled() (n int, err error) {
	err = filepath.WalkDir(filepath.Join(o.Dir, spillBucket), func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // it went while we looked
			return nil
		case err != nil:
			return err
		case d.Type().IsRegular() && spilled.MatchString(d.Name()):
			n++
		}
		return nil
	})
	return n, err
}

func (o *ObjectStore) handler(forward http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		how := Misbehaviour(o.mode.Load())
		read := r.Method == http.MethodGet || r.Method == http.MethodHead
		if how == Behaves || (read && o.writes.Load()) || !o.takesPart() {
			forward.ServeHTTP(w, r)
			return
		}
		lasting := r.WithContext(context.WithoutCancel(r.Context())) // work goes on when the client has given up
		o.hurt.Add(1)
		switch how {
		case InternalError:
			s3Error(w, http.StatusInternalServerError, "InternalError", "We encountered an internal error. Please try again.")
		case SlowDown:
			s3Error(w, http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate.")
		case DoesButErrs:
			forward.ServeHTTP(discard{http.Header{}}, lasting)
			s3Error(w, http.StatusInternalServerError, "InternalError", "We encountered an internal error. Please try again.")
		case NeverAnswers:
			forward.ServeHTTP(discard{http.Header{}}, lasting)
			o.hang(r.Context())
		default:
			o.hang(r.Context())
		}
	}
}

// takesPart counts a request and tells whether it is one of the share.
func (o *ObjectStore) takesPart() bool {
	n, share := o.counter.Add(1), o.share.Load()
	return n*share/1000 != (n-1)*share/1000
}

// hang waits for the client to give up, and then breaks the connection.
func (o *ObjectStore) hang(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-o.closing:
	case <-time.After(10 * time.Minute):
	}
	panic(http.ErrAbortHandler)
}

// discard is an answer that nobody gets.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) WriteHeader(int)             {}
func (d discard) Write(b []byte) (int, error) { return len(b), nil }

func s3Error(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>"+code+"</Code><Message>"+message+"</Message></Error>") // the client may be gone
}

func (o *ObjectStore) close() error {
	var err error
	o.once.Do(func() {
		close(o.closing)
		if o.proxy != nil {
			err = o.proxy.Close()
		}
		o.process.Kill()
	})
	return err
}

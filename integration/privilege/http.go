package privilege

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
)

// S3 writes down what a component asks of an object store, whose buckets are in the path. Keys are told by their first part only: a bucket's prefixes are what rights are given by.
func (r *Recorder) S3(component string, store http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if action, resource := s3Action(req); action != "" {
			r.record(component, action, resource)
			if from := req.Header.Get("X-Amz-Copy-Source"); from != "" {
				bucket, key, _ := strings.Cut(strings.TrimPrefix(from, "/"), "/")
				r.record(component, "s3:GetObject", bucket+"/"+prefixOf(key))
			}
		} else {
			r.problem(component, "S3: %s %s", req.Method, req.URL)
		}
		store.ServeHTTP(w, req)
	})
}

// prefixOf is a key's first part: "warehouse/a/b" is "warehouse/*".
func prefixOf(key string) string {
	first, _, deeper := strings.Cut(key, "/")
	if deeper {
		return first + "/*"
	}
	return key
}

// s3Action is https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html for the requests that our libraries make; none: no rule.
func s3Action(req *http.Request) (action, resource string) {
	bucket, key, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/"), "/")
	q := req.URL.Query()
	object := bucket + "/" + prefixOf(key)
	switch {
	case bucket == "":
		return "", ""
	case key == "":
		switch {
		case req.Method == http.MethodPost && q.Has("delete"):
			return "s3:DeleteObject", bucket + "/*"
		case req.Method == http.MethodGet && (q.Get("list-type") == "2" || len(q) == 0 || q.Has("prefix")), req.Method == http.MethodHead:
			return "s3:ListBucket", bucket
		case req.Method == http.MethodGet && q.Has("location"):
			return "s3:GetBucketLocation", bucket
		}
	case req.Method == http.MethodGet && q.Has("uploadId"):
		return "s3:ListMultipartUploadParts", object
	case req.Method == http.MethodGet, req.Method == http.MethodHead:
		return "s3:GetObject", object
	case req.Method == http.MethodDelete && q.Has("uploadId"):
		return "s3:AbortMultipartUpload", object
	case req.Method == http.MethodDelete:
		return "s3:DeleteObject", object
	case req.Method == http.MethodPut, req.Method == http.MethodPost && (q.Has("uploads") || q.Has("uploadId")):
		return "s3:PutObject", object
	}
	return "", ""
}

// Glue writes down what a component asks of the catalog. A right on a table is one on its database and on the catalog, too:
// https://docs.aws.amazon.com/glue/latest/dg/glue-specifying-resource-arns.html
func (r *Recorder) Glue(component string, catalog http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil { // the client is gone
			return
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
		var in struct {
			DatabaseName, Name        string
			TableInput, DatabaseInput struct{ Name string }
		}
		operation, ok := strings.CutPrefix(req.Header.Get("X-Amz-Target"), "AWSGlue.")
		if err := json.Unmarshal(body, &in); err != nil || !ok {
			r.problem(component, "Glue: %s %s", req.Header.Get("X-Amz-Target"), body)
		}
		database, table := in.DatabaseName, in.Name
		if strings.HasSuffix(operation, "Database") {
			database, table = in.Name, ""
		}
		if in.TableInput.Name != "" {
			table = in.TableInput.Name
		}
		if in.DatabaseInput.Name != "" {
			database = in.DatabaseInput.Name
		}
		action := "glue:" + operation
		r.record(component, action, "catalog")
		if database != "" {
			r.record(component, action, "database/"+database)
		}
		if table != "" {
			r.record(component, action, "table/"+database+"/"+table)
		}
		catalog.ServeHTTP(w, req)
	})
}

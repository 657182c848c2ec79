package catalogtest

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"
)

// REST is an Iceberg REST catalog in front of another one, which it alone writes to.
type REST struct {
	// Refused counts the commits whose requirements did not hold.
	Refused atomic.Int64

	warehouse string
	mu        sync.Mutex
	behind    catalog.Catalog // written to under mu, so that what is required holds until the commit
}

// NewREST serves the tables of a catalog, and makes new ones at WAREHOUSE/NAMESPACE/NAME.
func NewREST(behind catalog.Catalog, warehouse string) *REST {
	return &REST{behind: behind, warehouse: strings.TrimSuffix(warehouse, "/")}
}

// IsRESTCommit tells whether a request commits to a table.
func IsRESTCommit(r *http.Request) bool {
	resource, name := restPath(r)
	return r.Method == http.MethodPost && resource == "tables" && name != ""
}

// RESTConflict answers as if another writer had been first.
func RESTConflict(w http.ResponseWriter) {
	restFails(w, http.StatusConflict, "CommitFailedException", errors.New("requirement failed: branch main has changed"))
}

// RESTError answers as if the server had failed.
func RESTError(w http.ResponseWriter) {
	restFails(w, http.StatusInternalServerError, "InternalServerError", errors.New("internal server error"))
}

func restFails(w http.ResponseWriter, status int, kind string, err error) {
	restAnswers(w, status, map[string]any{"error": map[string]any{"message": err.Error(), "type": kind, "code": status}})
}

func restAnswers(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}

// restPath is what a request is about: of /v1/namespaces/NAMESPACE/tables/NAME "tables" and the name, of /v1/namespaces/NAMESPACE "namespaces" and the
// namespace, of a whole collection its name alone.
func restPath(r *http.Request) (resource, name string) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/") // v1 ...
	switch len(parts) {
	case 2, 4:
		return parts[len(parts)-1], ""
	case 3, 5:
		return parts[len(parts)-2], parts[len(parts)-1]
	}
	return "", ""
}

func namespaceOf(r *http.Request) string {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(parts) < 3 {
		return ""
	}
	return parts[2]
}

func (s *REST) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resource, name := restPath(r)
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case read && resource == "config":
		_, _ = io.WriteString(w, `{"defaults":{},"overrides":{}}`)
	case read && resource == "namespaces" && name != "":
		s.namespace(w, r, name)
	case read && resource == "tables" && name != "":
		tbl, err := s.behind.LoadTable(r.Context(), table.Identifier{namespaceOf(r), name})
		s.answer(w, tbl, err)
	case r.Method == http.MethodPost && resource == "namespaces":
		s.createNamespace(w, r)
	case r.Method == http.MethodPost && resource == "tables" && name == "":
		s.create(w, r)
	case IsRESTCommit(r):
		s.commit(w, r, table.Identifier{namespaceOf(r), name})
	default:
		restFails(w, http.StatusNotImplemented, "UnsupportedOperationException", errors.New(r.Method+" "+r.URL.Path))
	}
}

// answer is a table, or why there is none.
func (s *REST) answer(w http.ResponseWriter, tbl *table.Table, err error) {
	if err != nil {
		failed(w, err)
		return
	}
	restAnswers(w, http.StatusOK, map[string]any{"metadata-location": tbl.MetadataLocation(), "metadata": tbl.Metadata(), "config": map[string]string{}})
}

func failed(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, catalog.ErrNoSuchTable):
		restFails(w, http.StatusNotFound, "NoSuchTableException", err)
	case errors.Is(err, catalog.ErrNoSuchNamespace):
		restFails(w, http.StatusNotFound, "NoSuchNamespaceException", err)
	case errors.Is(err, catalog.ErrTableAlreadyExists), errors.Is(err, catalog.ErrNamespaceAlreadyExists):
		restFails(w, http.StatusConflict, "AlreadyExistsException", err)
	default:
		restFails(w, http.StatusInternalServerError, "InternalServerError", err)
	}
}

func (s *REST) namespace(w http.ResponseWriter, r *http.Request, name string) {
	ok, err := s.behind.CheckNamespaceExists(r.Context(), table.Identifier{name})
	switch {
	case err != nil:
		failed(w, err)
	case !ok:
		failed(w, catalog.ErrNoSuchNamespace)
	default:
		restAnswers(w, http.StatusOK, map[string]any{"namespace": []string{name}, "properties": map[string]string{}})
	}
}

func (s *REST) createNamespace(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Namespace  table.Identifier   `json:"namespace"`
		Properties iceberg.Properties `json:"properties"`
	}
	if !decoded(w, r, &in) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.behind.CreateNamespace(r.Context(), in.Namespace, in.Properties); err != nil {
		failed(w, err)
		return
	}
	restAnswers(w, http.StatusOK, in)
}

func (s *REST) create(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Name       string                 `json:"name"`
		Schema     *iceberg.Schema        `json:"schema"`
		Spec       *iceberg.PartitionSpec `json:"partition-spec"`
		Order      *table.SortOrder       `json:"write-order"`
		Properties iceberg.Properties     `json:"properties"`
	}
	if !decoded(w, r, &in) {
		return
	}
	id := table.Identifier{namespaceOf(r), in.Name}
	opts := []catalog.CreateTableOpt{catalog.WithProperties(in.Properties), catalog.WithLocation(s.warehouse + "/" + strings.Join(id, "/"))}
	if in.Spec != nil {
		opts = append(opts, catalog.WithPartitionSpec(in.Spec))
	}
	if in.Order != nil {
		opts = append(opts, catalog.WithSortOrder(*in.Order))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	tbl, err := s.behind.CreateTable(r.Context(), id, in.Schema, opts...)
	s.answer(w, tbl, err)
}

func (s *REST) commit(w http.ResponseWriter, r *http.Request, id table.Identifier) {
	var in struct {
		Requirements table.Requirements `json:"requirements"`
		Updates      table.Updates      `json:"updates"`
	}
	if !decoded(w, r, &in) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	tbl, err := s.behind.LoadTable(r.Context(), id)
	if err != nil {
		failed(w, err)
		return
	}
	for _, q := range in.Requirements {
		if err := q.Validate(tbl.Metadata()); err != nil {
			s.Refused.Add(1)
			restFails(w, http.StatusConflict, "CommitFailedException", err)
			return
		}
	}
	meta, location, err := s.behind.CommitTable(r.Context(), id, in.Requirements, in.Updates)
	if err != nil {
		failed(w, err)
		return
	}
	restAnswers(w, http.StatusOK, map[string]any{"metadata-location": location, "metadata": meta})
}

func decoded(w http.ResponseWriter, r *http.Request, into any) bool {
	err := json.NewDecoder(r.Body).Decode(into)
	if err != nil {
		restFails(w, http.StatusBadRequest, "BadRequestException", err)
	}
	return err == nil
}

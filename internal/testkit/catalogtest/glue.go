package catalogtest

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
)

// Glue is the AWS Glue Data Catalog with one database: a table is replaced if the caller names its version. (Moto's does not look at the version.)
type Glue struct {
	// Refused counts the updates that named an old version.
	Refused atomic.Int64

	database string
	stored   func(table, metadataLocation string) error

	mu       sync.Mutex
	exists   bool                      // guarded by mu: the database
	tables   map[string]map[string]any // guarded by mu, as TableInput
	versions map[string]int            // guarded by mu
}

// NewGlue makes a catalog without tables. stored, unless nil, is called with each table's new metadata before the update is answered; an error is the
// answer then.
func NewGlue(database string, stored func(table, metadataLocation string) error) *Glue {
	if stored == nil {
		stored = func(string, string) error { return nil }
	}
	return &Glue{database: database, stored: stored, tables: map[string]map[string]any{}, versions: map[string]int{}}
}

// IsGlueCommit tells whether a request commits to a table.
func IsGlueCommit(r *http.Request) bool { return r.Header.Get("X-Amz-Target") == "AWSGlue.UpdateTable" }

// GlueConflict answers as if another writer had been first.
func GlueConflict(w http.ResponseWriter) {
	glueFails(w, http.StatusBadRequest, "ConcurrentModificationException", "Update table failed due to concurrent modifications.")
}

// GlueError answers as if the service had failed.
func GlueError(w http.ResponseWriter) {
	glueFails(w, http.StatusInternalServerError, "InternalServiceException", "An internal service error occurred.")
}

func glueFails(w http.ResponseWriter, status int, kind, message string) {
	glueAnswers(w, status, map[string]string{"__type": kind, "Message": message})
}

func glueAnswers(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}

func (g *Glue) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Name, VersionId string
		TableInput      map[string]any
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		glueFails(w, http.StatusBadRequest, "InvalidInputException", err.Error())
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	missing := func() { glueFails(w, http.StatusBadRequest, "EntityNotFoundException", "not found") }
	name, _ := in.TableInput["Name"].(string)
	switch action := r.Header.Get("X-Amz-Target"); action {
	case "AWSGlue.GetDatabase":
		if !g.exists || in.Name != g.database {
			missing()
			return
		}
		glueAnswers(w, http.StatusOK, map[string]any{"Database": map[string]any{"Name": in.Name, "Parameters": map[string]string{}}})
	case "AWSGlue.CreateDatabase":
		g.exists = true
		glueAnswers(w, http.StatusOK, struct{}{})
	case "AWSGlue.CreateTable":
		if _, ok := g.tables[name]; ok {
			glueFails(w, http.StatusBadRequest, "AlreadyExistsException", "Table already exists.")
			return
		}
		g.put(w, name, in.TableInput)
	case "AWSGlue.GetTable":
		found, ok := g.tables[in.Name]
		if !ok {
			missing()
			return
		}
		found["DatabaseName"], found["VersionId"] = g.database, strconv.Itoa(g.versions[in.Name])
		glueAnswers(w, http.StatusOK, map[string]any{"Table": found})
	case "AWSGlue.GetTables":
		list := []map[string]any{}
		for _, name := range slices.Sorted(maps.Keys(g.tables)) {
			list = append(list, g.tables[name])
		}
		glueAnswers(w, http.StatusOK, map[string]any{"TableList": list})
	case "AWSGlue.DeleteTable":
		if _, ok := g.tables[in.Name]; !ok {
			missing()
			return
		}
		delete(g.tables, in.Name)
		glueAnswers(w, http.StatusOK, struct{}{})
	case "AWSGlue.UpdateTable":
		if _, ok := g.tables[name]; !ok {
			missing()
			return
		}
		if in.VersionId != strconv.Itoa(g.versions[name]) {
			g.Refused.Add(1)
			GlueConflict(w)
			return
		}
		g.put(w, name, in.TableInput)
	default:
		http.Error(w, action, http.StatusNotImplemented)
	}
}

// put stores a table and answers. The caller holds mu.
func (g *Glue) put(w http.ResponseWriter, name string, input map[string]any) {
	parameters, _ := input["Parameters"].(map[string]any)
	location, _ := parameters["metadata_location"].(string)
	if err := g.stored(name, location); err != nil {
		glueFails(w, http.StatusInternalServerError, "InternalServiceException", err.Error())
		return
	}
	g.tables[name] = input
	g.versions[name]++
	glueAnswers(w, http.StatusOK, struct{}{})
}

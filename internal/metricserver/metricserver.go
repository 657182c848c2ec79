// Package metricserver serves the metrics of a command to Prometheus. (Those of the Collector's components are served by the Collector.)
package metricserver

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"golang.org/x/net/netutil"

	"github.com/pulsegrid/pulsegrid/internal/localhttp"
)

const (
	connections   = 32
	headerTimeout = 10 * time.Second
	writeTimeout  = 30 * time.Second
	stopping      = 5 * time.Second
)

// Server answers GET /metrics until Close.
type Server struct {
	address string
	names   []string
	gather  func(context.Context) []*dto.MetricFamily
	server  *http.Server
	served  chan error
}

// Serve listens on an address (HOST:PORT; port 0: a free one). names are those of this machine by which it may be asked, beside localhost and IP addresses. gather returns what
// a scrape gets; families without metrics are left out.
func Serve(address string, names []string, gather func(context.Context) []*dto.MetricFamily) (*Server, error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	s := &Server{address: ln.Addr().String(), names: names, gather: gather, served: make(chan error, 1)}
	s.server = &http.Server{Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: writeTimeout, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	go func() { s.served <- s.server.Serve(netutil.LimitListener(ln, connections)) }()
	return s, nil
}

// URL is where the metrics are.
func (s *Server) URL() string { return "http://" + s.address + "/metrics" }

// Close stops serving.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopping)
	defer cancel()
	err := s.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.server.Close())
	}
	if served := <-s.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

func (s *Server) serve(w http.ResponseWriter, req *http.Request) {
	if err := (localhttp.Policy{Names: s.names}).Check(req); err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	if req.URL.Path != "/metrics" || req.Method != http.MethodGet {
		http.Error(w, "want GET /metrics", http.StatusNotFound)
		return
	}
	var text strings.Builder
	for _, family := range s.gather(req.Context()) {
		if len(family.GetMetric()) == 0 {
			continue
		}
		if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	w.Header().Set("Content-Type", string(expfmt.NewFormat(expfmt.TypeTextPlain)))
	_, _ = w.Write([]byte(text.String())) // the scraper may have left
}

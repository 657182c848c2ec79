package ingestreceiver

import (
	"net/http"

	"github.com/rs/cors"

	"github.com/pulsegrid/pulsegrid/internal/localhttp"
)

// pages tells what web pages made a browser send from what programs send.
type pages struct{ policy localhttp.Policy }

// pages is nil where every page may send, as far as browsers let it.
func (c *Config) pages() *pages {
	if len(c.LocalHosts) == 0 {
		return nil
	}
	p := &pages{localhttp.Policy{Names: c.LocalHosts}}
	if origins := c.Protocols.HTTP.Get().CORS.Get(); origins != nil && len(origins.AllowedOrigins) > 0 {
		p.policy.Origin = cors.New(cors.Options{AllowedOrigins: origins.AllowedOrigins}).OriginAllowed // as confighttp reads them
	}
	return p
}

func (p *pages) check(req *http.Request) error {
	if p == nil {
		return nil
	}
	if err := p.policy.Check(req); err != nil {
		return refusedWebPage.because("%v", err)
	}
	return nil
}

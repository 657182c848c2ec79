package cost

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pulsegrid/pulsegrid/internal/wholefile"
)

// offerMost bounds one offer file; EC2's of a region is the largest, with some hundreds of MB.
const offerMost = 4 << 30

// OfferPath is where AWS serves the prices of a service in a region, below https://pricing.us-east-1.amazonaws.com.
func OfferPath(service, region string) string {
	return "offers/v1.0/aws/" + service + "/current/" + region + "/index.json"
}

// Finding is what refresh found for a price in a region.
type Finding struct {
	Name, Region string
	Was, Now     []Tier
	Problem      string // empty: the price was found
}

// Refresh replaces the quotes that AWS' offer files have. open returns the offer file of a path. Quotes that are not found stay as they were, and a finding says why.
func (f *PriceFile) Refresh(open func(path string) (io.ReadCloser, error)) ([]Finding, error) {
	type file struct{ service, region string }
	wanted := map[file][]*Price{}
	for _, p := range f.Prices {
		if p.Offer == nil {
			continue
		}
		for region := range p.Regions {
			k := file{p.Offer.Service, region}
			wanted[k] = append(wanted[k], p)
		}
	}
	var out []Finding
	for _, k := range slices.SortedFunc(maps.Keys(wanted), func(a, b file) int {
		return cmp.Or(strings.Compare(a.service, b.service), strings.Compare(a.region, b.region))
	}) {
		path := OfferPath(k.service, k.region)
		found, err := refreshFrom(open, path, k.region, wanted[k])
		if err != nil {
			return out, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, found...)
	}
	return out, nil
}

func refreshFrom(open func(string) (io.ReadCloser, error), path, region string, prices []*Price) (out []Finding, err error) {
	in, err := open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	o, err := readOffer(in, prices)
	if err != nil {
		return nil, err
	}
	for i, p := range prices {
		was := p.Regions[region]
		finding := Finding{Name: p.Name, Region: region, Was: was.Tiers}
		if finding.Now, err = o.price(i, p.Offer); err != nil {
			finding.Problem = err.Error()
			err = nil
		} else {
			p.Regions[region] = &Quote{Tiers: finding.Now, Source: "AWS price list, " + path, Date: o.published, Status: StatusOffer}
		}
		out = append(out, finding)
	}
	return out, nil
}

// offer is what is wanted of an offer file.
type offer struct {
	published string
	skus      []map[string]bool // of each wanted price: the products that match
	terms     map[string][]dimension
}

type dimension struct {
	Unit     string            `json:"unit"`
	Begin    string            `json:"beginRange"`
	End      string            `json:"endRange"`
	PerUnit  map[string]string `json:"pricePerUnit"`
	RateCode string            `json:"rateCode"`
}

// readOffer reads an offer file as it comes. AWS writes products before terms; a file that does not is refused.
func readOffer(in io.Reader, prices []*Price) (*offer, error) {
	limited := &io.LimitedReader{R: in, N: offerMost}
	dec := json.NewDecoder(limited)
	o := &offer{skus: make([]map[string]bool, len(prices)), terms: map[string][]dimension{}}
	patterns := make([]map[string]*regexp.Regexp, len(prices))
	for i, p := range prices {
		o.skus[i], patterns[i] = map[string]bool{}, map[string]*regexp.Regexp{}
		for name, text := range p.Offer.Attributes {
			re, err := regexp.Compile("^(?:" + text + ")$")
			if err != nil {
				return nil, fmt.Errorf("%s: offer: %s: %w", p.Name, name, err)
			}
			patterns[i][name] = re
		}
	}
	products := false
	err := eachField(dec, func(field string) error {
		switch field {
		case "publicationDate":
			var date string
			if err := dec.Decode(&date); err != nil {
				return err
			}
			if len(date) < len("2006-01-02") {
				return fmt.Errorf("publicationDate is %q", date)
			}
			o.published = date[:len("2006-01-02")]
			return nil
		case "products":
			products = true
			return eachField(dec, func(sku string) error {
				var p struct {
					Attributes map[string]string `json:"attributes"`
				}
				if err := dec.Decode(&p); err != nil {
					return err
				}
				for i := range prices {
					if matches(patterns[i], p.Attributes) {
						o.skus[i][sku] = true
					}
				}
				return nil
			})
		case "terms":
			if !products {
				return errors.New("its terms come before its products")
			}
			return eachField(dec, func(kind string) error {
				if kind != "OnDemand" {
					return skip(dec)
				}
				return eachField(dec, func(sku string) error { return o.readTerms(dec, sku) })
			})
		}
		return skip(dec)
	})
	switch {
	case limited.N <= 0:
		return nil, fmt.Errorf("it is larger than %d bytes", int64(offerMost))
	case err != nil:
		return nil, err
	case !products || o.published == "":
		return nil, errors.New("it is no offer file: it has no products or no publicationDate")
	}
	return o, nil
}

func (o *offer) readTerms(dec *json.Decoder, sku string) error {
	if !slices.ContainsFunc(o.skus, func(of map[string]bool) bool { return of[sku] }) {
		return skip(dec)
	}
	var terms map[string]struct {
		Dimensions map[string]dimension `json:"priceDimensions"`
	}
	if err := dec.Decode(&terms); err != nil {
		return err
	}
	for _, t := range terms {
		for _, d := range t.Dimensions {
			o.terms[sku] = append(o.terms[sku], d)
		}
	}
	return nil
}

// price is what the matching products cost; they must agree.
func (o *offer) price(i int, of *Offer) ([]Tier, error) {
	unit, err := regexp.Compile("^(?:" + of.Unit + ")$")
	if err != nil {
		return nil, fmt.Errorf("offer: unit: %w", err)
	}
	var found []Tier
	for _, sku := range slices.Sorted(maps.Keys(o.skus[i])) {
		tiers, err := tiersOf(o.terms[sku], unit, of.Scale)
		if err != nil {
			return nil, fmt.Errorf("product %s: %w", sku, err)
		}
		if found != nil && !slices.Equal(found, tiers) {
			return nil, fmt.Errorf("%d products match, with different prices: %s", len(o.skus[i]), strings.Join(slices.Sorted(maps.Keys(o.skus[i])), ", "))
		}
		found = tiers
	}
	if found == nil {
		return nil, errors.New("no product matches")
	}
	return found, nil
}

func tiersOf(dimensions []dimension, unit *regexp.Regexp, scale float64) ([]Tier, error) {
	type ranged struct {
		from float64
		Tier
	}
	var all []ranged
	for _, d := range dimensions {
		if !unit.MatchString(d.Unit) {
			return nil, fmt.Errorf("its unit is %q", d.Unit)
		}
		usd, err := strconv.ParseFloat(d.PerUnit["USD"], 64)
		if err != nil {
			return nil, fmt.Errorf("pricePerUnit of %s: %q USD", d.RateCode, d.PerUnit["USD"])
		}
		from, err := strconv.ParseFloat(cmp.Or(d.Begin, "0"), 64)
		to := math.Inf(1)
		if err == nil && d.End != "" && d.End != "Inf" {
			to, err = strconv.ParseFloat(d.End, 64)
		}
		if err != nil {
			return nil, fmt.Errorf("range of %s: %w", d.RateCode, err)
		}
		r := ranged{from: from / scale, Tier: Tier{USD: usd * scale, Upto: to / scale}}
		if math.IsInf(to, 1) {
			r.Upto = 0
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b ranged) int { return cmp.Compare(a.from, b.from) })
	var out []Tier
	at := 0.0
	for i, r := range all {
		if r.from != at || (r.Upto == 0) != (i == len(all)-1) {
			return nil, errors.New("its ranges do not follow one another")
		}
		at = r.Upto
		out = append(out, r.Tier)
	}
	if len(out) == 0 {
		return nil, errors.New("it has no price on demand")
	}
	return out, nil
}

// matches tells whether a product has all the attributes.
func matches(patterns map[string]*regexp.Regexp, attributes map[string]string) bool {
	for name, re := range patterns {
		if v, ok := attributes[name]; !ok || !re.MatchString(v) {
			return false
		}
	}
	return true
}

// eachField calls f at each value of an object, which f reads.
func eachField(dec *json.Decoder, f func(name string) error) error {
	open, err := dec.Token()
	if err != nil {
		return err
	}
	if open != json.Delim('{') {
		return fmt.Errorf("want an object at byte %d", dec.InputOffset())
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return err
		}
		if err := f(name.(string)); err != nil { // a key is a text, or the decoder has refused it
			return err
		}
	}
	_, err = dec.Token()
	return err
}

// skip passes over a value.
func skip(dec *json.Decoder) error {
	var unused json.RawMessage
	return dec.Decode(&unused)
}

// OverHTTP opens offer files below a URL: AWS' own, or a mirror.
func OverHTTP(ctx context.Context, client *http.Client, base string) func(path string) (io.ReadCloser, error) {
	return func(path string) (io.ReadCloser, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+"/"+path, nil)
		if err != nil {
			return nil, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusOK {
			return nil, errors.Join(fmt.Errorf("status %s", resp.Status), resp.Body.Close())
		}
		return resp.Body, nil
	}
}

// Write replaces the file at once.
func (f *PriceFile) Write(path string) error {
	text, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		return err
	}
	return wholefile.Write(path, append(text, '\n'), 0o644)
}

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"

	"github.com/firnlog/firn/cmd/firn/client"
	"github.com/firnlog/firn/cmd/firn/prices"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/open"
)

const (
	gib = 1 << 30
	// hoursPerMonth is a month as clouds bill it.
	hoursPerMonth = 730
	// metricsBytesMax bounds what an agent says of itself.
	metricsBytesMax = 256 << 20
)

// costView is what bucket cost prints.
type costView struct {
	Prices   *prices.Table `json:"prices"`
	Agents   int           `json:"agents"`
	Hours    float64       `json:"hours"` // that the counters cover, of the agent that runs longest
	Requests []requestCost `json:"requests"`
	Stored   []storedCost  `json:"stored"`
	Month    float64       `json:"month"` // storage, and requests at the rate seen so far
	Topics   []topicCost   `json:"topics"`
	Notes    []string      `json:"notes,omitempty"`
}

// requestCost is one kind of requests.
type requestCost struct {
	Kind  string  `json:"kind"`
	Class string  `json:"storage_class,omitempty"` // of the objects; "" where requests have none
	Count float64 `json:"count"`
	Cost  float64 `json:"cost"`
	Month float64 `json:"month"` // at the rate seen so far
}

// storedCost is one storage class.
type storedCost struct {
	Class string  `json:"class"`
	Old   bool    `json:"old_versions,omitempty"` // what a bucket with versions keeps of deleted objects
	Bytes float64 `json:"bytes"`
	Month float64 `json:"month"`
}

// oldVersions are what a bucket with versions keeps of what firn has deleted.
type oldVersions struct {
	bytes map[string]float64 // by storage class
	note  string             // why there may be more, "" where this is all
}

// oldVersionsOf lists the versions of everything below the bucket's prefix, in at most so many requests of a thousand each.
func oldVersionsOf(ctx context.Context, store objstore.VersionStore, requests int) (*oldVersions, error) {
	old := &oldVersions{bytes: make(map[string]float64)}
	key, id := "", ""
	for range requests {
		page, err := store.ListVersions(ctx, "", key, id, 1000)
		if err != nil {
			return nil, fmt.Errorf("list the bucket's versions: %w", err)
		}
		if len(page) == 0 {
			return old, nil
		}
		for i := range page {
			if v := &page[i]; !v.Latest && !v.DeleteMarker {
				old.bytes[cmp.Or(v.StorageClass, prices.Standard)] += float64(v.Size)
			}
		}
		last := &page[len(page)-1]
		key, id = last.Key, last.ID
	}
	old.note = fmt.Sprintf("old versions are those up to key %s: --versions-requests allows %d requests, and there may be more", key, requests)
	return old, nil
}

// versionsOf opens a bucket and counts what it keeps of deleted objects.
func versionsOf(ctx context.Context, url string, requests int) (*oldVersions, error) {
	bucket, err := open.Open(ctx, url, open.Options{})
	if err != nil {
		return nil, fmt.Errorf("--versions-of: %w", err)
	}
	defer func() { _ = bucket.Close() }()
	store, able := objstore.As[objstore.VersionStore](bucket)
	if !able {
		return &oldVersions{note: "this kind of bucket keeps no old versions"}, nil
	}
	return oldVersionsOf(ctx, store, requests)
}

// topicCost is what a topic costs. Requests are shared over topics by bytes: an object of level 0 holds many.
type topicCost struct {
	Topic         string   `json:"topic"`
	StoredBytes   float64  `json:"stored_bytes"` // of records
	StoredMonth   float64  `json:"stored_month"`
	WrittenBytes  float64  `json:"written_bytes"`
	ReadBytes     float64  `json:"read_bytes"`
	PerGiBMonth   *float64 `json:"per_gib_stored_month"` // null where there is nothing to divide by
	PerGiBWritten *float64 `json:"per_gib_written"`
	PerGiBRead    *float64 `json:"per_gib_read"`
}

func newBucketCost(e env) *cobra.Command {
	var sources []string
	var file, output string
	var timeout time.Duration
	var table bool
	var versioned string
	var requests int
	cmd := &cobra.Command{
		Use:   "cost",
		Short: "Say what the bucket costs: storage, requests, and for each topic a GiB written, stored and read",
		Long: `Price what firn's own counters say: requests to the bucket by kind since each agent's start, stored bytes by storage class, and
for each topic what a GiB written, stored for a month and read costs. Give every agent, each by its --http address, a URL, or a
file with what its /metrics said, as of when it was written last: requests are summed over them. Nothing is asked of the bucket, but
with --versions-of: then what a bucket with versions keeps of deleted objects is listed and priced, a request for each thousand.

Requests are shared over topics by bytes, since an object holds records of many, and priced by the storage class of the objects that they
concern, as far as counters say: a put by the class that it asked for, a get by the classes that the topic's objects lie in, each as if it
were read as often as the others; the output says what it assumes. What is not in the figures: requests by others, moves between classes by the
bucket's rules, and requests that a driver repeats inside a call.

The prices are a table built in, see --print-prices; give yours with --prices.`,
		Example: "  firn bucket cost --metrics a1.example.net:8080,a2.example.net:8080\n  firn bucket cost --print-prices > prices.yaml\n  firn bucket cost --metrics a1.txt --prices prices.yaml -o json",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if table {
				_, err := e.Stdout.Write(prices.Text())
				return err
			}
			if timeout <= 0 {
				return fmt.Errorf("%w: --timeout: %s is not above 0", client.ErrUsage, timeout)
			}
			if requests <= 0 {
				return fmt.Errorf("%w: --versions-requests: %d is not above 0", client.ErrUsage, requests)
			}
			pay := prices.Default()
			if file != "" {
				var err error
				if pay, err = readPrices(file); err != nil {
					return err
				}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			var scrapes []scrape
			for _, source := range sources {
				s, err := scrapeOf(ctx, source)
				if err != nil {
					return err
				}
				scrapes = append(scrapes, s)
			}
			var old *oldVersions
			if versioned != "" {
				var err error
				if old, err = versionsOf(cmd.Context(), versioned, requests); err != nil { // --timeout is the agents'
					return err
				}
			}
			v, err := costOf(scrapes, pay, old, time.Now())
			if err != nil {
				return err
			}
			if output == "json" {
				return writeJSON(e.Stdout, v)
			}
			return printCost(e.Stdout, v)
		},
	}
	cmd.Flags().StringSliceVar(&sources, "metrics", []string{defaultAgentHTTP}, "agents: --http addresses as host:port, URLs, or files with what /metrics said")
	cmd.Flags().StringVar(&versioned, "versions-of", "", "URL of the bucket, to count the old versions that it keeps, too")
	cmd.Flags().IntVar(&requests, "versions-requests", 1000, "most requests of --versions-of, for a thousand versions each")
	cmd.Flags().StringVar(&file, "prices", "", "file with prices, in YAML; default the table built in")
	cmd.Flags().BoolVar(&table, "print-prices", false, "print the table built in, to be edited")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait for the agents")
	outputFlag(cmd, &output)
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("metrics", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)))
	return cmd
}

func readPrices(file string) (*prices.Table, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("%w: --prices: %w", client.ErrUsage, err)
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, prices.BytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("--prices: %w", err)
	}
	t, err := prices.Parse(body)
	if err != nil {
		return nil, fmt.Errorf("%w: --prices %s: %w", client.ErrUsage, file, err)
	}
	return t, nil
}

// scrape is what one agent's /metrics said.
type scrape struct {
	source   string
	families map[string]*dto.MetricFamily
	at       time.Time // when it said so; zero: now
}

// scrapeOf reads a source: a URL, a file that is there, or an agent's address.
func scrapeOf(ctx context.Context, source string) (scrape, error) {
	url := source
	if !strings.Contains(source, "://") {
		if f, err := os.Open(source); err == nil {
			defer f.Close()
			s, err := parseScrape(source, f)
			if info, no := f.Stat(); no == nil {
				s.at = info.ModTime()
			}
			return s, err
		}
		if err := checkReach(source); err != nil {
			return scrape{}, fmt.Errorf("%w: --metrics: %q is no file that can be read and no address: %w", client.ErrUsage, source, err)
		}
		url = "http://" + source + "/metrics"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return scrape{}, fmt.Errorf("%w: --metrics: %w", client.ErrUsage, err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return scrape{}, fmt.Errorf("%w at %s: %w; --metrics names the --http address of an agent", client.ErrNoAgent, source, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return scrape{}, fmt.Errorf("%s answers %s: it is not the --http address of a firn agent", url, resp.Status)
	}
	return parseScrape(source, resp.Body)
}

func parseScrape(source string, r io.Reader) (scrape, error) {
	body, err := io.ReadAll(io.LimitReader(r, metricsBytesMax+1))
	if err == nil && len(body) > metricsBytesMax {
		err = fmt.Errorf("more than %d bytes", metricsBytesMax)
	}
	if err != nil {
		return scrape{}, fmt.Errorf("read the metrics of %s: %w", source, err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		return scrape{}, fmt.Errorf("%w: --metrics: what %s says is not what an agent's /metrics says: %w", client.ErrUsage, source, err)
	}
	if families["firn_objectstore_requests_total"] == nil {
		return scrape{}, fmt.Errorf("%w: --metrics: %s has no firn_objectstore_requests_total: it is not an agent's /metrics", client.ErrUsage, source)
	}
	return scrape{source: source, families: families}, nil
}

// each calls fn for every series of a family, with the value of one of its labels.
func (s *scrape) each(family, label string, fn func(label string, v float64)) {
	s.pairs(family, label, "", func(value, _ string, v float64) { fn(value, v) })
}

// pairs calls fn for every series of a family, with the values of two of its labels.
func (s *scrape) pairs(family, first, second string, fn func(first, second string, v float64)) {
	f := s.families[family]
	if f == nil {
		return
	}
	for _, m := range f.Metric {
		var a, b string
		for _, l := range m.Label {
			switch l.GetName() {
			case first:
				a = l.GetValue()
			case second:
				b = l.GetValue()
			}
		}
		v := m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
		if !math.IsNaN(v) && v > 0 {
			fn(a, b, v)
		}
	}
}

// kindOf is how a store bills a call; deletes are of up to a thousand objects a request.
func kindOf(op string) string {
	switch op {
	case "get", "get_range", "head":
		return "get"
	case "list", "delete":
		return op
	}
	return "put"
}

// costOf prices what agents counted until now, or until a file with it was written. old may be nil: not counted.
func costOf(scrapes []scrape, pay *prices.Table, old *oldVersions, now time.Time) (*costView, error) {
	if len(scrapes) == 0 {
		return nil, fmt.Errorf("%w: --metrics names no agent", client.ErrUsage)
	}
	u := newCounted()
	for i := range scrapes {
		u.add(&scrapes[i], now)
	}
	return u.price(pay, old), nil
}

// per is cost for a GiB, nil where there are no bytes.
func per(cost, bytes float64) *float64 {
	if bytes <= 0 {
		return nil
	}
	v := cost / bytes * gib
	return &v
}

func sum(m map[string]float64) (all float64) {
	for _, v := range m {
		all += v
	}
	return all
}

func printCost(out io.Writer, v *costView) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintf(out, "prices: %s, %s, of %s\nmonth:  %s %s (storage, and requests at the rate of the last %s of %d agents)\n\n",
		v.Prices.Source, v.Prices.Currency, v.Prices.Date, moneyText(v.Month), v.Prices.Currency, hoursText(v.Hours), v.Agents)
	_, _ = fmt.Fprintln(w, "REQUESTS\tCOUNT\tCOST\tA MONTH\t")
	for _, r := range v.Requests {
		name := r.Kind
		if r.Class != "" && r.Class != prices.Standard {
			name += ", " + r.Class
		}
		_, _ = fmt.Fprintf(w, "%s\t%.0f\t%s\t%s\t\n", name, r.Count, moneyText(r.Cost), moneyText(r.Month))
	}
	_, _ = fmt.Fprintln(w, "\t\t\t\t\nSTORED\tSIZE\t\tA MONTH\t")
	for _, c := range v.Stored {
		name := c.Class
		if c.Old {
			name += ", old versions"
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t\t%s\t\n", name, bytesText(c.Bytes), moneyText(c.Month))
	}
	_ = w.Flush() // the next table has columns of its own
	_, _ = fmt.Fprintln(w, "\nTOPIC\tSIZE\tA MONTH\tGIB-MONTH\tWRITTEN\tPER GIB\tREAD\tPER GIB\t")
	for _, t := range v.Topics {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", t.Topic, bytesText(t.StoredBytes), moneyText(t.StoredMonth), perText(t.PerGiBMonth),
			bytesText(t.WrittenBytes), perText(t.PerGiBWritten), bytesText(t.ReadBytes), perText(t.PerGiBRead))
	}
	err := w.Flush()
	for _, note := range v.Notes {
		_, err = fmt.Fprintln(out, "note: "+note)
	}
	return errors.Join(err)
}

func hoursText(hours float64) string {
	return time.Duration(hours * float64(time.Hour)).Round(time.Second).String()
}

func perText(v *float64) string {
	if v == nil {
		return "-"
	}
	return moneyText(*v)
}

// moneyText words an amount with as many digits as it takes to see it.
func moneyText(v float64) string {
	if v == 0 || v >= 1 {
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.*f", min(2+int(math.Ceil(-math.Log10(v))), 8), v)
}

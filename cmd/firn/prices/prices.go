package prices

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"
)

// ErrInvalid: a table that cannot be used.
var ErrInvalid = errors.New("invalid price table")

// BytesMax bounds a table.
const BytesMax = 1 << 20

// Standard is the class of what was put without one.
const Standard = "STANDARD"

//go:embed default.yaml
var builtIn []byte

// Table is what a bucket costs, in Currency.
type Table struct {
	Source   string             `json:"source" yaml:"source"`
	Date     string             `json:"date" yaml:"date"` // when the prices were looked up, as 2006-01-02
	Currency string             `json:"currency" yaml:"currency"`
	Requests map[string]float64 `json:"requests" yaml:"requests"`                 // for 1000, by kind
	Transfer float64            `json:"transfer_per_gib" yaml:"transfer_per_gib"` // out of the bucket
	Classes  map[string]Class   `json:"classes" yaml:"classes"`
}

// Class is a storage class.
type Class struct {
	Month float64 `json:"month_per_gib" yaml:"month_per_gib"`
	Read  float64 `json:"read_per_gib" yaml:"read_per_gib"`
	// Requests of objects of the class, for 1000, by kind of ClassKinds; those that are not there cost what the table's do.
	Requests map[string]float64 `json:"requests,omitempty" yaml:"requests"`
}

// Kinds are the kinds of requests that have a price.
func Kinds() []string { return []string{"put", "get", "list", "delete"} }

// ClassKinds are those that concern an object, and so a storage class.
func ClassKinds() []string { return []string{"put", "get"} }

// Request is what 1000 requests of a kind cost for objects of a class.
func (t *Table) Request(kind, class string) float64 {
	if price, own := t.Classes[class].Requests[kind]; own {
		return price
	}
	return t.Requests[kind]
}

// Default is the table built in.
func Default() *Table {
	t, err := Parse(builtIn)
	if err != nil {
		panic("prices: the table built in: " + err.Error())
	}
	return t
}

// Text is the table built in as a file to edit.
func Text() []byte { return bytes.Clone(builtIn) }

// Parse reads a table and reports every problem of it. Errors wrap ErrInvalid.
func Parse(b []byte) (*Table, error) {
	if len(b) > BytesMax {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrInvalid, len(b), BytesMax)
	}
	var t Table
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&t); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...))
	}
	price := func(what string, v float64) {
		if v < 0 || math.IsNaN(v) || math.IsInf(v, 0) {
			bad("%s: %v is no price", what, v)
		}
	}
	if t.Currency == "" {
		bad("currency is missing, such as USD")
	}
	if _, err := time.Parse(time.DateOnly, t.Date); err != nil {
		bad("date %q is not a date as 2006-01-02: it says how old the prices are", t.Date)
	}
	for _, kind := range Kinds() {
		if _, ok := t.Requests[kind]; !ok {
			bad("requests: %s is missing", kind)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(t.Requests)) {
		if !slices.Contains(Kinds(), kind) {
			bad("requests: %s is none of %v", kind, Kinds())
		}
		price("requests: "+kind, t.Requests[kind])
	}
	price("transfer_per_gib", t.Transfer)
	if _, ok := t.Classes[Standard]; !ok {
		bad("classes: %s is missing", Standard)
	}
	for _, name := range slices.Sorted(maps.Keys(t.Classes)) {
		price("classes: "+name+": month_per_gib", t.Classes[name].Month)
		price("classes: "+name+": read_per_gib", t.Classes[name].Read)
		requests := t.Classes[name].Requests
		for _, kind := range slices.Sorted(maps.Keys(requests)) {
			if !slices.Contains(ClassKinds(), kind) {
				bad("classes: %s: requests: %s is none of %v, which alone concern a class", name, kind, ClassKinds())
			}
			price("classes: "+name+": requests: "+kind, requests[kind])
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &t, nil
}

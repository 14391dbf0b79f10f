package prices_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/firnlog/firn/cmd/firn/prices"
)

func TestTheTableBuiltInIsOne(t *testing.T) {
	if d := prices.Default(); d.Classes[prices.Standard].Month <= 0 || d.Currency != "USD" || d.Requests["put"] <= d.Requests["get"] {
		t.Errorf("%+v", d)
	}
	if _, err := prices.Parse(prices.Text()); err != nil {
		t.Error(err)
	}
	d := prices.Default()
	for class, want := range map[string]float64{prices.Standard: 0.0004, "STANDARD_IA": 0.001, "INTELLIGENT_TIERING": 0.0004, "NONE_SUCH": 0.0004} {
		if got := d.Request("get", class); got != want {
			t.Errorf("1000 gets in class %s: %v, want %v", class, got, want)
		}
	}
}

func TestATableThatCannotBeUsedSaysWhy(t *testing.T) {
	text := string(prices.Text())
	for change, why := range map[string]string{
		"":                                           "currency is missing",
		"- a list":                                   "cannot unmarshal",
		"surprise: 1":                                "surprise",
		"currency: USD=>currency: ''":                "currency is missing",
		"date: 2025-11-30=>date: lately":             "lately",
		"put: 0.005=>put: -1":                        "requests: put: -1 is no price",
		"  put: 0.005=>  pat: 0.005":                 "pat is none of",
		"  get: 0.0004=>  # get":                     "get is missing",
		"STANDARD: =>SLOW: ":                         "STANDARD is missing",
		"month_per_gib: 0.023=>month: 0.023":         "month",
		"read_per_gib: 0.03=>read_per_gib: .inf":     "no price",
		"put: 0.02=>put: -2":                         "classes: GLACIER_IR: requests: put: -2 is no price",
		"put: 0.02=>list: 2":                         "classes: GLACIER_IR: requests: list is none of [put get]",
		"put: 0.02=>put: dear":                       "cannot unmarshal",
		"transfer_per_gib: 0=>transfer_per_gib: big": "cannot unmarshal",
	} {
		b := text
		if from, to, ok := strings.Cut(change, "=>"); ok {
			if !strings.Contains(b, from) {
				t.Fatalf("the table has no %q", from)
			}
			b = strings.Replace(b, from, to, 1)
		} else {
			b = change
		}
		if _, err := prices.Parse([]byte(b)); !errors.Is(err, prices.ErrInvalid) || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want %q", change, err, why)
		}
	}
	if _, err := prices.Parse(make([]byte, prices.BytesMax+1)); !errors.Is(err, prices.ErrInvalid) {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(prices.Text())
	f.Add([]byte("currency: [1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := prices.Parse(b); err != nil && !errors.Is(err, prices.ErrInvalid) {
			t.Error(err)
		}
	})
}

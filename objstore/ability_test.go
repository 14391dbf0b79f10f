package objstore_test

import (
	"testing"

	"github.com/firnlog/firn/objstore"
)

type plain struct{ objstore.Bucket }

type able struct{ plain }

func (able) Warnings() []string { return []string{"able"} }

type decorator struct{ plain }

func (d decorator) Unwrap() objstore.Bucket { return d.Bucket }

func TestAbilitiesAreFoundBehindDecorators(t *testing.T) {
	inner := able{}
	for name, c := range map[string]struct {
		bucket objstore.Bucket
		want   bool
	}{
		"itself":                     {inner, true},
		"behind a decorator":         {decorator{plain{inner}}, true},
		"behind two":                 {decorator{plain{decorator{plain{inner}}}}, true},
		"behind what hides it":       {plain{inner}, false},
		"nowhere":                    {decorator{plain{plain{}}}, false},
		"behind a decorator of none": {decorator{}, false},
		"no bucket":                  {nil, false},
	} {
		w, ok := objstore.As[objstore.Warner](c.bucket)
		if ok != c.want || ok && w.Warnings()[0] != "able" {
			t.Errorf("%s: %v", name, ok)
		}
	}
}

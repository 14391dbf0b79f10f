package objstore_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/objstore"
)

func TestRulesThatCannotBe(t *testing.T) {
	days := objstore.Expiration{Days: 1}
	many := make([]objstore.Rule, objstore.RulesMax+1)
	for i := range many {
		many[i] = objstore.Rule{ID: fmt.Sprint(i), Expiration: days}
	}
	for name, rules := range map[string][]objstore.Rule{
		"too many":             many,
		"two of one name":      {{ID: "a", Expiration: days}, {ID: "a", Expiration: days}},
		"a long name":          {{ID: strings.Repeat("a", 256), Expiration: days}},
		"nothing to do":        {{ID: "a"}},
		"parts we do not know": {{ID: "a", Expiration: days, Unknown: []string{"Novelty"}}},
		"days and a date":      {{ID: "a", Expiration: objstore.Expiration{Days: 1, Date: time.Unix(1, 0)}}},
		"negative days":        {{ID: "a", AbortUploadsDays: -1}},
		"no class":             {{ID: "a", Transitions: []objstore.Transition{{Days: 1}}}},
		"negative move":        {{ID: "a", NoncurrentTransitions: []objstore.NoncurrentTransition{{Days: -1, Class: "X"}}}},
		"no size between":      {{ID: "a", Expiration: days, Filter: objstore.Filter{SizeAbove: 5, SizeBelow: 6}}},
		"a tag twice":          {{ID: "a", Expiration: days, Filter: objstore.Filter{Tags: []objstore.Tag{{Key: "k"}, {Key: "k"}}}}},
	} {
		if err := objstore.ValidateRules(rules); !errors.Is(err, objstore.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := []objstore.Rule{
		{Expiration: days}, {Transitions: []objstore.Transition{{Class: "GLACIER_IR"}}},
		{ID: "foreign", Unknown: []string{"Novelty"}, Raw: []byte("<Rule/>")},
	}
	if err := objstore.ValidateRules(good); err != nil {
		t.Error(err)
	}
}

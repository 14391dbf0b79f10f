package objstore

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Limits of a bucket's lifecycle rules, the same for every store that has them.
const (
	RulesMax       = 1000
	RuleIDBytesMax = 255
)

// Rule is one lifecycle rule of the store's bucket: which objects, and what becomes of them. A zero field is absent.
type Rule struct {
	ID      string // "" lets the store choose
	Enabled bool
	Filter  Filter

	Expiration            Expiration
	Transitions           []Transition
	NoncurrentExpiration  NoncurrentExpiration
	NoncurrentTransitions []NoncurrentTransition
	AbortUploadsDays      int // multipart uploads that are not complete go after so many days

	// Unknown names the parts of the rule that this type has no place for. Such a rule can be written back, not changed.
	Unknown []string
	// Raw is the rule as the store has it; empty in a new one. It is written back where nothing else was changed.
	Raw []byte
}

// Filter says which objects a rule is about: those that meet all that is given.
type Filter struct {
	Prefix    string // in the store's names
	Tags      []Tag
	SizeAbove int64 // bytes; objects larger than it
	SizeBelow int64 // bytes; objects smaller than it, 0 for no bound
}

// Expiration is when current objects go.
type Expiration struct {
	Days          int
	Date          time.Time
	DeleteMarkers bool // markers with no versions left behind them
}

// Transition moves current objects to another storage class.
type Transition struct {
	Days  int // 0 is a day as good as others, where Date is zero
	Date  time.Time
	Class string
}

// NoncurrentExpiration is when versions go that are no longer current.
type NoncurrentExpiration struct {
	Days int
	Keep int // so many of them stay
}

// NoncurrentTransition moves versions that are no longer current.
type NoncurrentTransition struct {
	Days  int
	Keep  int
	Class string
}

// Acts reports whether the rule does anything that this type knows.
func (r Rule) Acts() bool {
	return r.Expiration != (Expiration{}) || len(r.Transitions) > 0 || r.NoncurrentExpiration != (NoncurrentExpiration{}) ||
		len(r.NoncurrentTransitions) > 0 || r.AbortUploadsDays != 0
}

// SameAs reports whether the rules say the same, however a store has them written.
func (r Rule) SameAs(o Rule) bool {
	return r.ID == o.ID && r.Enabled == o.Enabled && r.Filter.sameAs(o.Filter) && r.Expiration.sameAs(o.Expiration) &&
		slices.EqualFunc(r.Transitions, o.Transitions, Transition.sameAs) &&
		r.NoncurrentExpiration == o.NoncurrentExpiration && slices.Equal(r.NoncurrentTransitions, o.NoncurrentTransitions) &&
		r.AbortUploadsDays == o.AbortUploadsDays && slices.Equal(r.Unknown, o.Unknown)
}

func (f Filter) sameAs(o Filter) bool {
	return f.Prefix == o.Prefix && f.SizeAbove == o.SizeAbove && f.SizeBelow == o.SizeBelow && slices.Equal(f.Tags, o.Tags)
}

func (e Expiration) sameAs(o Expiration) bool {
	return e.Days == o.Days && e.Date.Equal(o.Date) && e.DeleteMarkers == o.DeleteMarkers
}

func (t Transition) sameAs(o Transition) bool {
	return t.Days == o.Days && t.Date.Equal(o.Date) && t.Class == o.Class
}

// ValidateRules checks rules that are to replace a bucket's, all at once; an error wraps ErrInvalid. A rule with Raw is the
// store's own business, but for its name.
func ValidateRules(rules []Rule) error {
	var problems []error
	if len(rules) > RulesMax {
		problems = append(problems, fmt.Errorf("%d lifecycle rules, a bucket has at most %d: %w", len(rules), RulesMax, ErrInvalid))
	}
	seen := make(map[string]bool, len(rules))
	for i, r := range rules {
		problem := func(format string, args ...any) {
			problems = append(problems, fmt.Errorf("lifecycle rule %d (%.60q) "+format+": %w", append(append([]any{i, r.ID}, args...), ErrInvalid)...))
		}
		if r.ID != "" && seen[r.ID] {
			problem("has a name that is another's too")
		}
		seen[r.ID] = true
		if len(r.Raw) == 0 {
			r.problems(problem)
		}
	}
	return errors.Join(problems...)
}

func (r Rule) problems(problem func(format string, args ...any)) {
	if len(r.ID) > RuleIDBytesMax {
		problem("has a name of %d bytes, at most %d", len(r.ID), RuleIDBytesMax)
	}
	if len(r.Unknown) > 0 {
		problem("has parts %v that firn does not know and cannot write", r.Unknown)
	}
	if !r.Acts() {
		problem("does nothing")
	}
	if err := ValidateTags(r.Filter.Tags); err != nil {
		problem("filter: %v", err)
	}
	if f := r.Filter; f.SizeAbove < 0 || f.SizeBelow < 0 || f.SizeBelow > 0 && f.SizeBelow <= f.SizeAbove+1 {
		problem("is about no size between %d and %d", f.SizeAbove, f.SizeBelow)
	}
	e := r.Expiration
	given := 0
	for _, is := range []bool{e.Days != 0, !e.Date.IsZero(), e.DeleteMarkers} {
		if is {
			given++
		}
	}
	if given > 1 {
		problem("expires by more than one of days, date and delete markers")
	}
	for _, days := range []int{e.Days, r.NoncurrentExpiration.Days, r.NoncurrentExpiration.Keep, r.AbortUploadsDays} {
		if days < 0 {
			problem("has a negative number %d", days)
		}
	}
	for _, t := range r.Transitions {
		if t.Class == "" || t.Days < 0 || t.Days > 0 && !t.Date.IsZero() {
			problem("moves to class %q after %d days or on %v", t.Class, t.Days, t.Date)
		}
	}
	for _, t := range r.NoncurrentTransitions {
		if t.Class == "" || t.Days < 0 || t.Keep < 0 {
			problem("moves versions to class %q after %d days but for %d", t.Class, t.Days, t.Keep)
		}
	}
}

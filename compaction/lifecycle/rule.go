package lifecycle

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/firnlog/firn/metastore/topicconfig"
	"github.com/firnlog/firn/objstore"
)

// Tag is a label of an object.
type Tag struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Rule is one lifecycle rule of a bucket. Prefixes are the store's: with the bucket's own prefix before them.
type Rule struct {
	ID      string `json:"id"`
	Enabled bool   `json:"enabled"`

	Prefix string `json:"prefix"`
	Tags   []Tag  `json:"tags,omitempty"` // all of them
	// SizeAbove and SizeBelow bound the size of the objects it takes, exclusive; 0 for no bound.
	SizeAbove int64 `json:"size_above,omitempty"`
	SizeBelow int64 `json:"size_below,omitempty"`

	ExpireDays    int       `json:"expire_days,omitempty"`
	ExpireDate    time.Time `json:"expire_date,omitzero"`
	ExpireMarkers bool      `json:"expire_delete_markers,omitempty"`
	Moves         []Move    `json:"transitions,omitempty"`

	NoncurrentDays int `json:"noncurrent_days,omitempty"`
	NoncurrentKeep int `json:"noncurrent_keep,omitempty"`
	AbortDays      int `json:"abort_uploads_days,omitempty"`

	// Unknown names the parts that firn has no words for.
	Unknown []string `json:"unknown,omitempty"`
	// raw is the rule as it came, for it to go back just so.
	raw *objstore.Rule
}

// Move is a rule's transition to another storage class.
type Move struct {
	Days  int       `json:"days,omitempty"`
	Date  time.Time `json:"date,omitzero"`
	Class string    `json:"class"`
}

// takes reports whether the rule is in force for some object whose key starts with prefix and that carries tags.
func (r *Rule) takes(prefix string, tags []Tag) bool {
	return r.Enabled && (strings.HasPrefix(r.Prefix, prefix) || strings.HasPrefix(prefix, r.Prefix)) && r.tagsIn(tags)
}

// covers reports whether the rule is in force for every object whose key starts with prefix and that carries tags. A part that
// firn does not know may be a condition: such a rule is not known to cover anything.
func (r *Rule) covers(prefix string, tags []Tag) bool {
	return r.Enabled && strings.HasPrefix(prefix, r.Prefix) && r.SizeAbove == 0 && r.SizeBelow == 0 && r.tagsIn(tags) && len(r.Unknown) == 0
}

func (r *Rule) tagsIn(tags []Tag) bool {
	return !slices.ContainsFunc(r.Tags, func(t Tag) bool { return !slices.Contains(tags, t) })
}

// expires reports whether the rule deletes what is current.
func (r *Rule) expires() bool { return r.ExpireDays > 0 || !r.ExpireDate.IsZero() }

// asleep is the first transition to a class whose objects cannot be read at once.
func (r *Rule) asleep() (Move, bool) {
	for _, m := range r.Moves {
		if topicconfig.Asleep(m.Class) {
			return m, true
		}
	}
	return Move{}, false
}

// same reports whether two rules do the same. What a store drops of AbortDays does not count: those that cannot abort uploads by
// rule do it by themselves.
func (r *Rule) same(o *Rule) bool {
	order := func(a, b Tag) int { return strings.Compare(a.Key, b.Key) }
	return r.ID == o.ID && r.Enabled == o.Enabled && r.Prefix == o.Prefix && r.SizeAbove == o.SizeAbove && r.SizeBelow == o.SizeBelow &&
		slices.Equal(slices.SortedFunc(slices.Values(r.Tags), order), slices.SortedFunc(slices.Values(o.Tags), order)) &&
		r.ExpireDays == o.ExpireDays && r.ExpireDate.Equal(o.ExpireDate) && r.ExpireMarkers == o.ExpireMarkers &&
		r.NoncurrentDays == o.NoncurrentDays && r.NoncurrentKeep == o.NoncurrentKeep &&
		(r.AbortDays == o.AbortDays || r.AbortDays == 0 || o.AbortDays == 0) &&
		slices.EqualFunc(r.Moves, o.Moves, func(a, b Move) bool { return a.Days == b.Days && a.Class == b.Class && a.Date.Equal(b.Date) })
}

// String says in words what the rule does.
func (r *Rule) String() string {
	var does []string
	add := func(format string, args ...any) { does = append(does, fmt.Sprintf(format, args...)) }
	if r.ExpireDays > 0 {
		add("deletes after %s", days(r.ExpireDays))
	}
	if !r.ExpireDate.IsZero() {
		add("deletes on %s", r.ExpireDate.Format(time.DateOnly))
	}
	for _, m := range r.Moves {
		if m.Date.IsZero() {
			add("moves to %s after %s", m.Class, days(m.Days))
		} else {
			add("moves to %s on %s", m.Class, m.Date.Format(time.DateOnly))
		}
	}
	switch {
	case r.NoncurrentDays > 0 && r.NoncurrentKeep > 0:
		add("deletes old versions after %s but for %d", days(r.NoncurrentDays), r.NoncurrentKeep)
	case r.NoncurrentDays > 0:
		add("deletes old versions after %s", days(r.NoncurrentDays))
	}
	if r.ExpireMarkers {
		add("deletes lone delete markers")
	}
	if r.AbortDays > 0 {
		add("ends unfinished uploads after %s", days(r.AbortDays))
	}
	if len(r.Unknown) > 0 {
		add("has %s, which firn does not know", strings.Join(r.Unknown, ", "))
	}
	if len(does) == 0 {
		add("does nothing that firn knows of")
	}
	of := fmt.Sprintf("objects below %q", r.Prefix)
	if r.Prefix == "" {
		of = "all objects"
	}
	for i, t := range r.Tags {
		word := " with tag "
		if i > 0 {
			word = " and "
		}
		of += word + t.Key + "=" + t.Value
	}
	if r.SizeAbove > 0 {
		of += fmt.Sprintf(" above %d bytes", r.SizeAbove)
	}
	if r.SizeBelow > 0 {
		of += fmt.Sprintf(" below %d bytes", r.SizeBelow)
	}
	state := ""
	if !r.Enabled {
		state = " (disabled)"
	}
	return strings.Join(does, ", ") + " of " + of + state
}

func days(n int) string {
	if n == 1 {
		return "1 day"
	}
	return fmt.Sprintf("%d days", n)
}

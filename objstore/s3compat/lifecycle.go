package s3compat

import (
	"fmt"
	"strings"
	"time"

	"github.com/firnlog/firn/objstore"
)

// Rule is one lifecycle rule of a bucket, as far as it matters to somebody who keeps objects there.
type Rule struct {
	ID      string
	Enabled bool
	Prefix  string // "" for the whole bucket
	Tagged  bool   // only objects with certain tags

	ExpireDays int       // 0 for none
	ExpireDate time.Time // zero for none

	Moves []Move
}

// Move is a rule's transition to another storage class.
type Move struct {
	Class string
	Days  int
}

// asleep are the storage classes whose objects have to be restored before they can be read.
func asleep(class string) bool { return class == "GLACIER" || class == "DEEP_ARCHIVE" }

// Expiries are the rules that take away objects below prefix.
func Expiries(rules []Rule, prefix string) []objstore.Expiry {
	var found []objstore.Expiry
	for _, r := range rules {
		overlaps := strings.HasPrefix(r.Prefix, prefix) || strings.HasPrefix(prefix, r.Prefix)
		if !r.Enabled || !overlaps {
			continue
		}
		e := objstore.Expiry{Rule: r.ID, Prefix: r.Prefix, TaggedOnly: r.Tagged}
		switch {
		case r.ExpireDays > 0:
			e.What = fmt.Sprintf("deletes after %d days", r.ExpireDays)
		case !r.ExpireDate.IsZero():
			e.What = "deletes on " + r.ExpireDate.Format(time.DateOnly)
		default:
			for _, m := range r.Moves {
				if asleep(m.Class) {
					e.What = fmt.Sprintf("moves to %s after %d days, where it cannot be read", m.Class, m.Days)
				}
			}
		}
		if e.What != "" {
			found = append(found, e)
		}
	}
	return found
}

package retention

import "github.com/firnlog/firn/metastore/state"

// Policy is what a topic promises to keep of each partition.
type Policy struct {
	AgeMS int64 // -1: any age
	Bytes int64 // -1: any size
}

// Keeps reports whether the policy lets nothing go.
func (p Policy) Keeps() bool { return p.AgeMS < 0 && p.Bytes < 0 }

// Cut is what of a partition goes: everything below Before. The zero value is nothing.
type Cut struct {
	Before int64 // exclusive
	Rows   int
	Bytes  int64 // raw
	BySize int   // of Rows, those that are not too old
}

// Plan says what of a partition goes at a time (Unix milliseconds). rows are its oldest, in order, and size is that of all. Where all
// of rows go, and there are more, call again with those that follow and what is left of the size.
func Plan(rows []state.Row, size int64, policy Policy, nowMS int64) Cut {
	var cut, upTo Cut // upTo: with rows whose age is the next one's
	for i := range rows {
		row := &rows[i]
		if row.InWAL {
			break
		}
		upTo.Before, upTo.Rows, upTo.Bytes = row.End, upTo.Rows+1, upTo.Bytes+row.Size
		switch {
		case policy.Bytes >= 0 && size-upTo.Bytes >= policy.Bytes:
			upTo.BySize++
		case policy.AgeMS < 0:
			return cut
		case row.MaxTimestamp < 0:
			continue
		case row.MaxTimestamp >= nowMS-policy.AgeMS:
			return cut
		}
		cut = upTo
	}
	return cut
}

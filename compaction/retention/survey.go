package retention

import "github.com/firnlog/firn/metastore/state"

// Due is what of a topic may go.
type Due struct {
	Topic      string `json:"topic"`
	Partitions int    `json:"partitions"` // that lose anything
	Rows       int    `json:"rows"`
	Bytes      int64  `json:"bytes"` // raw
	BySize     int    `json:"rows_by_size"`
}

// alone is a state that nobody else has.
type alone struct{ st *state.State }

func (a alone) View(fn func(*state.State)) { fn(a.st) }

// Survey says what of each topic may go at a time (Unix milliseconds), by name; topics that keep everything are left out. The state is
// the caller's alone.
func Survey(st *state.State, nowMS int64) []Due {
	var found []Due
	var x policies
	rows := make([]state.Row, 0, 64)
	for _, t := range x.of(alone{st}) {
		live := st.TopicByID(t.id)
		due := Due{Topic: live.Name}
		for p := range live.Partitions() {
			if c := oldest(live.Partition(p), t.policy, nowMS, &rows); c.Rows > 0 {
				due.Partitions, due.Rows, due.Bytes, due.BySize = due.Partitions+1, due.Rows+c.Rows, due.Bytes+c.Bytes, due.BySize+c.BySize
			}
		}
		if due.Rows > 0 {
			found = append(found, due)
		}
	}
	return found
}

// Ahead says by how much the log is ahead of the bucket's clock, and whether that is more than retention goes on with.
func Ahead(logMS, bucketMS int64) (lead string, holds bool) {
	var b Bounds
	b.defaults()
	d := since(logMS, bucketMS)
	return d.String(), d > b.Lead
}

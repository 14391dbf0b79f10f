package clean

import (
	"math"

	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
)

// plan says what there is to do in a partition: rows[:clean] are its clean section, rows[clean:] are dirty and may be cleaned now.
type plan struct {
	rows       []state.Row
	clean      int
	cleanBytes int64
	dirtyBytes int64
	// lag is max.compaction.lag.ms where the time of the first dirty record decides whether the partition is due; else 0.
	lag     int64
	due     bool
	overdue bool // by max.compaction.lag.ms, whatever the ratio
}

// cleanable reports whether a row may be cleaned at all. Kafka leaves the active segment alone: what corresponds to it here is what no merge
// has been over, and what is still in a WAL. It also leaves alone what is younger than min.compaction.lag.ms, and all behind that, judged
// by the largest timestamp of a segment, here of a row.
func cleanable(row *state.Row, s *topicconfig.Settings, logTime int64) bool {
	return row.Object.Merged() && !row.InWAL && (s.MinCompactionLagMS <= 0 || row.MaxTimestamp <= logTime-s.MinCompactionLagMS)
}

// look reads the rows of a partition from its start on into the memory of rows, as far as they may be cleaned, and judges them.
func look(p *state.Partition, s *topicconfig.Settings, logTime int64, rows []state.Row) plan {
	const page = 256
	rows = rows[:0]
	for from := p.LogStart(); ; {
		had := len(rows)
		rows = p.Rows(from, page, rows)
		for i := had; i < len(rows); i++ {
			if !cleanable(&rows[i], s, logTime) {
				return judge(rows[:i], s)
			}
		}
		if len(rows) < had+page {
			return judge(rows, s)
		}
		from = rows[len(rows)-1].End
	}
}

// judge decides by the dirty ratio, as Kafka's LogCleanerManager does: bytes that may be cleaned against these and the clean ones.
func judge(rows []state.Row, s *topicconfig.Settings) plan {
	p := plan{rows: rows}
	for p.clean < len(rows) && rows[p.clean].Cleaned {
		p.cleanBytes += rows[p.clean].Size
		p.clean++
	}
	for i := range rows[p.clean:] {
		p.dirtyBytes += rows[p.clean+i].Size
	}
	if p.dirtyBytes == 0 {
		return p
	}
	p.due = p.ratio() > s.MinCleanableDirtyRatio
	if s.MaxCompactionLagMS < math.MaxInt64 {
		p.lag = s.MaxCompactionLagMS
	}
	return p
}

// cut leaves out dirty rows from the end on, until those that are left have no more than so many bytes, or are one.
func (p *plan) cut(bytes int64) {
	for len(p.rows)-p.clean > 1 && p.dirtyBytes > bytes {
		last := len(p.rows) - 1
		p.dirtyBytes -= p.rows[last].Size
		p.rows = p.rows[:last]
	}
}

// largest is the size of the largest row.
func (p *plan) largest() (size int64) {
	for i := range p.rows {
		size = max(size, p.rows[i].Size)
	}
	return size
}

// ratio is the dirty share of the bytes.
func (p *plan) ratio() float64 {
	if p.dirtyBytes == 0 {
		return 0
	}
	return float64(p.dirtyBytes) / (float64(p.cleanBytes) + float64(p.dirtyBytes))
}

// oldest takes the timestamp of the first dirty record into account (KIP-354): superseded records should be gone max.compaction.lag.ms after it.
func (p *plan) oldest(timestamp, logTime int64) {
	if p.lag > 0 && timestamp < logTime-p.lag {
		p.due, p.overdue = true, true
	}
}

// before reports whether p is to be worked on before q: what is overdue first, then what is dirtiest.
func (p *plan) before(q *plan) bool {
	if p.overdue != q.overdue {
		return p.overdue
	}
	return p.ratio() > q.ratio()
}

// spanMax is how far the timestamps of a row may lie apart, so that retention by time, which takes whole rows, keeps none much longer than it
// must: as merge has it. 0 for no bound.
func spanMax(s *topicconfig.Settings) int64 {
	kept := s.EffectiveRetentionMS()
	if kept < 0 {
		return 0
	}
	return max(1, min(kept/8, s.SegmentMS))
}

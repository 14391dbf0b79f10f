package merge

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
	"github.com/firnlog/firn/objstore/segment"
)

// sweep is a look at all partitions, territory by territory.
type sweep struct {
	topics []topicRef // that are still to be looked at
	next   int        // partition of the first of them from which on
	due    time.Time  // when the next sweep begins
}

// tierJob is what is merged of one territory.
type tierJob struct {
	topic entry.UUID
	parts []tierPart
	bytes int64 // raw, of all rows
}

type tierPart struct {
	in    rewrite.Input
	rows  []state.Row
	bytes int64 // raw, of them
}

// stepTiers merges rows of the next territory where some are due.
func (m *Merger) stepTiers(ctx context.Context) (worked bool, err error) {
	now := m.deps.Now()
	s := &m.scan
	if len(s.topics) == 0 {
		if now.Before(s.due) {
			return false, nil
		}
		s.topics, s.next = m.topicsOf(), 0
	}
	for len(s.topics) > 0 {
		if err := context.Cause(ctx); err != nil {
			return false, err
		}
		t := &s.topics[0]
		if s.next >= t.partitions {
			s.topics, s.next = s.topics[1:], 0
			continue
		}
		first, end := s.next, min(s.next+duty.TerritoryPartitions, t.partitions)
		done, free := m.deps.Busy.Try(duty.Territory(t.id, int32(first)))
		if !free {
			s.next = end
			continue
		}
		job := m.planTiers(t.id, first, end, now)
		if len(job.parts) == 0 {
			done()
			s.next = end
			continue
		}
		applied, err := m.mergeTiers(ctx, job)
		done()
		m.owed -= job.bytes
		if applied == 0 { // else there may be more
			s.next = end
		}
		return true, err
	}
	s.topics, s.due = nil, now.Add(m.cfg.Rescan)
	return false, nil
}

// planTiers looks for rows to merge in the partitions [first, end) of a topic, which are a territory.
func (m *Merger) planTiers(topic entry.UUID, first, end int, now time.Time) tierJob {
	job := tierJob{topic: topic}
	mine := false
	var span Span
	rules, bound := m.cfg.Tiers, m.bound()
	var crowded []int32
	m.meta.View(func(st *state.State) {
		t := st.TopicByID(topic)
		if t == nil || !duty.Mine(st, m.meta.Incarnation(), duty.Territory(topic, int32(first))) {
			return
		}
		mine = true
		for i := first; i < min(end, t.Partitions()); i++ {
			if t.Partition(i).RowCount() > 1 {
				crowded = append(crowded, int32(i))
			}
		}
		if len(crowded) > 0 {
			settings := settingsOf(st, t)
			span, rules = SpanFor(settings), rules.forTopic(settings)
		}
	})
	if !mine || len(crowded) == 0 {
		return job
	}
	rules, bound = rules.within(bound), min(bound, m.cfg.TierBytes)
	anyDue := false
	for _, partition := range crowded {
		ref := state.PartitionRef{Topic: topic, Partition: partition}
		in, rows := m.mergeableRows(ref, now)
		found, due := rules.Tier(rows, span, func(row *state.Row) bool { return m.bad.barred(ref, row, now) })
		if found.Rows() < 2 {
			continue
		}
		if job.bytes > 0 && job.bytes+found.Bytes > bound {
			break
		}
		job.bytes += found.Bytes
		anyDue = anyDue || due
		job.parts = append(job.parts, tierPart{in: in, rows: slices.Clone(rows[found.First : found.Last+1]), bytes: found.Bytes})
	}
	if !anyDue {
		job.parts = nil
	}
	return job
}

func settingsOf(st *state.State, t *state.Topic) topicconfig.Settings {
	configs := st.BrokerConfigs()
	return topicconfig.Parse(t.Config, func(name string) (string, bool) {
		for i := range configs {
			if configs[i].Name == name {
				return configs[i].Value, true
			}
		}
		return "", false
	})
}

// plannedRowsMax bounds the rows of a partition that are looked at; more will be when these are fewer.
const plannedRowsMax = 1024

// mergeableRows are a partition's rows that may be merged, and of those between them one each: of a large partition nearly all are full.
// They are valid until the next call.
func (m *Merger) mergeableRows(ref state.PartitionRef, now time.Time) (rewrite.Input, []state.Row) {
	in := rewrite.Input{Topic: ref.Topic, Partition: ref.Partition}
	rows, page := m.list[:0], m.page[:0]
	defer func() { m.list, m.page = rows[:0], page[:0] }()
	idle := func(row *state.Row) bool { return !m.cfg.Tiers.mergeable(row) || m.bad.barred(ref, row, now) }
	for from := int64(0); ; {
		page = page[:0]
		m.meta.View(func(st *state.State) {
			t := st.TopicByID(ref.Topic)
			if t == nil || int(ref.Partition) >= t.Partitions() {
				return
			}
			p := t.Partition(int(ref.Partition))
			if from == 0 {
				in.Epochs, in.LogStart = p.Epochs(nil), p.LogStart()
			}
			page = p.Rows(from, viewRows, page)
		})
		for i := range page {
			if n := len(rows); n > 0 && idle(&page[i]) && idle(&rows[n-1]) {
				rows[n-1] = page[i]
				continue
			}
			rows = append(rows, page[i])
		}
		if len(page) < viewRows || len(rows) >= plannedRowsMax {
			return in, rows
		}
		from = page[len(page)-1].End
	}
}

// mergeTiers merges the rows of a job, or of a part of it where scratch space has no room for more, and reports of how many partitions the
// index took them.
func (m *Merger) mergeTiers(ctx context.Context, job tierJob) (applied int, err error) {
	for {
		n, err := m.mergeParts(ctx, job.topic, job.parts)
		applied += n
		bytes := int64(0)
		for i := range job.parts {
			bytes += job.parts[i].bytes
		}
		if err == nil {
			m.held(bytes)
		}
		if !errors.Is(err, duty.ErrScratchFull) {
			return applied, err
		}
		m.full(bytes, err)
		if len(job.parts) < 2 {
			if len(job.parts[0].rows) > 2 { // fewer may fit, the next time
				err = nil
			}
			return applied, err
		}
		job.parts = job.parts[:len(job.parts)/2]
	}
}

func (m *Merger) mergeParts(ctx context.Context, topic entry.UUID, parts []tierPart) (applied int, err error) {
	src := m.env.NewSource()
	defer src.Close()
	var wants []rewrite.Want // each once, with all that is wanted of it
	index := make(map[entry.ObjectID]int)
	for i := range parts {
		for j := range parts[i].rows {
			row := &parts[i].rows[j]
			at, known := index[row.Object]
			if !known {
				at = len(wants)
				index[row.Object] = at
				wants = append(wants, rewrite.Want{ID: row.Object, Size: row.ObjectSize})
			}
			wants[at].Blocks = append(wants[at].Blocks, row.Block)
		}
	}
	m.deps.Metrics.tiers.Inc()
	m.deps.Metrics.tierObjects.Add(float64(len(wants)))
	src.StageAll(ctx, wants, func(i int, _ *segment.Footer, cause error) (more bool) {
		// What cannot be read is found out by whoever reads it, with its partition.
		if errors.Is(cause, rewrite.ErrUnavailable) { // it may be this object alone: the others are merged without it
			m.bad.away[wants[i].ID] = m.deps.Now().Add(max(m.cfg.BackoffMin, 2*m.cfg.Rescan))
		}
		if errors.Is(cause, duty.ErrScratchFull) || errors.Is(cause, rewrite.ErrUnavailable) || ctx.Err() != nil {
			err = cause
		}
		return err == nil
	})
	if err != nil {
		return 0, err
	}
	up := m.newUploads()
	err = m.copyParts(ctx, src, up, topic, parts)
	applied, failed := up.wait()
	return applied, errors.Join(err, failed)
}

// copyParts copies what the parts have in the staged objects.
func (m *Merger) copyParts(ctx context.Context, src *rewrite.Source, up *uploads, topic entry.UUID, parts []tierPart) error {
	w := writer{m: m, topic: topic, src: src, up: up}
	defer w.close()
	for i := range parts {
		if up.hopeless() {
			return nil
		}
		err := w.copy(ctx, parts[i].in, parts[i].rows)
		if err != nil && !m.bad.note(err) && !errors.Is(err, rewrite.ErrChanged) {
			return err
		}
	}
	return w.flush(ctx)
}

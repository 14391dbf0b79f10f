package clean

import (
	"context"
	"fmt"

	"github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
	"github.com/firnlog/firn/objstore/batch"
)

// piece is an object on its way, and the parts that it replaces: of several partitions, where these are small, in ascending order. Each
// part is a run of rows of a partition, from the first that no part before has; it becomes one row.
//
// A partition's parts are committed in the order of its rows, and no part is committed before those ahead of it are known to be
// in force. See the package documentation for what rests on that.
type piece struct {
	cleaner *Cleaner
	ctx     context.Context
	topic   [16]byte
	// objectBytes is Config.ObjectBytes, or less where scratch space is short.
	objectBytes int64
	largest     int64 // row that was to be copied

	out   *rewrite.Output // nil: empty
	parts []rewrite.Part

	// Of the partition that is being copied; job is nil between partitions.
	job     *job
	from    int  // rows[from:row+1] are the part
	row     int  // that is read
	opened  bool // a block of out is open for the part
	changed bool // something was left out of the part, or written anew
	first   int64
}

// begin starts a partition.
func (p *piece) begin(j *job) error {
	p.job, p.from, p.row = j, 0, 0
	return p.open()
}

// open starts a part of the partition, with row from.
func (p *piece) open() error {
	if p.out == nil {
		out, err := p.cleaner.deps.Env.NewOutput(p.topic)
		if err != nil {
			return err
		}
		p.out = out
	}
	p.opened, p.changed = true, false
	p.first = p.job.plan.rows[p.from].MaxTimestamp
	return p.out.Begin(p.job.ref.Partition)
}

// reach says that a row is read from now on, and closes the part before it where that is enough for an object, or for a row.
func (p *piece) reach(row int) error {
	for ; p.row < row; p.row++ {
		this, next := &p.job.plan.rows[p.row], &p.job.plan.rows[p.row+1]
		span := spanMax(p.job.settings)
		if p.out.RawSize()+next.Size <= p.objectBytes && (span == 0 || next.MaxTimestamp-p.first <= span) &&
			!p.alone(this) && !p.alone(next) {
			continue
		}
		if err := p.close(p.row + 1); err != nil {
			return err
		}
		if err := p.commit(); err != nil {
			return err
		}
		p.from = p.row + 1
		if err := p.open(); err != nil {
			return err
		}
	}
	return nil
}

// alone reports whether a row is a part of its own, because it is worth to find out that nothing of it goes: then it stays where it is.
func (p *piece) alone(row *state.Row) bool {
	return row.Cleaned && row.Size >= p.objectBytes/2
}

func (p *piece) read(b *rewrite.Batch) { p.cleaner.deps.Metrics.readBytes.Add(float64(len(b.Raw))) }

// add writes a batch.
func (p *piece) add(raw []byte, h *batch.Header) error {
	p.cleaner.deps.Metrics.keptBytes.Add(float64(len(raw)))
	return p.out.Add(p.ctx, raw, h)
}

// end closes the partition's last part, and commits it unless there is room for those of other partitions.
func (p *piece) end() error {
	if err := p.close(len(p.job.plan.rows)); err != nil {
		return err
	}
	defer func() { p.job = nil }()
	if p.out == nil || p.out.RawSize() < p.objectBytes/2 {
		return nil
	}
	return p.commit()
}

// close ends the part before row end.
func (p *piece) close(end int) error {
	row, any := p.out.End()
	p.opened = false
	part := rewrite.PartOf(p.job.ref.Partition, p.job.plan.rows[p.from:end])
	part.Cleaned = true
	if any {
		part.Replacement = []rewrite.Row{row}
	}
	if end-p.from == 1 && !p.changed && len(p.parts) == 0 && any {
		return p.same(part, &p.job.plan.rows[p.from])
	}
	p.parts = append(p.parts, part)
	return nil
}

// same deals with a row, alone in its object, of which nothing goes: it stays where it is, and is marked as clean if it is not.
func (p *piece) same(part rewrite.Part, row *state.Row) error {
	p.reset()
	if row.Cleaned {
		return nil
	}
	part.Replacement = []rewrite.Row{{Block: row.Block, Base: row.Base, End: row.End, MaxTimestamp: row.MaxTimestamp, Size: row.Size}}
	return p.propose([]rewrite.Object{{ID: row.Object, Size: row.ObjectSize}}, []rewrite.Part{part})
}

// commit uploads the object and has the index name it. An error concerns the partition that is being copied; where those before it are
// refused their rows are as they were, and they are due again.
func (p *piece) commit() error {
	if len(p.parts) == 0 {
		p.reset()
		return nil
	}
	var objects []rewrite.Object
	for i := range p.parts {
		if len(p.parts[i].Replacement) == 0 {
			continue
		}
		o, err := p.out.Upload(p.ctx)
		if err != nil {
			p.reset()
			return err
		}
		objects = append(objects, o)
		break
	}
	parts := p.parts
	p.reset()
	return p.propose(objects, parts)
}

func (p *piece) propose(objects []rewrite.Object, parts []rewrite.Part) error {
	if !p.compacted() {
		return fmt.Errorf("%w: the topic is not compacted any more", rewrite.ErrChanged)
	}
	outcomes, err := p.cleaner.deps.Env.Commit(p.ctx, p.topic, objects, parts)
	if err != nil {
		return err
	}
	for i, o := range outcomes {
		if o == rewrite.Applied {
			continue
		}
		p.cleaner.deps.Metrics.refused.Inc()
		if p.job != nil && parts[i].Partition == p.job.ref.Partition {
			err = fmt.Errorf("%w: offsets [%d, %d) are a case of %v", rewrite.ErrChanged, parts[i].Start, parts[i].End, o)
		}
	}
	return err
}

// compacted reports whether the topic's policy is still what it was when the job began.
func (p *piece) compacted() bool {
	is := false
	p.cleaner.deps.Env.Meta().View(func(st *state.State) {
		if t := st.TopicByID(p.topic); t != nil {
			is = topicconfig.Parse(getter(t.Configs), getter(st.BrokerConfigs())).Compact
		}
	})
	return is
}

// giveUp drops the part of a partition that cannot be gone on with. What others have in the object stays.
func (p *piece) giveUp() {
	if p.opened {
		_, _ = p.out.End()
	}
	p.job, p.opened = nil, false
	if len(p.parts) == 0 {
		p.reset()
	}
}

func (p *piece) reset() {
	if p.out != nil {
		p.out.Close()
	}
	p.out, p.parts = nil, nil
}

// drop drops the object, whatever is in it.
func (p *piece) drop() { p.reset() }

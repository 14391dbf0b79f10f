package retention

import (
	"fmt"
	"time"
)

// Bounds of the judge; the zero value of each is its default.
type Bounds struct {
	// Lead is how far log time may be ahead of the bucket's clock, or of the steady one. Default 1 h.
	Lead time.Duration
	// Settle is how long log time has to run evenly after a jump. Default 1 h.
	Settle time.Duration
	// Jump is the longest that comes right by itself. Default 31 days.
	Jump time.Duration
}

func (b *Bounds) defaults() {
	set := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	set(&b.Lead, time.Hour)
	set(&b.Settle, time.Hour)
	set(&b.Jump, 31*24*time.Hour)
}

// Times are what the clocks show at one look.
type Times struct {
	LogMS    int64         // log time, Unix milliseconds
	Steady   time.Duration // of the process, from any point on; it does not count while the machine sleeps
	Bucket   time.Time     // of the bucket's clock; meant where Witness
	Witness  bool          // the bucket has a clock
	Unheard  error         // why it did not say; meant where Witness
	FirstLog bool          // nothing was ever trusted: the log is new, or older than this rule
}

// Verdict says by which time to judge, or why not to.
type Verdict struct {
	NowMS int64
	Hold  string // "": go on
	// Operator: it does not come right by itself.
	Operator bool
	// Lead is how far log time is ahead of what it was held against.
	Lead time.Duration
}

// Judge holds log time against another clock. The zero value, with bounds, has seen nothing. One goroutine looks.
type Judge struct {
	bounds Bounds

	// Where the bucket has no clock: the last log time that was trusted, and the steady clock then.
	known     bool
	trustedMS int64
	at        time.Duration
	// While it settles: since when it runs evenly, and from what log time.
	settling  bool
	settledAt time.Duration
	settledMS int64
}

// NewJudge makes a judge.
func NewJudge(b Bounds) *Judge {
	b.defaults()
	return &Judge{bounds: b}
}

// Look judges. word is what the cell says; it is looked at where Wants said so, else nil.
func (j *Judge) Look(t Times, word *Word) Verdict {
	if t.Witness {
		return j.witness(t, word)
	}
	return j.steady(t, word)
}

// Wants reports whether the next look should come with the cell's word.
func (j *Judge) Wants(t Times) bool {
	if t.Witness {
		return t.Unheard == nil && (!j.known || j.lead(t) > j.bounds.Lead)
	}
	return !j.known || j.settling || j.jump(t) > j.bounds.Lead
}

func (j *Judge) lead(t Times) time.Duration { return since(t.LogMS, t.Bucket.UnixMilli()) }

// since is a difference of milliseconds, within what a Duration holds.
func since(ms, beforeMS int64) time.Duration {
	const most = int64(1<<63-1) / int64(time.Millisecond)
	return time.Duration(min(max(ms-beforeMS, -most), most)) * time.Millisecond
}

func (j *Judge) witness(t Times, word *Word) Verdict {
	if t.Unheard != nil {
		return Verdict{Hold: fmt.Sprintf("the bucket does not tell its time: %v", t.Unheard)}
	}
	j.known = true
	v := Verdict{NowMS: t.LogMS, Lead: j.lead(t)}
	if v.Lead <= j.bounds.Lead {
		return v
	}
	if word != nil && word.ByBucket {
		v.NowMS = t.Bucket.UnixMilli()
		return v
	}
	v.Operator = true
	v.Hold = fmt.Sprintf("log time %s is %v ahead of the bucket's clock: an agent's clock is, or was, wrong; set it right, and where the bucket's is right "+
		"run firn gc approve", stamp(t.LogMS), v.Lead.Round(time.Second))
	return v
}

// jump is by how much log time has run ahead of the steady clock since it was last trusted.
func (j *Judge) jump(t Times) time.Duration {
	return since(t.LogMS, j.trustedMS) - (t.Steady - j.at)
}

func (j *Judge) steady(t Times, word *Word) Verdict {
	switch {
	case !j.known && word == nil && !t.FirstLog:
		return Verdict{Hold: "it is not known what log time was trusted last"}
	case !j.known && word == nil: // nothing to hold it against
		return j.trust(t)
	case !j.known: // the process was away for nobody knows how long
		j.known, j.trustedMS, j.at = true, word.TrustedMS, t.Steady
	case word != nil && word.TrustedMS > j.trustedMS: // an operator has said so, or another agent has seen it settle
		j.trustedMS, j.at, j.settling = word.TrustedMS, t.Steady, false
	}
	jump := j.jump(t)
	if jump <= j.bounds.Lead {
		return j.trust(t)
	}
	v := Verdict{NowMS: t.LogMS, Lead: jump}
	if even := since(t.LogMS, j.settledMS) - (t.Steady - j.settledAt); !j.settling || even > j.bounds.Lead {
		j.settling, j.settledAt, j.settledMS = true, t.Steady, t.LogMS
	}
	left := j.bounds.Settle - (t.Steady - j.settledAt)
	switch {
	case jump > j.bounds.Jump:
		v.Operator = true
		v.Hold = fmt.Sprintf("log time jumped by %v, to %s, and the bucket has no clock to say which is right: set the agent's clock right, and "+
			"where it is right already run firn gc approve", jump.Round(time.Second), stamp(t.LogMS))
	case left > 0:
		v.Hold = fmt.Sprintf("log time jumped by %v, to %s; deleting goes on in %v, or after firn gc approve", jump.Round(time.Second), stamp(t.LogMS), left.Round(time.Second))
	default:
		return j.trust(t)
	}
	return v
}

// trust takes what log time is now for right.
func (j *Judge) trust(t Times) Verdict {
	j.known, j.trustedMS, j.at, j.settling = true, t.LogMS, t.Steady, false
	return Verdict{NowMS: t.LogMS}
}

// Keep is what the cell should say after a look that let go, nil where that is no matter.
func (j *Judge) Keep(t Times, word *Word) *Word {
	switch {
	case !t.Witness:
		return &Word{TrustedMS: j.trustedMS}
	case word != nil && word.ByBucket && j.lead(t) <= j.bounds.Lead: // what was said of one lead is not said of the next
		return &Word{TrustedMS: t.LogMS}
	}
	return nil
}

func stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }

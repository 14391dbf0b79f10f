package log

import "context"

// Standing is what a store holds where a log is, or would be.
type Standing struct {
	Identity Identity // of the log; Epoch 0 where there is none
	Keys     int64    // everything that is there
	Some     []string // the names of a few, for people
}

// Founder is a Log that can be made with an identity and cells given: what disaster recovery needs, and agents do not.
type Founder interface {
	Log
	// Standing looks at what is there and creates nothing (linearizable).
	Standing(ctx context.Context) (Standing, error)
	// Found makes the log, in one step, where nothing at all is there; else ErrConflict. The store fills in the identity's
	// Cluster. An error that wraps ErrUnavailable may have founded: Standing tells.
	Found(ctx context.Context, identity Identity, cells map[string][]byte) (Identity, error)
}

// FounderOf finds the Founder that l is, or wraps: a wrapper says what it wraps by a method Unwrap.
func FounderOf(l Log) (Founder, bool) {
	for l != nil {
		if f, ok := l.(Founder); ok {
			return f, true
		}
		w, ok := l.(interface{ Unwrap() Log })
		if !ok {
			return nil, false
		}
		l = w.Unwrap()
	}
	return nil, false
}

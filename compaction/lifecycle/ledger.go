package lifecycle

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/topicconfig"
)

// Topic is a topic as far as the bucket's rules go.
type Topic struct {
	ID       entry.UUID
	Name     string
	Settings topicconfig.Settings
	Bytes    int64 // of its records
}

// Label is what the topic's merged objects should carry.
func (t *Topic) Label() Label { return LabelOf(t.Name, &t.Settings) }

// LedgerKey names the ledger in the bucket.
const LedgerKey = "lifecycle/ledger.json"

const (
	ledgerFormat   = 1
	ledgerBytesMax = 64 << 20
)

// ErrLedger: what lies under LedgerKey is no ledger that this firn can read.
var ErrLedger = errors.New("unreadable ledger of object tags")

// Ledger is what is known of the tags on merged objects; see the package doc. A JSON object: format (1), log_epoch, run_n, run_ms, topics
// by id (32 hexadecimal digits) with name, bears, wants and verified, and days, a list of n and ms.
type Ledger struct {
	Format int `json:"format"`
	// LogEpoch is the log's that the values of n are of: a restored log counts anew from where its archive ended.
	LogEpoch uint64 `json:"log_epoch"`
	// RunN and RunMS are the n of the log and log time at which the last run began that looked at all it had to. Both only rise.
	RunN   uint64                  `json:"run_n"`
	RunMS  int64                   `json:"run_ms"`
	Topics map[string]*LedgerTopic `json:"topics"`
	// Days are log times of runs about a day apart, and the n of the log then: how old what was named by an n is at least. The newest
	// last, daysMax of them.
	Days []Mark `json:"days,omitempty"`
}

// Mark says what n the log was at when.
type Mark struct {
	N  uint64 `json:"n"`
	MS int64  `json:"ms"`
}

// daysMax bounds the marks; what is older than the first counts as that.
const daysMax = 400

// age is how old an object is at least, in days, that was named at born.
func (l *Ledger) age(born uint64, nowMS int64) int {
	i, _ := slices.BinarySearchFunc(l.Days, born, func(m Mark, n uint64) int { return cmp.Compare(m.N, n) })
	if i == len(l.Days) {
		return 0
	}
	return int(max(nowMS-l.Days[i].MS, 0) / topicconfig.MSPerDay)
}

// LedgerTopic is one topic's part.
type LedgerTopic struct {
	Name string `json:"name"`
	// Bears are the labels that live objects may carry. Invariant: holds Wants, and alone where everything was looked at.
	Bears []Label `json:"bears"`
	Wants Label   `json:"wants"`
	// Verified: every live merged object named at or before it carries Wants and no other label. Rises, but for a change of Wants.
	Verified uint64 `json:"verified"`
}

// ParseLedger reads a ledger.
func ParseLedger(b []byte) (*Ledger, error) {
	if len(b) > ledgerBytesMax {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrLedger, len(b), ledgerBytesMax)
	}
	var l Ledger
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLedger, err)
	}
	if l.Format != ledgerFormat {
		return nil, fmt.Errorf("%w: format %d, this firn knows %d", ErrLedger, l.Format, ledgerFormat)
	}
	for id, t := range l.Topics {
		if raw, err := hex.DecodeString(id); err != nil || len(raw) != len(entry.UUID{}) || t == nil || !slices.Contains(t.Bears, t.Wants) {
			return nil, fmt.Errorf("%w: topic %.40q", ErrLedger, id)
		}
	}
	if !slices.IsSortedFunc(l.Days, func(a, b Mark) int { return cmp.Compare(a.N, b.N) }) || len(l.Days) > daysMax {
		return nil, fmt.Errorf("%w: %d days that do not ascend", ErrLedger, len(l.Days))
	}
	if l.Topics == nil {
		l.Topics = make(map[string]*LedgerTopic)
	}
	return &l, nil
}

// NewLedger is that of a bucket in which nothing was looked at yet.
func NewLedger(logEpoch uint64) *Ledger {
	return &Ledger{Format: ledgerFormat, LogEpoch: logEpoch, Topics: make(map[string]*LedgerTopic)}
}

// Append encodes the ledger.
func (l *Ledger) Append(dst []byte) ([]byte, error) {
	b, err := json.Marshal(l)
	return append(dst, b...), err
}

// Used reports whether rules or tags of firn's are in play at all: where no topic was ever anything but off, nothing is looked at.
func (l *Ledger) Used(topics []Topic) bool {
	if len(l.Topics) > 0 {
		return true
	}
	return slices.ContainsFunc(topics, func(t Topic) bool { return t.Label() != Label{} })
}

// Observe brings the ledger up to the topics' settings. What a topic bore it may still bear. A topic that is new to the ledger bears
// anything: its objects were put before anybody looked.
func (l *Ledger) Observe(topics []Topic) {
	seen := make(map[string]bool, len(topics))
	for i := range topics {
		t := &topics[i]
		id := hex.EncodeToString(t.ID[:])
		seen[id] = true
		wants := t.Label()
		have := l.Topics[id]
		if have == nil {
			have = &LedgerTopic{Wants: wants, Bears: []Label{wants}}
			l.Topics[id] = have
		}
		have.Name = t.Name
		if have.Wants != wants {
			have.Wants, have.Verified = wants, 0
			if !slices.Contains(have.Bears, wants) {
				have.Bears = append(have.Bears, wants)
			}
		}
	}
	maps.DeleteFunc(l.Topics, func(id string, _ *LedgerTopic) bool { return !seen[id] }) // deleted: nothing of it is live
}

// runsApartMS is how long after a run the next may begin for the proof in the package doc to hold.
const runsApartMS = topicconfig.MSPerDay / 2

// Hold is a class whose rule must not be in the bucket now.
type Hold struct {
	Class string `json:"class"`
	Topic string `json:"topic"` // for whose sake, "" for all
	Why   string `json:"why"`
}

// Held says which classes' rules must not be in the bucket, and why.
func (l *Ledger) Held(topics []Topic, logTimeMS int64) []Hold {
	var held []Hold
	if l.RunMS == 0 || logTimeMS-l.RunMS > runsApartMS {
		for _, c := range classesOf(topics) {
			if c.ExpireDays > 0 {
				held = append(held, Hold{Class: c.String(), Why: "the tags of merged objects have not been looked at for half a day"})
			}
		}
		return held
	}
	for i := range topics {
		t := &topics[i]
		have := l.Topics[hex.EncodeToString(t.ID[:])]
		if have == nil {
			continue // a reader of the ledger that does not keep it: the topic is younger than the last run
		}
		for _, b := range have.Bears {
			c := classOf(b)
			if b == have.Wants || c.ExpireDays == 0 || c.ExpireDays >= SafeDays(&t.Settings) {
				continue
			}
			if !slices.ContainsFunc(held, func(h Hold) bool { return h.Class == c.String() }) {
				held = append(held, Hold{Class: c.String(), Topic: t.Name, Why: "objects of the topic may carry it still, and must be kept for longer"})
			}
		}
	}
	slices.SortFunc(held, func(a, b Hold) int { return cmp.Compare(a.Class, b.Class) })
	return held
}

// settled notes that a run, begun at n and log time ms, has looked at everything.
func (l *Ledger) settled(n uint64, ms int64) {
	for _, t := range l.Topics {
		t.Bears = []Label{t.Wants}
	}
	l.RunN, l.RunMS = max(l.RunN, n), max(l.RunMS, ms)
	if len(l.Days) == 0 || ms-l.Days[len(l.Days)-1].MS >= topicconfig.MSPerDay {
		l.Days = append(l.Days, Mark{n, ms})
		l.Days = l.Days[max(0, len(l.Days)-daysMax):]
	}
}

// classesOf are the classes that topics want, each once, by name.
func classesOf(topics []Topic) []Class {
	seen := make(map[Class]bool)
	for i := range topics {
		if l := topics[i].Label(); l.Key == TagClass {
			seen[classOf(l)] = true
		}
	}
	return slices.SortedFunc(maps.Keys(seen), func(a, b Class) int { return cmp.Compare(a.String(), b.String()) })
}

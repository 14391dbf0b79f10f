package topicconfig

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Durability is firn.durability.
type Durability int8

// The durabilities.
const (
	Bucket Durability = iota // acknowledged: in the bucket
	WAL                      // acknowledged: synced in write-ahead logs
)

// Lifecycle is firn.bucket.lifecycle: whether the bucket's own rules have a part in a topic's retention.
type Lifecycle int8

// The parts that rules may have.
const (
	LifecycleOff           Lifecycle = iota // firn alone deletes
	LifecycleMirror                         // firn writes rules that follow the topic
	LifecycleAuthoritative                  // the topic follows the bucket's rule
)

func (l Lifecycle) String() string { return [...]string{"off", "mirror", "authoritative"}[l] }

// LockMode is firn.object.lock.mode.
type LockMode int8

// The modes of the bucket's object lock.
const (
	LockNone       LockMode = iota
	LockGovernance          // lifted by credentials that may
	LockCompliance          // lifted by nobody
)

func (m LockMode) String() string { return [...]string{"none", "governance", "compliance"}[m] }

// MSPerDay is a day in the unit of retention.ms.
const MSPerDay = 24 * msPerHour

// Settings are the values in force for a topic, parsed.
type Settings struct {
	Compact, Delete bool // cleanup.policy

	MaxMessageBytes    int32 // of a batch
	MaxRecordBytes     int32 // of a record in a compressed batch
	LogAppendTime      bool  // message.timestamp.type
	TimestampBeforeMax int64 // ms
	TimestampAfterMax  int64 // ms

	RetentionMS    int64 // -1: none
	RetentionBytes int64 // -1: none
	SegmentMS      int64

	DeleteRetentionMS      int64
	MinCompactionLagMS     int64
	MaxCompactionLagMS     int64
	MinCleanableDirtyRatio float64

	Durability   Durability
	WALReplicas  int32
	WALAbandonMS int64 // -1: never

	BucketLifecycle Lifecycle
	StorageClass    string // of merged objects; "" leaves it to the store
	TransitionDays  int32  // -1: never
	TransitionClass string
	LockMode        LockMode
	LockDays        int32 // meant where LockMode is not LockNone
}

// Locked reports whether the topic's objects are put under the bucket's lock, and so lie in objects of their own.
func (s *Settings) Locked() bool { return s.LockMode != LockNone && s.LockDays > 0 }

// EffectiveRetentionMS is the age, in ms, past which records may go: retention.ms, or the lock where that is longer. -1 where
// age alone takes nothing away: no delete in cleanup.policy, or no bound.
func (s *Settings) EffectiveRetentionMS() int64 {
	if !s.Delete || s.RetentionMS < 0 {
		return -1
	}
	if s.Locked() {
		return max(s.RetentionMS, int64(s.LockDays)*MSPerDay)
	}
	return s.RetentionMS
}

// EffectiveRetentionBytes is retention.bytes where it takes anything away, else -1. Under a lock size takes nothing away: what is
// over it cannot be deleted.
func (s *Settings) EffectiveRetentionBytes() int64 {
	if !s.Delete || s.Locked() {
		return -1
	}
	return s.RetentionBytes
}

// Parse returns the settings in force. It never fails: see Resolve.
func Parse(topic, cluster Get) Settings {
	p := parser{topic: topic, cluster: cluster}
	policies := SplitList(p.value("cleanup.policy"))
	s := Settings{
		Compact:                slices.Contains(policies, "compact"),
		Delete:                 slices.Contains(policies, "delete"),
		MaxMessageBytes:        int32(p.number("max.message.bytes")),
		MaxRecordBytes:         int32(p.number("max.decompressed.message.bytes")),
		LogAppendTime:          p.value("message.timestamp.type") == "LogAppendTime",
		TimestampBeforeMax:     p.number("message.timestamp.before.max.ms"),
		TimestampAfterMax:      p.number("message.timestamp.after.max.ms"),
		RetentionMS:            p.number("retention.ms"),
		RetentionBytes:         max(p.number("retention.bytes"), -1),
		SegmentMS:              p.number("segment.ms"),
		DeleteRetentionMS:      p.number("delete.retention.ms"),
		MinCompactionLagMS:     p.number("min.compaction.lag.ms"),
		MaxCompactionLagMS:     p.number("max.compaction.lag.ms"),
		MinCleanableDirtyRatio: p.fraction("min.cleanable.dirty.ratio"),
		WALReplicas:            int32(p.number("firn.wal.replicas")),
		WALAbandonMS:           p.number("firn.wal.abandon.ms"),
		StorageClass:           p.value("firn.storage.class"),
		TransitionDays:         int32(p.number("firn.storage.transition.days")),
		TransitionClass:        p.value("firn.storage.transition.class"),
		LockDays:               int32(p.number("firn.object.lock.days")),
	}
	if s.StorageClass == standardClass {
		s.StorageClass = ""
	}
	switch p.value("firn.bucket.lifecycle") {
	case "mirror":
		s.BucketLifecycle = LifecycleMirror
	case "authoritative":
		s.BucketLifecycle = LifecycleAuthoritative
	}
	switch p.value("firn.object.lock.mode") {
	case "governance":
		s.LockMode = LockGovernance
	case "compliance":
		s.LockMode = LockCompliance
	}
	if p.value("firn.durability") == "wal" {
		s.Durability = WAL
	}
	return s
}

// parser reads values that Check accepted, so that they parse.
type parser struct{ topic, cluster Get }

func (p parser) value(name string) string {
	s, ok := Lookup(name)
	if !ok {
		panic("topicconfig: no config " + name)
	}
	v, _ := s.Resolve(p.topic, p.cluster)
	return strings.TrimSpace(v)
}

func (p parser) number(name string) int64 {
	v, err := strconv.ParseInt(p.value(name), 10, 64)
	if err != nil {
		panic("topicconfig: " + name + " passed its check: " + err.Error())
	}
	return v
}

func (p parser) fraction(name string) float64 {
	v, err := strconv.ParseFloat(p.value(name), 64)
	if err != nil {
		panic("topicconfig: " + name + " passed its check: " + err.Error())
	}
	return v
}

// Check reports every way in which the settings contradict each other; errors wrap ErrInvalid. Values alone are for
// Validate.
func (s Settings) Check() error {
	var errs []error
	if s.MinCompactionLagMS > s.MaxCompactionLagMS {
		errs = append(errs, fmt.Errorf("%w: min.compaction.lag.ms %d exceeds max.compaction.lag.ms %d",
			ErrInvalid, s.MinCompactionLagMS, s.MaxCompactionLagMS))
	}
	if s.Compact && s.WALAbandonMS >= 0 {
		errs = append(errs, fmt.Errorf("%w: firn.wal.abandon.ms %d on a compacted topic would lose keys for good",
			ErrInvalid, s.WALAbandonMS))
	}
	return errors.Join(append(append(errs, s.checkLock()...), s.checkRules()...)...)
}

// checkLock holds the lock to what it forbids. A retention below it is no contradiction: the longer counts.
func (s Settings) checkLock() (errs []error) {
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...))
	}
	switch {
	case s.LockMode != LockNone && s.LockDays == 0:
		bad("firn.object.lock.mode %v locks for no time: set firn.object.lock.days", s.LockMode)
	case s.LockMode == LockNone && s.LockDays > 0:
		bad("firn.object.lock.days %d locks nothing without firn.object.lock.mode governance or compliance", s.LockDays)
	}
	if !s.Locked() {
		return errs
	}
	if s.Compact {
		bad("firn.object.lock.mode %v on a compacted topic: what compaction supersedes could not be deleted", s.LockMode)
	}
	if s.Delete && s.RetentionBytes >= 0 {
		bad("firn.object.lock.mode %v with retention.bytes %d: what is over the size could not be deleted; set retention.bytes=-1", s.LockMode, s.RetentionBytes)
	}
	return errs
}

// infrequentDaysMin is the least age at which AWS moves an object to a class for infrequent access.
const infrequentDaysMin = 30

// checkRules holds what is asked of the bucket's rules against what the topic promises and what stores take.
func (s Settings) checkRules() (errs []error) {
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...))
	}
	if s.BucketLifecycle == LifecycleAuthoritative && s.Compact {
		bad("firn.bucket.lifecycle authoritative on a compacted topic: the bucket's rule deletes by age, and the last record of a key has none")
	}
	if s.BucketLifecycle == LifecycleAuthoritative && !s.Delete && !s.Compact {
		bad("firn.bucket.lifecycle authoritative needs cleanup.policy=delete: the bucket's rule deletes by age")
	}
	if s.TransitionDays < 0 {
		return errs
	}
	if s.BucketLifecycle != LifecycleMirror {
		bad("firn.storage.transition.days %d needs firn.bucket.lifecycle mirror, it is %v: a rule of the bucket does the moving", s.TransitionDays, s.BucketLifecycle)
	}
	if infrequent(s.TransitionClass) && s.TransitionDays < infrequentDaysMin {
		bad("firn.storage.transition.days %d: to %s stores move nothing before it is %d days old", s.TransitionDays, s.TransitionClass, infrequentDaysMin)
	}
	if kept := s.EffectiveRetentionMS(); kept >= 0 && int64(s.TransitionDays)*MSPerDay >= kept {
		bad("firn.storage.transition.days %d is not below the retention of %d ms: there is nothing left to move", s.TransitionDays, kept)
	}
	if s.TransitionClass == cmp.Or(s.StorageClass, standardClass) {
		bad("firn.storage.transition.class %s is the class that objects are put in already", s.TransitionClass)
	}
	return errs
}

// Loosens says how the change from s to after would lift a compliance lock, "" where it does not: nobody may take that back,
// and what is written afterwards would not be protected as what is there.
func (s Settings) Loosens(after Settings) string {
	switch {
	case s.LockMode != LockCompliance || !s.Locked():
		return ""
	case after.LockMode != LockCompliance:
		return fmt.Sprintf("firn.object.lock.mode compliance stays: it cannot become %v", after.LockMode)
	case after.LockDays < s.LockDays:
		return fmt.Sprintf("firn.object.lock.days of a compliance lock only grows: %d is less than %d", after.LockDays, s.LockDays)
	}
	return ""
}

package lifecycle

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/firnlog/firn/metastore/topicconfig"
	"github.com/firnlog/firn/objstore"
)

// Tags of merged objects.
const (
	TagClass = "firn-class" // mirror: the retention class
	TagTopic = "firn-topic" // authoritative: the topic's name, for the operator's rules
)

// Class is what the bucket may do with a merged object by itself.
type Class struct {
	ExpireDays int    // 0: nothing deletes it
	MoveDays   int    // meant where MoveTo is set
	MoveTo     string // storage class; "" for none
}

const kept = "kept"

// String is the class's name: the value of TagClass and part of its rule's id.
func (c Class) String() string {
	s := kept
	if c.ExpireDays > 0 {
		s = "d" + strconv.Itoa(c.ExpireDays)
	}
	if c.MoveTo != "" {
		s += fmt.Sprintf("-t%d-%s", c.MoveDays, c.MoveTo)
	}
	return s
}

// ParseClass is the inverse of String; ok is false for what String does not make.
func ParseClass(s string) (c Class, ok bool) {
	first, move, moves := strings.Cut(s, "-t")
	if first != kept {
		n, err := strconv.Atoi(strings.TrimPrefix(first, "d"))
		if err != nil {
			return Class{}, false
		}
		c.ExpireDays = n
	}
	if moves {
		count, to, _ := strings.Cut(move, "-")
		n, err := strconv.Atoi(count)
		if err != nil {
			return Class{}, false
		}
		c.MoveDays, c.MoveTo = n, to
	}
	return c, c.String() == s
}

// ever is a number of days that never comes.
const ever = math.MaxInt32

// spareMS is how far ahead of its upload a record may be stamped for the day on top of the retention to cover it.
const spareMS = topicconfig.MSPerDay / 2

// SafeDays is the least age, in days, at which the bucket may delete a merged object of the topic, counted from its upload; ever
// where it never may.
func SafeDays(s *topicconfig.Settings) int {
	ms := s.EffectiveRetentionMS()
	if ms < 0 || s.Compact {
		return ever
	}
	if !s.LogAppendTime && s.TimestampAfterMax > spareMS { // retention counts from the producer's time
		if s.TimestampAfterMax-spareMS > math.MaxInt64-ms {
			return ever
		}
		ms += s.TimestampAfterMax - spareMS
	}
	n := ms/topicconfig.MSPerDay + 1
	if ms%topicconfig.MSPerDay > 0 {
		n++
	}
	if n > maxDays {
		return ever
	}
	return int(n)
}

// maxDays is the longest expiry that a rule is written for, a century: beyond, stores' own arithmetic is not to be trusted.
const maxDays = 36500

// ClassOf is the class of a topic's merged objects, and in words why no rule deletes them, "" where one does.
func ClassOf(s *topicconfig.Settings) (c Class, why string) {
	if s.TransitionDays >= 0 {
		c.MoveDays, c.MoveTo = int(s.TransitionDays), s.TransitionClass
	}
	switch safe := SafeDays(s); {
	case s.Compact:
		why = "compacted: the last record of a key has no age"
	case !s.Delete:
		why = "cleanup.policy deletes nothing"
	case s.RetentionMS < 0 && s.RetentionBytes >= 0:
		why = "bounded by size alone"
	case s.RetentionMS < 0:
		why = "kept for ever"
	case safe == ever:
		why = "kept for longer than rules count"
	case s.EffectiveRetentionMS() < topicconfig.MSPerDay:
		why = "kept for less than a day, which is the least that rules count"
	default:
		c.ExpireDays = safe
	}
	if c.MoveTo != "" && c.ExpireDays > 0 && c.MoveDays >= c.ExpireDays { // stores refuse such a rule; a cluster-wide change may ask for it
		c.MoveDays, c.MoveTo = 0, ""
	}
	return c, why
}

// Label is the one tag that a merged object of a topic carries; the zero value is none.
type Label = Tag

// LabelOf is the label that the topic's objects should carry.
func LabelOf(name string, s *topicconfig.Settings) Label {
	switch s.BucketLifecycle {
	case topicconfig.LifecycleMirror:
		c, _ := ClassOf(s)
		return Label{TagClass, c.String()}
	case topicconfig.LifecycleAuthoritative:
		return Label{TagTopic, name}
	case topicconfig.LifecycleOff:
	}
	return Label{}
}

// classOf is the class of a label, the zero value for one that no rule of firn's goes by.
func classOf(l Label) Class {
	if l.Key != TagClass {
		return Class{}
	}
	c, _ := ParseClass(l.Value)
	return c
}

// PutOptions says with which tags, class and lock a merged object of a topic is put.
func PutOptions(name string, s *topicconfig.Settings, now time.Time) objstore.PutOptions {
	opts := objstore.PutOptions{StorageClass: s.StorageClass}
	if l := LabelOf(name, s); l != (Label{}) {
		opts.Tags = []objstore.Tag{objstore.Tag(l)}
	}
	if s.Locked() {
		opts.Lock = objstore.Lock{Mode: objstore.LockGovernance, Until: now.AddDate(0, 0, int(s.LockDays))}
		if s.LockMode == topicconfig.LockCompliance {
			opts.Lock.Mode = objstore.LockCompliance
		}
	}
	return opts
}

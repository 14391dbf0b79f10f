package topicconfig

import (
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

	DeleteRetentionMS      int64
	MinCompactionLagMS     int64
	MaxCompactionLagMS     int64
	MinCleanableDirtyRatio float64

	Durability   Durability
	WALReplicas  int32
	WALAbandonMS int64 // -1: never
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
		DeleteRetentionMS:      p.number("delete.retention.ms"),
		MinCompactionLagMS:     p.number("min.compaction.lag.ms"),
		MaxCompactionLagMS:     p.number("max.compaction.lag.ms"),
		MinCleanableDirtyRatio: p.fraction("min.cleanable.dirty.ratio"),
		WALReplicas:            int32(p.number("firn.wal.replicas")),
		WALAbandonMS:           p.number("firn.wal.abandon.ms"),
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
	return errors.Join(errs...)
}

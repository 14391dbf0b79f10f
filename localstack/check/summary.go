package check

import (
	"fmt"
	"strings"
)

// Kind is one way in which a history can be wrong.
type Kind uint8

// The kinds; the package comment says what each means.
const (
	Lost Kind = iota
	Duplicate
	Reordered
	Invented
	Changed
	WrongAck
	FailedRead
	Gap
	OffsetRegression
	WatermarkRegression
	Refused
	CompactedAway
	ExpiredEarly
	Unseen
	kinds
)

var kindNames = [kinds]string{
	Lost:                "acked_lost",
	Duplicate:           "duplicates",
	Reordered:           "reorderings",
	Invented:            "invented",
	Changed:             "inconsistent_offsets",
	WrongAck:            "wrong_acks",
	FailedRead:          "failed_reads",
	Gap:                 "gaps",
	OffsetRegression:    "offset_regressions",
	WatermarkRegression: "watermark_regressions",
	Refused:             "refused_fetches",
	CompactedAway:       "compacted_away",
	ExpiredEarly:        "expired_early",
	Unseen:              "unseen",
}

func (k Kind) String() string {
	if k < kinds {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// MarshalText makes a Kind its name in JSON.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// findingsPerKind bounds the examples kept of each kind; the counts go on.
const findingsPerKind = 5

// Finding is one example of a violation.
type Finding struct {
	Kind      Kind   `json:"kind"`
	Partition int    `json:"partition"` // flat index, as in Config.Partitions
	Offset    int64  `json:"offset"`
	Detail    string `json:"detail"`
}

func (f Finding) String() string {
	return fmt.Sprintf("%s: partition %d offset %d: %s", f.Kind, f.Partition, f.Offset, f.Detail)
}

// Ops counts what became of the records sent.
type Ops struct {
	Sent    int `json:"sent"`
	Acked   int `json:"acked"`
	Failed  int `json:"failed"`
	Unknown int `json:"unknown"`
	Retried int `json:"retried"` // sent more than once by the tool itself
}

// Counts holds the number of violations, by kind.
type Counts struct {
	Lost                 int `json:"acked_lost"`
	Duplicates           int `json:"duplicates"`
	Reorderings          int `json:"reorderings"`
	Invented             int `json:"invented"`
	InconsistentOffsets  int `json:"inconsistent_offsets"`
	WrongAcks            int `json:"wrong_acks"`
	FailedReads          int `json:"failed_reads"`
	Gaps                 int `json:"gaps"`
	OffsetRegressions    int `json:"offset_regressions"`
	WatermarkRegressions int `json:"watermark_regressions"`
	RefusedFetches       int `json:"refused_fetches"`
	CompactedAway        int `json:"compacted_away"`
	ExpiredEarly         int `json:"expired_early"`
	Unseen               int `json:"unseen"`
}

// Summary is the verdict over a history.
type Summary struct {
	Ops Ops
	// Read counts records shown to readers, every showing; Offsets counts distinct (partition, offset).
	Read, Offsets int
	// Reread counts showings of an offset by a broker other than the one that showed it first.
	Reread int
	Counts Counts
	// Findings holds the first few examples of each kind.
	Findings []Finding
}

func countsOf(n *[kinds]int) Counts {
	return Counts{
		Lost: n[Lost], Duplicates: n[Duplicate], Reorderings: n[Reordered], Invented: n[Invented],
		InconsistentOffsets: n[Changed], WrongAcks: n[WrongAck], FailedReads: n[FailedRead], Gaps: n[Gap],
		OffsetRegressions: n[OffsetRegression], WatermarkRegressions: n[WatermarkRegression],
		RefusedFetches: n[Refused], CompactedAway: n[CompactedAway], ExpiredEarly: n[ExpiredEarly], Unseen: n[Unseen],
	}
}

// Of returns the count of one kind.
func (c Counts) Of(k Kind) int {
	return [kinds]int{
		c.Lost, c.Duplicates, c.Reorderings, c.Invented, c.InconsistentOffsets, c.WrongAcks, c.FailedReads, c.Gaps,
		c.OffsetRegressions, c.WatermarkRegressions, c.RefusedFetches, c.CompactedAway, c.ExpiredEarly, c.Unseen,
	}[k]
}

// Verdict says in a few words what is wrong, and "" where nothing is. A history in which nothing was sent,
// acknowledged or read proves nothing and is wrong too.
func (s Summary) Verdict() string {
	var wrong []string
	for k := range kinds {
		if n := s.Counts.Of(k); n > 0 {
			wrong = append(wrong, fmt.Sprintf("%s=%d", k, n))
		}
	}
	switch {
	case len(wrong) > 0:
		return strings.Join(wrong, " ")
	case s.Ops.Sent == 0:
		return "nothing was sent"
	case s.Ops.Acked == 0:
		return "nothing was acknowledged"
	case s.Offsets == 0:
		return "nothing was read"
	}
	return ""
}

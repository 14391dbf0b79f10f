package sim_test

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/firnlog/firn/localstack/check"
)

// tally is what happened, of one life or of many.
type tally struct {
	Enabled   map[fault]int  `json:"-"`      // lives
	Faults    map[fault]int  `json:"faults"` // how often each struck
	Sometimes map[string]int `json:"sometimes"`

	Ops struct {
		Sent    int `json:"sent"`
		Acked   int `json:"acked"`
		Failed  int `json:"failed"`
		Unknown int `json:"unknown"`
	} `json:"ops"`
	Read       int `json:"records_read"`
	Reread     int `json:"reread_from_another_agent"`
	Topics     int `json:"topics"`
	Partitions int `json:"partitions"`
	Entries    int `json:"entries"`
	Dedupe     int `json:"dedupe_hits"`
	Fenced     int `json:"fenced_writes"`
	Stale      int `json:"stale_objects"`
	Sessions   int `json:"sessions_lost"`
	Objects    int `json:"objects"`
	Vacuous    int `json:"vacuous_lives"` // the bucket was out for all that clients tried: nothing to judge

	AmbiguousCommits struct {
		Total   int `json:"total"`
		Applied int `json:"resolved_applied"`
	} `json:"ambiguous_commits"`
}

func newTally() tally {
	return tally{Enabled: map[fault]int{}, Faults: map[fault]int{}, Sometimes: map[string]int{}}
}

func (t *tally) enable(f fault)         { t.Enabled[f]++ }
func (t *tally) struck(f fault, n int)  { t.Faults[f] += n }
func (t *tally) hit(what string, n int) { t.Sometimes[what] += n }

func (t *tally) add(o *tally) {
	for f, n := range o.Enabled {
		t.Enabled[f] += n
	}
	for f, n := range o.Faults {
		t.Faults[f] += n
	}
	for what, n := range o.Sometimes {
		t.Sometimes[what] += n
	}
	for _, pair := range [][2]*int{
		{&t.Ops.Sent, &o.Ops.Sent}, {&t.Ops.Acked, &o.Ops.Acked}, {&t.Ops.Failed, &o.Ops.Failed}, {&t.Ops.Unknown, &o.Ops.Unknown},
		{&t.Read, &o.Read}, {&t.Reread, &o.Reread}, {&t.Topics, &o.Topics}, {&t.Partitions, &o.Partitions}, {&t.Entries, &o.Entries},
		{&t.Dedupe, &o.Dedupe}, {&t.Fenced, &o.Fenced}, {&t.Stale, &o.Stale}, {&t.Sessions, &o.Sessions}, {&t.Objects, &o.Objects}, {&t.Vacuous, &o.Vacuous},
		{&t.AmbiguousCommits.Total, &o.AmbiguousCommits.Total}, {&t.AmbiguousCommits.Applied, &o.AmbiguousCommits.Applied},
	} {
		*pair[0] += *pair[1]
	}
}

// ops takes the figures of one topic's history.
func (t *tally) ops(s check.Summary) {
	t.Ops.Sent += s.Ops.Sent
	t.Ops.Acked += s.Ops.Acked
	t.Ops.Failed += s.Ops.Failed
	t.Ops.Unknown += s.Ops.Unknown
	t.Read += s.Read
	t.Reread += s.Reread
	t.Topics++
}

// neverStruck names the faults that were enabled and did not happen, and the states that every long run must have met.
func (t *tally) neverStruck() []string {
	var missing []string
	for _, f := range slices.Sorted(maps.Keys(t.Enabled)) {
		if t.Faults[f] == 0 {
			missing = append(missing, string(f))
		}
	}
	return missing
}

// sometimesWanted are states that a run of many lives reaches, or it proves less than it seems to.
var sometimesWanted = []string{
	"restarts", "batches_resent", "incremental_fetches", "fetch_sessions_lost", "rejoined_sessions",
	"late_repeats", "replayed_from_archive_alone", "offsets_committed", "generations_taken_over", "partitions_revoked", "cut_coordinators_followed",
	"parts_merged", "tiers_merged", "rewrite_conflicts", "reads_of_deleted_objects", "retired_collected", "orphans_collected",
	"pieces_cleaned", "tombstones_gone", "expired_by_time", "expired_by_size", "expired_readers",
}

func (t *tally) neverMet() []string {
	missing := slices.DeleteFunc(slices.Clone(sometimesWanted), func(what string) bool { return t.Sometimes[what] > 0 })
	for what, n := range map[string]int{
		"dedupe_hits": t.Dedupe, "stale_objects": t.Stale, "sessions_lost": t.Sessions, "unknown_outcomes": t.Ops.Unknown,
		"reread_from_another_agent": t.Reread,
	} {
		if n == 0 {
			missing = append(missing, what)
		}
	}
	slices.Sort(missing)
	return missing
}

// summary is the line of JSON that a run ends with.
func summary(test string, first uint64, lives int, seconds float64, t *tally, findings map[string]int) string {
	b, err := json.Marshal(struct {
		Test     string  `json:"test"`
		Seed     uint64  `json:"seed"`
		Lives    int     `json:"lives"`
		Duration float64 `json:"duration_s"`
		*tally
		Findings map[string]int `json:"findings"`
	}{test, first, lives, seconds, t, findings})
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Package step is what the group coordinator's shell (agent/group) and its pure machines (agent/group/classic and its
// siblings) say to each other: codes, effects, and what a machine is.
//
// A machine is one group in memory. It takes events with the time, does no I/O, and returns effects: what is to be written,
// and which requests are answered with what. The shell proposes writes in order and lets an answer go once every write that
// came before it, or with it, is applied: a machine may therefore run ahead of the log, and nobody is told what the log
// could still refuse. Where a write is refused the machine is thrown away and its requests are answered with a code that
// clients retry.
package step

import "time"

// Code is a Kafka error code, with Kafka's numbers.
type Code int16

// The codes that groups answer with.
const (
	None                    Code = 0
	UnknownServerError      Code = -1
	UnknownTopicOrPartition Code = 3
	OffsetMetadataTooLarge  Code = 12
	LoadInProgress          Code = 14
	NotAvailable            Code = 15
	NotCoordinator          Code = 16
	IllegalGeneration       Code = 22
	InvalidCommitOffsetSize Code = 28
	InconsistentProtocol    Code = 23
	InvalidGroupID          Code = 24
	UnknownMemberID         Code = 25
	InvalidSessionTimeout   Code = 26
	RebalanceInProgress     Code = 27
	UnsupportedVersion      Code = 35
	InvalidRequest          Code = 42
	NonEmptyGroup           Code = 68
	GroupIDNotFound         Code = 69
	MemberIDRequired        Code = 79
	GroupMaxSizeReached     Code = 81
	FencedInstanceID        Code = 82
	GroupSubscribedToTopic  Code = 86
	UnknownTopicID          Code = 100
	FencedMemberEpoch       Code = 110
	UnreleasedInstanceID    Code = 111
	UnsupportedAssignor     Code = 112
	StaleMemberEpoch        Code = 113
	InvalidRegex            Code = 128
)

// Kinds of group, as the state keeps them.
const (
	KindSimple   uint32 = 0
	KindClassic  uint32 = 1
	KindConsumer uint32 = 2
)

// Waiter names a request that is owed an answer. Zero is nobody.
type Waiter uint64

// Answer ends a request. Body is what the machine answers with beside the code; its type is the machine's.
type Answer struct {
	To   Waiter
	Code Code
	Body any
}

// Member is a member's record.
type Member struct {
	ID     string
	Record []byte
}

// Write is a change of what the state keeps of a group. The machine keeps its hands off the slices afterwards.
type Write struct {
	Kind       uint32
	Generation int32
	Record     []byte
	Puts       []Member
	Removes    []string
}

// Effects is what a step leads to. The answers leave after the write.
type Effects struct {
	Write   *Write
	Answers []Answer
	// Notes are for the log: one line per change that an operator may ask about.
	Notes []string
}

// Answer adds an answer; none where to is nobody.
func (e *Effects) Answer(to Waiter, code Code, body any) {
	if to != 0 {
		e.Answers = append(e.Answers, Answer{to, code, body})
	}
}

// Note adds a line for the log.
func (e *Effects) Note(line string) { e.Notes = append(e.Notes, line) }

// Machine is one group's pure state machine. The shell calls it under the group's lock.
type Machine interface {
	// Kind is one of the kinds above.
	Kind() uint32
	// Tick does what is due by now.
	Tick(now time.Time) Effects
	// Deadline is when Tick has something to do: never later than the truth, zero where nothing ever is.
	Deadline() time.Time
	// Renew starts every member's session anew: the coordinator itself was away, so that silence says nothing.
	Renew(now time.Time)
	// Abandon forgets a request that nobody waits for any more.
	Abandon(w Waiter, now time.Time) Effects
	// Idle reports that the state holds all there is to know: the machine may be dropped and made again.
	Idle() bool
}

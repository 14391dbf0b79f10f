package check

import (
	"slices"
	"sync"
)

// Fate is what a tap makes of an acknowledgement.
type Fate uint8

// The fates.
const (
	FateAck  Fate = iota // pass it on
	FateFail             // report it as refused for good
)

// Tap sits between the client and the history and may falsify what passes. The zero Tap falsifies nothing. Its
// functions may be called concurrently and must not alter the bytes of the records they are given.
type Tap struct {
	ack  func(partition int, offset int64) (int64, Fate)
	read func(partition int, records []Record) []Record
	end  func(partition int, end int64) int64
}

// Ack passes an acknowledgement.
func (t Tap) Ack(partition int, offset int64) (int64, Fate) {
	if t.ack == nil {
		return offset, FateAck
	}
	return t.ack(partition, offset)
}

// Read passes the records of one fetch.
func (t Tap) Read(partition int, records []Record) []Record {
	if t.read == nil || len(records) == 0 {
		return records
	}
	return t.read(partition, records)
}

// End passes a listed end.
func (t Tap) End(partition int, end int64) int64 {
	if t.end == nil {
		return end
	}
	return t.end(partition, end)
}

// Plant is a bug that can be switched on to show that the checker sees it.
type Plant struct {
	Name string
	// Expect is a kind that the checker must count.
	Expect Kind
	// New makes the tap of one run.
	New func(run uint64) Tap
}

// The plants act on the victim offset of partition 0; some use its neighbours, so a run needs a dozen records there.
const victim = 3

// Plants returns every planted bug, in the order of the package comment.
func Plants() []Plant {
	return []Plant{
		{"drop-record", Lost, func(uint64) Tap {
			return Tap{read: onVictim(func([]Record, int) []Record { return nil })}
		}},
		{"hide-tail", Lost, func(uint64) Tap {
			return Tap{
				read: func(partition int, records []Record) []Record {
					if i := indexOf(records, victim); partition == 0 && records[0].Offset > victim {
						return nil
					} else if partition == 0 && i >= 0 {
						return records[:i]
					}
					return records
				},
				end: func(partition int, end int64) int64 {
					if partition == 0 {
						return min(end, victim)
					}
					return end
				},
			}
		}},
		{"double-record", Duplicate, func(uint64) Tap { return Tap{read: doubleRecord()} }},
		{"swap-records", WrongAck, func(uint64) Tap { return Tap{read: swapRecords} }},
		{"invent-record", Invented, func(run uint64) Tap {
			return Tap{read: onVictim(func(records []Record, i int) []Record {
				r := records[i]
				r.Value = AppendValue(nil, Value{Run: run, Number: noNumber - 1}, len(r.Value))
				return []Record{r}
			})}
		}},
		{"flip-byte", Invented, func(uint64) Tap {
			return Tap{read: onVictim(func(records []Record, i int) []Record {
				r := records[i]
				r.Value = slices.Clone(r.Value)
				r.Value[len(r.Value)/2] ^= 1
				return []Record{r}
			})}
		}},
		{"disagree", Changed, func(uint64) Tap {
			var shown showings
			return Tap{read: onVictim(func(records []Record, i int) []Record {
				r := records[i]
				if shown.add() > 1 {
					r.Timestamp++
				}
				return []Record{r}
			})}
		}},
		{"wrong-ack-offset", WrongAck, func(uint64) Tap { return Tap{ack: ackAs(victim, victim+1)} }},
		{"zero-ack-offset", WrongAck, func(uint64) Tap { return Tap{ack: ackAs(victim, 0)} }},
		{"reuse-offset", WrongAck, func(uint64) Tap { return Tap{ack: ackAs(victim+1, victim)} }},
		{"failed-read", FailedRead, func(uint64) Tap {
			return Tap{ack: func(partition int, offset int64) (int64, Fate) {
				if partition == 0 && offset == victim {
					return offset, FateFail
				}
				return offset, FateAck
			}}
		}},
		{"skip-offset", Gap, func(uint64) Tap {
			var shown showings
			return Tap{read: onVictim(func(records []Record, i int) []Record {
				if shown.add() > 1 {
					return nil
				}
				return records[i : i+1]
			})}
		}},
		{"replay-offset", OffsetRegression, func(uint64) Tap {
			return Tap{read: onVictim(func(records []Record, i int) []Record {
				return []Record{records[i], records[i]}
			})}
		}},
		{"watermark-back", WatermarkRegression, func(uint64) Tap {
			var shown showings
			return Tap{end: func(partition int, end int64) int64 {
				if partition == 0 && end > victim && shown.add() == 2 {
					return victim
				}
				return end
			}}
		}},
		{"other-partition", Invented, func(uint64) Tap { return Tap{read: otherPartition()} }},
	}
}

// showings counts calls.
type showings struct {
	mu sync.Mutex // guards n
	n  int
}

func (s *showings) add() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	return s.n
}

// kept remembers the victim between fetches, since its neighbour may come with a later one.
type kept struct {
	mu     sync.Mutex // guards record and known
	record Record
	known  bool
}

func (k *kept) put(r Record) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.record, k.known = r, true
}

func (k *kept) get() (Record, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.record, k.known
}

func indexOf(records []Record, offset int64) int {
	return slices.IndexFunc(records, func(r Record) bool { return r.Offset == offset })
}

// onVictim replaces the victim with what swap returns for its place in records.
func onVictim(swap func(records []Record, i int) []Record) func(int, []Record) []Record {
	return func(partition int, records []Record) []Record {
		i := indexOf(records, victim)
		if partition != 0 || i < 0 {
			return records
		}
		return slices.Concat(records[:i], swap(records, i), records[i+1:])
	}
}

func ackAs(from, to int64) func(int, int64) (int64, Fate) {
	return func(partition int, offset int64) (int64, Fate) {
		if partition == 0 && offset == from {
			offset = to
		}
		return offset, FateAck
	}
}

// withContent returns r with the key and value of other.
func withContent(r, other Record) Record {
	r.Key, r.Value, r.Headers = other.Key, other.Value, other.Headers
	return r
}

func doubleRecord() func(int, []Record) []Record {
	var k kept
	return func(partition int, records []Record) []Record {
		if partition != 0 {
			return records
		}
		if i := indexOf(records, victim); i >= 0 {
			k.put(records[i])
		}
		i := indexOf(records, victim+1)
		first, ok := k.get()
		if i < 0 || !ok {
			return records
		}
		records = slices.Clone(records)
		records[i] = withContent(records[i], first)
		return records
	}
}

// swapRecords holds the victim back until its neighbour comes in the same fetch.
func swapRecords(partition int, records []Record) []Record {
	i := indexOf(records, victim)
	switch {
	case partition != 0 || i < 0:
		return records
	case i+1 == len(records):
		return records[:i]
	}
	records = slices.Clone(records)
	records[i], records[i+1] = withContent(records[i], records[i+1]), withContent(records[i+1], records[i])
	return records
}

// otherPartition shows the victim of partition 0 in the last place of a later fetch of partition 1.
func otherPartition() func(int, []Record) []Record {
	var k kept
	return func(partition int, records []Record) []Record {
		if i := indexOf(records, victim); partition == 0 && i >= 0 {
			k.put(records[i])
		}
		foreign, ok := k.get()
		if partition != 1 || !ok {
			return records
		}
		records = slices.Clone(records)
		last := len(records) - 1
		records[last] = withContent(records[last], foreign)
		return records
	}
}

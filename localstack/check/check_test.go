package check_test

import (
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/firnlog/firn/localstack/check"
)

const (
	simRun        = 0x0123456789abcdef
	simPartitions = 2
	simBrokers    = 3
	simRecords    = 60
)

// sim is a broker cluster in memory, correct unless a test tampers with it.
type sim struct {
	t       *testing.T
	history *check.History
	tap     check.Tap
	rng     *rand.Rand
	log     [simPartitions][]check.Record
}

func newSim(t *testing.T, tap check.Tap) *sim {
	t.Helper()
	h, err := check.New(check.Config{Run: simRun, Partitions: simPartitions, RecordsMax: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return &sim{t: t, history: h, tap: tap, rng: rand.New(rand.NewPCG(1, 2))}
}

// send registers a record and returns it without storing it.
func (s *sim) send(producer uint32, partition int) (uint32, check.Record) {
	s.t.Helper()
	number, ok := s.history.Assign()
	if !ok {
		s.t.Fatal("no number left")
	}
	r := check.Record{
		Key:       []byte{byte(partition)},
		Value:     check.AppendValue(nil, check.Value{Run: simRun, Number: number, Producer: producer}, 40),
		Timestamp: 1000 + int64(number),
		Headers:   []check.Header{{Key: "h", Value: []byte("v")}},
	}
	s.history.Send(number, producer, partition, check.BodyDigest(r.Key, r.Value))
	return number, r
}

func (s *sim) store(partition int, r check.Record) int64 {
	r.Offset = int64(len(s.log[partition]))
	s.log[partition] = append(s.log[partition], r)
	return r.Offset
}

func (s *sim) ack(number uint32, partition int, offset int64) {
	offset, fate := s.tap.Ack(partition, offset)
	if fate == check.FateFail {
		s.history.Fail(number)
		return
	}
	s.history.Ack(number, offset)
}

// produce sends, stores and acknowledges the given number of records, and lists ends now and then.
func (s *sim) produce(count int) {
	for i := range count {
		partition := i % simPartitions
		number, r := s.send(uint32(s.rng.IntN(2)), partition)
		s.ack(number, partition, s.store(partition, r))
		if i%10 == 9 {
			s.list()
		}
	}
}

func (s *sim) list() []int64 {
	ends := make([]int64, simPartitions)
	for p := range ends {
		floor := s.history.ListFloor(p)
		ends[p] = s.tap.End(p, int64(len(s.log[p])))
		s.history.Listed(int32(p), p, floor, ends[p])
	}
	return ends
}

// drain reads every partition to the end in small fetches from random brokers.
func (s *sim) drain(ends []int64) {
	reader := s.history.Reader()
	for p, end := range ends {
		for stuck := 0; reader.Next(p) < end && stuck < 3; stuck++ {
			for before := int64(-1); reader.Next(p) < end && reader.Next(p) > before; {
				before = reader.Next(p)
				broker := int32(s.rng.IntN(simBrokers))
				floor := s.history.FetchFloor(broker, p)
				upTo := min(before+1+s.rng.Int64N(8), int64(len(s.log[p])))
				records := s.tap.Read(p, slices.Clone(s.log[p][before:upTo]))
				s.history.FetchWatermark(broker, p, floor, int64(len(s.log[p])))
				reader.Read(broker, p, records)
			}
		}
	}
}

func (s *sim) finish() check.Summary {
	ends := s.list()
	s.drain(ends)
	s.drain(ends)
	return s.history.Finish(ends)
}

func TestCorrectHistoryPasses(t *testing.T) {
	s := newSim(t, check.Tap{})
	s.produce(simRecords)
	got := s.finish()
	if v := got.Verdict(); v != "" {
		t.Fatalf("verdict %q on a correct history: %v", v, got.Findings)
	}
	if got.Ops.Sent != simRecords || got.Ops.Acked != simRecords || got.Offsets != simRecords || got.Read != 2*simRecords {
		t.Errorf("counts %+v", got)
	}
	if got.Reread == 0 {
		t.Error("no offset was shown by two brokers, so agreement was never tested")
	}
}

func TestEveryPlantIsFound(t *testing.T) {
	for _, plant := range check.Plants() {
		t.Run(plant.Name, func(t *testing.T) {
			s := newSim(t, plant.New(simRun))
			s.produce(simRecords)
			got := s.finish()
			if got.Counts.Of(plant.Expect) == 0 {
				t.Errorf("no %s among %+v", plant.Expect, got.Counts)
			}
			if got.Verdict() == "" {
				t.Error("the verdict is clean")
			}
		})
	}
}

// The package comment lists the plants; a reader must be able to rely on it.
func TestPackageCommentListsThePlants(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^//\t([a-z]+-[a-z-]+|disagree)  `).FindAllStringSubmatch(string(doc), -1) {
		documented = append(documented, m[1])
	}
	var names []string
	for _, p := range check.Plants() {
		names = append(names, p.Name)
	}
	if !slices.Equal(documented, names) {
		t.Errorf("documented %v\nplanted    %v", documented, names)
	}
	for k := check.Lost; k <= check.Unseen; k++ {
		if !strings.Contains(string(doc), "//\t"+k.String()+" ") {
			t.Errorf("the package comment does not explain %s", k)
		}
	}
}

// Bugs that need a real log around them, beyond what a tap can fake. Each tampers after 20 records and before 20 more.
func TestBrokenClustersAreFound(t *testing.T) {
	tests := []struct {
		name   string
		expect check.Kind
		tamper func(s *sim)
	}{
		{"acknowledged without storing", check.Lost, func(s *sim) {
			n, _ := s.send(0, 0)
			s.ack(n, 0, 1<<40)
		}},
		{"acknowledged, overwritten by the next", check.Lost, func(s *sim) {
			n, r := s.send(0, 0)
			s.ack(n, 0, s.store(0, r))
			s.log[0] = s.log[0][:len(s.log[0])-1]
		}},
		{"stored twice", check.Duplicate, func(s *sim) {
			n, r := s.send(0, 0)
			s.store(0, r)
			s.ack(n, 0, s.store(0, r))
		}},
		{"unknown outcome stored twice", check.Duplicate, func(s *sim) {
			n, r := s.send(0, 0)
			s.store(0, r)
			s.store(0, r)
			s.history.Unknown(n)
		}},
		{"retried once, stored three times", check.Duplicate, func(s *sim) {
			n, r := s.send(0, 0)
			s.history.Retry(n)
			s.store(0, r)
			s.store(0, r)
			s.ack(n, 0, s.store(0, r))
		}},
		{"order of one producer turned round", check.Reordered, func(s *sim) {
			a, ra := s.send(0, 0)
			b, rb := s.send(0, 0)
			s.ack(b, 0, s.store(0, rb))
			s.ack(a, 0, s.store(0, ra))
		}},
		{"record of another run", check.Invented, func(s *sim) {
			_, r := s.send(0, 0)
			r.Value = check.AppendValue(nil, check.Value{Run: simRun + 1, Number: 3}, 40)
			s.store(0, r)
		}},
		{"value rewritten with a good checksum", check.Invented, func(s *sim) {
			n, r := s.send(0, 0)
			r.Value = check.AppendValue(nil, check.Value{Run: simRun, Number: n, Counter: 9}, 40)
			s.ack(n, 0, s.store(0, r))
		}},
		{"key altered", check.Invented, func(s *sim) {
			n, r := s.send(0, 0)
			r.Key = []byte("x")
			s.ack(n, 0, s.store(0, r))
		}},
		{"assigned but never sent", check.Invented, func(s *sim) {
			n, _ := s.history.Assign()
			s.store(0, check.Record{Value: check.AppendValue(nil, check.Value{Run: simRun, Number: n}, 40)})
		}},
		{"header altered between reads", check.Changed, func(s *sim) {
			s.drain(s.list())
			s.log[0][2].Headers = nil
		}},
		{"offsets given out anew after a restart", check.Changed, func(s *sim) {
			n, r := s.send(0, 0)
			s.ack(n, 0, s.store(0, r))
			s.drain(s.list())
			s.log[0] = s.log[0][:len(s.log[0])-1]
			n, r = s.send(1, 0)
			s.ack(n, 0, s.store(0, r))
		}},
		{"refused for good, stored", check.FailedRead, func(s *sim) {
			n, r := s.send(0, 0)
			s.store(0, r)
			s.history.Fail(n)
		}},
		{"listing behind an acknowledgement", check.WatermarkRegression, func(s *sim) {
			floor := s.history.ListFloor(0)
			s.history.Listed(1, 0, floor, floor-1)
		}},
		{"one broker's high watermark goes back", check.WatermarkRegression, func(s *sim) {
			s.history.FetchWatermark(9, 0, s.history.FetchFloor(9, 0), 7)
			s.history.FetchWatermark(9, 0, s.history.FetchFloor(9, 0), 6)
		}},
		{"end beyond what can be read", check.Unseen, func(*sim) {}}, // see below: the end is raised by one
		{"offset out of thin air", check.Invented, func(s *sim) {
			r := s.log[0][0]
			r.Offset = 1 << 60
			s.history.Reader().Read(1, 0, []check.Record{r})
		}},
		{"range refused", check.Refused, func(s *sim) { s.history.Refused(1, 0, 3, errors.New("OFFSET_OUT_OF_RANGE")) }},
		{"damaged batch", check.Invented, func(s *sim) { s.history.Damaged(1, 0, 3, errors.New("bad CRC")) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSim(t, check.Tap{})
			s.produce(20)
			tt.tamper(s)
			s.produce(20)
			ends := s.list()
			s.drain(ends)
			s.drain(ends)
			if tt.expect == check.Unseen {
				ends[0]++ // the broker lists one more than it serves
			}
			got := s.history.Finish(ends)
			if got.Counts.Of(tt.expect) == 0 {
				t.Errorf("no %s among %+v", tt.expect, got.Counts)
			}
			if !strings.Contains(got.Verdict(), tt.expect.String()+"=") {
				t.Errorf("verdict %q does not name %s", got.Verdict(), tt.expect)
			}
		})
	}
}

// What Kafka allows must not be reported.
func TestAllowedHistoriesPass(t *testing.T) {
	tests := []struct {
		name string
		do   func(s *sim)
	}{
		{"unknown outcome, stored", func(s *sim) {
			n, r := s.send(0, 0)
			s.store(0, r)
			s.history.Unknown(n)
		}},
		{"unknown outcome, not stored", func(s *sim) {
			n, _ := s.send(0, 0)
			s.history.Unknown(n)
		}},
		{"no outcome by the end", func(s *sim) { s.send(0, 0) }},
		{"retried, stored twice, late", func(s *sim) {
			a, ra := s.send(0, 0)
			s.store(0, ra)
			b, rb := s.send(0, 0)
			s.ack(b, 0, s.store(0, rb))
			s.history.Retry(a)
			s.ack(a, 0, s.store(0, ra))
		}},
		{"retried, stored late only", func(s *sim) {
			a, ra := s.send(0, 0)
			b, rb := s.send(0, 0)
			s.ack(b, 0, s.store(0, rb))
			s.history.Retry(a)
			s.ack(a, 0, s.store(0, ra))
		}},
		{"retried, then refused, first attempt stored", func(s *sim) {
			n, r := s.send(0, 0)
			s.store(0, r)
			s.history.Retry(n)
			s.history.Fail(n)
		}},
		{"refused for good, not stored", func(s *sim) {
			n, _ := s.send(0, 0)
			s.history.Fail(n)
		}},
		{"brokers trail one another", func(s *sim) {
			s.history.FetchWatermark(1, 0, s.history.FetchFloor(1, 0), 9)
			s.history.FetchWatermark(2, 0, s.history.FetchFloor(2, 0), 4)
		}},
		{"concurrent fetches answered out of order", func(s *sim) {
			early := s.history.FetchFloor(1, 0)
			s.history.FetchWatermark(1, 0, s.history.FetchFloor(1, 0), 9)
			s.history.FetchWatermark(1, 0, early, 8)
		}},
		{"read before acknowledged", func(s *sim) {
			n, r := s.send(0, 0)
			offset := s.store(0, r)
			s.drain(s.list())
			s.ack(n, 0, offset)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSim(t, check.Tap{})
			s.produce(20)
			tt.do(s)
			s.produce(20)
			if got := s.finish(); got.Verdict() != "" {
				t.Errorf("verdict %q: %v", got.Verdict(), got.Findings)
			}
		})
	}
}

func TestEmptyRunsProveNothing(t *testing.T) {
	s := newSim(t, check.Tap{})
	if v := s.finish().Verdict(); v != "nothing was sent" {
		t.Errorf("verdict %q", v)
	}
	s = newSim(t, check.Tap{})
	n, _ := s.send(0, 0)
	s.history.Unknown(n)
	if v := s.finish().Verdict(); v != "nothing was acknowledged" {
		t.Errorf("verdict %q", v)
	}
}

func TestRecordsMaxBoundsTheRun(t *testing.T) {
	h, err := check.New(check.Config{Partitions: 1, RecordsMax: 2})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, ok := h.Assign(); !ok {
			t.Fatal("refused too early")
		}
	}
	if _, ok := h.Assign(); ok {
		t.Error("a third number was assigned")
	}
	for _, bad := range []check.Config{{RecordsMax: 1}, {Partitions: 1}, {Partitions: 1, RecordsMax: 1 << 40}} {
		if _, err := check.New(bad); err == nil {
			t.Errorf("%+v accepted", bad)
		}
	}
}

// Made-up offsets must not buy memory: 2 000 of them spread over the whole range stay within the budget of chunks.
func TestInventedOffsetsDoNotAllocateWithoutBound(t *testing.T) {
	h, err := check.New(check.Config{Run: simRun, Partitions: 1, RecordsMax: 10_000_000})
	if err != nil {
		t.Fatal(err)
	}
	reader := h.Reader()
	records := make([]check.Record, 6000)
	for i := range records {
		records[i].Offset = int64(i) * 4096
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	reader.Read(0, 0, records)
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 400<<20 {
		t.Errorf("allocated %d MiB", grown>>20)
	}
	if s := h.Finish([]int64{1}); s.Counts.Invented < 6000-4900 {
		t.Errorf("invented %d", s.Counts.Invented)
	}
}

// Ten million records must fit in 1.5 GB; measured here on a tenth.
func TestMemoryPerRecord(t *testing.T) {
	const records = 1_000_000
	h, err := check.New(check.Config{Run: simRun, Partitions: 1, RecordsMax: records})
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	reader := h.Reader()
	batch := make([]check.Record, 0, 1000)
	value := make([]byte, 0, check.ValueBytesMin)
	for range records / cap(batch) {
		batch = batch[:0]
		for range cap(batch) {
			n, _ := h.Assign()
			value = check.AppendValue(value[:0], check.Value{Run: simRun, Number: n}, 0)
			h.Send(n, 0, 0, check.BodyDigest(nil, value))
			h.Ack(n, int64(n))
			batch = append(batch, check.Record{Offset: int64(n), Value: slices.Clone(value)})
		}
		reader.Read(0, 0, batch)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if per := float64(after.HeapAlloc-before.HeapAlloc) / records; per > 60 {
		t.Errorf("%.1f bytes per record, want at most 60", per)
	} else {
		t.Logf("%.1f bytes per record", per)
	}
	if v := h.Finish([]int64{records}).Verdict(); v != "" {
		t.Error(v)
	}
}

func FuzzParseValue(f *testing.F) {
	f.Add(check.AppendValue(nil, check.Value{Run: 1, Number: 2, Producer: 3, Key: 4, Counter: 5}, 50))
	f.Add([]byte("fvr1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := check.ParseValue(b)
		if err != nil {
			if !errors.Is(err, check.ErrValue) {
				t.Fatalf("error %v does not wrap ErrValue", err)
			}
			return
		}
		if len(b) == check.ValueBytesMin && string(check.AppendValue(nil, v, len(b))) != string(b) {
			t.Fatalf("round trip of %x", b)
		}
	})
}

func TestValueRoundTripAndDamage(t *testing.T) {
	want := check.Value{Run: 1 << 63, Number: 7, Producer: 8, Key: 9, Counter: 10}
	for size := range 80 {
		b := check.AppendValue(nil, want, size)
		if len(b) != max(size, check.ValueBytesMin) {
			t.Fatalf("size %d gave %d bytes", size, len(b))
		}
		if got, err := check.ParseValue(b); err != nil || got != want {
			t.Fatalf("size %d: %+v, %v", size, got, err)
		}
		for i := range b {
			b[i] ^= 0x40
			if _, err := check.ParseValue(b); err == nil {
				t.Fatalf("size %d: byte %d flipped, still accepted", size, i)
			}
			b[i] ^= 0x40
		}
	}
}

// The format is fixed: a change needs a new magic.
func TestValueGolden(t *testing.T) {
	const golden = "667672310102030405060708000000090000000a0000000b0000000cee6e5d884998378735d7b9804ab8915f97"
	v := check.Value{Run: 0x0102030405060708, Number: 9, Producer: 10, Key: 11, Counter: 12}
	if got := hex.EncodeToString(check.AppendValue(nil, v, 45)); got != golden {
		t.Errorf("encodes to %s, want %s", got, golden)
	}
}

// A record that was sent twice may have its second copy beyond what was to be read. That says nothing; below, it does.
func TestSecondCopyBeyondTheEnd(t *testing.T) {
	for end, want := range map[int64]int{1: 0, 2: 1} {
		s := newSim(t, check.Tap{})
		n, r := s.send(1, 0)
		s.store(0, r)
		s.history.Retry(n)
		s.history.Ack(n, 1)
		s.history.Reader().Read(0, 0, slices.Clone(s.log[0]))
		if got := s.history.Finish([]int64{end, 0}).Counts.WrongAcks; got != want {
			t.Errorf("to be read up to %d: %d wrong acks, want %d", end, got, want)
		}
	}
}

package agent_test

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/compaction/clean"
	"github.com/firnlog/firn/objstore/batch"
)

func valid(t *testing.T) *agent.Config {
	t.Helper()
	c := &agent.Config{Name: "a", Advertise: "h:1"}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	return c
}

// numbers are the fields of a struct that hold numbers, by name.
func numbers(v any) map[string]reflect.Value {
	fields := make(map[string]reflect.Value)
	s := reflect.ValueOf(v).Elem()
	for i := range s.NumField() {
		if f := s.Field(i); f.CanInt() {
			fields[s.Type().Field(i).Name] = f
		}
	}
	return fields
}

// Every number of the configuration has its row, so that an operator can set it.
func TestEveryNumberIsTunable(t *testing.T) {
	var c agent.Config
	rows := make(map[any]string)
	names := make(map[string]bool)
	for _, row := range c.Tunables() {
		if names[row.Name] || rows[row.Field] != "" {
			t.Errorf("%s stands there twice", row.Name)
		}
		names[row.Name], rows[row.Field] = true, row.Name
		if !regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`).MatchString(row.Name) {
			t.Errorf("%s is not kebab-case", row.Name)
		}
		if row.Help == "" || strings.HasSuffix(row.Help, ".") || strings.Contains(row.Help, "`") || row.Group == "" {
			t.Errorf("%s: help %q below %q", row.Name, row.Help, row.Group)
		}
		if row.Min < 1 || row.Default < row.Min || row.Default > row.Max {
			t.Errorf("%s: default %d, bounds %d to %d", row.Name, row.Default, row.Min, row.Max)
		}
	}
	for name, field := range numbers(&c) {
		if rows[field.Addr().Interface()] == "" {
			t.Errorf("Config.%s has no row in Tunables", name)
		}
	}
}

// internal are numbers of the rooms that are no operator's business.
var internal = []string{
	"ingest.Config.OpBytes", // follows from the size of an entry
	// How agents agree on who coordinates groups, and when silence is their own.
	"group.Config.SettleTime", "group.Config.VacantStep", "group.Config.LateMax",
	"classic.Config.NewMemberTimeout", // Kafka's, which has no setting for it either
	// What fits the state's records, and the leader's answer.
	"classic.Config.MetadataBytes", "classic.Config.AssignmentBytes", "classic.Config.GroupBytes",
	// Shapes of merged data that bounds of the index rest on, and of the ops that bring it about.
	"rewrite.Config.ChunkBytes", "rewrite.Config.OpBytes", "merge.TierRules.Growth", "merge.TierRules.Crowd", "merge.TierRules.Fan",
	// What is tried again nobody waits for.
	"rewrite.Config.Attempts", "rewrite.Config.RetryMin", "rewrite.Config.RetryMax", "merge.Config.BackoffMin", "merge.Config.BackoffMax",
	"clean.Config.RetryMin", "clean.Config.RetryMax", "gc.Config.RetryInterval", "gc.Config.AskTimeout", "retention.Config.AskInterval", "lifecycle.Config.CallTimeout",
	"gc.Config.LocksKept",     // beyond it the bucket is asked again
	"gc.Config.FirstSweep",    // follows from the interval
	"gc.Config.AgainInterval", // DESIGN.md, section 2
	"lifecycle.Config.ObjectsPerStep", "lifecycle.Config.ObjectsPerLook",
	"clean.Config.DecompressedMax", // what agents accept; see below
}

// What is accepted from producers can be compacted by key, however little memory the agent has.
func TestKeyCompactionReadsWhatProducersMayWrite(t *testing.T) {
	for _, memory := range []int64{128 << 20, 0, 64 << 30} {
		c := &agent.Config{Name: "a", Advertise: "h:1", MemoryLimit: memory}
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		for _, room := range c.Rooms() {
			r, ok := room.(*clean.Config)
			if !ok {
				continue
			}
			if err := r.Validate(); err != nil {
				t.Fatal(err)
			}
			if r.DecompressedMax < batch.DefaultMaxDecompressedBytes {
				t.Errorf("memory-limit %d: batches of %d bytes are read, %d are accepted", memory, r.DecompressedMax, batch.DefaultMaxDecompressedBytes)
			}
		}
	}
}

// Every number arrives in a room or in the agent itself, and every number of a room can be set.
func TestNumbersReachTheirRooms(t *testing.T) {
	before := valid(t).Rooms()
	own := []string{"memory-limit", "wal-bytes", "metrics-series", "http-connections", "drain-timeout", "drain-notice",
		"duty-bytes", "scratch-bytes", "retention-interval", "lifecycle-interval", "key-compaction-interval"}
	reached := make(map[string]bool)
	for i, row := range valid(t).Tunables() {
		c := valid(t)
		c.Tunables()[i].Set(row.Default + 1)
		arrived := slices.Contains(own, row.Name)
		for j, room := range c.Rooms() {
			was := numbers(before[j])
			for name, field := range numbers(room) {
				if field.Int() != was[name].Int() {
					arrived = true
					reached[reflect.TypeOf(room).Elem().String()+"."+name] = true
				}
			}
		}
		if !arrived {
			t.Errorf("%s reaches no room", row.Name)
		}
	}
	for _, room := range before {
		for name := range numbers(room) {
			full := reflect.TypeOf(room).Elem().String() + "." + name
			if !reached[full] && !slices.Contains(internal, full) {
				t.Errorf("%s cannot be set: give agent.Config a field for it", full)
			}
		}
	}
}

func TestConfigReportsEveryProblem(t *testing.T) {
	c := agent.Config{Advertise: "x", SegmentBytes: 1, FlushInterval: -1}
	err := c.Validate()
	for _, want := range []string{"name", `"x"`, "segment-bytes", "flush-interval"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not in %v", want, err)
		}
	}
	c = agent.Config{Name: "a", Advertise: "h:1", FetchInFlightBytes: 1 << 20, UploadRetryMin: 60e9, ScratchBytes: 1 << 20}
	err = c.Validate()
	for _, want := range []string{"fetch in-flight bytes", "retry max", "scratch-bytes"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not in %v", want, err)
		}
	}
}

// Less room for requests alone is no contradiction either: what is set for others is as it was before the default request was larger.
func TestLessRoomForRequestsMakesThemSmaller(t *testing.T) {
	for inFlight, want := range map[int]int{16 << 20: 32 << 20, 32 << 20: 64 << 20, 64 << 20: 100 << 20} {
		c := agent.Config{Name: "a", Advertise: "h:1", InFlightBytes: inFlight}
		if err := c.Validate(); err != nil {
			t.Error(err)
		}
		if c.InFlightBytes != inFlight || c.RequestBytes != want {
			t.Errorf("%d in flight: requests of %d bytes, want %d", c.InFlightBytes, c.RequestBytes, want)
		}
	}
}

// Larger requests alone are not a contradiction: what must hold them grows with them.
func TestDefaultsFollow(t *testing.T) {
	c := agent.Config{Name: "a", Advertise: "h:1", RequestBytes: 512 << 20, CacheBytes: 1 << 20}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if c.ConnectionInFlightBytes != 1<<30 || c.InFlightBytes != 1<<30 || c.CacheHotBytes != 512<<10 {
		t.Errorf("in flight %d and %d, hot %d", c.ConnectionInFlightBytes, c.InFlightBytes, c.CacheHotBytes)
	}
}

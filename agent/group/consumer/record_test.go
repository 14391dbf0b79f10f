package consumer

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/record"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files that do not exist yet")

// samples are records of every shape.
func samples() map[string][]byte {
	held := func(epochs ...int32) (o owned) {
		b := ownedBuilder{}
		for topic := range 2 {
			for p, since := range epochs {
				b.add(topicID(topic), int32(p+p/2), since)
			}
		}
		return b.set
	}
	return map[string][]byte{
		"group.v1":     header{targetEpoch: 300, assignor: Range, topicsHash: 0x0123456789abcdef}.appendTo(nil),
		"group-new.v1": header{assignor: Uniform}.appendTo(nil),
		"member.v1": (&member{
			instance: "instance", rack: "rack", regex: "a.*", assignor: Uniform, clientID: "client", clientHost: "/127.0.0.1",
			names: []string{"a", "b"}, rebalance: 300 * time.Second, state: unrevoked, epoch: 300, previous: 299,
			assigned: held(1, 1, 300), revoking: owned{{topic: topicID(2), partitions: []int32{7}, since: []int32{2}}},
			target: NewAssignment([]TopicPartitions{{topicID(0), []int32{0, 1, 3}}, {topicID(1), []int32{1}}, {topicID(3), []int32{0, 1, 2, 9}}}),
		}).appendTo(nil),
		"member-away.v1": (&member{instance: "i", epoch: epochLeaveStatic, previous: 4, assigned: held(3)}).appendTo(nil),
		"member-classic.v1": (&member{
			clientID: "client", names: []string{"a"}, state: unreleased, epoch: 5, previous: 4,
			classic: &classicMember{session: 45 * time.Second, protocols: []classic.Protocol{
				{Name: "range", Metadata: appendSubscription([]string{"a"}, nil)}, {Name: "other", Metadata: []byte{1, 2, 3}},
			}},
		}).appendTo(nil),
		"member-new.v1": (&member{}).appendTo(nil),
	}
}

// again decodes a record and encodes it.
func again(b []byte, group bool) ([]byte, error) {
	if group {
		h, err := parseHeader(b)
		return h.appendTo(nil), err
	}
	m, err := parseMember("m", b)
	if err != nil {
		return nil, err
	}
	return m.appendTo(nil), nil
}

func isGroup(name string) bool { return name[0] == 'g' }

func TestRecordsOfEveryVersionAreRead(t *testing.T) {
	for name, b := range samples() {
		path := "testdata/" + name
		want, err := os.ReadFile(path)
		if os.IsNotExist(err) && *rewrite {
			want, err = b, os.WriteFile(path, b, 0o644)
		}
		if err != nil {
			t.Fatalf("golden file of %s: %v", name, err)
		}
		if !bytes.Equal(b, want) {
			t.Errorf("%s is written as\n%x\nand was\n%x", name, b, want)
		}
		got, err := again(want, isGroup(name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s comes back as\n%x, %v\nand was\n%x", name, got, err, want)
		}
		for cut := range want {
			if _, err := again(want[:cut], isGroup(name)); !errors.Is(err, record.ErrCorrupt) {
				t.Errorf("%s cut off at %d of %d: %v", name, cut, len(want), err)
			}
		}
		if _, err := again(append(bytes.Clone(want), 0), isGroup(name)); !errors.Is(err, record.ErrCorrupt) {
			t.Errorf("%s with a byte more: %v", name, err)
		}
		newer := bytes.Clone(want)
		newer[0]++
		if _, err := again(newer, isGroup(name)); !errors.Is(err, record.ErrVersion) {
			t.Errorf("%s of version 2: %v", name, err)
		}
	}
}

func TestTwoMembersOfOnePartitionAreNoGroup(t *testing.T) {
	one := (&member{assigned: owned{{topic: topicID(0), partitions: []int32{1}, since: []int32{1}}}}).appendTo(nil)
	store := stored{generation: 1, record: header{targetEpoch: 1, assignor: Uniform}.appendTo(nil), members: map[string][]byte{"a": one, "b": one}}
	if _, err := Load(&Config{}, "g", store.generation, store.record, store.all(), true, time.Now()); !errors.Is(err, record.ErrCorrupt) {
		t.Errorf("loaded: %v", err)
	}
}

// FuzzRecord holds that decoding never fails otherwise than by an error, and that what was decoded is the same once it was encoded.
func FuzzRecord(f *testing.F) {
	for name, b := range samples() {
		f.Add(b, isGroup(name))
	}
	f.Fuzz(func(t *testing.T, b []byte, group bool) {
		first, err := again(b, group)
		if err != nil {
			if !errors.Is(err, record.ErrCorrupt) && !errors.Is(err, record.ErrVersion) {
				t.Fatal(err)
			}
			return
		}
		second, err := again(first, group)
		if err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%x comes back as %x, %v", first, second, err)
		}
	})
}

// FuzzEmbedded holds that what clients send as metadata and assignments never fails otherwise than by an error.
func FuzzEmbedded(f *testing.F) {
	f.Add(appendSubscription([]string{"a", "b"}, []namedPartitions{{"a", []int32{0, 1}}}))
	f.Add(appendAssignment(nil, 3, []namedPartitions{{"a", []int32{0, 1}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseSubscription(b); err == nil && len(s.topics) > len(b) {
			t.Fatal("more topics than bytes")
		}
		if list, err := parseAssignment(b); err == nil {
			again, err := parseAssignment(appendAssignment(nil, 1, list))
			if err != nil || fmt.Sprint(again) != fmt.Sprint(list) {
				t.Fatalf("%v comes back as %v, %v", list, again, err)
			}
		}
	})
}

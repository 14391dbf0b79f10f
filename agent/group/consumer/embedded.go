package consumer

import (
	"encoding/binary"
	"errors"
	"math"
)

// The embedded protocol "consumer": what classic consumers put into JoinGroup and expect from SyncGroup. Big endian:
//
//	subscription  version i16, topics [string], user data bytes | v1: owned [topic string, partitions [i32]] | v2: generation i32 | v3: rack nullable string
//	assignment    version i16, [topic string, partitions [i32]], user data bytes
//
// Strings have a length of i16, arrays and bytes one of i32; -1 is null. Later versions only append, and are read up to what
// is known.

// ConsumerProtocol is the protocol type of classic groups whose members are consumers: those that can be upgraded.
const ConsumerProtocol = "consumer"

var errEmbedded = errors.New("malformed metadata of the embedded consumer protocol")

// namedPartitions are partitions of a topic that is known by name.
type namedPartitions struct {
	topic      string
	partitions []int32
}

type subscription struct {
	version int16
	topics  []string
	owned   []namedPartitions // v1
	rack    string            // v3
}

func parseSubscription(b []byte) (subscription, error) {
	r := embeddedReader{b: b}
	s := subscription{version: r.int16()}
	if s.version < 0 {
		return s, errEmbedded
	}
	for range r.length(2) {
		s.topics = append(s.topics, r.str())
	}
	r.skipBytes()
	if s.version >= 1 && !r.failed {
		s.owned = r.partitions()
	}
	if s.version >= 2 {
		r.int32() // generation
	}
	if s.version >= 3 {
		s.rack = r.str()
	}
	if r.failed {
		return subscription{}, errEmbedded
	}
	return s, nil
}

func parseAssignment(b []byte) ([]namedPartitions, error) {
	if len(b) == 0 { // a leader that assigned nothing, or a member that was not assigned yet
		return nil, nil
	}
	r := embeddedReader{b: b}
	if r.int16() < 0 {
		return nil, errEmbedded
	}
	list := r.partitions()
	if r.failed {
		return nil, errEmbedded
	}
	return list, nil
}

// assignmentVersionMax is the last version of the assignment: the format has not changed since 0, but clients expect their own.
const assignmentVersionMax = 3

// appendAssignment writes an assignment in a member's version.
func appendAssignment(dst []byte, version int16, list []namedPartitions) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(min(version, assignmentVersionMax)))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(list)))
	for _, np := range list {
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(np.topic)))
		dst = append(dst, np.topic...)
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(np.partitions)))
		for _, p := range np.partitions {
			dst = binary.BigEndian.AppendUint32(dst, uint32(p))
		}
	}
	return binary.BigEndian.AppendUint32(dst, math.MaxUint32) // user data: null
}

// embeddedReader reads b. Once it has failed it returns nothing.
type embeddedReader struct {
	b      []byte
	failed bool
}

func (r *embeddedReader) take(n int) []byte {
	if r.failed || n < 0 || n > len(r.b) {
		r.failed = true
		return nil
	}
	head := r.b[:n]
	r.b = r.b[n:]
	return head
}

func (r *embeddedReader) int16() int16 {
	if b := r.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *embeddedReader) int32() int32 {
	if b := r.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

// length reads an array's length; each element takes at least size bytes. Null is none.
func (r *embeddedReader) length(size int) int {
	n := int(r.int32())
	if n == -1 {
		return 0
	}
	if r.failed || n < 0 || n > len(r.b)/size {
		r.failed = true
		return 0
	}
	return n
}

func (r *embeddedReader) str() string {
	n := r.int16()
	if n == -1 {
		return ""
	}
	return string(r.take(int(n)))
}

func (r *embeddedReader) skipBytes() {
	if n := r.int32(); n != -1 {
		r.take(int(n))
	}
}

func (r *embeddedReader) partitions() []namedPartitions {
	n := r.length(6)
	list := make([]namedPartitions, 0, n)
	for range n {
		np := namedPartitions{topic: r.str()}
		count := r.length(4)
		np.partitions = make([]int32, count)
		for i := range np.partitions {
			np.partitions[i] = r.int32()
		}
		if r.failed {
			return nil
		}
		list = append(list, np)
	}
	return list
}

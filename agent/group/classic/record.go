package classic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

var (
	// ErrCorrupt: the bytes are no record.
	ErrCorrupt = errors.New("corrupt group record")
	// ErrVersion: a newer firn has written the record.
	ErrVersion = errors.New("group record of a newer version")
)

const recordVersion = 1

// header is the group's record.
type header struct {
	state                          State
	protocolType, protocol, leader string
}

func (h header) appendTo(b []byte) []byte {
	b = append(b, recordVersion, byte(h.state))
	b = appendText(b, h.protocolType)
	b = appendText(b, h.protocol)
	return appendText(b, h.leader)
}

func parseHeader(b []byte) (h header, err error) {
	r := reader{b: b}
	r.version()
	if h.state = State(r.byte()); h.state > Stable {
		r.fail()
	}
	h.protocolType, h.protocol, h.leader = r.text(), r.text(), r.text()
	return h, r.end("group")
}

func (m *member) appendTo(b []byte) []byte {
	b = append(b, recordVersion)
	if m.instance == "" {
		b = append(b, 0)
	} else {
		b = binary.AppendUvarint(b, uint64(len(m.instance))+1)
		b = append(b, m.instance...)
	}
	b = appendText(b, m.clientID)
	b = appendText(b, m.host)
	b = binary.AppendUvarint(b, uint64(m.session.Milliseconds()))
	b = binary.AppendUvarint(b, uint64(m.rebalance.Milliseconds()))
	b = binary.AppendUvarint(b, uint64(len(m.protocols)))
	for _, p := range m.protocols {
		b = appendText(b, p.Name)
		b = appendText(b, p.Metadata)
	}
	return appendText(b, m.assignment)
}

func parseMember(id string, b []byte) (*member, error) {
	r := reader{b: b}
	m := &member{id: id}
	r.version()
	if n := r.uvarint(math.MaxInt16 + 1); n > 0 {
		m.instance = string(r.bytes(int(n - 1)))
	}
	m.clientID, m.host = r.text(), r.text()
	m.session = time.Duration(r.uvarint(math.MaxInt32)) * time.Millisecond
	m.rebalance = time.Duration(r.uvarint(math.MaxInt32)) * time.Millisecond
	n := r.uvarint(uint64(len(r.b)) / 2) // each takes two bytes at least
	if r.err == nil && n > 0 {
		m.protocols = make([]Protocol, 0, n)
	}
	for ; n > 0 && r.err == nil; n-- {
		m.protocols = append(m.protocols, Protocol{Name: r.text(), Metadata: r.blob()})
	}
	m.assignment = r.blob()
	return m, r.end("member")
}

func appendText[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// reader takes a record apart; after the first error it returns zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail() {
	if r.err == nil {
		r.err = ErrCorrupt
	}
	r.b = nil
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) version() {
	if v := r.byte(); r.err == nil && v != recordVersion {
		r.fail()
		if v > recordVersion {
			r.err = fmt.Errorf("%w: %d, this build reads %d", ErrVersion, v, recordVersion)
		}
	}
}

// uvarint reads a number of at most limit.
func (r *reader) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > limit {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.b) {
		r.fail()
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

// blob aliases the record, which nobody modifies.
func (r *reader) blob() []byte { return r.bytes(int(r.uvarint(uint64(len(r.b))))) }

func (r *reader) text() string { return string(r.blob()) }

func (r *reader) end(what string) error {
	if r.err == nil && len(r.b) > 0 {
		r.fail()
	}
	if r.err != nil {
		return fmt.Errorf("record of a %s: %w", what, r.err)
	}
	return nil
}

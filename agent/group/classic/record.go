package classic

import (
	"encoding/binary"
	"math"

	"github.com/firnlog/firn/agent/group/record"
)

// header is the group's record.
type header struct {
	state                          State
	protocolType, protocol, leader string
}

func (h header) appendTo(b []byte) []byte {
	b = append(b, record.Version, byte(h.state))
	b = record.AppendText(b, h.protocolType)
	b = record.AppendText(b, h.protocol)
	return record.AppendText(b, h.leader)
}

func parseHeader(b []byte) (h header, err error) {
	r := record.NewReader(b)
	if h.state = State(r.Byte()); h.state > Stable {
		r.Fail()
	}
	h.protocolType, h.protocol, h.leader = r.Text(), r.Text(), r.Text()
	return h, r.End("group")
}

func (m *member) appendTo(b []byte) []byte {
	b = append(b, record.Version)
	if m.instance == "" {
		b = append(b, 0)
	} else {
		b = binary.AppendUvarint(b, uint64(len(m.instance))+1)
		b = append(b, m.instance...)
	}
	b = record.AppendText(b, m.clientID)
	b = record.AppendText(b, m.host)
	b = binary.AppendUvarint(b, uint64(m.session.Milliseconds()))
	b = binary.AppendUvarint(b, uint64(m.rebalance.Milliseconds()))
	b = binary.AppendUvarint(b, uint64(len(m.protocols)))
	for _, p := range m.protocols {
		b = record.AppendText(b, p.Name)
		b = record.AppendText(b, p.Metadata)
	}
	return record.AppendText(b, m.assignment)
}

func parseMember(id string, b []byte) (*member, error) {
	r := record.NewReader(b)
	m := &member{id: id}
	if n := r.Uvarint(math.MaxInt16 + 1); n > 0 {
		m.instance = string(r.Bytes(int(n - 1)))
	}
	m.clientID, m.host = r.Text(), r.Text()
	m.session = r.Millis()
	m.rebalance = r.Millis()
	n := r.Count(2)
	if r.OK() && n > 0 {
		m.protocols = make([]Protocol, 0, n)
	}
	for ; n > 0 && r.OK(); n-- {
		m.protocols = append(m.protocols, Protocol{Name: r.Text(), Metadata: r.Blob()})
	}
	m.assignment = r.Blob()
	return m, r.End("member")
}

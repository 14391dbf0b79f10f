package entry

import "math"

func decodeClaimSlot(b []byte) (Op, error) {
	f := fields{b: b, message: "ClaimSlot"}
	var c ClaimSlot
	for f.next() {
		switch f.num {
		case 1:
			c.Slot = uint32(f.uint(maxID))
		case 2:
			c.Epoch = f.uint(math.MaxUint64)
		case 3:
			c.Owner = f.id()
		default:
			f.unknown()
		}
	}
	f.require(c.Owner != [16]byte{}, "owner missing")
	return &c, f.err
}

// groupHead reads the fields that every op of a group begins with, and reports whether the field was one of them.
func (f *fields) groupHead(slot *uint32, epoch *uint64, group *string) bool {
	switch f.num {
	case 1:
		*slot = uint32(f.uint(maxID))
	case 2:
		*epoch = f.uint(math.MaxUint64)
	case 3:
		*group = f.string()
	default:
		return false
	}
	return true
}

func (d *Decoder) updateGroup(b []byte) (Op, error) {
	f := fields{b: b, message: "UpdateGroup", repeated: 1<<7 | 1<<8}
	var u UpdateGroup
	first := len(d.members)
	for f.next() {
		if f.groupHead(&u.Slot, &u.Epoch, &u.Group) {
			continue
		}
		switch f.num {
		case 4:
			u.Generation = int32(f.uint(math.MaxInt32))
		case 5:
			u.Kind = uint32(f.flag(GroupConsumer))
		case 6:
			u.Record = d.record(&f)
		case 7:
			member, err := d.member(f.bytes())
			if err != nil {
				return nil, err
			}
			d.members = append(d.members, member)
		case 8:
			id := f.string()
			f.require(id != "", "removed member's id missing")
			u.Removes = append(u.Removes, id)
		case 9:
			u.Complete = f.flag(1) == 1
		default:
			f.unknown()
		}
	}
	u.Puts = d.members[first:len(d.members):len(d.members)]
	f.require(u.Group != "", "group missing")
	return &u, f.err
}

func (d *Decoder) member(b []byte) (GroupMember, error) {
	f := fields{b: b, message: "GroupMember"}
	var m GroupMember
	for f.next() {
		switch f.num {
		case 1:
			m.ID = f.string()
		case 2:
			m.Record = d.record(&f)
		default:
			f.unknown()
		}
	}
	f.require(m.ID != "", "id missing")
	return m, f.err
}

// record copies a field's bytes into the arena.
func (d *Decoder) record(f *fields) []byte {
	b := f.bytes()
	if len(b) > MaxRecord {
		f.require(false, "field %d has %d bytes, the most is %d", f.num, len(b), MaxRecord)
		return nil
	}
	first := len(d.records)
	d.records = append(d.records, b...)
	return d.records[first:len(d.records):len(d.records)]
}

func (d *Decoder) commitOffsets(b []byte) (Op, error) {
	f := fields{b: b, message: "CommitOffsets", repeated: 1 << 5}
	d.commits = append(d.commits, CommitOffsets{})
	c := &d.commits[len(d.commits)-1]
	first := len(d.offsets)
	var topic UUID
	for f.next() {
		if f.groupHead(&c.Slot, &c.Epoch, &c.Group) {
			continue
		}
		switch f.num {
		case 4:
			c.Generation = int32(f.sint(-1, math.MaxInt32))
		case 5:
			offset, err := decodeGroupOffset(f.bytes(), &topic)
			if err != nil {
				return nil, err
			}
			if len(d.offsets) == MaxOffsets {
				f.require(false, "more than %d offsets in an entry", MaxOffsets)
				continue
			}
			d.offsets = append(d.offsets, offset)
		default:
			f.unknown()
		}
	}
	c.Offsets = d.offsets[first:len(d.offsets):len(d.offsets)]
	f.require(c.Group != "", "group missing")
	return c, f.err
}

// decodeGroupOffset decodes an offset that follows one of topic.
func decodeGroupOffset(b []byte, topic *UUID) (GroupOffset, error) {
	f := fields{b: b, message: "GroupOffset"}
	var o GroupOffset
	for f.next() {
		switch f.num {
		case 1:
			f.followingTopic(topic)
		case 2:
			o.Partition = uint32(f.uint(maxID))
		case 3:
			o.Offset = int64(f.uint(maxOffset))
		case 4:
			o.LeaderEpoch = int32(f.sint(-1, math.MaxInt32))
		case 5:
			o.Metadata = f.string()
		case 6:
			o.ExpireMs = f.sint(-1, math.MaxInt64)
		default:
			f.unknown()
		}
	}
	o.Topic = *topic
	f.require(o.Topic != UUID{}, "topic missing")
	return o, f.err
}

// followingTopic reads the id of a topic that is not the one before: that is left out.
func (f *fields) followingTopic(topic *UUID) {
	id := f.id()
	f.require(id != *topic, "topic repeated or zero")
	*topic = id
}

func decodeDeleteOffsets(b []byte) (Op, error) {
	f := fields{b: b, message: "DeleteOffsets", repeated: 1 << 4}
	var x DeleteOffsets
	var topic UUID
	for f.next() {
		if f.groupHead(&x.Slot, &x.Epoch, &x.Group) {
			continue
		}
		switch f.num {
		case 4:
			g := fields{b: f.bytes(), message: "GroupPartition"}
			var p GroupPartition
			for g.next() {
				switch g.num {
				case 1:
					g.followingTopic(&topic)
				case 2:
					p.Partition = uint32(g.uint(maxID))
				default:
					g.unknown()
				}
			}
			p.Topic = topic
			g.require(topic != UUID{}, "topic missing")
			if g.err != nil {
				return nil, g.err
			}
			if len(x.Offsets) == MaxOffsets {
				f.require(false, "more than %d offsets", MaxOffsets)
				continue
			}
			x.Offsets = append(x.Offsets, p)
		case 5:
			x.NotAfterMs = int64(f.uint(uint64(MaxClockMs)))
		default:
			f.unknown()
		}
	}
	f.require(x.Group != "", "group missing")
	return &x, f.err
}

func decodeDeleteGroup(b []byte) (Op, error) {
	f := fields{b: b, message: "DeleteGroup"}
	var x DeleteGroup
	for f.next() {
		if !f.groupHead(&x.Slot, &x.Epoch, &x.Group) {
			f.unknown()
		}
	}
	f.require(x.Group != "", "group missing")
	return &x, f.err
}

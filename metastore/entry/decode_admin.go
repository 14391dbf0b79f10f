package entry

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// The ops of this file are rare: they allocate what they need.

func decodeJoin(b []byte) (Op, error) {
	f := fields{b: b, message: "Join", repeated: 1 << 2}
	var j Join
	for f.next() {
		switch f.num {
		case 1:
			j.Name = f.string()
		case 2:
			g := fields{b: f.bytes(), message: "Listener"}
			var l Listener
			for g.next() {
				switch g.num {
				case 1:
					l.Name = g.string()
				case 2:
					l.Host = g.string()
				case 3:
					l.Port = uint32(g.uint(maxPort))
				default:
					g.unknown()
				}
			}
			if g.err != nil {
				return nil, g.err
			}
			j.Listeners = append(j.Listeners, l)
		case 3:
			j.Zone = f.string()
		case 4:
			j.Version = f.string()
		case 5:
			j.MaxFeatureLevel = uint32(f.uint(maxLevel))
		default:
			f.unknown()
		}
	}
	return &j, f.err
}

func decodeLeave(b []byte) (Op, error) {
	f := fields{b: b, message: "Leave"}
	var l Leave
	for f.next() {
		if f.num == 1 {
			l.Incarnation = f.id()
		} else {
			f.unknown()
		}
	}
	f.require(l.Incarnation != [16]byte{}, "incarnation missing")
	return &l, f.err
}

func decodeCreateTopic(b []byte) (Op, error) {
	f := fields{b: b, message: "CreateTopic", repeated: 1<<5 | 1<<6}
	var c CreateTopic
	for f.next() {
		switch f.num {
		case 1:
			c.Name = f.string()
		case 2:
			c.ID = f.id()
		case 3:
			c.Partitions = uint32(f.uint(maxCount))
		case 4:
			c.ReplicationFactor = uint32(f.uint(maxCount))
		case 5:
			g := fields{b: f.bytes(), message: "Config"}
			var config Config
			for g.next() {
				switch g.num {
				case 1:
					config.Name = g.string()
				case 2:
					config.Value = g.string()
				default:
					g.unknown()
				}
			}
			if g.err != nil {
				return nil, g.err
			}
			c.Configs = append(c.Configs, config)
		case 6:
			c.Assignment = append(c.Assignment, f.replicas())
		default:
			f.unknown()
		}
	}
	f.require(c.ID != UUID{}, "id missing")
	return &c, f.err
}

func decodeDeleteTopic(b []byte) (Op, error) {
	f := fields{b: b, message: "DeleteTopic"}
	var d DeleteTopic
	for f.next() {
		if f.num == 1 {
			d.ID = f.id()
		} else {
			f.unknown()
		}
	}
	f.require(d.ID != UUID{}, "id missing")
	return &d, f.err
}

func decodeCreatePartitions(b []byte) (Op, error) {
	f := fields{b: b, message: "CreatePartitions", repeated: 1 << 3}
	var c CreatePartitions
	for f.next() {
		switch f.num {
		case 1:
			c.ID = f.id()
		case 2:
			c.Total = uint32(f.uint(maxCount))
		case 3:
			c.Assignment = append(c.Assignment, f.replicas())
		default:
			f.unknown()
		}
	}
	f.require(c.ID != UUID{}, "id missing")
	return &c, f.err
}

func decodeAlterConfigs(b []byte) (Op, error) {
	f := fields{b: b, message: "AlterConfigs", repeated: 1 << 3}
	var a AlterConfigs
	for f.next() {
		switch f.num {
		case 1:
			a.ResourceType = uint32(f.uint(math.MaxUint8))
		case 2:
			a.ResourceName = f.string()
		case 3:
			g := fields{b: f.bytes(), message: "ConfigChange"}
			var c ConfigChange
			for g.next() {
				switch g.num {
				case 1:
					c.Name = g.string()
				case 2:
					c.Kind = uint32(g.flag(ConfigSubtract))
				case 3:
					c.Value = g.string()
				default:
					g.unknown()
				}
			}
			if g.err != nil {
				return nil, g.err
			}
			a.Changes = append(a.Changes, c)
		case 4:
			a.ReplaceAll = f.flag(1) == 1
		default:
			f.unknown()
		}
	}
	return &a, f.err
}

func decodeDeleteRecords(b []byte) (Op, error) {
	f := fields{b: b, message: "DeleteRecords"}
	var d DeleteRecords
	for f.next() {
		switch f.num {
		case 1:
			d.Topic = f.id()
		case 2:
			d.Partition = uint32(f.uint(maxID))
		case 3:
			d.BeforeOffset = int64(f.uint(math.MaxUint64))
		default:
			f.unknown()
		}
	}
	f.require(d.Topic != UUID{}, "topic missing")
	f.require(d.BeforeOffset >= -1, "negative offset")
	return &d, f.err
}

func (f *fields) replicas() Replicas {
	g := fields{b: f.bytes(), message: "Replicas"}
	var r Replicas
	for g.next() {
		if g.num != 1 {
			g.unknown()
			break
		}
		for b := g.bytes(); len(b) > 0; {
			v, n := protowire.ConsumeVarint(b)
			if n < 0 || v > math.MaxInt32 {
				g.require(false, "bad node id")
				break
			}
			r.Nodes = append(r.Nodes, int32(v))
			b = b[n:]
		}
	}
	if f.err == nil {
		f.err = g.err
	}
	return r
}

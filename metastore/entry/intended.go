package entry

import (
	"encoding/binary"
	"fmt"
)

// ParseIntended reads the ops that a segment's footer carries, in order: for each, the size of an entry (4 bytes, big
// endian) and the entry. size is the object's, which the ops lack, for the footer is part of the object.
func ParseIntended(b []byte, size uint64) ([]*Append, error) {
	var ops []*Append
	for len(b) > 0 {
		if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) > uint64(len(b)-4) {
			return nil, fmt.Errorf("intended ops: cut short: %w", ErrCorrupt)
		}
		n := 4 + int(binary.BigEndian.Uint32(b))
		e, err := Parse(b[4:n])
		if err != nil {
			return nil, fmt.Errorf("intended ops: %w", err)
		}
		for _, op := range e.Ops {
			a, ok := op.(*Append)
			if !ok {
				return nil, fmt.Errorf("intended ops: %T: %w", op, ErrCorrupt)
			}
			a.ObjectSize = size
			ops = append(ops, a)
		}
		b = b[n:]
	}
	return ops, nil
}
